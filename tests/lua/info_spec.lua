-- SPDX-License-Identifier: MIT
local App = require "moonscope.server.app"
local fixtures = require "fixtures"
local json = require "moonscope.json"
local loop = require "moonscope.loop"
local memory = require "moonscope.memory"
local process = require "process"

local SAE = fixtures.sae_path

local function info(...) return process.moonscope { "info", ... } end

describe("moonscope info", function()
  it("says what a model and an SAE need", function()
    local result = info(fixtures.model_path, SAE, "--device", "cpu", "--context", "100")
    assert.same({ 0, "" }, { result.code, result.err })
    for _, line in ipairs {
      "model      examples/tiny\n",
      "shape      6 layers, d_model 128, d_ff 384, 8 heads of 16, 2 of keys and values, vocabulary 1280, tied\n",
      "weights    1296000 parameters in bf16, 2.5 MiB, mapped\n",
      "context    100 of 512 tokens: 0.8 KiB for each in bf16, 81.2 KiB in all\n",
      "sae        " .. SAE .. ": goodfire, relu\n",
      "           d_sae 2048, d_model 128, reads model.layers.3\n",
      "           1.0 MiB in bf16 (the file: bf16), 512.0 KiB of them copied\n",
      "memory     3.6 MiB needed, ",
    } do
      assert.truthy(result.out:find(line, 1, true), line .. result.out)
    end
  end)

  it("--json prints the same as data", function()
    local result = info(fixtures.model_path, SAE, "--device", "cpu", "--precision", "exact", "--sae-dtype", "file",
      "--json")
    local data = assert(json.decode(result.out))
    assert.same({ 6, 128, 512, "f32", 1536, 2 * 1296000, 2 * 1296000, 512 * (1536 + 64), json.null }, {
      data.n_layers, data.d_model, data.context, data.kv_dtype, data.token_bytes, data.weights_bytes, data.mapped_bytes,
      data.context_bytes, data.window })
    assert.same({ 2048, 3, "bf16", 2 * 2048 * 128 * 2 }, {
      data.sae.d_sae, data.sae.layer, data.sae.dtype, data.sae.weights_bytes })
    assert.equal(data.weights_bytes + data.context_bytes + data.sae.weights_bytes, data.needed_bytes)
    assert.is_true(data.free_bytes > 0 and data.free_bytes <= data.total_bytes)
    data = json.decode(info("tests/fixtures/family/mistral", "--device", "cpu", "--json").out)
    assert.same({ 5, "f16", 12, false, json.null }, { data.window, data.dtype, data.d_head, data.tied, data.sae })
  end)

  it("downloads nothing, and says in one line what is wrong", function()
    local result = process.run(process.program, { "info", "a/b" }, { env = {
      HF_HUB_CACHE = "/nowhere", HF_ENDPOINT = "http://127.0.0.1:9",
    } })
    assert.same({ 1, "", "moonscope: a/b: no such file or folder here, and from the hub: a/b: not in the cache "
      .. "(moonscope download a/b)\n" }, { result.code, result.out, result.err })
    result = process.run(process.program, { "info", fixtures.model_path, "Llama-3.1-8B-Instruct-SAE-l19" }, { env = {
      HF_HUB_CACHE = "/nowhere", HF_ENDPOINT = "http://127.0.0.1:9",
    } })
    assert.equal(1, result.code)
    assert.matches("is not in the cache (/nowhere/models--Goodfire--Llama-3.1-8B-Instruct-SAE-l19), and moonscope info "
      .. "forbids to download it\n", result.err, 1, true)
    result = info("tests/fixtures/family", "--device", "cpu")
    assert.same({ 1, "moonscope: tests/fixtures/family/config.json: No such file or directory\n" },
      { result.code, result.err })
    result = info("tests/fixtures/family/mistral", SAE, "--device", "cpu")
    assert.same({ 1, "", "moonscope: " .. SAE .. ": the SAE's d_model is 128, the model's 32: it was trained on "
      .. "another model\n" }, { result.code, result.out, result.err })
    result = info(fixtures.model_path, SAE, "--layer", "6", "--device", "cpu")
    assert.equal("moonscope: " .. SAE .. ": the SAE reads layer 6, the model's layers are 0 to 5\n", result.err)
    result = info(fixtures.model_path, "--layer", "3")
    assert.same({ 2, "moonscope: info: --layer: needs an SAE, the autoencoder that it is about (see moonscope info "
      .. "--help)\n" }, { result.code, result.err })
    result = info(fixtures.model_path, "--context", "1000", "--device", "cpu")
    assert.equal("moonscope: context: found 1000, expected 1 to 512 (the model's max_position_embeddings)\n",
      result.err)
  end)
end)

describe("GET /system", function()
  it("tells the memory that the control groups leave, as the plan does", function()
    local free, total = memory.of_host()
    assert.is_true(free > 0 and free <= total)
    assert.equal(total, select(2, memory.of_device "cpu"))
    local of_host = memory.of_host
    local restore <close> = setmetatable({}, { __close = function() memory.of_host = of_host end })
    memory.of_host = function() return 5, 7 end
    loop.run(function()
      local app = assert(App.new { data = { "examples" }, max_answers = 1 })
      local status, body = app:call("GET", "/system")
      app:close()
      body = json.decode(json.encode(body))
      assert.same({ 200, 5, 7 }, { status, body.memory.free_bytes, body.memory.total_bytes })
    end)
  end)
end)

local HOST = os.getenv "MOONSCOPE_HOST_CUDA"

describe("a device without memory", function()
  if not HOST or HOST == "" then
    pending("# SKIP this build has no CUDA on the host")
    return
  end

  local function generate(bytes, ...)
    local arguments = { "generate", "--device=cuda", "--model=" .. fixtures.model_path, "--prompt=x", "-n", "1", ... }
    local env = { LD_LIBRARY_PATH = HOST:match "^(.*)/", MOONSCOPE_DEVICE_BYTES = bytes }
    return process.run(HOST, arguments, { env = env })
  end

  it("is told before anything is loaded, with both numbers and the remedy (P29)", function()
    local run = generate(1 << 20)
    assert.same({ 1, "moonscope: cuda:0: 2.9 MiB are needed (weights 2.5 MiB, a context of 512 tokens 0.4 MiB), "
      .. "1.0 MiB are free: free some, or take another device (--device cpu)\n" }, { run.code, run.err })
    run = generate((3 << 20) - (1 << 18))
    assert.matches("make the context smaller (--context), or free some", run.err, 1, true)
    run = generate(4 << 20, "--sae", SAE, "--sae-dtype", "f32")
    assert.matches("cuda:0: the SAE needs 2.0 MiB in f32", run.err, 1, true)
    assert.matches("free: load it in bf16 (--sae-dtype bf16), or free some\n", run.err, 1, true)
  end)
end)

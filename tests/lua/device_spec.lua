-- SPDX-License-Identifier: MIT
-- Devices by name. What a GPU does is tested on CUDA for the host (tests/gpu/host), where the build
-- has it: the same plugin over a runtime whose devices, memory and failures the environment sets.
local uv = require "luv"
local ms = require "moonscope"
local fixtures = require "fixtures"
local process = require "process"

local HOST = os.getenv "MOONSCOPE_HOST_CUDA" -- the program beside that plugin; "" where there is none
if HOST == "" then HOST = nil end

local GENERATE = { "--model", "examples/tiny", "--prompt", "Once upon a time", "-n", "3" }

local function host_environment(env)
  env = env or {}
  env.LD_LIBRARY_PATH = HOST:match "^(.*)/" -- for its cuBLAS
  return env
end

local function generate(device, env)
  local arguments = table.move(GENERATE, 1, #GENERATE, 4, { "generate", "--device", device })
  return process.run(HOST, arguments, { env = host_environment(env) })
end

local function refused(device, message, env)
  local run = generate(device, env)
  assert.same({ 1, "", "moonscope: " .. message .. "\n" }, { run.code, run.out, run.err })
end

---Runs Lua in the program with CUDA on the host; its standard output.
local function on_host(code, env)
  local run = process.run(HOST, { "-e", code }, { env = host_environment(env) })
  assert.same({ 0, "" }, { run.code, run.err })
  return run.out
end

describe("a device", function()
  it("has a name", function()
    assert.equal("cpu", ms.devices()[1])
    assert.equal("cpu", ms.zeros(1, { device = "cpu" }):device())
    assert.error_matches(function() ms.zeros(1, { device = "tpu" }) end,
      'device "tpu" is unknown, expected auto, cpu or cuda', 1, true)
  end)

  it("with CUDA is not there without the plugin", function()
    local folder = fixtures.folder()
    local module = folder .. "/moonscope.so"
    assert(uv.fs_copyfile(process.module, module))
    local run = process.run("lua5.4", { "-e", [[
      local core = require "moonscope.core"
      print(pcall(core._full, 1, {}, "f32", "cuda"))
      print(#core.devices())]] }, { env = {
      LUA_CPATH = folder .. "/?.so;;",
      LUA_PATH = "lua/?.lua;lua/?/init.lua;;",
      LD_PRELOAD = os.getenv "MOONSCOPE_PRELOAD", -- for a build with sanitizers
    } })
    assert.same({ 0, 'false\tdevice "cuda": there is no libmoonscope_cuda.so in ' .. folder ..
      "/, ../lib or ../lib/lua/5.4\n1\n" }, { run.code, run.out })
    fixtures.remove(folder)
  end)

  if not HOST then
    pending("with CUDA # SKIP this build has no CUDA on the host")
    return
  end

  it("with CUDA is named by its number", function()
    assert.equal("cpu cuda:0 cuda:1\n", on_host 'print(table.concat(require("moonscope").devices(), " "))')
    assert.equal("cuda:0 cuda:1 cuda:0\n", on_host [[
      local ms = require "moonscope"
      local function device(name) return ms.zeros(1, { device = name }):device() end
      print(device "cuda", device "cuda:1", device "auto")]]:gsub("\t", " "))
    refused("cuda:2", 'device "cuda:2" is not here, expected cpu or cuda:0, cuda:1')
  end)

  it("with CUDA says why it is not there", function()
    refused("cuda", 'device "cuda": no NVIDIA driver is installed', { MOONSCOPE_DRIVER = 0 })
    refused("cuda", 'device "cuda": the NVIDIA driver is for CUDA 12.4, expected 13.0 or newer',
      { MOONSCOPE_DRIVER = 12040 })
    refused("cuda:0", 'device "cuda:0": no CUDA-capable device is detected', { MOONSCOPE_DEVICES = 0 })
    refused("cuda", 'device "cuda": compute capability is 7.0, expected 8.0 or newer',
      { MOONSCOPE_CAPABILITY = 7 })
  end)

  it("with CUDA is left alone by auto where it is not there", function()
    local run = generate("auto", { MOONSCOPE_DRIVER = 0 })
    assert.same({ 0, "" }, { run.code, run.err })
  end)

  it("with CUDA shows its memory to nobody, and writes what the CPU writes", function()
    local cpu, cuda = generate("cpu"), generate("cuda", { MOONSCOPE_GUARD = 1 })
    assert.same({ 0, cpu.out, "" }, { cuda.code, cuda.out, cuda.err })
    assert.equal("true\ttrue\n", on_host([[
      local ms = require "moonscope"
      local model = assert(ms.load_model("examples/tiny", { device = "cuda", precision = "exact" }))
      local sae = assert(ms.load_sae("examples/tiny/Moonscope-Tiny-Llama-SAE-l3.pth", { model = model }))
      local here = assert(ms.load_sae("examples/tiny/Moonscope-Tiny-Llama-SAE-l3.pth", { dtype = sae:dtype() }))
      local out = model:forward("The red fox was hungry.", { capture = { sae.hook }, logits = false })
      local x = out.captures[sae.hook]
      local f, g = sae:encode(x), here:encode(x:to { device = "cpu" })
      local a, b = f:totensor():to { device = "cpu" }, g:totensor()
      local edits = { { sae = sae, feature = 458, op = "set", value = 3.85 } }
      local edited = model:generate("Once", { max_tokens = 2, edits = edits })
      print(a:allclose(b, { atol = 2e-2, rtol = 1e-2 }), #edited.ids == 2)]], { MOONSCOPE_GUARD = 1 }))
  end)

  it("with CUDA computes every formula of an SAE as the CPU does", function()
    local folder = fixtures.folder()
    local out = on_host(([[
      local ms, json, path = require "moonscope", require "moonscope.json", %q
      local n_seeds = 0
      local function randn(...)
        n_seeds = n_seeds + 1
        return ms.randn({ ... }, { seed = n_seeds }) * 0.3
      end
      local tensors = { ["encoder_linear.weight"] = randn(96, 64), ["encoder_linear.bias"] = randn(96),
        ["decoder_linear.weight"] = randn(64, 96), ["decoder_linear.bias"] = randn(64), threshold = randn(96),
        gate_bias = randn(96), mag_bias = randn(96), r_mag = randn(96) }
      local skip, x = randn(64, 64), randn(40, 64) * 9
      for _, kind in ipairs {
        { activation_fn = "gated", subtract_b_dec = true }, { activation_fn = "gelu", normalisation = "layer_norm" },
        { activation_fn = "topk", k = 7, decoder_norm = "feature", input_scale = 3, output_scale = 0.5 },
        { activation_fn = "jumprelu", decoder_norm = "gate", normalisation = "constant_norm_rescale" },
        { activation_fn = "relu", output = "" },
      } do
        tensors["skip.weight"] = kind.output and skip
        assert(ms.save(path .. "/sae_layer_1.safetensors", tensors))
        local file = assert(io.open(path .. "/sae_layer_1_metadata.json", "w"))
        file:write(json.encode(kind)):close()
        local here, there = assert(ms.load_sae(path)), assert(ms.load_sae(path, { device = "cuda" }))
        local f, g = here:encode(x), there:encode(x:to { device = "cuda" })
        local ok = f:totensor():allclose(g:totensor():to { device = "cpu" }, { atol = 1e-4, rtol = 1e-4 })
        local decoded = here:decode(f):allclose(there:decode(g):to { device = "cpu" }, { atol = 1e-3, rtol = 1e-4 })
        print(kind.activation_fn, f:l0() > 1, ok, decoded)
      end]]):format(folder), { MOONSCOPE_GUARD = 1 })
    fixtures.remove(folder)
    local want = {}
    for i, name in ipairs { "gated", "gelu", "topk", "jumprelu", "relu" } do
      want[i] = name .. "\ttrue\ttrue\ttrue\n"
    end
    assert.equal(table.concat(want), out)
  end)

  -- P29: after such a fault CUDA refuses every call of the process.
  it("with CUDA that is lost says so, again and again, and the CPU goes on", function()
    local out = on_host [[
      local ms, uv = require "moonscope", require "luv"
      local t = ms.ones({ 4 }, { device = "cuda" })
      uv.os_setenv("MOONSCOPE_LOSE", "2")
      for _ = 1, 3 do print(select(2, pcall(function() return ((t + t) * 2):totable() end))) end
      print((ms.ones { 4 } * 2):sum():item())]]
    local lost = "cuda:0: [%w ]+: an illegal memory access was encountered; "
      .. "the device is lost until the program is started again"
    assert.equal(3, select(2, out:gsub(lost, "")), out)
    assert.truthy(out:find "\n8.0\n$", out)
  end)

  it("with CUDA that is full names what is needed and what is free", function()
    assert.equal("false\tcuda:0: no memory for a tensor: 65536 bytes are needed, 49152 of 65536 are free\n", on_host([[
      local ms = require "moonscope"
      local kept = ms.zeros(4096, { device = "cuda" })
      print(pcall(ms.zeros, 1 << 14, { device = "cuda" }))]], { MOONSCOPE_DEVICE_BYTES = 65536 }))
  end)

  -- Whatever call fails for lack of memory: it is told, or overcome by freeing what nobody holds;
  -- the next request gives the tokens that it gives without any failure.
  it("with CUDA survives each call that finds no memory", function()
    local out = on_host [[
      local ms, uv = require "moonscope", require "luv"
      local function answer()
        local model = assert(ms.load_model("examples/tiny", { device = "cuda" }))
        local sae = assert(ms.load_sae("examples/tiny/Moonscope-Tiny-Llama-SAE-l3.pth", { model = model }))
        local reply = model:generate("Once upon", { max_tokens = 2, edits = {
          { sae = sae, feature = 458, op = "set", value = 3.85 } } })
        model:close()
        sae:close()
        return reply.text
      end
      local want, n, failed = answer(), 0, 0
      repeat
        n = n + (n < 60 and 1 or 7)
        uv.os_setenv("MOONSCOPE_FAIL", tostring(n))
        local ok, text = pcall(answer)
        uv.os_unsetenv "MOONSCOPE_FAIL"
        if ok then
          assert(text == want, "another answer at call " .. n)
        else
          failed = failed + 1
          assert(text:find "%d+ of %d+ bytes are free" or text:find "%d+ bytes are needed, %d+ of %d+ are free", text)
          assert(answer() == want, "another answer after: " .. text)
        end
      until n > 500
      print(failed > 40)]]
    assert.equal("true\n", out)
  end)
end)

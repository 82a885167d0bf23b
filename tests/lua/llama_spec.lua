-- SPDX-License-Identifier: MIT
local core = require "moonscope.core"
local fixtures = require "fixtures"
local ms = require "moonscope"

local golden = fixtures.golden
local prompt = golden.prompts[1]

local function refused(changes, opts)
  local folder = fixtures.tiny_copy(changes)
  local model, message, code = ms.load_model(folder, opts)
  fixtures.remove(folder)
  assert.is_nil(model)
  return message:gsub(folder:gsub("%p", "%%%0"), "FOLDER"), code
end

describe("load_model", function()
  it("tells what the model is", function()
    local model <close> = assert(ms.load_model(fixtures.model_path))
    assert.equal(6, model.config.n_layers)
    assert.equal(128, model.config.d_model)
    assert.same({ 1276, 1279 }, model.config.eos)
    assert.equal("bf16", model:dtype())
    assert.equal("cpu", model:device())
    assert.equal("fast", model:precision())
    assert.equal(512, model:context())
    assert.truthy(tostring(model):find("6 layers, d_model 128, bf16, cpu", 1, true))
  end)

  it("opens shards with an untied head to the same logits", function()
    local folder = fixtures.tiny_copy { ["model.safetensors"] = false,
      ["config.json"] = fixtures.config('"tie_word_embeddings": true', '"tie_word_embeddings": false') }
    local whole = assert(ms.open(fixtures.model_path .. "/model.safetensors"))
    local shards, map = { {}, {} }, {}
    for i, name in ipairs(whole:names()) do
      shards[i % 2 + 1][name] = whole:tensor(name)
      map[#map + 1] = ('"%s":"part-%d.safetensors"'):format(name, i % 2 + 1)
    end
    shards[1]["lm_head.weight"] = whole:tensor "model.embed_tokens.weight"
    map[#map + 1] = '"lm_head.weight":"part-1.safetensors"'
    for i = 1, 2 do assert(ms.save(("%s/part-%d.safetensors"):format(folder, i), shards[i])) end
    fixtures.write(folder .. "/model.safetensors.index.json", ('{"weight_map":{%s}}'):format(table.concat(map, ",")))

    local model <close> = assert(ms.load_model(fixtures.model_path))
    local sharded <close> = assert(ms.load_model(folder))
    assert.is_true(model:forward(prompt.ids).logits:equal(sharded:forward(prompt.ids).logits))
    fixtures.remove(folder)
  end)

  it("runs f32 and f16 weights", function()
    local whole = assert(ms.open(fixtures.model_path .. "/model.safetensors"))
    local model <close> = assert(ms.load_model(fixtures.model_path, { precision = "exact" }))
    local want = model:forward(prompt.ids).logits
    for dtype, limit in pairs { f32 = 1e-5, f16 = 2e-2 } do
      local tensors = {}
      for _, name in ipairs(whole:names()) do tensors[name] = whole:tensor(name):to { dtype = dtype } end
      local folder = fixtures.tiny_copy { ["model.safetensors"] = false }
      assert(ms.save(folder .. "/model.safetensors", tensors))
      local other <close> = assert(ms.load_model(folder, { precision = "exact" }))
      assert.equal(dtype, other:dtype())
      assert.is_true(other:forward(prompt.ids).logits:allclose(want, { atol = limit }))
      fixtures.remove(folder)
    end
  end)

  it("uses attention and MLP biases where the config has them", function()
    local weights <close> = assert(ms.open(fixtures.model_path .. "/model.safetensors"))
    local plain <close> = assert(ms.load_model(fixtures.model_path, { precision = "exact" }))
    local config = fixtures.config('"attention_bias": false', '"attention_bias": true')
      :gsub('"mlp_bias": false', '"mlp_bias": true')
    for place, name in pairs { self_attn = "self_attn.o_proj", mlp = "mlp.down_proj" } do
      place = "model.layers.0." .. place
      local tensors = {}
      for _, weight in ipairs(weights:names()) do
        tensors[weight] = weights:tensor(weight)
        if weight:find "_proj%.weight$" then
          tensors[weight:gsub("weight$", "bias")] = ms.zeros({ tensors[weight]:shape()[1] }, { dtype = "bf16" })
        end
      end
      tensors["model.layers.0." .. name .. ".bias"] = ms.full({ 128 }, 0.5, { dtype = "bf16" })
      local folder = fixtures.tiny_copy { ["model.safetensors"] = false, ["config.json"] = config }
      assert(ms.save(folder .. "/model.safetensors", tensors))
      local biased <close> = assert(ms.load_model(folder, { precision = "exact" }))
      local with = biased:forward(prompt.ids, { capture = { place }, logits = false }).captures[place]
      local without = plain:forward(prompt.ids, { capture = { place }, logits = false }).captures[place]
      assert.is_true(with:allclose(without + 0.5, { atol = 1e-6 }))
      fixtures.remove(folder)
    end
  end)

  it("says in one line what is wrong with a folder", function()
    local message, code = refused { ["config.json"] = false }
    assert.matches("^FOLDER/config%.json: ", message)
    assert.equal("ENOENT", code)

    message, code = refused { ["model.safetensors"] = false }
    assert.matches("FOLDER", message)
    assert.equal("ENOENT", code)

    message, code = refused { ["config.json"] = fixtures.config("LlamaForCausalLM", "MixtralForCausalLM") }
    assert.equal("FOLDER: config.json: architectures: found MixtralForCausalLM, expected LlamaForCausalLM, "
      .. "MistralForCausalLM, Qwen2ForCausalLM or Qwen3ForCausalLM", message)
    assert.equal("EUNSUPPORTED", code)

    message, code = refused { ["config.json"] = fixtures.config('"hidden_size": 128', '"hidden_size": 64') }
    assert.equal("FOLDER: model.embed_tokens.weight: found shape [1280, 128], expected [1280, 64] by config.json",
      message)
    assert.equal("ESHAPE", code)

    message, code = refused { ["config.json"] = fixtures.config('"hidden_size": 128', '"hidden_size": -1') }
    assert.equal("FOLDER: config.json: hidden_size: found -1, expected a positive whole number", message)
    assert.equal("EFORMAT", code)

    message = refused { ["config.json"] = fixtures.config('"hidden_size": 128', '"hidden_size": 99999999') }
    assert.equal("FOLDER: config.json: hidden_size: found 99999999, expected 16777216 at most", message)

    message, code = refused { ["config.json"] = fixtures.config('"num_hidden_layers": 6', '"num_hidden_layers": 7') }
    assert.equal("FOLDER: has no tensor model.layers.6.input_layernorm.weight, which config.json asks for", message)
    assert.equal("EFORMAT", code)

    message = refused { ["config.json"] = fixtures.config('"llama3"', '"yarn"') }
    assert.equal("FOLDER: config.json: rope_scaling.rope_type: found yarn, expected llama3, linear or default", message)

    local function windowed(fields)
      return refused { ["config.json"] = fixtures.config("LlamaForCausalLM", "Qwen2ForCausalLM")
        :gsub('"mlp_bias": false', '"use_sliding_window": true, ' .. fields) }
    end
    assert.equal("FOLDER: config.json: max_window_layers: found nothing, expected a whole number",
      (windowed '"sliding_window": 8'))
    assert.equal("FOLDER: config.json: sliding_window: found 0, expected a positive whole number",
      (windowed '"sliding_window": 0'))
    message, code = windowed '"layer_types": ["sliding_attention", "linear_attention"]'
    assert.equal('FOLDER: config.json: layer_types: found "linear_attention", expected "full_attention" or '
      .. '"sliding_attention" for each layer', message)
    assert.equal("EUNSUPPORTED", code)

    message, code = refused { ["config.json"] = fixtures.config('"mlp_bias": false', '"quantization_config": {}') }
    assert.equal("FOLDER: config.json: quantization_config: found {}, expected none: quantized weights cannot be used",
      message)
    assert.equal("EUNSUPPORTED", code)

    message = refused { ["config.json"] = fixtures.config('"mlp_bias": false', '"partial_rotary_factor": 0.5') }
    assert.equal("FOLDER: config.json: partial_rotary_factor: found 0.5, expected none or 1", message)

    assert.equal("FOLDER: config.json: empty", (refused { ["config.json"] = "" }))
    assert.equal("FOLDER: generation_config.json: empty", (refused { ["generation_config.json"] = "" }))

    message = refused { ["config.json"] = "{" }
    assert.matches("^FOLDER: config.json: line 1: ", message)

    message = refused { ["generation_config.json"] = '{"eos_token_id": 1280}' }
    assert.equal("FOLDER: generation_config.json: eos_token_id: found 1280, expected a token id below vocab_size",
      message)

    message, code = refused({}, { context = 513 })
    assert.equal("context: found 513, expected 1 to 512 (the model's max_position_embeddings)", message)
    assert.equal("ERANGE", code)

    message, code = refused({}, { device = "gpu" })
    assert.matches("gpu", message)
    assert.equal("EDEVICE", code)
  end)

  it("refuses a truncated weights file", function()
    local whole = fixtures.read(fixtures.model_path .. "/model.safetensors")
    local message, code = refused { ["model.safetensors"] = whole:sub(1, 100000) }
    assert.matches("^FOLDER/model%.safetensors: ", message)
    assert.equal("EFORMAT", code)
  end)

  it("does not cut a path", function()
    assert.error_matches(function() ms.load_model(fixtures.model_path .. "\0x") end, "without a zero byte")
    assert.error_matches(function() ms.open(fixtures.sae_path .. "\0x") end, "without a zero byte")
  end)

  it("throws for an option that it does not have", function()
    assert.error_matches(function() ms.load_model(fixtures.model_path, { devise = "cpu" }) end,
      "load_model: unknown option devise, expected context, device, precision")
  end)

  it("runs linear and no RoPE scaling", function()
    local plain = fixtures.tiny_copy { ["config.json"] =
      fixtures.config('"rope_scaling": {.-}', '"rope_scaling": null') }
    local linear = fixtures.tiny_copy { ["config.json"] =
      fixtures.config('"rope_scaling": {.-}', '"rope_scaling": {"type": "linear", "factor": 1.0}') }
    local a <close> = assert(ms.load_model(plain))
    local b <close> = assert(ms.load_model(linear))
    local c <close> = assert(ms.load_model(fixtures.model_path))
    assert.is_true(a:forward(prompt.ids).logits:equal(b:forward(prompt.ids).logits))
    assert.is_false(a:forward(prompt.ids).logits:equal(c:forward(prompt.ids).logits))
    fixtures.remove(plain)
    fixtures.remove(linear)
  end)
end)

describe("forward", function()
  local model
  setup(function() model = fixtures.load_model { precision = "exact" } end)
  teardown(function()
    model:close()
    model = nil -- and with it its tokenizer
  end)

  it("puts one BOS in front of a text, never two", function()
    assert.same(prompt.ids, model:forward(prompt.text).ids)
    assert.same(prompt.ids, model:forward("<|begin_of_text|>" .. prompt.text).ids)
  end)

  it("captures at every place, with its shape", function()
    local width, n = { 26, 128 }, #prompt.ids
    assert.equal(26, n)
    local places = {
      ["model.embed_tokens"] = width, ["model.layers.2.input"] = width,
      ["model.layers.2.self_attn.heads"] = { 26, 8, 16 },
      ["model.layers.2.self_attn"] = width, ["model.layers.2.post_attention"] = width, ["model.layers.2.mlp"] = width,
      ["model.layers.2"] = width, ["model.layers.3.input"] = width, ["model.norm"] = width,
    }
    local names = {}
    for name in pairs(places) do names[#names + 1] = name end
    local captures = model:forward(prompt.ids, { capture = names }).captures
    for name, shape in pairs(places) do assert.same(shape, captures[name]:shape(), name) end
    local function at(place) return captures["model.layers.2" .. place] end
    assert.is_true(at(".post_attention"):equal(at ".input" + at ".self_attn"))
    assert.is_true(at(""):equal(at ".post_attention" + at ".mlp"))
    assert.is_true(captures["model.layers.3.input"]:equal(at ""))
  end)

  it("stops after the last capture without logits, with the same bits", function()
    local full = model:forward(prompt.ids, { capture = { "model.layers.1" } })
    local short = model:forward(prompt.ids, { capture = { "model.layers.1" }, logits = false, chunk = 7 })
    assert.is_nil(short.logits)
    assert.is_true(full.captures["model.layers.1"]:equal(short.captures["model.layers.1"]))
  end)

  it("gives last or all logits", function()
    local all = model:forward(prompt.ids, { logits = "all", chunk = 5 }).logits
    assert.same({ 26, 1280 }, all:shape())
    local last = model:forward(prompt.ids).logits
    assert.same({ 1, 1280 }, last:shape())
    assert.is_true(all:narrow(1, 26, 1):equal(last))
  end)

  it("says what is wrong with its arguments", function()
    local function bad(ids, opts, message)
      assert.error_matches(function() model:forward(ids, opts) end, message, 1, true)
    end
    bad({ 1275, 1280 }, nil, "token id 1280 at position 2: expected 0 to 1279")
    bad({ -1 }, nil, "token id -1 at position 1: expected 0 to 1279")
    bad({ 1.5 }, nil, "token id at position 1: found 1.5, expected a whole number")
    bad({ 1, nil, 3 }, nil, "token id at position 2: found nil, expected a whole number")
    bad({}, nil, "expected a list of at least one token id")
    bad({ 1 }, { capture = { "model.layers.6" } }, "capture: model.layers.6: the model's layers are 0 to 5")
    bad({ 1 }, { capture = { "layers.1" } }, 'capture: found "layers.1", expected model.embed_tokens')
    bad({ 1 }, { logits = "some" }, 'logits: found some, expected "last", "all" or false')
    bad({ 1 }, { chunk = 0 }, "chunk: found 0, expected a whole number from 1")
    local long = {}
    for i = 1, 513 do long[i] = 1 end
    bad(long, nil, "context: 513 tokens do not fit into 512; shorten the prompt, or load the model with a larger "
      .. "context (at most 512)")
    assert.same({ 1, 1280 }, model:forward(prompt.ids).logits:shape()) -- still usable
  end)
end)

describe("unembed", function()
  it("is the direction times the norm's weight times the embeddings, in f32", function()
    local model <close> = assert(ms.load_model(fixtures.model_path))
    local file <close> = assert(ms.open(fixtures.model_path))
    local norm = file:tensor("model.norm.weight"):to { dtype = "f32" }:totable()
    local x = ms.randn({ 3, 128 }, { seed = 7 })
    local logits, rows = model:unembed(x), x:totable()
    assert.same({ 3, 1280 }, logits:shape())
    for _, id in ipairs { 0, 17, 458, 1279 } do
      local token = file:tensor("model.embed_tokens.weight"):row(id + 1):to { dtype = "f32" }:totable()
      for n = 1, 3 do
        local sum = 0
        for i = 1, 128 do sum = sum + rows[n][i] * norm[i] * token[i] end
        assert.near(sum, logits:row(n):totable()[id + 1], 1e-4)
      end
    end
  end)

  it("says what it takes", function()
    local model <close> = assert(ms.load_model(fixtures.model_path))
    assert.error_matches(function() model:unembed(ms.zeros { 128 }) end, "found a tensor of shape %[128%], expected")
    assert.error_matches(function() model:unembed(ms.zeros { 1, 64 }) end, "%[1, 64%], expected %[n, 128%]")
    assert.error_matches(function() model:unembed(ms.zeros({ 1, 128 }, { dtype = "bf16" })) end, "bf16, expected f32")
    assert.error_matches(function() model:unembed(3) end, "Tensor")
    model:close()
    assert.error_matches(function() model:unembed(ms.zeros { 1, 128 }) end, "closed")
  end)
end)

describe("a session", function()
  local model
  setup(function() model = fixtures.load_model { precision = "exact" } end)
  teardown(function()
    model:close()
    model = nil -- and with it its tokenizer
  end)

  it("rewinds to the same bits", function()
    local session <close> = model:session()
    session:prefill(prompt.ids)
    local first = session:step(300).logits
    assert.equal(27, session:length())
    session:rewind(1)
    assert.is_true(session:step(300).logits:equal(first))
    assert.error_matches(function() session:rewind(28) end, "rewind: found 28, expected 0 to 27", 1, true)
  end)

  it("agrees between prefill and step in exact", function()
    local a <close> = model:session()
    local b <close> = model:session()
    a:prefill(prompt.ids)
    b:prefill(prompt.ids)
    assert.is_true(a:prefill({ 300 }).logits:equal(b:step(300).logits))
  end)

  it("steps several at once with the bits of each alone", function()
    local sessions, ids, want = {}, {}, {}
    for i = 1, 4 do
      sessions[i] = model:session()
      sessions[i]:prefill(golden.prompts[i].ids)
      ids[i] = 300 + i
      want[i] = sessions[i]:step(ids[i], { capture = { "model.layers.3" } })
      sessions[i]:rewind(1)
    end
    for i, out in ipairs(model:step(sessions, ids, { capture = { "model.layers.3" } })) do
      assert.is_true(out.logits:equal(want[i].logits))
      assert.is_true(out.captures["model.layers.3"]:equal(want[i].captures["model.layers.3"]))
    end
    assert.error_matches(function() model:step({ sessions[1], sessions[1] }, { 1, 2 }) end, "are the same one")
    assert.error_matches(function() model:step({ sessions[1] }, { 1, 2 }) end, "expected as many sessions as token ids")
    for _, session in ipairs(sessions) do session:close() end
  end)

  it("does not go deeper than its earlier tokens went", function()
    local session <close> = model:session()
    local pass <close> = core.pass({ session }, { { 1275 } }, "prefill", {})
    require("moonscope.job").await(pass:_run(2, "none"))
    assert.error_matches(function() session:prefill { 300 } end, "went through 2 layers only, expected 6")
    session:rewind(1)
    session:prefill { 1275 }
  end)

  it("throws once closed", function()
    local session = model:session()
    session:close()
    session:close()
    assert.error_matches(function() session:prefill { 1 } end, "session: closed")
  end)
end)

describe("a closed model", function()
  it("throws, and its open session goes on", function()
    local model = assert(ms.load_model(fixtures.model_path))
    local session <close> = model:session()
    model:close()
    model:close()
    assert.error_matches(function() model:session() end, "model: closed")
    assert.same({ 1, 1280 }, session:prefill({ 1275 }).logits:shape())
  end)
end)

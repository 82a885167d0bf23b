-- SPDX-License-Identifier: MIT
local fixtures = require "fixtures"
local json = require "moonscope.json"
local ms = require "moonscope"
local process = require "process"

local prompt = fixtures.golden.prompts[1]

local function refused(path, opts)
  local sae, message, code = ms.load_sae(path, opts)
  assert.is_nil(sae)
  return message, code
end

---The tiny autoencoder's four tensors.
local function tensors()
  local file <close> = assert(ms.open(fixtures.sae_path))
  local all = {}
  for _, name in ipairs(file:names()) do all[name] = file:tensor(name) end
  return all
end

---Saves tensors under a name that no list knows; the test removes the folder.
local function saved(all, metadata)
  local folder = fixtures.folder()
  local path = folder .. "/unknown.safetensors"
  assert(ms.save(path, all))
  if metadata then fixtures.write(folder .. "/unknown_metadata.json", metadata) end
  return path, folder
end

describe("load_sae", function()
  it("follows the model's device and dtype, and the file's without one", function()
    local folder = fixtures.folder()
    local all = tensors()
    for name, t in pairs(all) do all[name] = t:to { dtype = "f32" } end
    local path = folder .. "/a.safetensors"
    assert(ms.save(path, all))
    local model <close> = assert(ms.load_model(fixtures.model_path))
    local cases = { bf16 = { model = model }, f32 = { model = model, dtype = "file" }, f16 = { dtype = "f16" } }
    for dtype, opts in pairs(cases) do
      local sae <close> = assert(ms.load_sae(path, opts))
      assert.equal(dtype, sae:dtype())
      assert.equal("cpu", sae:device())
    end
    local sae <close> = assert(ms.load_sae(path))
    assert.equal("f32", sae:dtype())
    fixtures.remove(folder)
  end)

  it("knows the layer from the list, the metadata, or the caller", function()
    local sae <close> = assert(ms.load_sae(fixtures.sae_path))
    assert.same({ 3, "model.layers.3", 2048, 128, "relu" },
      { sae.layer, sae.hook, sae.d_sae, sae.d_model, sae.activation })

    local bare, bare_folder = saved(tensors(), '{"layer_idx": 2}')
    local indexed <close> = assert(ms.load_sae(bare))
    assert.same({ 2, "model.layers.2" }, { indexed.layer, indexed.hook })
    fixtures.remove(bare_folder)

    local path, folder = saved(tensors(), '{"layer_idx": 2, "layer": "model.layers.2", "hook": "model.layers.2.input"}')
    local other <close> = assert(ms.load_sae(path))
    assert.same({ 2, "model.layers.2.input" }, { other.layer, other.hook })
    local told <close> = assert(ms.load_sae(path, { layer = 4 }))
    assert.same({ 4, "model.layers.4.input" }, { told.layer, told.hook }) -- a number keeps the kind of place
    local exactly <close> = assert(ms.load_sae(path, { layer = "model.layers.4" }))
    assert.same({ 4, "model.layers.4" }, { exactly.layer, exactly.hook })
    fixtures.remove(folder)
  end)

  it("encodes and decodes without a layer, but is not used with a model", function()
    local path, folder = saved(tensors())
    local sae <close> = assert(ms.load_sae(path))
    assert.is_nil(sae.layer)
    local features <close> = sae:encode(ms.zeros { 1, 128 })
    assert.same({ 1, 128 }, sae:decode(features):shape())
    local model <close> = assert(ms.load_model(fixtures.model_path))
    assert.error_matches(function()
      model:generate("a", { edits = { { sae = sae, feature = 1, op = "ablate" } } })
    end, "edit 1: " .. path .. ": the SAE's layer is unknown: load it with layer = N (--layer N)", 1, true)
    local result = process.moonscope { "features", "--model", fixtures.model_path, "--sae", path, "--prompt", "a" }
    assert.same({ 1, "" }, { result.code, result.out })
    assert.matches("^moonscope: features: [^\n]*layer is unknown[^\n]*\n$", result.err)
    assert.truthy(result.err:find(path, 1, true))
    fixtures.remove(folder)
  end)

  it("reads the original workbench's keys, tied and untied", function()
    local all = tensors()
    local w_enc, b_dec = all["encoder_linear.weight"], all["decoder_linear.bias"]
    local x = ms.randn({ 5, 128 }, { seed = 1 })

    local path, folder = saved { ["encoder.weight"] = w_enc, ["encoder.bias"] = all["encoder_linear.bias"],
      decoder_bias = b_dec }
    local tied <close> = assert(ms.load_sae(path, { dtype = "f32", layer = 3 }))
    assert.is_true(tied:direction(7):equal(w_enc:row(8):to { dtype = "f32" }))
    fixtures.remove(folder)

    path, folder = saved { ["encoder.weight"] = w_enc, ["encoder.bias"] = all["encoder_linear.bias"],
      decoder_bias = b_dec:to { dtype = "f32" } * 0.25, ["decoder.weight"] = all["decoder_linear.weight"],
      ["decoder.bias"] = b_dec:to { dtype = "f32" } * 0.75 }
    local untied <close> = assert(ms.load_sae(path, { dtype = "f32", layer = 3 }))
    local plain <close> = assert(ms.load_sae(fixtures.sae_path, { dtype = "f32" }))
    local a <close> = untied:encode(x)
    local b <close> = plain:encode(x)
    assert.is_true(untied:decode(a):allclose(plain:decode(b), { atol = 1e-5 }))
    fixtures.remove(folder)
  end)

  it("says in one line what is wrong", function()
    local message, code = refused "missing.pth"
    assert.matches("missing.pth", message)
    assert.equal("ENOENT", code)

    local all = tensors()
    all["decoder_linear.bias"] = ms.zeros { 64 }
    local path, folder = saved(all)
    message, code = refused(path)
    assert.matches("decoder_linear.bias: found shape [64], expected [128]", message, 1, true)
    assert.equal("ESHAPE", code)
    fixtures.remove(folder)

    path, folder = saved { a = ms.zeros { 1 } }
    message, code = refused(path)
    assert.matches("found tensors a, expected those of a known format: goodfire, ", message, 1, true)
    assert.equal("EFORMAT", code)
    fixtures.remove(folder)

    path, folder = saved(tensors(), "{")
    message = refused(path)
    assert.matches("_metadata.json: json: ", message, 1, true)
    fixtures.remove(folder)

    path, folder = saved(tensors())
    assert(os.execute("mkfifo " .. folder .. "/unknown_metadata.json"))
    message, code = refused(path)
    assert.matches("unknown_metadata.json: not a regular file", message, 1, true)
    assert.equal("EINVAL", code)
    fixtures.remove(folder)

    message, code = refused(fixtures.sae_path, { dtype = "x" })
    assert.same({ "dtype: found x, expected f32, f16, bf16 or file", "EDTYPE" }, { message, code })
    assert.error_matches(function() ms.load_sae(5) end, "load_sae: path: found number, expected a text")
    assert.error_matches(function() ms.load_sae(fixtures.sae_path, { model = 5 }) end, "model: expected a loaded model")

    message, code = refused(fixtures.sae_path, { layer = "nineteen" })
    assert.matches("nineteen", message)
    assert.equal("EINVAL", code)
  end)

  it("refuses an SAE that does not fit the model", function()
    local model <close> = assert(ms.load_model(fixtures.model_path))
    local narrow = {
      ["encoder_linear.weight"] = ms.zeros { 128, 64 }, ["encoder_linear.bias"] = ms.zeros { 128 },
      ["decoder_linear.weight"] = ms.zeros { 64, 128 }, ["decoder_linear.bias"] = ms.zeros { 64 },
    }
    local path, folder = saved(narrow)
    local message, code = refused(path, { model = model, layer = 3 })
    assert.matches("the SAE's d_model is 64, the model's 128", message, 1, true)
    assert.equal("ESHAPE", code)
    message, code = refused(fixtures.sae_path, { model = model, layer = 6 })
    assert.matches("the SAE reads layer 6, the model's layers are 0 to 5", message, 1, true)
    assert.equal("ERANGE", code)
    fixtures.remove(folder)
  end)
end)

describe("an SAE", function()
  local sae
  setup(function() sae = assert(ms.load_sae(fixtures.sae_path, { dtype = "f32" })) end)
  teardown(function() sae:close() end)

  it("encodes to the formula's features, sparsely", function()
    local all = tensors()
    local x = ms.randn({ 40, 128 }, { seed = 3 }) * 3
    local features <close> = sae:encode(x)
    local want = (x:matmul(all["encoder_linear.weight"]:t()) + all["encoder_linear.bias"]):relu()
    assert.is_true(features:totensor():allclose(want, { atol = 1e-4 }))
    assert.equal(40, #features)
    local row = features:row(2)
    assert.equal(features:count(2), #row)
    for i = 2, #row do assert.is_true(row[i].index > row[i - 1].index) end
    assert.equal(row[1].activation, features:activation(2, row[1].index))
    local total = 0
    for i = 1, 40 do total = total + features:count(i) end
    assert.equal(total / 40, features:l0())
    local tally = {}
    for j = 1, 2048 do tally[j] = 0 end
    for i = 1, 40 do
      for _, feature in ipairs(features:row(i)) do tally[feature.index + 1] = tally[feature.index + 1] + 1 end
    end
    assert.same(tally, features:tally():totable())
    assert.is_true(sae:decode(features):allclose(
      want:matmul(all["decoder_linear.weight"]:t()) + all["decoder_linear.bias"], { atol = 1e-3 }))
  end)

  it("has an f32 direction per feature", function()
    local want = tensors()["decoder_linear.weight"]:t():row(459):to { dtype = "f32" }
    assert.is_true(sae:direction(458):equal(want))
    assert.error_matches(function() sae:direction(2048) end, "direction: feature 2048: expected 0 to 2047", 1, true)
    assert.error_matches(function() sae:direction(-1) end, "direction: feature -1: expected 0 to 2047", 1, true)
  end)

  it("takes no rows, and refuses other shapes", function()
    local features <close> = sae:encode(ms.zeros { 0, 128 })
    assert.equal(0, #features)
    assert.equal(0, features:l0())
    assert.same({ 0, 128 }, sae:decode(features):shape())
    assert.equal(0, features:tally():sum():item())
    assert.error_matches(function() sae:encode(ms.zeros { 1, 64 }) end,
      "encode: found shape [1, 64], expected [n_tok, 128] (the SAE's d_model)", 1, true)
    assert.error_matches(function() sae:encode(ms.zeros { 128 }) end, "encode: found shape [128]", 1, true)
    assert.error_matches(function() features:row(1) end, "features: row 1: expected 1 to 0")
  end)

  it("names the feature that is not a number", function()
    local all = tensors()
    all["encoder_linear.bias"] = ms.full({ 2048 }, 0 / 0, { dtype = "bf16" })
    local path, folder = saved(all)
    local broken <close> = assert(ms.load_sae(path))
    local features <close> = broken:encode(ms.zeros { 1, 128 })
    assert.error_matches(function() features:strongest(1) end, "feature 0 at position 1 is not a number (NaN)", 1, true)
    fixtures.remove(folder)
  end)

  it("names the feature that is infinite, in edits and on the command line too", function()
    local all = tensors()
    local bias = ms.zeros({ 2048 }, { dtype = "bf16" })
    bias:narrow(1, 6, 1):fill_(math.huge)
    all["encoder_linear.bias"] = bias
    local path, folder = saved(all)
    local model <close> = assert(ms.load_model(fixtures.model_path))
    local broken <close> = assert(ms.load_sae(path, { model = model, layer = 3 }))
    local why = "feature 5 at position 1 is infinite: the weights or the stream are broken"
    local features <close> = broken:encode(ms.zeros { 1, 128 })
    assert.error_matches(function() features:strongest(1) end, why, 1, true)
    assert.error_matches(function()
      local edit = { sae = broken, feature = 1, op = "ablate", when = function() return true end }
      model:generate("a", { edits = { edit } })
    end, why, 1, true)
    for _, json_option in ipairs { "--quiet", "--json" } do
      local result = process.moonscope { "features", "--model", fixtures.model_path, "--sae", path, "--layer", "3",
        "--prompt", "a", json_option }
      assert.same({ 1, "", "moonscope: " .. why .. "\n" }, { result.code, result.out, result.err })
    end
    fixtures.remove(folder)
  end)

  it("names its file where the model has no such place", function()
    local path, folder = saved(tensors(), '{"hook": "blocks.3.ln1.hook_normalized"}')
    local result = process.moonscope { "features", "--model", fixtures.model_path, "--sae", path, "--prompt", "a" }
    assert.same({ 1, "" }, { result.code, result.out })
    assert.matches('^moonscope: features: [^\n]*: capture: found "blocks.3.ln1.hook_normalized"[^\n]*\n$', result.err)
    assert.truthy(result.err:find(path, 1, true))
    fixtures.remove(folder)
  end)

  it("reads another layer than the file's when told to, with a warning", function()
    for layer, warning in pairs {
      ["3"] = "",
      ["4"] = ("moonscope: warning: %s: is of layer 3; reads layer 4, as --layer says\n"):format(fixtures.sae_path),
    } do
      local result = process.moonscope { "generate", "--model", fixtures.model_path, "--sae", fixtures.sae_path,
        "--prompt", "a", "-n", "1", "--layer", layer }
      assert.same({ 0, warning }, { result.code, result.err })
      result = process.moonscope { "features", "--model", fixtures.model_path, "--sae", fixtures.sae_path,
        "--prompt", "a", "--json", "--layer", layer }
      assert.same({ 0, warning }, { result.code, result.err })
      assert.equal(tonumber(layer), require("moonscope.json").decode(result.out).layer)
    end
  end)

  it("throws once closed", function()
    local other = assert(ms.load_sae(fixtures.sae_path))
    other:close()
    other:close()
    assert.error_matches(function() other:encode(ms.zeros { 1, 128 }) end, "sae: closed")
  end)
end)

describe("moonscope features", function()
  local function run(...)
    return process.moonscope { "features", "--model", fixtures.model_path, "--sae", fixtures.sae_path,
      "--precision", "exact", ... }
  end

  it("prints a line per token", function()
    local result = run("--prompt", "a red fox", "--top", "2")
    assert.equal(0, result.code)
    local lines = {}
    for line in result.out:gmatch "[^\n]+" do lines[#lines + 1] = line end
    assert.equal(1 + 4, #lines)
    assert.matches("^   0  '<|begin_of_text|", lines[2])
    assert.matches("' red' .* 1174:%d+%.%d%d", lines[4])
    assert.is_nil(result.out:find("\27", 1, true)) -- no colour when piped
  end)

  it("asks what the file leaves open", function()
    local all = tensors()
    local path, folder = saved { ["encoder.weight"] = all["encoder_linear.weight"],
      ["encoder.bias"] = all["encoder_linear.bias"], ["decoder.weight"] = all["decoder_linear.weight"],
      ["decoder.bias"] = all["decoder_linear.bias"] }
    local command = { "features", "--model", fixtures.model_path, "--sae", path, "--prompt", "a", "--layer", "3" }
    local result = process.moonscope(command)
    assert.same({ 1, "" }, { result.code, result.out })
    assert.matches("^moonscope: [^\n]+: say which with %-%-format [^\n]+\n$", result.err)
    table.move({ "--format", "qresearch" }, 1, 2, #command + 1, command)
    result = process.moonscope(command)
    assert.same({ 0, "" }, { result.code, result.err })
    assert.matches("features of model.layers.3.input, as", result.out, 1, true)
    fixtures.remove(folder)
  end)

  it("prints the golden features as JSON", function()
    local result = run("--prompt", prompt.text, "--json", "--top", "2048")
    local found = assert(json.decode(result.out))
    assert.equal(3, found.layer)
    local golden = assert(ms.open "tests/fixtures/tiny/golden/golden.safetensors")
    local position, index = golden:tensor("p0.sae_position"):totable(), golden:tensor("p0.sae_index"):totable()
    local value = golden:tensor("p0.sae_value.f64"):totable()
    local want, seen = {}, 0
    for i, p in ipairs(position) do want[p * 2048 + index[i]] = value[i] end
    for i, token in ipairs(found.tokens) do
      assert.same({ i - 1, prompt.ids[i], #token.features }, { token.position, token.id, token.l0 })
      local before = math.huge
      for _, feature in ipairs(token.features) do
        assert.is_true(feature.activation <= before)
        before = feature.activation
        assert.near(want[token.position * 2048 + feature.index] or 0, feature.activation, 2e-4)
        seen = seen + 1
      end
    end
    assert.is_true(seen >= #value - 2)
  end)
end)

describe("features.of_prompt", function()
  local features = require "moonscope.features"

  it("gives each token of a text its features, largest first", function()
    local model, sae = fixtures.load { precision = "exact" }
    local out = model:forward("The red fox", { capture = { sae.hook }, logits = false })
    local fired = sae:encode(out.captures[sae.hook])
    local found = features.of_prompt(model, sae, "The red fox", 2)
    assert.same({ 3, #out.ids }, { found.layer, #found.tokens })
    for number, token in ipairs(found.tokens) do
      assert.same({ number - 1, out.ids[number], model.tokenizer:token(out.ids[number]), fired:count(number) },
        { token.position, token.id, token.token, token.l0 })
      assert.same(fired:strongest(number, 2), token.features)
      assert.same(fired:strongest(number), fired:strongest(number, math.maxinteger))
      assert.same(fired:row(number), fired:finite_row(number))
    end
    fired:close()
    sae:close()
    model:close()
  end)

  it("asks for the layer of an SAE that has none", function()
    local model = fixtures.load_model()
    local path, folder = saved(tensors())
    local unknown = assert(ms.load_sae(path, { model = model }))
    local message = path .. ": the SAE's layer is unknown"
    assert.error_matches(function() features.of_prompt(model, unknown, "The red fox") end, message, 1, true)
    assert.error_matches(function() unknown:known_hook "asked" end, "asked: " .. message, 1, true)
    unknown:close()
    model:close()
    fixtures.remove(folder)
  end)
end)

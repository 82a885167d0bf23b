-- SPDX-License-Identifier: MIT
local diagnosis = require "moonscope.diagnosis"
local fixtures = require "fixtures"
local json = require "moonscope.json"
local ms = require "moonscope"
local process = require "process"
local sae_configs = require "moonscope.sae_configs"

local report_of_training = assert(json.decode(fixtures.read "tests/fixtures/tiny/sae_report.json"))

---Held-out documents of the kind that the tiny model and its SAE were trained on.
local documents = {}
for line in io.lines "tests/fixtures/tiny/eval.jsonl" do documents[#documents + 1] = json.decode(line).text end
ms.set_threads(1) -- the matrices are small, and the machine has other tests to run

local TOKENS = 50 -- read of a text where that is enough to tell

---The tiny SAE's tensors, f32, by short names.
local function tensors()
  local file <close> = assert(ms.open(fixtures.sae_path))
  local function f32(name) return file:tensor(name):to { dtype = "f32" } end
  return {
    w_enc = f32 "encoder_linear.weight", b_enc = f32 "encoder_linear.bias",
    w_dec = f32 "decoder_linear.weight", b_dec = f32 "decoder_linear.bias", -- w_dec [d_model][d_sae]
  }
end

---Writes an SAE with some parts changed; the test removes the folder.
local function saved(change, metadata)
  local parts, folder = tensors(), fixtures.folder()
  change(parts)
  local path = folder .. "/sae.safetensors"
  assert(ms.save(path, {
    ["encoder_linear.weight"] = parts.w_enc, ["encoder_linear.bias"] = parts.b_enc,
    ["decoder_linear.weight"] = parts.w_dec, ["decoder_linear.bias"] = parts.b_dec,
  }))
  if metadata then fixtures.write(folder .. "/sae_metadata.json", json.encode(metadata)) end
  return path, folder
end

---The tiny model with its weights changed: change(name, f32 tensor) -> tensor or nil to keep it.
local function changed_model(change)
  local folder = fixtures.tiny_copy { ["model.safetensors"] = false }
  local file <close> = assert(ms.open(fixtures.model_path .. "/model.safetensors"))
  local all = {}
  for _, name in ipairs(file:names()) do
    local t = file:tensor(name)
    local new = change(name, t:to { dtype = "f32" })
    all[name] = new and new:to { dtype = "bf16" } or t
  end
  assert(ms.save(folder .. "/model.safetensors", all))
  return folder
end

local function finding(report, about)
  for _, f in ipairs(report.findings) do
    if f.about == about then return f end
  end
end

---Levels by subject, the ones that are ok left out.
local function complaints(report)
  local levels = {}
  for _, f in ipairs(report.findings) do
    if f.level ~= "ok" then levels[f.about] = f.level end
  end
  return levels
end

local function claimed(report)
  for _, place in ipairs(report.places) do
    if place.claimed then return place end
  end
end

describe("doctor", function()
  local model, sae
  setup(function() model, sae = fixtures.load { precision = "exact" } end)
  teardown(function()
    model:close()
    sae:close()
    model = nil -- and with it its tokenizer
  end)

  ---The verdict on a changed SAE.
  local function examine(change, opts, metadata)
    local path, folder = saved(change, metadata)
    local other <close> = assert(ms.load_sae(path, { model = model, layer = opts.layer, dtype = opts.dtype }))
    local report = assert(ms.doctor(model, other, { text = opts.text or documents, tokens = TOKENS }))
    fixtures.remove(folder)
    return report
  end

  local function unchanged() end

  it("finds the right layer, and the FVU and L0 of the training report", function()
    local report = assert(ms.doctor(model, sae, { text = documents, tokens = 1000 }))
    assert.same({}, complaints(report))
    assert.equal("ok", report.verdict)
    local place = claimed(report)
    assert.equal("model.layers.3", place.place)
    assert.near(report_of_training.fvu_without_first_token, place.fvu, 4e-3) -- it counts end tokens
    assert.near(report_of_training.l0_mean, place.l0, 0.6)
    assert.same({ "model.layers.2", "model.layers.3", "model.layers.4" },
      { report.places[1].place, report.places[2].place, report.places[3].place })
    assert.near(0.19, report.places[1].fvu, 0.02)
    assert.near(7.7, report.places[3].fvu, 0.5)
    assert.equal(7, #report.scan)
    assert.is_true(report.special.mean_norm > 2 * place.mean_norm) -- BOS: 62, against 12
    assert.is_true(report.dead.share > report_of_training.dead_fraction and report.dead.share < 0.2)
    assert.same({ "bf16", "f32" }, { report.dtypes[1].dtype, report.dtypes[2].dtype })
    local norms = report.weights.decoder_norms
    assert.near(report_of_training.decoder_column_norms[1], norms.min, 1e-5)
    assert.near(report_of_training.decoder_column_norms[2], norms.max, 1e-5)
    assert.near(1, norms.mean, 1e-3)
    assert.equal(0, norms.zero)
  end)

  it("adds up over windows to what the formula gives at once", function()
    local text = table.concat(documents, "\n", 1, 2):gsub("<|end_of_text|>", "")
    local report = assert(ms.doctor(model, sae, { text = text }))
    local ids = model:ids_of(text)
    local x = model:forward(ids, { capture = { "model.layers.3" }, logits = false }).captures["model.layers.3"]
    x = x:narrow(1, 2, #ids - 1)
    local features <close> = sae:encode(x)
    local error = (x - sae:decode(features)):norm():item() ^ 2
    assert.near(error / (x - x:mean(1)):norm():item() ^ 2, claimed(report).fvu, 1e-5)
    assert.near(features:l0(), claimed(report).l0, 1e-9)
    assert.same({ #ids - 1, 1 }, { report.tokens, report.special.tokens })

    local twice = assert(ms.doctor(model, sae, { text = { text, text } }))
    assert.near(claimed(report).fvu, claimed(twice).fvu, 1e-6)
    assert.same({ 2 * report.tokens, 2 }, { twice.tokens, twice.special.tokens })
    local long = assert(ms.doctor(model, sae, { text = (text .. "\n"):rep(6), tokens = 530 }))
    assert.same({ 530, 2 }, { long.tokens, long.special.tokens }) -- longer than a window
  end)

  it("is content with the built-in text, in fast too", function()
    local fast <close> = fixtures.load_model()
    local other <close> = assert(ms.load_sae(fixtures.sae_path, { model = fast }))
    local report = assert(ms.doctor(fast, other))
    assert.same({ verdict = "ok" }, { verdict = report.verdict })
    assert.is_true(report.tokens > 500)
    assert.same({ "bf16", "f32" }, { report.dtypes[1].dtype, report.dtypes[2].dtype })
    assert.not_equal(report.dtypes[1].fvu, report.dtypes[2].fvu)
    assert.near(report.dtypes[1].fvu, report.dtypes[2].fvu, 1e-3)
  end)

  it("names the right layer when another one is claimed", function()
    local built_in = require "moonscope.sample_text"
    for _, case in ipairs { { 0 }, { 1 }, { 2 }, { 4 }, { 5 }, { 0, built_in }, { 2, built_in }, { 4, built_in } } do
      local layer, text = case[1], case[2] or documents
      local report = examine(unchanged, { layer = layer, text = text })
      assert.equal("wrong", report.verdict)
      local f = finding(report, "layer")
      assert.equal("wrong", f.level)
      assert.matches("^the SAE reads model.layers.3", f.message)
      assert.matches("not model.layers." .. layer .. ":", f.message, 1, true)
      assert.matches("--layer 3", f.remedy, 1, true)
      assert.equal(7, #report.scan)
    end
  end)

  it("tells a layer's input from its output", function()
    local at_input = examine(unchanged, {}, { hook = "model.layers.3.input" })
    assert.matches("the SAE reads model.layers.3, not model.layers.3.input", finding(at_input, "layer").message, 1,
      true)
    assert.matches("--layer model.layers.3 ", finding(at_input, "layer").remedy, 1, true) -- 3 alone keeps the kind
    local right = examine(unchanged, {}, { hook = "model.layers.4.input" }) -- what layer 3 gives is what 4 takes
    assert.same({}, complaints(right))
    assert.equal("model.layers.4.input", claimed(right).place)
    local off_by_one = examine(unchanged, { layer = 4 })
    assert.matches("the SAE reads model.layers.3 (the input of layer 4), not", finding(off_by_one, "layer").message, 1,
      true)
  end)

  it("proposes a layer when none is known", function()
    local report = examine(unchanged, {})
    assert.same({ layer = "warning" }, complaints(report))
    assert.matches("nobody said which layer the SAE reads; model.layers.3 fits best", finding(report, "layer").message)
    assert.is_nil(report.layer)
  end)

  it("sees that b_dec is to be subtracted from the input", function()
    local report = examine(function(parts) -- w_enc (x - b_dec) + b_enc' is w_enc x + b_enc
      parts.b_enc = parts.b_enc + parts.w_enc:matmul(parts.b_dec)
    end, { layer = 3, dtype = "file" })
    local f = finding(report, "convention")
    assert.equal("wrong", f.level)
    assert.matches("^with b_dec subtracted from its input, the SAE explains model.layers.3 far better", f.message)
    assert.matches('"subtract_b_dec": true', f.remedy, 1, true)
    local intact = examine(unchanged, { layer = 3, dtype = "file" })
    assert.near(claimed(intact).fvu, report.conventions[2].fvu, 1e-4)

    local subtracts = examine(unchanged, { layer = 3, dtype = "file" }, { subtract_b_dec = true })
    assert.matches("^without subtracting b_dec from its input", finding(subtracts, "convention").message)
    assert.near(claimed(intact).fvu, subtracts.conventions[2].fvu, 1e-4)
  end)

  it("sees that the input is to be scaled", function()
    local folder = changed_model(function(name, t) -- the same model, its stream eight times as large
      if name:find "embed_tokens" or name:find "o_proj" or name:find "down_proj" then return t * 8 end
    end)
    local large <close> = fixtures.load_model_at(folder, { precision = "exact" })
    local other <close> = assert(ms.load_sae(fixtures.sae_path, { model = large }))
    local report = assert(ms.doctor(large, other, { text = documents, tokens = TOKENS }))
    local f = finding(report, "convention")
    assert.equal("wrong", f.level)
    assert.matches("scaled to a mean norm of sqrt(d_model)", f.message, 1, true)
    assert.near(1 / 8, tonumber(f.remedy:match '"input_scale": ([%d.]+)'), 0.02)
    fixtures.remove(folder)
  end)

  it("sees exchanged matrices, and a decoder that is not the encoder's", function()
    local exchanged = examine(function(parts)
      parts.w_enc, parts.w_dec = parts.w_dec:t():contiguous(), parts.w_enc:t():contiguous()
    end, { layer = 3 })
    assert.equal("wrong", exchanged.verdict)
    assert.matches("^with encoder and decoder exchanged", finding(exchanged, "convention").message)

    local shuffled = examine(function(parts) -- every direction one feature further
      local w_dec, n = parts.w_dec, parts.w_dec:size(2)
      parts.w_dec = ms.cat({ w_dec:narrow(2, 2, n - 1), w_dec:narrow(2, 1, 1) }, 2)
    end, { layer = 3 })
    assert.equal("wrong", shuffled.verdict)
    assert.equal("wrong", finding(shuffled, "weights").level)
    assert.matches("encoder and decoder rows have nothing in common", finding(shuffled, "weights").message)

    local transposed = examine(function(parts) -- the numbers of w_dec row by row, as if not transposed
      parts.w_dec = parts.w_dec:t():contiguous():reshape(128, 2048)
    end, { layer = 3 })
    assert.equal("wrong", finding(transposed, "weights").level)
    assert.near(0, transposed.weights.cosine, 0.05)
  end)

  it("does not take a tied SAE for a broken one", function()
    local report = examine(function(parts) parts.w_dec = parts.w_enc:t():contiguous() end, { layer = 3 })
    assert.is_true(report.weights.tied)
    assert.near(1, report.weights.cosine, 1e-5)
    assert.equal(3, #report.conventions)
  end)

  it("finds numbers that are not finite", function()
    for name, index in pairs { w_enc = 7, w_dec = 9, b_enc = 11 } do
      local report = examine(function(parts)
        local t = parts[name]
        local feature = name == "w_dec" and t:narrow(2, index + 1, 1) or t:narrow(1, index + 1, 1)
        feature:fill_(name == "b_enc" and math.huge or 0 / 0)
      end, { layer = 3 })
      assert.equal("wrong", report.verdict)
      assert.matches(("%s: 1 row with numbers that are not finite, the first is feature %d"):format(name, index),
        finding(report, "weights").message, 1, true)
    end
    local report = examine(function(parts) parts.b_dec:narrow(1, 5, 1):fill_(0 / 0) end, { layer = 3 })
    assert.matches("b_dec has numbers that are not finite", finding(report, "weights").message)
  end)

  it("tells a broken model from a broken SAE", function()
    local folder = changed_model(function(name, t)
      if name:find "layers.2.mlp.down_proj" then t:narrow(1, 3, 1):fill_(0 / 0) return t end
    end)
    local broken <close> = fixtures.load_model_at(folder)
    local other <close> = assert(ms.load_sae(fixtures.sae_path, { model = broken }))
    local report = assert(ms.doctor(broken, other, { tokens = TOKENS }))
    assert.same({ model = "wrong" }, complaints(report))
    assert.matches("model.layers.3 is not finite at %d+ tokens: the model itself is broken",
      finding(report, "model").message)
    fixtures.remove(folder)
  end)

  it("counts zero directions, and complains where one fires", function()
    local silent = examine(function(parts)
      parts.w_dec:narrow(2, 1, 5):fill_(0)
      parts.b_enc:narrow(1, 1, 5):fill_(-1e4)
    end, { layer = 3 })
    assert.same({}, complaints(silent))
    assert.same({ 5, 0, 0 }, { silent.weights.decoder_norms.zero, silent.weights.decoder_norms.zero_firing,
      silent.weights.decoder_norms.min })
    assert.matches("5 are 0: an edit of such a feature does nothing", finding(silent, "weights").message)

    local firing = examine(function(parts) parts.w_dec:narrow(2, 1, 100):fill_(0) end, { layer = 3 })
    assert.equal(100, firing.weights.decoder_norms.zero)
    assert.is_true(firing.weights.decoder_norms.zero_firing > 0)
    assert.equal("warning", finding(firing, "weights").level)
  end)

  it("says that no place fits in another model", function()
    local ones = {}
    for i = 1, 128 do
      ones[i] = {}
      for j = 1, 128 do ones[i][j] = i + j == 129 and 1 or 0 end
    end
    local mirror = ms.tensor(ones)
    local folder = changed_model(function(name, t) -- the same text, its stream in another basis
      if name:find "o_proj" or name:find "down_proj" then return mirror:matmul(t) end
      if name:find "norm" then return t:reshape(1, 128):matmul(mirror):reshape(128) end
      return t:matmul(mirror)
    end)
    local other_model <close> = fixtures.load_model_at(folder, { precision = "exact" })
    local other <close> = assert(ms.load_sae(fixtures.sae_path, { model = other_model }))
    for _, text in ipairs { documents, require "moonscope.sample_text" } do
      local report = assert(ms.doctor(other_model, other, { text = text, tokens = TOKENS }))
      assert.equal("wrong", report.verdict)
      local f = finding(report, "model")
      assert.matches("^no place in this model fits: FVU", f.message)
      assert.matches("the very one that the SAE was trained on", f.remedy)
    end
    fixtures.remove(folder)
  end)

  it("compares a published file with what is known of it", function()
    local known = sae_configs.SAE_CONFIGS["Moonscope-Tiny-Llama-SAE-l3"]
    local restore <close> = setmetatable({}, { __close = function() known.sha256, known.size_bytes = nil, nil end })
    assert.equal("Moonscope-Tiny-Llama-SAE-l3", ms.doctor(model, sae, { tokens = TOKENS }).file.known)
    known.sha256, known.size_bytes = ("0a"):rep(32), 5
    local report = assert(ms.doctor(model, sae, { tokens = TOKENS }))
    assert.equal("warning", report.verdict)
    assert.same({ file = "warning" }, complaints(report))
    assert.same({ "bytes of the file", "sha256" },
      { report.file.differences[1].what, report.file.differences[2].what })
    assert.equal(known.sha256, report.file.differences[2].expected)

    known.sha256, known.size_bytes = nil, nil
    local path, folder = saved(function() end)
    local renamed = folder .. "/Moonscope-Tiny-Llama-SAE-l3.pth" -- found by its content, known by its name
    assert(os.rename(path, renamed))
    local wide <close> = assert(ms.load_sae(renamed, { model = model }))
    report = assert(ms.doctor(model, wide, { tokens = TOKENS }))
    assert.same({ "dtype", "f32", "bf16" }, { report.file.differences[1].what, report.file.differences[1].found,
      report.file.differences[1].expected })
    assert.equal("bytes of the tensors", report.file.differences[2].what)
    fixtures.remove(folder)
  end)

  it("compares a converted file with its metadata", function()
    local folder = fixtures.folder()
    local convert = require "moonscope.convert"
    local converted = assert(convert.sae(fixtures.sae_path, { output = folder }))
    local function verdict()
      local other <close> = assert(ms.load_sae(converted.safetensors, { model = model }))
      return assert(ms.doctor(model, other, { tokens = TOKENS }))
    end
    assert.same({}, complaints(verdict()))
    local known = sae_configs.SAE_CONFIGS["Moonscope-Tiny-Llama-SAE-l3"]
    local restore <close> = setmetatable({}, { __close = function() known.sha256 = nil end })
    known.sha256 = ("0a"):rep(32)
    assert.matches("sha256 of the file it was converted from: found", finding(verdict(), "file").message)
    known.sha256 = nil
    local metadata = fixtures.read(converted.metadata)
    fixtures.write(converted.metadata, (metadata:gsub('"sha256": "%x%x', '"sha256": "zz')))
    assert.matches("sha256: found %x+, expected zz%x+ by its metadata", finding(verdict(), "file").message)
    fixtures.remove(folder)
  end)

  ---Writes the folder of a release of SAELens.
  local function saelens(tensor_table, config)
    local folder = fixtures.folder()
    assert(ms.save(folder .. "/sae_weights.safetensors", tensor_table))
    fixtures.write(folder .. "/cfg.json", json.encode(config))
    return folder
  end

  ---The verdict on an SAE of a format of its own.
  local function verdict_on(path, opts, text)
    opts.model, opts.dtype = model, opts.dtype or "f32"
    local other <close> = assert(ms.load_sae(path, opts))
    return assert(ms.doctor(model, other, { text = text or documents, tokens = TOKENS })), other.path
  end

  ---It is judged ok where its config says, and elsewhere sent back there.
  local function judged_by_place(folder, opts, place, text)
    local report, path = verdict_on(folder, opts, text)
    assert.same({}, complaints(report))
    assert.equal(place, claimed(report).place)
    assert.equal(folder .. "/sae_weights.safetensors", path)
    assert.same({ "as it was loaded" }, { report.conventions[1].name, (report.conventions[2] or {}).name })
    local wrong = {}
    for name, value in pairs(opts) do wrong[name] = value end
    wrong.layer = 4
    local elsewhere = verdict_on(folder, wrong, text)
    assert.equal("wrong", elsewhere.verdict)
    local f = finding(elsewhere, "layer")
    assert.matches("the SAE reads " .. place, f.message, 1, true)
    assert.matches(", not " .. place:gsub("3", "4") .. ":", f.message, 1, true)
    assert.matches("--layer 3 ", f.remedy, 1, true)
    return report
  end

  it("knows a gated one", function()
    local parts = tensors() -- a gate of its own, and a magnitude twice as large that the decoder halves
    local folder = saelens({
      W_enc = parts.w_enc:t():contiguous(), b_gate = parts.b_enc, b_mag = parts.b_enc * 2,
      r_mag = ms.full({ 2048 }, math.log(2)), W_dec = (parts.w_dec * 0.5):t():contiguous(), b_dec = parts.b_dec,
    }, { architecture = "gated", hook_name = "blocks.3.hook_resid_post", apply_b_dec_to_input = false })
    local report = judged_by_place(folder, {}, "model.layers.3")
    assert.same({ "gated", "saelens" }, { report.activation, report.format })
    fixtures.remove(folder)

    parts.b_enc:narrow(1, 8, 1):fill_(0 / 0)
    folder = saelens({
      W_enc = parts.w_enc:t():contiguous(), b_gate = parts.b_dec:mean() * ms.ones { 2048 }, b_mag = parts.b_enc,
      r_mag = ms.zeros { 2048 }, W_dec = parts.w_dec:t():contiguous(), b_dec = parts.b_dec,
    }, { architecture = "gated", hook_name = "blocks.3.hook_resid_post" })
    assert.matches("offset: 1 row with numbers that are not finite, the first is feature 7",
      finding(verdict_on(folder, {}), "weights").message)
    fixtures.remove(folder)
  end)

  it("knows one with thresholds and a scaled input, and tells a wrong scale", function()
    local parts, scale = tensors(), 0.7
    local folder = saelens({
      W_enc = (parts.w_enc * (1 / scale)):t():contiguous(), b_enc = parts.b_enc, threshold = ms.full({ 2048 }, 0.05),
      W_dec = (parts.w_dec * scale):t():contiguous(), b_dec = parts.b_dec * scale,
    }, { architecture = "jumprelu", hook_name = "blocks.3.hook_resid_post", apply_b_dec_to_input = false,
      normalize_activations = "expected_average_only_in" })
    local report = judged_by_place(folder, { input_scale = scale }, "model.layers.3")
    assert.matches("the input is multiplied by 0.7; ", finding(report, "scale").message, 1, true)

    local wrong = verdict_on(folder, { input_scale = 7 })
    assert.same({ "warning", "wrong" }, { finding(wrong, "scale").level, wrong.verdict })
    assert.near(128 ^ 0.5 / claimed(wrong).mean_norm, tonumber(finding(wrong, "scale").remedy:match "scale ([%d.]+)"),
      1e-4)
    assert.equal(1, #wrong.conventions) -- what its config says is not doubted
    fixtures.remove(folder)
  end)

  ---A short text, and its rows at some places: what an SAE that knows it by heart is made of.
  local function by_heart(...)
    local text = table.concat(documents, "\n", 1, 8):gsub("<|end_of_text|>", "")
    local ids = table.move(model:ids_of(text), 1, TOKENS + 1, 1, {})
    local captures, rows = model:forward(ids, { capture = { ... }, logits = false }).captures, {}
    for i, place in ipairs { ... } do rows[i] = captures[place]:narrow(1, 2, TOKENS) end
    return text, table.unpack(rows)
  end

  it("knows a transcoder with a skip connection, read at one place and compared at another", function()
    local text, x, y = by_heart("model.layers.3.post_attention", "model.layers.3.mlp")
    local norms, skip = x:norm(2):reshape(TOKENS, 1), ms.randn({ 128, 128 }, { seed = 3 }) * 0.1
    local config = { architecture = "skip_transcoder", activation_fn_str = "topk", activation_fn_kwargs = { k = 1 },
      hook_name = "blocks.3.hook_resid_mid", hook_name_out = "blocks.3.mlp.hook_out" }
    local all = { W_enc = (x / norms):t():contiguous(), b_enc = ms.zeros { TOKENS },
      W_dec = (y - x:matmul(skip:t())) / norms, b_dec = ms.zeros { 128 }, W_skip = skip }
    local folder = saelens(all, config)
    local report = judged_by_place(folder, {}, "model.layers.3.post_attention", text)
    assert.same({ "model.layers.3.mlp", "model.layers.3.mlp", 6 },
      { report.output, claimed(report).predicts, #report.scan })
    assert.is_true(claimed(report).fvu < 1e-4)
    assert.near(norms:mean():item(), claimed(report).mean_norm, 1e-3)
    fixtures.remove(folder)

    local function refused(field, value, opts)
      local changed = {}
      for name, was in pairs(config) do changed[name] = was end
      changed[field] = value
      folder = saelens(all, changed)
      local other <close> = assert(ms.load_sae(folder, opts))
      local none, message, code = ms.doctor(model, other, { text = text, tokens = TOKENS })
      fixtures.remove(folder)
      assert.is_nil(none)
      return message:sub(#folder + 2), code
    end
    assert.same({ "sae_weights.safetensors: a transcoder, and nobody says where it writes", "EINVAL" },
      { refused("hook_name_out", nil) })
    assert.same({ "sae_weights.safetensors: a transcoder, and nobody says where it reads: give layer = N (--layer N)",
      "EINVAL" }, { refused("hook_name", nil) })
    local message, code = refused("hook_name", "blocks.3.ln2.hook_normalized")
    assert.matches("^sae_weights.safetensors: .*blocks.3.ln2.hook_normalized", message)
    assert.equal("EUNSUPPORTED", code)
  end)

  it("knows one that reads each position at the same norm", function()
    local text, x = by_heart "model.layers.3"
    local unit = x / x:norm(2):reshape(TOKENS, 1)
    local folder = saelens({
      W_enc = unit:t():contiguous(), b_enc = ms.zeros { TOKENS }, W_dec = unit, b_dec = ms.zeros { 128 },
      threshold = ms.full({ TOKENS }, 0.999 * 128 ^ 0.5), -- each row fires its own feature alone
    }, { architecture = "jumprelu", hook_name = "blocks.3.hook_resid_post", apply_b_dec_to_input = false,
      normalize_activations = "constant_norm_rescale" })
    local report = judged_by_place(folder, {}, "model.layers.3", text)
    assert.equal("normalised", report.unit)
    assert.is_true(claimed(report).fvu < 1e-2 and claimed(report).l0 < 1.2)
    fixtures.remove(folder)
  end)

  it("tries conventions where a format leaves them open, and knows what reads a layer's input", function()
    local parts, folder = tensors(), fixtures.folder()
    local path = folder .. "/sae.pt.safetensors"
    assert(ms.save(path, { ["encoder.weight"] = parts.w_enc, ["encoder.bias"] = parts.b_enc,
      ["decoder.weight"] = parts.w_dec, ["decoder.bias"] = parts.b_dec }))
    local right = verdict_on(path, { format = "qresearch", layer = 4 })
    assert.same({}, complaints(right))
    assert.equal("model.layers.4.input", claimed(right).place)
    assert.equal(5, #right.conventions)
    local off_by_one = verdict_on(path, { format = "qresearch", layer = 3 })
    assert.matches("the SAE reads model.layers.3, not model.layers.3.input", finding(off_by_one, "layer").message, 1,
      true)
    local remedy = finding(off_by_one, "layer").remedy:match "%-%-layer (%S+)"
    assert.same({}, complaints(verdict_on(path, { format = "qresearch", layer = remedy })))
    fixtures.remove(folder)
  end)

  it("tells how far it has come: tokens, then bytes of the file", function()
    local last = {}
    assert(ms.doctor(model, sae, { tokens = TOKENS, on_progress = function(done, total, unit)
      assert.is_true(done >= (last[unit] or 0) and done <= total)
      assert.is_true(unit == "tokens" or last.tokens == last.total)
      last[unit], last.total = done, total
    end }))
    assert.equal(#fixtures.read(fixtures.sae_path), last.bytes)
  end)

  it("refuses what it cannot work with", function()
    local report, message, code = ms.doctor(model, sae, { text = "short" })
    assert.is_nil(report)
    assert.matches("^text: found %d+ tokens that are not special, expected at least 16$", message)
    assert.equal("EINVAL", code)
    report, message = ms.doctor(model, sae, { text = ("<|end_of_text|>"):rep(40) })
    assert.is_nil(report)
    assert.matches("found 0 tokens", message)
    report, message = ms.doctor(model, sae, { text = {} })
    assert.is_nil(report)
    assert.matches("found 0 tokens", message)
    assert.error_matches(function() ms.doctor(model, 5) end, "doctor: sae: expected a loaded SAE")
    assert.error_matches(function() ms.doctor(5, sae) end, "doctor: model: expected a loaded model")
    assert.error_matches(function() ms.doctor(model, sae, { tokens = 3 }) end, "tokens: found 3, expected a whole")
    assert.error_matches(function() ms.doctor(model, sae, { text = 5 }) end, "text: found number, expected a text")
    assert.error_matches(function() ms.doctor(model, sae, { texts = "" }) end, "unknown option texts")
  end)
end)

describe("a diagnosis", function()
  ---A healthy report with some numbers changed.
  local function judged(change)
    local report = {
      places = { { place = "model.layers.18", fvu = 0.42, l0 = 90, mean_norm = 9, broken = 0 },
        { place = "model.layers.19", fvu = 0.32, l0 = 91, mean_norm = 10, broken = 0, claimed = true },
        { place = "model.layers.20", fvu = 0.44, l0 = 95, mean_norm = 11, broken = 0 } },
      conventions = { { name = "as it was loaded", fvu = 0.32 }, { name = "otherwise", fvu = 3, remedy = "do so" } },
      dtypes = { { dtype = "bf16", fvu = 0.32, l0 = 91 }, { dtype = "f32", fvu = 0.32, l0 = 91 } },
      weights = { broken = {}, cosine = 0.6, decoder_norms = { mean = 0.75, min = 0, max = 1.67, zero = 3,
        zero_firing = 0 } },
      dead = { features = 100, share = 0.01 }, special = { tokens = 0 }, file = { compared = {}, differences = {} },
      tokens = 100000, d_model = 4096, d_sae = 65536, hook = "model.layers.19", activation = "relu",
      published_l0 = 91,
    }
    report.scan = report.places
    change(report)
    local findings, verdict = diagnosis.of(report)
    report.findings = findings
    return complaints(report), verdict, report
  end

  it("is content with Goodfire's published numbers", function()
    assert.same({}, (judged(function() end)))
  end)

  it("has a level for each departure", function()
    local cases = {
      { { layer = "warning" }, function(r) r.places[1].fvu = 0.31 end },
      { { layer = "wrong" }, function(r) r.places[1].fvu = 0.2 end },
      { { layer = "warning" }, function(r)
        for _, place in ipairs(r.places) do place.fvu = place.fvu + 0.45 end
      end },
      { { model = "wrong" }, function(r) for _, place in ipairs(r.places) do place.fvu = 1.5 end end },
      { { convention = "wrong" }, function(r) r.conventions[2].fvu = 0.1 end },
      { {}, function(r) r.conventions[2].fvu = 0.28 end },
      { { activation = "wrong" }, function(r) r.places[2].l0 = 0 end },
      { { activation = "wrong" }, function(r) r.places[2].l0 = 5000 end },
      { { activation = "warning" }, function(r) r.places[2].l0, r.published_l0 = 1500, nil end },
      { { activation = "warning" }, function(r) r.places[2].l0 = 200 end },
      { {}, function(r) r.places[2].l0 = 105 end },
      { { dtype = "warning" }, function(r) r.dtypes[1].fvu = 0.4 end },
      { { dtype = "warning" }, function(r) r.dtypes[1].l0 = 120 end },
      { { dtype = "warning" }, function(r) r.dtypes[1].fvu = 0 / 0 end },
      { {}, function(r) r.dtypes[1].dtype, r.dtypes[1].fvu = "f32", 0.4 end },
      { { dead = "warning" }, function(r) r.dead.share = 0.6 end },
      { {}, function(r) r.dead.share, r.tokens = 0.6, 500 end },
      { { weights = "warning" }, function(r) r.weights.cosine = 0.001 end },
      { {}, function(r) r.weights.cosine, r.weights.tied = 0.001, true end },
      { {}, function(r) r.weights.cosine, r.output = 0.001, "model.layers.19.mlp" end },
      { { weights = "wrong" }, function(r) r.weights.skip_broken = true end },
      { {}, function(r) r.activation, r.places[2].l0 = "gelu", 65536 end },
      { {}, function(r) r.input_scale = 6.4 end }, -- sqrt(4096) / 10
      { { scale = "warning" }, function(r) r.input_scale = 64 end },
      { { scale = "warning" }, function(r) r.input_scale = 0.64 end },
    }
    for i, case in ipairs(cases) do
      local found, verdict = judged(case[2])
      assert.same(case[1], found, "case " .. i)
      local _, worst = next(case[1])
      assert.equal(worst or "ok", verdict)
    end
  end)

  it("prefers the better of another place and another convention", function()
    assert.same({ convention = "wrong" }, (judged(function(r)
      r.places[1].fvu, r.conventions[2].fvu = 0.25, 0.1
    end)))
    assert.same({ layer = "wrong" }, (judged(function(r)
      r.places[1].fvu, r.conventions[2].fvu = 0.1, 0.2
    end)))
  end)

  it("gives a remedy with everything that is not ok", function()
    local _, _, report = judged(function(r)
      r.places[1].fvu, r.places[2].l0, r.dtypes[1].fvu, r.weights.cosine, r.hook = 0.1, 9999, 1, 0, nil
    end)
    local n = 0
    for _, f in ipairs(report.findings) do
      if f.level ~= "ok" then n = n + (#f.remedy > 0 and 1 or 0) end
    end
    assert.equal(5, n)
  end)
end)

describe("moonscope doctor", function()
  local function doctor(...)
    return process.moonscope { "doctor", "--threads", "1", "--model", fixtures.model_path, "--sae", fixtures.sae_path,
      ... }
  end

  it("prints tables, findings and a verdict", function()
    local result = doctor()
    assert.same({ 0, 0, "" }, { result.code, result.signal, result.err })
    assert.truthy(result.out:find "\n> model%.layers%.3 +0%.%d+ +%d+%.%d\n")
    assert.truthy(result.out:find "\nok +layer +model%.layers%.3 fits best: FVU 0%.%d+\n")
    assert.truthy(result.out:find "\nverdict: ok\n$")
  end)

  it("fails in one line when the SAE is on the wrong layer", function()
    local result = doctor("--layer", "4", "--tokens", "50")
    assert.equal(1, result.code)
    assert.truthy(result.out:find "\nwrong +layer +the SAE reads model%.layers%.3 ")
    assert.truthy(result.out:find "-> load it with %-%-layer 3")
    assert.truthy(result.out:find "\nverdict: wrong\n$")
    assert.matches("^moonscope: doctor: layer: the SAE reads model.layers.3 [^\n]*\n$", result.err)
  end)

  it("--json prints the same as data, also when it fails", function()
    local folder = fixtures.folder()
    local path = folder .. "/text"
    fixtures.write(path, (table.concat(documents, "\n", 1, 5):gsub("<|end_of_text|>", "")))
    local report = assert(json.decode(doctor("--text", path, "--tokens", "300", "--json").out))
    assert.same({ "ok", 3, "model.layers.3", "relu", 300 },
      { report.verdict, report.layer, report.hook, report.activation, report.tokens })
    assert.same({ place = "model.layers.3", predicts = json.null, claimed = true, fvu = report.places[2].fvu,
      l0 = report.places[2].l0, mean_norm = report.places[2].mean_norm, tokens = 300 }, report.places[2])
    assert.equal("bf16", report.dtypes[1].dtype)
    assert.equal(7, #report.scan)
    fixtures.remove(folder)

    local broken, broken_folder = saved(function(parts) parts.b_dec:narrow(1, 1, 1):fill_(0 / 0) end)
    local result = process.moonscope { "doctor", "--model", fixtures.model_path, "--sae", broken, "--layer", "3",
      "--json" }
    assert.equal(1, result.code)
    report = assert(json.decode(result.out))
    assert.same({ "wrong", json.null }, { report.verdict, report.places[2].fvu })
    fixtures.remove(broken_folder)
  end)

  it("says what it cannot read", function()
    local result = doctor("--text", "no/such/file")
    assert.same({ 1, "", "moonscope: no/such/file: No such file or directory\n" },
      { result.code, result.out, result.err })
    result = doctor("--text", "examples")
    assert.same({ 1, "", "moonscope: examples: Is a directory\n" }, { result.code, result.out, result.err })
    assert.equal(2, doctor("--tokens", "none").code)
    result = process.moonscope { "doctor", "--model", fixtures.model_path, "--sae", "missing.pth" }
    assert.same({ 1, "" }, { result.code, result.out })
    assert.matches("^moonscope: missing.pth: [^\n]+\n$", result.err)
  end)
end)

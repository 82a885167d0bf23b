-- SPDX-License-Identifier: MIT
-- Each published format: a small file of it is written from its definition, loaded, and compared with
-- the formula that the format's own code has (formulas.lua); then converted, and the pair gives the
-- same features, and when converted again the same file (P7).
local convert = require "moonscope.convert"
local fixtures = require "fixtures"
local formulas = require "formulas"
local json = require "moonscope.json"
local ms = require "moonscope"
local process = require "process"

local D, F, N = 6, 10, 7 -- d_model, d_sae, rows of x

local matmul, add, relu, t = formulas.matmul, formulas.add, formulas.relu, formulas.t

---Random numbers of a shape as nested tables, as f32 has them; the same for the same name.
local function random(name, ...)
  local seed = 0
  for i = 1, #name do seed = seed * 31 + name:byte(i) end
  local values <close> = ms.randn({ ... }, { seed = seed })
  return values:totable()
end

---Above 0, for thresholds.
local function positive(name, n)
  local values <close> = ms.rand({ n }, { seed = #name })
  return values:totable()
end

local X = random("x", N, D)

local folder

before_each(function() folder = fixtures.folder() end)
after_each(function() fixtures.remove(folder) end)

---Writes tensors, given as tables, numbers or { value, dtype = }, and JSON configs; the file's path.
local function write(name, tensors, configs)
  local inner = name:match "^(.*)/"
  if inner then assert(os.execute(("mkdir -p %s/%s"):format(folder, inner))) end
  local made = {}
  for key, value in pairs(tensors) do
    local dtype = type(value) == "table" and value.dtype
    made[key] = ms.tensor(dtype and value[1] or value, { dtype = dtype or "f32" })
  end
  assert(ms.save(folder .. "/" .. name, made))
  for _, tensor in pairs(made) do tensor:close() end
  for config, value in pairs(configs or {}) do
    fixtures.write(folder .. "/" .. config, type(value) == "string" and value or json.encode(value))
  end
  return folder .. "/" .. name
end

local function close_to(want, got, what)
  local w <close> = ms.tensor(want)
  assert.is_true(got:allclose(w, { atol = 2e-5, rtol = 2e-5 }), what .. ": " .. tostring(got) .. tostring(w))
end

local function says(message, text) assert.truthy(message:find(text, 1, true), message) end

local function features_of(sae, rows)
  local x <close> = ms.tensor(rows or X)
  local features <close> = sae:encode(x)
  return features:totensor(), sae:decode(features)
end

---How many elements of nested tables are not 0.
local function active(f)
  local n = 0
  for _, row in ipairs(f) do
    for _, value in ipairs(row) do n = n + (value ~= 0 and 1 or 0) end
  end
  return n
end

---Checks a file against what its format's formula gives for X, or for other rows.
local function check(path, opts, f, xhat, fields, rows)
  assert.is_true(active(f) > N and active(f) < N * F, "the case tells nothing: " .. active(f))
  local sae <close> = assert(ms.load_sae(path, opts))
  local got_f, got_xhat = features_of(sae, rows)
  close_to(f, got_f, "features")
  close_to(xhat, got_xhat, "decoded")
  for name, value in pairs(fields) do assert.equal(value or nil, sae[name], name) end

  local out = folder .. "/converted"
  fixtures.remove(out)
  local asked = { output = out }
  for _, name in ipairs { "format", "activation", "input_scale" } do asked[name] = opts and opts[name] end
  if not fields.layer then asked.layer = 4 end
  local result = assert(convert.sae(path, asked))
  local pair <close> = assert(ms.load_sae(result.safetensors))
  local pair_f, pair_xhat = features_of(pair, rows)
  assert.is_true(pair_f:equal(got_f))
  assert.is_true(pair_xhat:equal(got_xhat))
  assert.equal("goodfire", pair.format)
  for _, name in ipairs { "activation", "output", "unit", "k" } do assert.equal(sae[name], pair[name], name) end
  if fields.layer then assert.equal(sae.hook, pair.hook) end
  local again = assert(convert.sae(out, { output = folder .. "/again" })) -- a pair converts to itself
  assert.equal(result.sha256, again.sha256)
end

---Tensors of two nn.Linear and what else is asked for.
local function linear(extra)
  local tensors = {
    ["encoder.weight"] = random("encoder", F, D), ["encoder.bias"] = random("bias", F),
    ["decoder.weight"] = random("decoder", D, F),
  }
  for name, value in pairs(extra) do tensors[name] = value end
  return tensors
end

---Tensors that are multiplied from the right.
local function matrices(extra)
  local tensors = {
    W_enc = random("W_enc", D, F), b_enc = random("b_enc", F),
    W_dec = random("W_dec", F, D), b_dec = random("b_dec", D),
  }
  for name, value in pairs(extra or {}) do tensors[name] = value or nil end
  return tensors
end

describe("goodfire", function()
  it("is a plain ReLU autoencoder", function()
    local w = { ["encoder_linear.weight"] = random("e", F, D), ["encoder_linear.bias"] = random("be", F),
      ["decoder_linear.weight"] = random("d", D, F), ["decoder_linear.bias"] = random("bd", D) }
    local f = relu(add(matmul(X, t(w["encoder_linear.weight"])), w["encoder_linear.bias"]))
    check(write("sae.safetensors", w), nil, f,
      add(matmul(f, t(w["decoder_linear.weight"])), w["decoder_linear.bias"]),
      { format = "goodfire", activation = "relu", unit = "raw", hook = false, k = false })
  end)

  it("comes as a .pth too", function()
    local path = "tests/fixtures/tiny/golden/pth/float32.pth"
    local sae <close> = assert(ms.load_sae(path))
    assert.same({ "goodfire", "relu", "raw", path }, { sae.format, sae.activation, sae.unit, sae.path })
  end)
end)

describe("the original workbench", function()
  local function tensors()
    return { ["encoder.weight"] = random("e", F, D), ["encoder.bias"] = random("be", F),
      decoder_bias = random("db", D) }
  end

  it("is tied, with its metadata's layer", function()
    local w = tensors()
    local f = relu(add(matmul(X, t(w["encoder.weight"])), w["encoder.bias"]))
    local metadata = { ["sae_layer_3_metadata.json"] = { layer_idx = 3, tied_weights = true } }
    check(write("sae_layer_3.safetensors", w, metadata), nil, f, add(matmul(f, w["encoder.weight"]), w.decoder_bias),
      { format = "workbench", activation = "relu", hook = "model.layers.3", layer = 3 })
  end)

  it("is untied with the sum of two biases", function()
    local w = tensors()
    w["decoder.weight"], w["decoder.bias"] = random("d", D, F), random("bd", D)
    local f = relu(add(matmul(X, t(w["encoder.weight"])), w["encoder.bias"]))
    check(write("a.safetensors", w), nil, f,
      add(add(matmul(f, t(w["decoder.weight"])), w.decoder_bias), w["decoder.bias"]), { format = "workbench" })
  end)

  it("has gelu where the metadata say so: features below 0", function()
    local w = tensors()
    local path = write("a.safetensors", w, { ["a_metadata.json"] = { activation_fn = "gelu" } })
    local sae <close> = assert(ms.load_sae(path))
    assert.equal("gelu", sae.activation)
    local f, xhat = features_of(sae)
    local pre = add(matmul(X, t(w["encoder.weight"])), w["encoder.bias"])
    -- erf by its series, which converges for these arguments
    local function erf(z)
      local sum, term = 0, z
      for n = 0, 200 do
        sum = sum + term / (2 * n + 1)
        term = -term * z * z / (n + 1)
      end
      return 2 / math.pi ^ 0.5 * sum
    end
    local want = formulas.map(pre, function(z) return z / 2 * (1 + erf(z / 2 ^ 0.5)) end)
    close_to(want, f, "features")
    close_to(add(matmul(want, w["encoder.weight"]), w.decoder_bias), xhat, "decoded")
    os.remove(folder .. "/a_metadata.json")
    local told <close> = assert(ms.load_sae(path, { activation = "gelu" }))
    assert.equal("gelu", told.activation)
    local result = assert(convert.sae(path, { output = folder, layer = 1, activation = "gelu" }))
    local pair <close> = assert(ms.load_sae(result.safetensors))
    local pair_f, pair_xhat = features_of(pair)
    assert.is_true(pair_f:equal(f) and pair_xhat:equal(xhat))
  end)
end)

describe("saelens", function()
  local function cfg(fields)
    local config = { d_in = D, d_sae = F, hook_name = "blocks.3.hook_resid_post" }
    for key, value in pairs(fields) do config[key] = value end
    return { ["cfg.json"] = config }
  end
  local FIELDS = { format = "saelens", hook = "model.layers.3", layer = 3, unit = "raw" }

  local function fields(more)
    local all = {}
    for key, value in pairs(FIELDS) do all[key] = value end
    for key, value in pairs(more) do all[key] = value end
    return all
  end

  local function decode(w, f) return add(matmul(f, w.W_dec), w.b_dec) end
  local function pre(w, x) return add(matmul(x, w.W_enc), w.b_enc) end
  local function centred(w, x) return add(x, w.b_dec, -1) end

  it("standard centres unless it is told not to", function()
    local w = matrices()
    local f = relu(pre(w, centred(w, X)))
    check(write("sae_weights.safetensors", w, cfg { architecture = "standard" }), nil, f, decode(w, f),
      fields { activation = "relu" })
    f = relu(pre(w, X))
    check(write("sae_weights.safetensors", w, cfg { apply_b_dec_to_input = false }), nil, f, decode(w, f),
      fields { activation = "relu" })
  end)

  it("loads from the folder", function()
    local w = matrices()
    write("sae_weights.safetensors", w, cfg {})
    local f = relu(pre(w, centred(w, X)))
    check(folder, nil, f, decode(w, f), fields {})
  end)

  it("topk, in new and old configs", function()
    local w = matrices()
    local f = formulas.topk(pre(w, centred(w, X)), 3)
    for _, config in ipairs {
      { architecture = "topk", k = 3, metadata = { hook_name = "blocks.3.hook_resid_post" } },
      { activation_fn_str = "topk", activation_fn_kwargs = { k = 3 }, architecture = "standard" },
      { activation_fn = "topk", activation_fn_kwargs = { k = 3 } },
      { activation_fn = "topk", activation_fn_kwargs = { k = 3 }, k = json.null },
    } do
      check(write("sae_weights.safetensors", w, cfg(config)), nil, f, decode(w, f),
        fields { activation = "topk", k = 3 })
    end
  end)

  it("topk by the decoder's norm", function()
    local w = matrices()
    local norms = formulas.norms(w.W_dec)
    local scaled = formulas.map(pre(w, centred(w, X)), function(value, j) return value * norms[j] end)
    local f = formulas.topk(scaled, 3)
    local rescaled = formulas.map(f, function(value, j) return value / norms[j] end)
    local config = cfg { architecture = "topk", k = 3, rescale_acts_by_decoder_norm = true }
    check(write("sae_weights.safetensors", w, config), nil, f, decode(w, rescaled), fields { activation = "topk" })
  end)

  it("jumprelu, and batchtopk with its threshold", function()
    local w = matrices { threshold = positive("threshold", F) }
    local f = formulas.jumprelu(pre(w, centred(w, X)), w.threshold)
    for _, architecture in ipairs { "jumprelu", "batchtopk" } do
      check(write("sae_weights.safetensors", w, cfg { architecture = architecture }), nil, f, decode(w, f),
        fields { activation = architecture })
    end
  end)

  it("batchtopk while it is trained", function()
    local w = matrices { topk_threshold = 0.4 }
    local f = formulas.jumprelu(pre(w, centred(w, X)), 0.4)
    check(write("sae_weights.safetensors", w, cfg { architecture = "batchtopk", k = 4 }), nil, f, decode(w, f),
      fields { activation = "batchtopk" })
    w.topk_threshold = nil
    f = formulas.topk(pre(w, centred(w, X)), 4) -- of each position, so that it stands alone
    check(write("sae_weights.safetensors", w, cfg { architecture = "batchtopk", k = 4 }), nil, f, decode(w, f),
      fields { activation = "batchtopk", k = 4 })
  end)

  it("gated", function()
    local w = matrices { b_enc = false, b_gate = random("gate", F), b_mag = random("mag", F), r_mag = random("r", F) }
    local f = formulas.gated(matmul(centred(w, X), w.W_enc), w.b_gate, w.b_mag, w.r_mag)
    check(write("sae_weights.safetensors", w, cfg { architecture = "gated" }), nil, f, decode(w, f),
      fields { activation = "gated" })
  end)

  it("expected_average_only_in, with the factor that the file lacks", function()
    local w = matrices()
    local s = 1.75
    local path = write("sae_weights.safetensors", w, cfg { normalize_activations = "expected_average_only_in" })
    local sae, message, code = ms.load_sae(path)
    assert.is_nil(sae)
    assert.equal(path .. ": cfg.json: normalize_activations is expected_average_only_in, and the factor is not in the "
      .. "file: say the factor with --input-scale: sqrt(d_model) / mean |x|", message)
    assert.equal("EINVAL", code)
    local f = relu(pre(w, centred(w, formulas.scale(X, s))))
    check(path, { input_scale = s }, f, formulas.scale(decode(w, f), 1 / s), fields { activation = "relu" })
  end)

  it("constant_norm_rescale and its undoing", function()
    local w = matrices()
    local norms = formulas.norms(X)
    local scaled = formulas.map(X, function(value, _, n) return value * D ^ 0.5 / norms[n] end)
    local f = relu(pre(w, centred(w, scaled)))
    local xhat = formulas.map(decode(w, f), function(value, _, n) return value / (D ^ 0.5 / norms[n]) end)
    check(write("sae_weights.safetensors", w, cfg { normalize_activations = "constant_norm_rescale" }), nil, f, xhat,
      fields { unit = "normalised" })
  end)

  it("layer_norm and its undoing", function()
    local w, small = matrices(), formulas.scale(X, 0.001) -- so that the 1e-5 counts
    local means, deviations = {}, {}
    for n, row in ipairs(small) do means[n], deviations[n] = formulas.moments(row) end
    local scaled = formulas.map(small, function(value, _, n) return (value - means[n]) / (deviations[n] + 1e-5) end)
    local f = relu(pre(w, centred(w, scaled)))
    local xhat = formulas.map(decode(w, f), function(value, _, n) return value * deviations[n] + means[n] end)
    check(write("sae_weights.safetensors", w, cfg { normalize_activations = "layer_norm" }), nil, f, xhat,
      fields { unit = "normalised" }, small)
  end)

  it("a finetuning's factor per feature", function()
    local w = matrices { finetuning_scaling_factor = positive("factor", F) }
    local f = relu(pre(w, centred(w, X)))
    local scaled = formulas.map(f, function(value, j) return value * w.finetuning_scaling_factor[j] end)
    check(write("sae_weights.safetensors", w, cfg { finetuning_scaling_factor = true }), nil, f, decode(w, scaled),
      fields {})
    local sae, message = ms.load_sae(write("sae_weights.safetensors", w, cfg {}))
    assert.is_nil(sae)
    says(message, "the tensor finetuning_scaling_factor is not all ones")
    w.scaling_factor, w.finetuning_scaling_factor = {}, nil
    for j = 1, F do w.scaling_factor[j] = 1 end
    check(write("sae_weights.safetensors", w, cfg {}), nil, f, decode(w, f), fields {})
  end)

  it("transcoders read one place and predict another", function()
    local metadata = { hook_name = "blocks.3.hook_resid_mid", hook_name_out = "blocks.3.hook_mlp_out" }
    local want = { hook = "model.layers.3.post_attention", output = "model.layers.3.mlp", layer = 3 }
    local function config(architecture)
      return { ["cfg.json"] = { d_in = D, d_sae = F, architecture = architecture, apply_b_dec_to_input = false,
        metadata = metadata } }
    end
    local w = matrices()
    local f = relu(pre(w, X))
    check(write("sae_weights.safetensors", w, config "transcoder"), nil, f, decode(w, f), want)
    w.W_skip = random("skip", D, D)
    check(write("sae_weights.safetensors", w, config "skip_transcoder"), nil, f,
      formulas.sum(decode(w, f), matmul(X, t(w.W_skip))), want)
    w.threshold = positive("threshold", F)
    f = formulas.jumprelu(pre(w, X), w.threshold)
    check(write("sae_weights.safetensors", w, config "jumprelu_skip_transcoder"), nil, f,
      formulas.sum(decode(w, f), matmul(X, t(w.W_skip))), want)
  end)

  it("refuses what it does not understand", function()
    for _, case in ipairs {
      { { architecture = "temporal" }, "EUNSUPPORTED", "cfg.json: architecture: found temporal, expected batchtopk, " },
      { { activation_fn = "tanh-relu" }, "EUNSUPPORTED", "activation_fn: found tanh-relu, expected relu or topk" },
      { { architecture = "topk" }, "ERANGE", "cfg.json: k: found nothing, expected a whole number from 1 to 10" },
      { { architecture = "topk", k = 11 }, "ERANGE", "cfg.json: k: found 11" },
      { { architecture = "topk", k = 1.5 }, "ERANGE", "cfg.json: k: found 1.5" },
      { { architecture = "jumprelu" }, "ESHAPE", "has no tensor threshold" },
      { { architecture = "gated" }, "ESHAPE", "has no tensor" },
      { { d_in = 7 }, "ESHAPE", "cfg.json: d_in is 7, the tensors' is 6" },
      { { hook_name = "blocks.3.attn.hook_z" }, "EUNSUPPORTED", "it reads attention heads (hook_z)" },
      { { architecture = "topk", k = "4" }, "EFORMAT", 'cfg.json: k: found "4", expected a number' },
      { { architecture = "topk", activation_fn_kwargs = json.array { 4 } }, "EFORMAT",
        "cfg.json: activation_fn_kwargs: found a table, expected an object" },
      { { normalize_activations = {} }, "EFORMAT", "normalize_activations: found a table, expected a text" },
      { { architecture = "skip_transcoder", apply_b_dec_to_input = false }, "ESHAPE", "has no tensor W_skip" },
      { { normalize_activations = "mean" }, "EUNSUPPORTED", "normalize_activations: found mean" },
      { { apply_b_dec_to_input = "yes" }, "EFORMAT", "apply_b_dec_to_input: found \"yes\", expected true or false" },
      { { architecture = "transcoder", apply_b_dec_to_input = true }, "EUNSUPPORTED", "of a transcoder it makes no" },
      { { architecture = "transcoder", normalize_activations = "layer_norm" }, "EUNSUPPORTED", "expected none, " },
    } do
      local path = write("sae_weights.safetensors", matrices(), cfg(case[1]))
      local sae, message, code = ms.load_sae(path)
      assert.is_nil(sae)
      assert.truthy(message:find(path .. ": ", 1, true) == 1 and message:find(case[3], 1, true), message)
      assert.equal(case[2], code)
    end
    local path = write("sae_weights.safetensors", matrices(), cfg { hook_name = "blocks.99999999999999999999.hook_x" })
    assert.same({ path .. ": cfg.json: hook_name: found layer 99999999999999999999, expected 0 to 9999", "ERANGE" },
      { select(2, ms.load_sae(path)) })
    write("sae_weights.safetensors", matrices(), { ["cfg.json"] = "{" })
    local _, message = ms.load_sae(folder)
    says(message, "cfg.json: json: ")
    for _, config in ipairs { "7", "[7]", '[{"architecture":"topk"}]' } do
      write("sae_weights.safetensors", matrices(), { ["cfg.json"] = config })
      _, message = ms.load_sae(folder)
      says(message, "cfg.json: expected a JSON object")
    end
    write("sae_weights.safetensors", matrices { W_skip = random("skip", D, D) }, cfg { architecture = "standard" })
    _, message = ms.load_sae(folder)
    says(message, "cfg.json: architecture is standard, but there is a tensor W_skip")
  end)
end)

describe("llama scope", function()
  local IN, OUT, THRESHOLD = 1.5, 2.5, 2

  local function hyperparams(more)
    local config = {
      d_model = D, d_sae = F, act_fn = "jumprelu", jump_relu_threshold = THRESHOLD, top_k = 50,
      norm_activation = "dataset-wise", dataset_average_activation_norm = { ["in"] = IN, out = IN },
      apply_decoder_bias_to_pre_encoder = false, sparsity_include_decoder_norm = true,
      hook_point_in = "blocks.8.hook_resid_post", hook_point_out = "blocks.8.hook_resid_post",
    }
    for key, value in pairs(more or {}) do config[key] = value end
    return config
  end

  ---As the publisher's tool encodes once it has folded scales and norms into the weights: there the
  ---feature is pre * |w_dec| / s_out, compared with the threshold as it stands.
  local function fires(pre, w, s_out)
    local norms = formulas.norms(t(w["decoder.weight"]))
    return formulas.map(pre, function(value, j)
      return value * norms[j] / s_out > THRESHOLD and math.max(value, 0) or 0
    end)
  end

  local function pre(w, s) return add(matmul(formulas.scale(X, s), t(w["encoder.weight"])), w["encoder.bias"]) end
  local function decode(w, f, s)
    return formulas.scale(add(matmul(f, t(w["decoder.weight"])), w["decoder.bias"]), 1 / s)
  end

  it("scales, and gates by the decoder's norm", function()
    local w, s = linear { ["decoder.bias"] = random("bd", D) }, D ^ 0.5 / IN
    local f = fires(pre(w, s), w, s)
    for _, other in ipairs { THRESHOLD, THRESHOLD * s } do -- readings that leave out the norm
      assert.not_equal(active(f), active(formulas.jumprelu(pre(w, s), other)))
    end
    assert.not_equal(active(f), active(fires(pre(w, s), w, 1))) -- and the scale
    local fields = { format = "llama_scope", activation = "jumprelu", hook = "model.layers.8", layer = 8,
      output = false, unit = "raw" }
    check(write("checkpoints/final.safetensors", w, { ["hyperparams.json"] = hyperparams() }), nil, f, decode(w, f, s),
      fields)
    check(folder, nil, f, decode(w, f, s), fields)
    local without = formulas.jumprelu(pre(w, s), THRESHOLD * s)
    local config = { ["hyperparams.json"] = hyperparams { sparsity_include_decoder_norm = false } }
    check(write("final.safetensors", w, config), nil, without, decode(w, without, s), fields)
  end)

  it("has transcoders with two scales", function()
    local w, s_in, s_out = linear { ["decoder.bias"] = random("bd", D) }, D ^ 0.5 / IN, D ^ 0.5 / OUT
    local f = fires(pre(w, s_in), w, s_out)
    check(write("final.safetensors", w, { ["hyperparams.json"] = hyperparams {
      hook_point_in = "blocks.8.ln2.hook_normalized", hook_point_out = "blocks.8.hook_mlp_out",
      dataset_average_activation_norm = { ["in"] = IN, out = OUT },
    } }), nil, f, decode(w, f, s_out),
      { layer = 8, hook = "blocks.8.ln2.hook_normalized", output = "model.layers.8.mlp" })
  end)

  it("r1-distill has a threshold per feature and its norms in the file", function()
    local hook, s = "blocks.15.hook_resid_post", D ^ 0.5 / IN
    local w = linear { ["decoder.bias"] = random("bd", D), log_jumprelu_threshold = random("log", F) }
    local norms = formulas.norms(t(w["decoder.weight"]))
    local f = formulas.map(pre(w, s), function(value, j)
      return value * norms[j] > math.exp(w.log_jumprelu_threshold[j]) and math.max(value, 0) or 0
    end)
    local config = { ["config.json"] = { d_model = D, expansion_factor = F / D, hook_point_in = hook } }
    local fields = { format = "llama_scope", activation = "jumprelu", hook = "model.layers.15", layer = 15 }
    local path = write("sae_weights.safetensors", w, config)
    local sae, message = ms.load_sae(path)
    assert.is_nil(sae)
    says(message, "neither the file nor config.json has the average norm of its activations: say the factor with "
      .. "--input-scale")
    check(path, { input_scale = s }, f, decode(w, f, s), fields)
    w["dataset_average_activation_norm." .. hook] = IN
    check(write("sae_weights.safetensors", w, config), nil, f, decode(w, f, s), fields)
  end)

  it("refuses what it does not understand", function()
    local w = linear { ["decoder.bias"] = random("bd", D) }
    for _, case in ipairs {
      { { act_fn = "topk", jump_relu_threshold = 0 }, "act_fn: found topk, expected jumprelu or relu" },
      { { use_glu_encoder = true }, "use_glu_encoder: a second encoder is not supported" },
      { { norm_activation = "batch-wise" }, "norm_activation: found batch-wise" },
      { { dataset_average_activation_norm = json.null }, "dataset_average_activation_norm: found nothing" },
      { { d_model = 7 }, "d_model is 7, the tensors' is 6" },
    } do
      local sae, message = ms.load_sae(write("f.safetensors", w, { ["hyperparams.json"] = hyperparams(case[1]) }))
      assert.is_nil(sae)
      says(message, "f.safetensors: hyperparams.json: " .. case[2])
    end
  end)
end)

describe("sparsify", function()
  local function tensors(extra)
    local w = { ["encoder.weight"] = random("e", F, D), ["encoder.bias"] = random("be", F), W_dec = random("d", F, D),
      b_dec = random("bd", D) }
    for name, value in pairs(extra or {}) do w[name] = value end
    return w
  end
  local function pre(w, x) return add(matmul(x, t(w["encoder.weight"])), w["encoder.bias"]) end
  local function decode(w, f) return add(matmul(f, w.W_dec), w.b_dec) end

  it("is topk of x - b_dec, with a row per feature", function()
    local w = tensors()
    local f = formulas.topk(pre(w, add(X, w.b_dec, -1)), 4)
    local config = { ["layers.7/cfg.json"] = { d_in = D, k = 4, activation = "topk" } }
    check(write("layers.7/sae.safetensors", w, config), nil, f, decode(w, f),
      { format = "sparsify", activation = "topk", k = 4, hook = "model.layers.7", layer = 7 })
  end)

  it("transcodes an MLP without centring, and with a skip connection", function()
    local w = tensors { W_skip = random("skip", D, D) }
    local f = formulas.topk(pre(w, X), 4)
    write("layers.7.mlp/sae.safetensors", w, { ["layers.7.mlp/cfg.json"] = { d_in = D, k = 4, transcode = true,
      skip_connection = true } })
    check(folder .. "/layers.7.mlp/", nil, f, formulas.sum(decode(w, f), matmul(X, t(w.W_skip))),
      { hook = "model.layers.7.mlp.input", output = "model.layers.7.mlp", layer = 7 })
  end)

  it("refuses what it does not understand", function()
    local sae, message, code = ms.load_sae(write("sae.safetensors", tensors()))
    assert.is_nil(sae)
    says(message, "sae.safetensors: needs cfg.json beside it, which tells k")
    assert.equal("EFORMAT", code)
    for _, case in ipairs {
      { { k = 4, activation = "groupmax" }, "activation: found groupmax, expected topk" },
      { { k = 4, signed = true }, "signed: features below 0 are not supported" },
      { "{}", "k: found nothing, expected a whole number above 0" },
      { { k = 4, d_in = 5 }, "d_in is 5, the tensors' is 6" },
    } do
      _, message = ms.load_sae(write("sae.safetensors", tensors(), { ["cfg.json"] = case[1] }))
      says(message, "cfg.json: " .. case[2])
    end
    local far = "layers.99999999999999999999"
    local path = write(far .. "/sae.safetensors", tensors(), { [far .. "/cfg.json"] = { k = 4 } })
    sae, message, code = ms.load_sae(path)
    assert.is_nil(sae)
    assert.same({ path .. ": its folder: found layer 99999999999999999999, expected 0 to 9999", "ERANGE" },
      { message, code })
  end)
end)

describe("dictionary_learning", function()
  local function config(class, more)
    local trainer = { dict_class = class, activation_dim = D, dict_size = F, layer = 5, lm_name = "m",
      submodule_name = "resid_post_layer_5" }
    for key, value in pairs(more or {}) do trainer[key] = value end
    return { ["config.json"] = { trainer = trainer, buffer = { ctx_len = 128 } } }
  end
  local FIELDS = { format = "dictionary_learning", hook = "model.layers.5", layer = 5 }

  local function pre(w, x) return add(matmul(x, t(w["encoder.weight"])), w["encoder.bias"]) end
  local function decode(w, f, bias) return add(matmul(f, t(w["decoder.weight"])), bias) end

  it("AutoEncoder, as from_pretrained loads it", function()
    local w = linear { bias = random("b", D) }
    local norms = formulas.norms(t(w["decoder.weight"]))
    local f = formulas.map(relu(pre(w, add(X, w.bias, -1))), function(value, j) return value * norms[j] end)
    local back = formulas.map(f, function(value, j) return value / norms[j] end)
    check(write("ae.pt", w, config "AutoEncoder"), nil, f, decode(w, back, w.bias), FIELDS)
    check(write("alone.pt", w, { ["config.json"] = "{}" }), nil, f, decode(w, back, w.bias),
      { format = "dictionary_learning", hook = false })
  end)

  it("AutoEncoder with dead features: rows of zeros stay zeros", function()
    local w = linear { bias = random("b", D) }
    for _, row in ipairs(w["decoder.weight"]) do row[2] = 0 end
    local sae <close> = assert(ms.load_sae(write("ae.pt", w, config "AutoEncoder")))
    local f, xhat = features_of(sae)
    for _, row in ipairs(f:totable()) do assert.equal(0, row[2]) end
    for _, row in ipairs(xhat:totable()) do assert.equal(row[1], row[1]) end -- no NaN
    assert.same({ 0, 0, 0, 0, 0, 0 }, sae:direction(1):totable())
  end)

  it("AutoEncoderNew", function()
    local w = linear { ["decoder.bias"] = random("b", D) }
    local f = relu(pre(w, X))
    check(write("ae.pt", w, config "AutoEncoderNew"), nil, f, decode(w, f, w["decoder.bias"]), FIELDS)
  end)

  it("GatedAutoEncoder", function()
    local w = linear { r_mag = random("r", F), gate_bias = random("g", F), mag_bias = random("m", F),
      decoder_bias = random("b", D) }
    w["encoder.bias"] = nil
    local pi = matmul(add(X, w.decoder_bias, -1), t(w["encoder.weight"]))
    local f = formulas.gated(pi, w.gate_bias, w.mag_bias, w.r_mag)
    check(write("ae.pt", w, config "GatedAutoEncoder"), nil, f, decode(w, f, w.decoder_bias), FIELDS)
  end)

  it("JumpReluAutoEncoder", function()
    local w = matrices { threshold = positive("threshold", F) }
    local f = formulas.jumprelu(add(matmul(X, w.W_enc), w.b_enc), w.threshold)
    check(write("ae.pt", w, config "JumpReluAutoEncoder"), nil, f, add(matmul(f, w.W_dec), w.b_dec), FIELDS)
  end)

  it("AutoEncoderTopK and BatchTopKSAE, whose tensors are the same", function()
    local w = linear { b_dec = random("b", D), k = { 3, dtype = "i32" }, threshold = 0.5 }
    local x = pre(w, add(X, w.b_dec, -1))
    local top, above = formulas.topk(x, 3), formulas.jumprelu(x, 0.5)
    check(write("ae.pt", w, config "AutoEncoderTopK"), nil, top, decode(w, top, w.b_dec), FIELDS)
    check(write("ae.pt", w, config "BatchTopKSAE"), nil, above, decode(w, above, w.b_dec), FIELDS)

    os.remove(folder .. "/config.json")
    local path = folder .. "/ae.pt"
    local sae, message, code = ms.load_sae(path)
    assert.is_nil(sae)
    assert.equal(path .. ": AutoEncoderTopK and BatchTopKSAE have the same tensors, and no config.json tells which it "
      .. "is: say it with --activation topk or batchtopk", message)
    assert.equal("EINVAL", code)
    check(path, { activation = "topk" }, top, decode(w, top, w.b_dec), { activation = "topk", k = 3 })
    check(path, { activation = "batchtopk" }, above, decode(w, above, w.b_dec), { activation = "batchtopk" })
  end)

  it("BatchTopKSAE without a threshold yet: the k largest of each position", function()
    local w = linear { b_dec = random("b", D), k = { 3, dtype = "i32" }, threshold = -1.0 }
    local f = formulas.topk(pre(w, add(X, w.b_dec, -1)), 3)
    check(write("ae.pt", w, config "BatchTopKSAE"), nil, f, decode(w, f, w.b_dec), FIELDS)
    w.k, w.threshold = nil, nil
    check(write("ae.pt", w, config("BatchTopKSAE", { k = 3 })), nil, f, decode(w, f, w.b_dec), FIELDS)
  end)

  it("MatryoshkaBatchTopKSAE", function()
    local w = matrices { k = { 3, dtype = "i32" }, threshold = 0.5, group_sizes = { { 4, 6 }, dtype = "i64" } }
    local f = formulas.jumprelu(add(matmul(add(X, w.b_dec, -1), w.W_enc), w.b_enc), 0.5)
    check(write("ae.pt", w, config "MatryoshkaBatchTopKSAE"), nil, f, add(matmul(f, w.W_dec), w.b_dec), FIELDS)
  end)

  it("knows the modules of a layer", function()
    local w = linear { bias = random("b", D) }
    local hooks = { mlp_out_layer_5 = "model.layers.5.mlp", attention_out_layer_5 = "model.layers.5.self_attn",
      something = false }
    for module, hook in pairs(hooks) do
      local sae <close> = assert(ms.load_sae(write("ae.pt", w, config("AutoEncoder", { submodule_name = module }))))
      assert.equal(hook or nil, sae.hook)
    end
    local sae, message = ms.load_sae(write("ae.pt", w, config("AutoEncoder",
      { layer = 3, submodule_name = "resid_post_layer_5" })))
    assert.is_nil(sae)
    says(message, "config.json: layer is 3, but submodule_name is resid_post_layer_5")
    sae, message = ms.load_sae(write("ae.pt", w, config("AutoEncoder", { dict_size = 9 })))
    assert.is_nil(sae)
    says(message, "config.json: dict_size is 9, the tensors' is 10")
  end)
end)

describe("goodfire r1", function()
  local function config(k) return { ["config.json"] = { d_in = D, expansion_factor = F / D, k = k } } end

  it("is tied; the k largest of each position", function()
    local w = { W = random("W", D, F), b_enc = random("be", F), b_dec = random("bd", D) }
    local f = formulas.topk(add(matmul(X, w.W), w.b_enc), 4)
    local xhat = add(matmul(f, t(w.W)), w.b_dec)
    local path = write("a.pt", w)
    local sae, message = ms.load_sae(path)
    assert.is_nil(sae)
    says(message, "tells k (the published ones: 128 for math, 64 for logic): say it with --activation batchtopk:K")
    check(path, { activation = "batchtopk:4" }, f, xhat, { activation = "batchtopk", k = 4 })
    check(write("a.pt", w, config(4)), nil, f, xhat, { format = "goodfire_r1", activation = "batchtopk", k = 4 })
  end)

  it("is untied with two matrices", function()
    local w = matrices()
    local f = formulas.topk(add(matmul(X, w.W_enc), w.b_enc), 4)
    check(write("a.pt", w, config(4)), nil, f, add(matmul(f, w.W_dec), w.b_dec), { format = "goodfire_r1", k = 4 })
  end)
end)

describe("qresearch", function()
  it("is told by the caller, and reads the layer's input", function()
    local w = linear { ["decoder.bias"] = random("bd", D) }
    local f = relu(add(matmul(X, t(w["encoder.weight"])), w["encoder.bias"]))
    local path = write("a.pt", w)
    check(path, { format = "qresearch" }, f, add(matmul(f, t(w["decoder.weight"])), w["decoder.bias"]),
      { format = "qresearch", hook = false })
    local sae <close> = assert(ms.load_sae(path, { format = "qresearch", layer = 9 }))
    assert.same({ 9, "model.layers.9.input" }, { sae.layer, sae.hook })
    local result = assert(convert.sae(path, { output = folder, format = "qresearch", layer = 9 }))
    local pair <close> = assert(ms.load_sae(result.safetensors))
    assert.same({ 9, "model.layers.9.input" }, { pair.layer, pair.hook })
  end)

  it("is known by the names of its files", function()
    local configs = require "moonscope.sae_configs"
    local w = linear { ["decoder.bias"] = random("bd", D) }
    configs.SAE_CONFIGS.test = { filename = "Known-SAE-l9.pt", layer = "model.layers.9", format = "qresearch",
      expansion_factor = F / D, d_model = D }
    local sae = ms.load_sae(write("Known-SAE-l9.pt", w))
    configs.SAE_CONFIGS.test = nil
    assert.same({ "qresearch", 9, "model.layers.9.input" }, { sae.format, sae.layer, sae.hook })
    sae:close()
    assert.equal("qresearch", configs.SAE_CONFIGS["Llama-3.2-1B-Instruct-SAE-l9"].format)
  end)
end)

describe("circuit-tracer", function()
  local YAML = 'model_name: "meta-llama/Llama-3.2-1B"\nfeature_input_hook: "hook_resid_mid"\n'
    .. "feature_output_hook: 'mlp.hook_out'\n\ntranscoders:\n  - id: a\n    layer: 0\n"

  ---As the tool stores them: W_enc [d_sae, d_model], W_dec [d_model, d_sae].
  local function tensors()
    return { W_enc = random("e", F, D), b_enc = random("be", F), W_dec = random("d", D, F), b_dec = random("bd", D),
      W_skip = random("s", D, D) }
  end

  it("is a ReLU transcoder with a skip connection", function()
    local w = tensors()
    local f = relu(add(matmul(X, t(w.W_enc)), w.b_enc))
    local xhat = formulas.sum(add(matmul(f, t(w.W_dec)), w.b_dec), matmul(X, t(w.W_skip)))
    local want = { format = "circuit_tracer", activation = "relu", hook = "model.layers.2.post_attention",
      output = "model.layers.2.mlp", layer = 2 }
    check(write("layer_2.safetensors", w, { ["config.yaml"] = YAML }), nil, f, xhat, want)
    os.remove(folder .. "/config.yaml")
    assert(os.execute(("mkfifo %s/config.yaml"):format(folder))) -- is not waited for
    check(write("layer_2.safetensors", w), { format = "circuit_tracer" }, f, xhat, want)
    w.W_enc, w.W_dec = t(w.W_enc), t(w.W_dec) -- the sizes tell which side is which
    check(write("layer_2.safetensors", w), { format = "circuit_tracer" }, f, xhat, want)
    local opts = { format = "circuit_tracer", layer = 1 }
    local moved <close> = assert(ms.load_sae(folder .. "/layer_2.safetensors", opts))
    assert.same({ "model.layers.1.post_attention", "model.layers.1.mlp" }, { moved.hook, moved.output })
  end)

  it("refuses other places, and cross-layer transcoders", function()
    local sae, message = ms.load_sae(write("layer_2.safetensors", tensors(),
      { ["config.yaml"] = YAML:gsub("hook_resid_mid", "ln2.hook_normalized") }))
    assert.is_nil(sae)
    says(message, "config.yaml: feature_input_hook: found ln2.hook_normalized, expected hook_resid_mid")
    local path = write("W_enc_0.safetensors", { W_enc_0 = random("e", F, D), b_enc_0 = random("b", F) })
    local none, why, code = ms.load_sae(path)
    assert.is_nil(none)
    says(why, "a cross-layer transcoder")
    assert.equal("EUNSUPPORTED", code)
  end)
end)

describe("gemma scope", function()
  it("is jumprelu, strictly above, without centring", function()
    local w = matrices { threshold = positive("threshold", F) }
    local f = formulas.jumprelu(add(matmul(X, w.W_enc), w.b_enc), w.threshold)
    local xhat = add(matmul(f, w.W_dec), w.b_dec)
    local want = { format = "gemma_scope", activation = "jumprelu", hook = "model.layers.12", layer = 12 }
    check(write("layer_12/width_16k/average_l0_82/params.safetensors", w), nil, f, xhat, want)
    check(folder .. "/layer_12/width_16k/average_l0_82", nil, f, xhat, want)
    w.w_enc, w.W_enc, w.w_dec, w.W_dec = w.W_enc, nil, w.W_dec, nil
    check(write("layer_12/old.safetensors", w), nil, f, xhat, want)
  end)

  it("comes as NumPy wrote it", function()
    local release, w = "tests/fixtures/npz/gemma_scope/layer_12/width_16k/average_l0_82", {}
    local file <close> = assert(ms.open(release .. "/params.npz"))
    for _, name in ipairs(file:names()) do
      local tensor <close> = file:tensor(name)
      w[name] = tensor:totable()
    end
    local f = formulas.jumprelu(add(matmul(X, w.W_enc), w.b_enc), w.threshold)
    local want = { format = "gemma_scope", activation = "jumprelu", hook = "model.layers.12", layer = 12 }
    check(release, nil, f, add(matmul(f, w.W_dec), w.b_dec), want)
  end)

  it("of the embeddings reads them scaled", function()
    local w, root = matrices { threshold = positive("threshold", F) }, D ^ 0.5
    local f = formulas.jumprelu(add(matmul(formulas.scale(X, 1 / root), w.W_enc), w.b_enc), w.threshold)
    local path = write("embedding/params.safetensors", w)
    local sae <close> = assert(ms.load_sae(path))
    assert.equal("model.embed_tokens", sae.hook)
    local got_f, xhat = features_of(sae)
    close_to(f, got_f, "features")
    close_to(add(formulas.scale(matmul(f, w.W_dec), root), w.b_dec), xhat, "decoded")
  end)
end)

describe("a file that could be several formats", function()
  local function refused(path, opts)
    local sae, message, code = ms.load_sae(path, opts)
    assert.is_nil(sae)
    assert.equal(path .. ": ", message:sub(1, #path + 2))
    return message:sub(#path + 3), code
  end

  it("is refused with the question to be answered", function()
    for _, case in ipairs {
      { linear { ["decoder.bias"] = random("b", D) }, "llama_scope or dictionary_learning or qresearch" },
      { matrices(), "goodfire_r1 or saelens or circuit_tracer" },
      { matrices { W_skip = random("s", D, D) }, "goodfire_r1 or saelens or circuit_tracer" },
      { matrices { threshold = positive("t", F) }, "saelens or dictionary_learning or gemma_scope" },
    } do
      local message, code = refused(write("a.safetensors", case[1]))
      assert.matches("^the tensors fit [%w_]+ %(", message)
      assert.equal(": say which with --format " .. case[2], message:match ": say which.*")
      assert.equal("EINVAL", code)
    end
  end)

  it("has the tensors of two that no config tells apart", function()
    local w = linear { bias = random("b", D), ["encoder_linear.weight"] = random("e", F, D) }
    assert.equal("the tensors fit goodfire, dictionary_learning (AutoEncoderNew or JumpReluAutoEncoder, with "
      .. "config.json beside it): say which with --format goodfire or dictionary_learning",
      (refused(write("a.safetensors", w))))
    local sae <close> = assert(ms.load_sae(folder .. "/a.safetensors", { format = "dictionary_learning" }))
    assert.equal("dictionary_learning", sae.format)
  end)

  it("is asked about on the command line too", function()
    local path = write("a.safetensors", linear { ["decoder.bias"] = random("b", D) })
    local result = process.moonscope { "convert", path, "-o", folder, "--layer", "4" }
    assert.same({ 1, "" }, { result.code, result.out })
    assert.matches("^moonscope: [^\n]+: say which with %-%-format [^\n]+\n$", result.err)
    result = process.moonscope { "convert", path, "-o", folder, "--layer", "4", "--format", "qresearch" }
    assert.same({ 0, "" }, { result.code, result.err })
    assert.equal("model.layers.4.input", assert(json.read(folder .. "/sae_layer_4_metadata.json")).hook)
    path = write("r1.pt", { W = random("W", D, F), b_enc = random("be", F), b_dec = random("bd", D) })
    result = process.moonscope { "convert", path, "-o", folder, "--layer", "4", "--activation", "batchtopk:4" }
    assert.same({ 0, "" }, { result.code, result.err })
    assert.equal(4, assert(json.read(folder .. "/sae_layer_4_metadata.json")).k)
    result = process.moonscope { "convert", path, "-o", folder .. "/x.safetensors", "--input-scale", "4" }
    assert.equal(2, result.code)
    says(result.err, "--input-scale: of no use with -o FILE.safetensors, which interprets nothing")
    result = process.moonscope { "convert", path, "-o", folder, "--input-scale", "0" }
    assert.same({ 2, "" }, { result.code, result.out })
  end)

  it("refuses answers that do not fit", function()
    local path = write("a.safetensors", linear { bias = random("b", D) })
    assert.equal("format: found goodfir, expected goodfire, workbench,",
      refused(path, { format = "goodfir" }):match "^.-workbench,")
    assert.equal("format: asked for saelens, but the tensors are those of dictionary_learning",
      (refused(path, { format = "saelens" })))
    assert.equal("activation: the file says relu, but --activation says topk", (refused(path, { activation = "topk" })))
    for _, answer in ipairs { "to-pk", "topk5", "topk:0x10", "topk:1e1", "topk:", "gelu:5", "" } do
      assert.equal(("activation: found %s, expected a name, topk:K or batchtopk:K"):format(answer),
        (refused(path, { activation = answer })))
    end
    assert.equal("--input-scale: of no use: the file says how its input is scaled",
      (refused(path, { input_scale = 2 })))
    assert.error_matches(function() ms.load_sae(path, { format = 5 }) end, "load_sae: format: found number", 1, true)
    assert.error_matches(function() ms.load_sae(path, { input_scale = -1 }) end,
      "load_sae: input_scale: found -1, expected a number above 0", 1, true)
    for _, scale in ipairs { 1e39, 1e-46, 1e-40 } do -- an f32 of them is infinite, 0 or has lost digits
      assert.error_matches(function() ms.load_sae(path, { input_scale = scale }) end,
        "expected a number above 0 in f32's range", 1, true)
      local result = process.moonscope { "convert", path, "--input-scale", tostring(scale) }
      assert.equal(2, result.code)
      says(result.err, ("'%s' is not a number above 0 in f32's range"):format(tostring(scale)))
    end
    local same <close> = assert(ms.load_sae(path, { activation = "relu", format = "dictionary_learning" }))
    assert.equal("relu", same.activation)
    path = write("r1.pt", { W = random("W", D, F), b_enc = random("be", F), b_dec = random("bd", D) })
    assert.equal("activation: found relu, expected batchtopk:K", (refused(path, { activation = "relu" })))
    assert.equal("k: found 11, expected a whole number from 1 to 10", (refused(path, { activation = "batchtopk:11" })))
  end)

  it("names the tensor that has the wrong shape", function()
    local bad = random("bad", 3)
    for _, case in ipairs {
      { linear { bias = bad }, "bias: found shape [3], expected [6]" },
      { linear { bias = random("b", D), ["encoder.bias"] = bad }, "encoder.bias: found shape [3], expected [10]" },
      { linear { bias = random("b", D), ["decoder.weight"] = random("d", F, D) },
        "decoder.weight: found shape [10, 6], expected [6, 10]" },
      { linear { bias = random("b", D), ["encoder.weight"] = bad },
        "encoder.weight: found shape [3], expected [d_sae, d_model]" },
      { { W = random("W", D, F), b_enc = bad, b_dec = bad }, "b_enc: found shape [3], expected [10]" },
      { matrices { w_enc = random("a", D, F), w_dec = bad, threshold = bad, W_enc = false, W_dec = false },
        "w_dec: found shape [3], expected [10, 6]" },
      { matrices { k = { 3, dtype = "i32" }, threshold = bad, group_sizes = bad },
        "threshold: found shape [3], expected one number" },
      { { ["encoder_linear.weight"] = random("e", F, D), ["encoder_linear.bias"] = random("be", F),
        ["decoder_linear.bias"] = random("bd", D), ["skip.weight"] = bad },
        "skip.weight: found shape [3], expected [6, 6]" },
    } do
      local message, code = refused(write("a.safetensors", case[1]))
      assert.equal(case[2], message)
      assert.equal("ESHAPE", code)
    end
  end)

  it("names the tensor that is no float", function()
    local whole = { { { 1, 2 }, { 3, 4 } }, dtype = "i32" }
    local message, code = refused(write("a.safetensors", { ["encoder_linear.weight"] = whole,
      ["encoder_linear.bias"] = random("b", 2), ["decoder_linear.bias"] = random("b", 2) }))
    assert.same({ "encoder_linear.weight: found dtype i32, expected a float", "EDTYPE" }, { message, code })
    message, code = refused(write("a.safetensors", linear { b_dec = random("b", D), k = { true, dtype = "bool" } }),
      { activation = "topk" })
    assert.same({ "k: found dtype bool, expected a number", "EDTYPE" }, { message, code })
    local header = '{"encoder.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},'
      .. '"encoder.bias":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},'
      .. '"decoder.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[8,12]},'
      .. '"b_dec":{"dtype":"F32","shape":[1],"data_offsets":[12,16]},'
      .. '"k":{"dtype":"F8_E8M0","shape":[1],"data_offsets":[16,17]}}' -- a dtype that nothing computes with
    fixtures.write(folder .. "/b.safetensors", ("<s8"):pack(header) .. ("a"):rep(17))
    message, code = refused(folder .. "/b.safetensors", { activation = "topk" })
    assert.same({ "k: found dtype f8_e8m0, expected a number", "EDTYPE" }, { message, code })
  end)

  it("is looked for in a folder, one only", function()
    local _, message = ms.load_sae(folder)
    says(message, "a folder without an autoencoder's file: expected one of sae_weights.safetensors, ")
    write("ae.pt", linear { bias = random("b", D) })
    write("sae_layer_3.safetensors", linear { bias = random("b", D) })
    _, message = ms.load_sae(folder .. "/")
    says(message, "several files: name one of ae.pt, sae_layer_3.safetensors")
  end)
end)

describe("a number that is not finite", function()
  local NAN, INF = 0 / 0, 1 / 0

  ---As `positive`, with some elements replaced.
  local function with(changes)
    local values = positive("threshold", F)
    for i, value in pairs(changes) do values[i] = value end
    return values
  end

  ---Refused when it is loaded and when it is converted, in the same words; nothing is written.
  local function refused(path, text, opts)
    local sae, message, code = ms.load_sae(path, opts)
    assert.is_nil(sae)
    assert.same({ path .. ": " .. text, "ERANGE" }, { message, code })
    local asked = { output = folder .. "/out", layer = 3 }
    for name, value in pairs(opts or {}) do asked[name] = value end
    local result
    result, message = convert.sae(path, asked)
    assert.is_nil(result)
    assert.equal(path .. ": " .. text, message)
    assert.is_nil(io.open(folder .. "/out"))
  end

  it("is no threshold, which would silence its feature", function()
    local saelens = { ["cfg.json"] = { architecture = "jumprelu" } }
    refused(write("sae_weights.safetensors", matrices { threshold = with { [3] = NAN, [5] = INF } }, saelens),
      "threshold: 2 of 10 are not finite, the first at 2: nan")
    saelens["cfg.json"].architecture = "batchtopk"
    refused(write("sae_weights.safetensors", matrices { topk_threshold = NAN }, saelens),
      "topk_threshold: found nan, expected a finite number")
    refused(write("sae_weights.safetensors", matrices { topk_threshold = INF }, saelens),
      "topk_threshold: found inf, expected a finite number")
    refused(write("sae_weights.safetensors", matrices { topk_threshold = { 1e39, dtype = "f64" } }, saelens),
      "threshold: found 1e+39, expected a number in f32's range")
    saelens["cfg.json"].architecture = "gated"
    refused(write("sae_weights.safetensors", matrices { b_enc = false, b_gate = with { [10] = -INF },
      b_mag = random("mag", F), r_mag = random("r", F) }, saelens),
      "b_gate: 1 of 10 are not finite, the first at 9: -inf")
    os.remove(folder .. "/cfg.json")
    refused(write("ae.pt", linear { b_dec = random("b", D), k = { 3, dtype = "i32" }, threshold = NAN },
      { ["config.json"] = { trainer = { dict_class = "BatchTopKSAE" } } }),
      "threshold: found nan, expected a finite number")
    refused(write("sae.safetensors", { ["encoder_linear.weight"] = random("e", F, D),
      ["encoder_linear.bias"] = random("be", F), ["decoder_linear.weight"] = random("d", D, F),
      ["decoder_linear.bias"] = random("bd", D), threshold = with { NAN } },
      { ["sae_metadata.json"] = { activation_fn = "jumprelu" } }),
      "threshold: 1 of 10 are not finite, the first at 0: nan")
  end)

  it("may lie in a logarithm", function()
    local config = { ["config.json"] = { hook_point_in = "blocks.3.hook_resid_post", norm_activation = "inference" } }
    local w = linear { ["decoder.bias"] = random("b", D), log_jumprelu_threshold = with { [2] = 100 } } -- exp: 3e43
    refused(write("sae_weights.safetensors", w, config),
      "log_jumprelu_threshold: 1 of 10 are not finite, the first at 1: inf")
    w.log_jumprelu_threshold[2] = -INF -- a threshold of 0
    local sae <close> = assert(ms.load_sae(write("sae_weights.safetensors", w, config)))
    assert.equal("jumprelu", sae.activation)
  end)

  it("is what f32 makes of a factor out of its range", function()
    local norms = { ["in"] = 1e-300, out = 1 }
    local config = { act_fn = "jumprelu", jump_relu_threshold = 1, dataset_average_activation_norm = norms,
      hook_point_in = "blocks.8.hook_resid_post" }
    local w = linear { ["decoder.bias"] = random("b", D) }
    local function says_of_scope(text)
      local sae, message = ms.load_sae(write("final.safetensors", w, { ["hyperparams.json"] = config }))
      assert.is_nil(sae)
      says(message, text)
    end
    says_of_scope "hyperparams.json: in: found 1e-300, expected a number above 0 in f32's range"
    norms["in"] = 1
    config.jump_relu_threshold = 1e300
    says_of_scope "hyperparams.json: jump_relu_threshold: found 1e+300, expected a number in f32's range"
    config.jump_relu_threshold, norms.out = 1e30, 1e-30 -- each in range, what they make is not
    says_of_scope "threshold: found 2.44949e+60, expected a number in f32's range"
  end)
end)

describe("folding", function()
  it("goes through a matrix in blocks of rows", function()
    local n, d = 2100, 4096 -- a block has 8 Mi elements: 2,048 rows
    local w_enc <close>, scale = ms.randn({ n, d }, { seed = 1 }), 3
    local w_dec <close> = ms.randn({ n, d }, { seed = 2 })
    local zeros <close> = ms.zeros(d)
    local b_enc <close> = ms.zeros(n)
    local core, job = require "moonscope.core", require "moonscope.job"
    local sae <close> = job.demand(core.sae, { w_enc = w_enc, b_enc = b_enc, w_dec = w_dec, b_dec = zeros,
      input_scale = scale, decoder_norm = "feature" })
    local x <close> = ms.randn({ 1, d }, { seed = 3 })
    local features <close> = job.await(sae:_encode(x, true))
    for _, row in ipairs { 0, 2047, 2048, n - 1 } do
      local direction <close> = w_dec:row(row + 1)
      local norm = direction:norm():item()
      local want = math.max(0, scale * norm * w_enc:row(row + 1):dot(x:row(1)):item())
      assert.near(want, features:activation(1, row), 1e-4 * (1 + want))
      assert.is_true(job.await(sae:_direction(row)):allclose(direction / norm, { atol = 1e-6 }))
    end
  end)
end)

describe("a converted pair", function()
  local function pair(metadata, more)
    local w = { ["encoder_linear.weight"] = random("e", F, D), ["encoder_linear.bias"] = random("be", F),
      ["decoder_linear.weight"] = random("d", D, F), ["decoder_linear.bias"] = random("bd", D) }
    for name, value in pairs(more or {}) do w[name] = value end
    return write("sae_layer_3.safetensors", w, { ["sae_layer_3_metadata.json"] = metadata })
  end

  it("has its extra facts after the hook, in this order", function()
    local w = { ["encoder.weight"] = random("e", F, D), ["encoder.bias"] = random("be", F), W_dec = random("d", F, D),
      b_dec = random("bd", D) }
    local path = write("layers.7/sae.safetensors", w, { ["layers.7/cfg.json"] = { k = 4 } })
    local result = assert(convert.sae(path, { output = folder }))
    local text = fixtures.read(result.metadata)
    says(text, '"activation_fn": "topk",\n  "dtype": "f32",')
    says(text, '"hook": "model.layers.7",\n  "k": 4,\n  "subtract_b_dec": true,\n  "format_version": 1,')
  end)

  it("ignores unknown keys and refuses values that it does not know", function()
    local sae <close> = assert(ms.load_sae(pair { activation_fn = "relu", colour = "blue", k = json.null }))
    assert.equal("relu", sae.activation)
    for _, case in ipairs {
      { { activation_fn = "tanh" }, "EUNSUPPORTED",
        "activation_fn: found tanh, expected batchtopk, gated, gelu, jumprelu, relu, topk" },
      { { normalisation = "rms" }, "EUNSUPPORTED",
        "normalisation: found rms, expected constant_norm_rescale, layer_norm" },
      { { decoder_norm = "unit" }, "EUNSUPPORTED", "decoder_norm: found unit, expected feature, gate" },
      { { subtract_b_dec = 1 }, "EFORMAT", "subtract_b_dec: found 1, expected true or false" },
      { { input_scale = -1 }, "EFORMAT", "input_scale: found -1, expected a number above 0 in f32's range" },
      { { input_scale = 1e300 }, "EFORMAT", "input_scale: found 1e+300, expected a number above 0 in f32's range" },
      { { output_scale = 1e-300 }, "EFORMAT", "output_scale: found 1e-300, expected a number above 0 in f32's range" },
      { { output_scale = 1e-40 }, "EFORMAT", "output_scale: found 1e-40, expected a number above 0 in f32's range" },
      { { threshold = 1e39 }, "EFORMAT", "threshold: found 1e+39, expected a number in f32's range" },
      { { k = 0 }, "EFORMAT", "k: found 0, expected a whole number above 0" },
      { { hook = 3 }, "EFORMAT", "hook: found 3, expected a text" },
    } do
      local path = pair(case[1])
      local none, message, code = ms.load_sae(path)
      assert.is_nil(none)
      assert.equal(path .. ": sae_layer_3_metadata.json: " .. case[3], message)
      assert.equal(case[2], code)
    end
    for _, case in ipairs {
      { { activation_fn = "topk", k = 11 }, "sae: k: found 11, expected 1 to 10" },
      { { activation_fn = "topk" }, "sae: k: found 0, expected 1 to 10" },
      { { activation_fn = "jumprelu" }, "sae: threshold: found shape [], expected [10]" },
      { { decoder_norm = "gate" }, "sae: decoder_norm: there is no threshold to scale" },
      { { activation_fn = "gated" }, "has no tensor gate_bias" },
      { { normalisation = "layer_norm" }, "sae: normalisation: not with a skip connection",
        { ["skip.weight"] = random("s", D, D) } },
      { { activation_fn = "gated", decoder_norm = "feature" }, "sae: decoder_norm: not with gated features",
        { gate_bias = random("g", F), mag_bias = random("m", F), r_mag = random("r", F) } },
    } do
      local none, message = ms.load_sae(pair(case[1], case[3]))
      assert.is_nil(none)
      says(message, case[2])
    end
  end)

  it("is refused where its metadata contradict themselves or the tensors", function()
    local HUGE = "99999999999999999999"
    for _, case in ipairs {
      { { layer_idx = 3, hook = "model.layers.4" }, "EINVAL", "hook is model.layers.4, but layer_idx is 3" },
      { { layer_idx = 3, layer = "model.layers.5" }, "EINVAL", "layer is model.layers.5, but layer_idx is 3" },
      { { layer = "model.layers.5", hook = "model.layers.4.input" }, "EINVAL",
        "hook is model.layers.4.input, but layer is model.layers.5" },
      { { input_dim = 7 }, "ESHAPE", "input_dim is 7, the tensors' is 6" },
      { { latent_dim = 11 }, "ESHAPE", "latent_dim is 11, the tensors' is 10" },
      { { tied_weights = true, format_version = 1 }, "EINVAL",
        "tied_weights is true, but the file has a decoder matrix" },
      { { format_version = 2 }, "EUNSUPPORTED", "format_version: found 2, expected 1: written by a newer moonscope" },
      { { layer_idx = -1 }, "ERANGE", "layer_idx: found layer -1, expected 0 to 9999" },
      { { layer_idx = 1.5 }, "ERANGE", "layer_idx: found layer 1.5, expected 0 to 9999" },
      { { layer = "model.layers." .. HUGE }, "ERANGE", "layer: found layer " .. HUGE .. ", expected 0 to 9999" },
      { { hook = "model.layers.10000.input" }, "ERANGE", "hook: found layer 10000, expected 0 to 9999" },
    } do
      local path = pair(case[1])
      local none, message, code = ms.load_sae(path)
      assert.is_nil(none)
      assert.same({ path .. ": sae_layer_3_metadata.json: " .. case[3], case[2] }, { message, code })
    end
    local path = pair { output = "zzz" }
    local none, message = ms.load_sae(path)
    assert.is_nil(none)
    assert.equal(path .. ": output: found zzz, expected a place such as model.layers.3.mlp", message)
    local same <close> = assert(ms.load_sae(pair { layer_idx = 4, layer = "model.layers.4", hook = "blocks.4.hook_x",
      input_dim = D, latent_dim = F, tied_weights = false, format_version = 1 }))
    assert.equal(4, same.layer)
    local original <close> = assert(ms.load_sae(pair { layer_idx = 3, tied_weights = true })) -- no version -- the first converter's
    local x <close> = ms.tensor(X)
    local features <close> = original:encode(x)
    local decoded <close> = original:decode(features)
    local want <close> = same:decode(features)
    assert.is_true(decoded:equal(want))
    local embedding <close> = assert(ms.load_sae(pair { layer_idx = 0, hook = "model.embed_tokens" }))
    assert.equal("model.embed_tokens", embedding.hook)
  end)

  it("is the original workbench's too, with its metadata", function()
    local w = { ["encoder.weight"] = random("e", F, D), ["encoder.bias"] = random("be", F),
      decoder_bias = random("b", D) }
    for _, case in ipairs {
      { { latent_dim = 11 }, "latent_dim is 11, the tensors' is 10" },
      { { tied_weights = false, format_version = 1 }, "tied_weights is false, but the file has no decoder matrix" },
      { { layer_idx = 10000 }, "layer_idx: found layer 10000, expected 0 to 9999" },
    } do
      local none, message = ms.load_sae(write("a.safetensors", w, { ["a_metadata.json"] = case[1] }))
      assert.is_nil(none)
      says(message, "a_metadata.json: " .. case[2])
    end
  end)

  it("keeps its dtype's bits in bf16, and folds before the cast", function()
    local w = matrices()
    local path = write("sae_weights.safetensors", w, { ["cfg.json"] = { normalize_activations = true,
      hook_name = "blocks.1.hook_resid_post" } })
    local narrow = assert(convert.sae(path, { output = folder .. "/n", dtype = "bf16", input_scale = 3 }))
    local file <close> = assert(ms.open(narrow.safetensors))
    local stored <close> = file:tensor "encoder_linear.weight"
    local source <close> = ms.tensor(t(w.W_enc))
    local rounded <close> = source:to { dtype = "bf16" }
    assert.is_true(stored:equal(rounded))
    local sae <close> = assert(ms.load_sae(path, { dtype = "bf16", input_scale = 3 }))
    local want <close> = ms.tensor(w.W_dec)
    local third <close> = want / 3
    local cast <close> = third:to { dtype = "bf16" }
    local row <close> = cast:row(4)
    local as_f32 <close> = row:to { dtype = "f32" }
    local direction <close> = sae:direction(3)
    assert.is_true(direction:equal(as_f32))
  end)
end)

-- SPDX-License-Identifier: MIT
local fixtures = require "fixtures"
local json = require "moonscope.json"
local ms = require "moonscope"

local prompt = fixtures.golden.prompts[1]
local PLACE = "model.layers.3"

describe("edits", function()
  local model, sae, plain
  setup(function()
    model, sae = fixtures.load { precision = "exact" }
    plain = model:forward(prompt.ids, { capture = { PLACE }, logits = false }).captures[PLACE]
  end)
  teardown(function()
    model:close()
    sae:close()
    plain:close()
    model = nil -- and with it its tokenizer
  end)

  ---The stream after layer 3 with these edits, and what they touched.
  local function edited(list, opts)
    for _, edit in ipairs(list) do edit.sae = edit.sae or sae end
    opts = opts or {}
    opts.capture, opts.edits, opts.logits = { PLACE }, list, false
    local out = model:forward(prompt.ids, opts)
    return out.captures[PLACE], out.edits
  end

  local function features_of(x)
    local features <close> = sae:encode(x)
    return features:totensor()
  end

  it("add the feature's direction at every position, BOS too", function()
    local got, report = edited { { feature = 458, op = "add", value = 3.85 } }
    assert.is_true(got:allclose(plain + sae:direction(458) * 3.85, { atol = 1e-5 }))
    assert.same({ { feature = 458, op = "add", positions = 26 } }, report)
  end)

  it("set, scale and ablate by what the feature is", function()
    local f = features_of(plain):narrow(2, 1175, 1) -- feature 1174 is column 1175
    local direction = sae:direction(1174):reshape(1, 128)
    for _, case in ipairs {
      { { feature = 1174, op = "set", value = 2 }, f * -1 + 2 },
      { { feature = 1174, op = "scale", value = 3 }, f * 2 },
      { { feature = 1174, op = "ablate" }, f * -1 },
    } do
      assert.is_true(edited({ case[1] }):allclose(plain + case[2]:matmul(direction), { atol = 1e-4 }))
    end
  end)

  it("change f in list order", function()
    local got = edited { { feature = 7, op = "set", value = 2 }, { feature = 7, op = "scale", value = 3 },
      { feature = 7, op = "add", value = 1 } }
    assert.is_true(got:allclose(edited { { feature = 7, op = "set", value = 7 } }, { atol = 1e-5 }))
  end)

  it("replace the stream by the reconstruction without the error term", function()
    local features <close> = sae:encode(plain)
    local got = edited { { feature = 0, op = "scale", value = 1, keep_error = false } }
    assert.is_true(got:allclose(sae:decode(features), { atol = 1e-5 }))
    local part = edited { { feature = 0, op = "scale", value = 1, keep_error = false, positions = { 3, 4 } } }
    assert.is_true(part:narrow(1, 1, 2):equal(plain:narrow(1, 1, 2)))
    assert.is_true(part:narrow(1, 3, 2):equal(got:narrow(1, 3, 2)))
    assert.is_true(part:narrow(1, 5, 22):equal(plain:narrow(1, 5, 22)))
  end)

  it("act at the positions named, counted from 1, and leave the others' bits", function()
    local got, report = edited { { feature = 458, op = "add", value = 1, positions = { 2, 3 } } }
    assert.is_true(got:row(1):equal(plain:row(1)))
    assert.is_false(got:row(2):equal(plain:row(2)))
    assert.is_true(got:narrow(1, 4, 23):equal(plain:narrow(1, 4, 23)))
    assert.equal(2, report[1].positions)
  end)

  it("leave special tokens out when asked", function()
    local got, report = edited { { feature = 458, op = "add", value = 1, skip_special = true } }
    assert.is_true(got:row(1):equal(plain:row(1)))
    assert.equal(25, report[1].positions)
  end)

  it("tell prompt and generated positions apart", function()
    local function touched(positions)
      local reply = model:generate(prompt.ids, { max_tokens = 5, ignore_eos = true,
        edits = { { sae = sae, feature = 458, op = "add", value = 1, positions = positions } } })
      return reply.edits[1].positions
    end
    assert.equal(26, touched "prompt")
    assert.equal(4, touched "generated") -- the fifth token is never fed
    assert.equal(30, touched "all")
    assert.equal(3, touched { 26, 28 })
  end)

  it("ask when at every position, with its features and step, whatever the chunks", function()
    local function record(chunk)
      local asked = {}
      local got = edited({ { feature = 1174, op = "scale", value = 2, when = function(features, step)
        asked[#asked + 1] = { features[1174], step }
        return features[1174] > 1
      end } }, { chunk = chunk })
      return asked, got
    end
    local asked, got = record(nil)
    assert.equal(26, #asked)
    local f = features_of(plain):narrow(2, 1175, 1):totable()
    local active = 0
    for i, value in ipairs(f) do
      assert.equal(value[1], asked[i][1])
      assert.equal(0, asked[i][2])
      active = active + (value[1] > 1 and 1 or 0)
    end
    assert.is_true(active > 0 and active < 26)
    local _, in_chunks = record(3)
    assert.is_true(got:equal(in_chunks))
    assert.is_true(got:equal(edited { { feature = 1174, op = "scale", value = 2, when = function(features)
      return features[1174] > 1
    end } }))
  end)

  it("give when the number of the generated token", function()
    local steps = {}
    model:generate(prompt.ids, { max_tokens = 4, ignore_eos = true, edits = { { sae = sae, feature = 1, op = "ablate",
      positions = "generated", when = function(_, step)
        steps[#steps + 1] = step
        return true
      end } } })
    assert.same({ 1, 2, 3 }, steps)
  end)

  it("let a second SAE at the place see the first one's result", function()
    local second <close> = assert(ms.load_sae(fixtures.sae_path, { model = model }))
    local got = edited { { feature = 7, op = "add", value = 2 }, { sae = second, feature = 7, op = "ablate" } }
    local first = edited { { feature = 7, op = "add", value = 2 } }
    local f = features_of(first):narrow(2, 8, 1)
    assert.is_true(got:allclose(first - f:matmul(sae:direction(7):reshape(1, 128)), { atol = 1e-4 }))
  end)

  it("give a batch the bits that each session has alone", function()
    local change = { { sae = sae, feature = 1174, op = "set", value = 4, positions = "generated" } }
    local sessions, alone = {}, {}
    for i = 1, 3 do
      sessions[i] = model:session()
      sessions[i]:prefill(fixtures.golden.prompts[i].ids)
      alone[i] = sessions[i]:step(300, { edits = change }).logits
      sessions[i]:rewind(1)
    end
    for i, out in ipairs(model:step(sessions, { 300, 300, 300 }, { edits = change })) do
      assert.is_true(out.logits:equal(alone[i]))
      sessions[i]:close()
    end
  end)

  it("are bound to the call, not to the model", function()
    local before = model:forward(prompt.ids).logits
    edited { { feature = 458, op = "add", value = 9 } }
    assert.is_true(model:forward(prompt.ids).logits:equal(before))
  end)

  it("say what is wrong with them", function()
    local function bad(edit, message)
      assert.error_matches(function() edited { edit } end, message, 1, true)
    end
    bad({ feature = 2048, op = "add", value = 1 }, "edit 1: feature: found 2048, expected 0 to 2047")
    bad({ feature = 1.5, op = "add", value = 1 }, "edit 1: feature: found 1.5")
    bad({ feature = 1, op = "pin", value = 1 }, "edit 1: op: found pin, expected add, set, scale or ablate")
    bad({ feature = 1, op = "add" }, "edit 1: value: found nil, expected a number")
    bad({ feature = 1, op = "add", value = 0 / 0 }, "edit 1: value: found")
    bad({ feature = 1, op = "ablate", positions = "some" }, 'edit 1: positions: expected "all", "prompt"')
    bad({ feature = 1, op = "ablate", positions = { 0, 2 } }, "edit 1: positions: expected")
    bad({ feature = 1, op = "ablate", positions = { 1, 2, 3 } }, "edit 1: positions: expected")
    bad({ feature = 1, op = "ablate", value = 1 }, "edit 1: value: ablate takes none")
    bad({ feature = 1, op = "add", value = 1e39 }, "edit 1: value: found 1e+39, expected a number of f32's range")
    bad({ feature = 1, op = "ablate", keep_error = "no" }, "edit 1: keep_error: found no, expected true or false")
    for _, list in ipairs { { sae = sae, feature = 1, op = "ablate" }, { x = {} }, { nil, {} }, "x" } do
      assert.error_matches(function() model:forward("a", { edits = list }) end, "edits: expected a list of edits")
    end
    bad({ feature = 1, op = "ablate", unit = "max" }, 'edit 1: unit "max" needs the largest activation of feature 1')
    bad({ feature = 1, op = "ablate", strength = 2 }, "edit 1: unknown field strength")
    assert.error_matches(function() model:forward("a", { edits = { { feature = 1, op = "ablate" } } }) end,
      "edit 1: sae: expected a loaded SAE")
    assert.error_matches(function()
      edited { { feature = 1, op = "ablate" }, { feature = 2, op = "ablate", keep_error = false } }
    end, "edit 2: keep_error differs from another edit of the same SAE")
    assert.error_matches(function()
      edited { { feature = 1, op = "ablate", when = function() error "no idea" end } }
    end, "no idea")
    assert.is_true(edited({}):equal(plain)) -- still usable
  end)
end)

describe("edits of an SAE", function()
  local D_SAE = 64
  local model, plain
  setup(function()
    model = fixtures.load_model { precision = "exact" }
    plain = model:forward(prompt.ids, { capture = { PLACE }, logits = false }).captures[PLACE]
  end)
  teardown(function()
    model:close()
    plain:close()
    model = nil
  end)

  local folder
  before_each(function() folder = fixtures.folder() end)
  after_each(function() fixtures.remove(folder) end)

  ---A random one of this formula, as a converted pair.
  local function random_sae(metadata, more)
    local function randn(shape, seed, scale)
      local t <close> = ms.randn(shape, { seed = seed })
      return t * scale
    end
    local tensors = {
      ["encoder_linear.weight"] = randn({ D_SAE, 128 }, 1, 0.3), ["encoder_linear.bias"] = randn({ D_SAE }, 2, 0.3),
      ["decoder_linear.weight"] = randn({ 128, D_SAE }, 3, 0.3), ["decoder_linear.bias"] = randn({ 128 }, 4, 0.3),
    }
    for i, name in ipairs(more or {}) do tensors[name] = randn({ D_SAE }, 4 + i, 0.3) end
    assert(ms.save(folder .. "/sae_layer_3.safetensors", tensors))
    for _, t in pairs(tensors) do t:close() end
    local fields = { layer_idx = 3 }
    for name, value in pairs(metadata) do fields[name] = value end
    fixtures.write(folder .. "/sae_layer_3_metadata.json", json.encode(fields))
    return assert(ms.load_sae(folder, { model = model, dtype = "f32" }))
  end

  local kinds = {
    { { activation_fn = "relu" } }, { { activation_fn = "gelu" } }, { { activation_fn = "topk", k = 5 } },
    { { activation_fn = "batchtopk", threshold = 2 } }, { { activation_fn = "jumprelu", threshold = 1.5 } },
    { { activation_fn = "jumprelu", decoder_norm = "gate", subtract_b_dec = true }, { "threshold" } },
    { { activation_fn = "gated", subtract_b_dec = true }, { "gate_bias", "mag_bias", "r_mag" } },
    { { activation_fn = "relu", input_scale = 3, output_scale = 0.5, decoder_norm = "feature" } },
    { { activation_fn = "relu", normalisation = "constant_norm_rescale", subtract_b_dec = true } },
    { { activation_fn = "topk", k = 9, normalisation = "layer_norm" } },
  }

  it("follow its formula: ablating all features leaves the error term and the bias", function()
    for _, kind in ipairs(kinds) do
      local sae <close> = random_sae(kind[1], kind[2])
      local features <close> = sae:encode(plain)
      assert.is_true(features:l0() > 0, json.encode(kind[1]))
      local nothing = {}
      for feature = 0, D_SAE - 1 do nothing[feature + 1] = { sae = sae, feature = feature, op = "ablate" } end
      local got = model:forward(prompt.ids, { capture = { PLACE }, edits = nothing, logits = false }).captures[PLACE]
      -- x - (decode(f) - decode(0)); decode(0) is what replaces the stream without the error term
      local unchanged = {}
      for feature = 0, D_SAE - 1 do
        unchanged[feature + 1] = { sae = sae, feature = feature, op = "ablate", keep_error = false }
      end
      local zero = model:forward(prompt.ids, { capture = { PLACE }, edits = unchanged, logits = false }).captures[PLACE]
      assert.is_true(got:allclose(plain - sae:decode(features) + zero, { atol = 2e-3, rtol = 1e-4 }),
        json.encode(kind[1]))
    end
  end)

  it("add along the direction, times what a position was divided by", function()
    for _, kind in ipairs(kinds) do
      local sae <close> = random_sae(kind[1], kind[2])
      local edits = { { sae = sae, feature = 7, op = "add", value = 2 } }
      local got = model:forward(prompt.ids, { capture = { PLACE }, edits = edits, logits = false }).captures[PLACE]
      local step = sae:direction(7) * 2
      if sae.unit == "normalised" then
        local x, n = plain, plain:size(1)
        if kind[1].normalisation == "layer_norm" then x = x - x:mean(2):reshape(n, 1) end
        local divisor = kind[1].normalisation == "layer_norm" and 127 or 128
        step = step:reshape(1, 128) * (x:norm(2) / divisor ^ 0.5):reshape(n, 1)
      end
      assert.is_true(got:allclose(plain + step, { atol = 1e-4, rtol = 1e-4 }), json.encode(kind[1]))
    end
  end)

  it("act while the model writes, with a hook that sees the features", function()
    for _, kind in ipairs(kinds) do
      local sae <close> = random_sae(kind[1], kind[2])
      local seen = 0
      local reply = model:generate(prompt.ids, { max_tokens = 3, ignore_eos = true, edits = {
        { sae = sae, feature = 7, op = "set", value = 30, positions = "generated", when = function(features)
          for _, value in pairs(features) do seen = seen + (value ~= 0 and 1 or 0) end
          return true
        end },
      } })
      assert.equal(2, reply.edits[1].positions)
      assert.is_true(seen > 0, json.encode(kind[1]))
    end
  end)

  it("of a transcoder read one place and change the stream after the layer", function()
    local BEFORE = "model.layers.3.post_attention"
    local sae <close> = random_sae { hook = BEFORE, output = "model.layers.3.mlp" }
    local before = model:forward(prompt.ids, { capture = { BEFORE }, logits = false }).captures[BEFORE]
    local features <close> = sae:encode(before)
    local f = features:totensor()
    assert.is_true(features:l0() > 0)
    local function edited(edit, opts)
      edit.sae, opts = sae, opts or {}
      opts.capture, opts.edits, opts.logits = { PLACE }, { edit }, false
      local out = model:forward(prompt.ids, opts)
      assert.same({ PLACE }, { next(out.captures), next(out.captures, PLACE) })
      return out.captures[PLACE]
    end
    local direction = sae:direction(7):reshape(1, 128)
    local column = f:narrow(2, 8, 1)
    assert.is_true(edited { feature = 7, op = "add", value = 2 }:allclose(plain + direction * 2, { atol = 1e-4 }))
    local ablated = plain - column:matmul(direction)
    assert.is_true(edited { feature = 7, op = "ablate" }:allclose(ablated, { atol = 1e-3 }))
    assert.is_true(edited({ feature = 7, op = "ablate" }, { chunk = 5 }):equal(edited { feature = 7, op = "ablate" }))
    local asked = {}
    edited { feature = 7, op = "ablate", when = function(seen)
      asked[#asked + 1] = seen[7]
      return true
    end }
    for row, value in ipairs(column:totable()) do assert.equal(value[1], asked[row]) end

    local reply = model:generate(prompt.ids, { max_tokens = 3, ignore_eos = true,
      edits = { { sae = sae, feature = 7, op = "set", value = 9 } } })
    assert.equal(#prompt.ids + 2, reply.edits[1].positions)
  end)

  it("need a place that can be changed", function()
    local function bad(metadata, message, edit)
      local sae <close> = random_sae(metadata)
      edit = edit or { feature = 1, op = "add", value = 1 }
      edit.sae = sae
      assert.error_matches(function() model:forward("a", { edits = { edit } }) end, message, 1, true)
    end
    bad({ hook = "model.layers.3.mlp" },
      "edit 1: the SAE reads model.layers.3.mlp; only the residual stream between two layers can be edited")
    bad({ hook = "model.layers.3.mlp.input", output = "model.layers.3.mlp" },
      "edit 1: the SAE is a transcoder from model.layers.3.mlp.input to model.layers.3.mlp, expected one from")
    bad({ hook = "model.layers.3.post_attention", output = "model.layers.4.mlp" }, "expected one from a layer's .input")
    bad({ hook = "model.layers.3.post_attention", output = "" }, "to an unknown place, expected one from")
    bad({ hook = "model.layers.3.post_attention", output = "model.layers.3.mlp" },
      "edit 1: keep_error: a transcoder does not stand for the stream",
      { feature = 1, op = "ablate", keep_error = false })
  end)
end)

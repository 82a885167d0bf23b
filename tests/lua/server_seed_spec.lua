-- SPDX-License-Identifier: MIT
-- The seed's API: handlers without a socket, a few of them through one. Bug N is one of the original's.
local App = require "moonscope.server.app"
local fixtures = require "fixtures"
local http = require "http"
local json = require "moonscope.json"
local loop = require "moonscope.loop"
local mock = require "mock_hub"
local ms = require "moonscope"
local reply = require "moonscope.server.reply"
local uv = require "luv"

local NAME = "Moonscope-Tiny-Llama-SAE-l3"
local SAE = "tiny/" .. NAME .. ".pth"
local PROMPT = "Once upon a time there was a small red fox named Mia."
local TIRED, HUNGRY = "She felt tired", "She felt hungry"
local PATCH = { featureId = "layer_3_feature_458", name = "hungry", strength = 3.85 }

---A data folder of its own with the tiny model in it.
local function data_folder()
  local folder = fixtures.folder()
  assert(uv.fs_symlink(assert(uv.fs_realpath "examples/tiny"), folder .. "/tiny"))
  return folder
end

---Runs fn(call, app, folder) with an app over a fresh data folder. call(method, target, body) gives the status
---and the body as a client has it; a reply as it is.
local function with_app(fn, options)
  local folder = data_folder()
  local settings = { data = { folder, "examples" }, max_answers = 4, precision = "exact", device = "cpu" }
  for key, value in pairs(options or {}) do settings[key] = value end
  loop.run(function()
    local app = assert(App.new(settings))
    local function call(...)
      local status, body, headers = app:call(...)
      if not reply.is_reply(body) then body = assert(json.decode(json.encode(body))) end
      return status, body, headers
    end
    local ok, message = pcall(fn, call, app, folder)
    app:close()
    if not ok then error(message, 0) end
  end)
  fixtures.remove(folder)
end

local function load_both(call)
  assert.equal(200, (call("POST", "/load-model", { model_name = "tiny" })))
  assert.equal(200, (call("POST", "/load-sae", { saePath = SAE, layer_idx = 3, activationsPath = json.null })))
end

local function infer(call, more)
  local body = { text = PROMPT, max_length = 40 }
  for key, value in pairs(more or {}) do body[key] = value end
  local status, answer = call("POST", "/inference", body)
  assert.equal(200, status, answer.detail)
  return answer
end

local function assert_refused(status, code, field, got, body)
  assert.same({ status, code, field }, { got, body.code, body.field }, json.encode(body))
end

---What the library says about the next token, once per process.
local function oracle()
  local model = fixtures.load_model { precision = "exact", device = "cpu" }
  local sae = assert(ms.load_sae(fixtures.sae_path, { model = model }))
  local out = model:forward(PROMPT, { capture = { sae.hook } })
  local values, ids = out.logits:reshape(model.config.n_vocab):softmax():topk(20)
  local features = sae:encode(out.captures[sae.hook])
  local told = { ids = ids:totable(), probabilities = values:totable(), strongest = {}, count = {} }
  for number, id in ipairs(out.ids) do
    for _, feature in ipairs(model.tokenizer:is_special(id) and {} or features:row(number)) do
      local index = feature.index
      told.strongest[index] = math.max(told.strongest[index] or 0, feature.activation)
      told.count[index] = (told.count[index] or 0) + 1
    end
  end
  told.n_tokens = #out.ids - 1 -- without BOS
  features:close()
  sae:close()
  model:close()
  return told
end

local known
setup(function()
  ms.set_threads(1) -- several that wait for each other are slow beside other tests; the bits are the same
  known = oracle()
end)

describe("/inference", function()
  it("shows the model's own probabilities (bugs 8, 9)", function()
    with_app(function(call)
      load_both(call)
      local answer = infer(call)
      assert.same({ PROMPT, 20, 20, 20 }, { answer.inputText, #answer.original, #answer.patched,
        #answer.tokenProbabilities })
      local sum = 0
      for i, entry in ipairs(answer.original) do
        assert.equal(known.ids[i], entry.token_id)
        assert.is_true(math.abs(known.probabilities[i] - entry.probability) < 1e-6)
        local first = answer.original[1]
        assert.is_true(math.abs(entry.logit - first.logit - math.log(entry.probability / first.probability)) < 1e-3)
        sum = sum + entry.probability
      end
      assert.is_true(sum > 0.5 and sum < 1.0001)
      assert.same(answer.original, answer.patched)
      assert.same(answer.original, answer.tokenProbabilities)
      assert.truthy(answer.generated_text:find(TIRED, 1, true))
      assert.equal(answer.generated_text, answer.original_text)
      assert.equal("tiny", answer.modelName)
      assert.is_true(answer.latencyMs > 0)
    end)
  end)

  it("is changed by patches, at once, and is as before without them (bugs 10, 11)", function()
    with_app(function(call)
      load_both(call)
      local before = infer(call)
      assert.equal(200, (call("POST", "/patch", PATCH)))
      local during = infer(call)
      assert.same(before.original, during.original)
      assert.equal(before.original_text, during.original_text)
      assert.same({ "feature_458_layer_3" }, during.patches)
      assert.truthy(during.generated_text:find(HUNGRY, 1, true))
      local moved = 0
      for i, entry in ipairs(during.patched) do -- the UI pairs them by their place
        assert.equal(during.original[i].token_id, entry.token_id)
        moved = math.max(moved, math.abs(entry.probability - during.original[i].probability))
      end
      assert.is_true(moved > 1e-3)
      for i = 2, 20 do
        assert.is_true(during.tokenProbabilities[i].probability <= during.tokenProbabilities[i - 1].probability)
      end
      assert.equal(200, (call("PATCH", "/patch/feature_458_layer_3", { strength = 0 })))
      local nothing = infer(call)
      for i, entry in ipairs(nothing.patched) do
        assert.is_true(math.abs(entry.probability - before.original[i].probability) < 1e-6)
      end
      call("PATCH", "/patch/feature_458_layer_3", { strength = 3.85, isEnabled = false })
      assert.same(before.generated_text, infer(call).generated_text)
      call("POST", "/patch/feature_458_layer_3/toggle")
      assert.truthy(infer(call).generated_text:find(HUNGRY, 1, true))
      assert.equal(200, (call("DELETE", "/patch/feature_458_layer_3")))
      local after = infer(call)
      for _, key in ipairs { "original", "patched", "tokenProbabilities", "generated_text", "patches" } do
        assert.same(before[key], after[key], key)
      end
    end)
  end)

  it("depends on the whole text and on max_length, in every spelling (bugs 10, 14)", function()
    with_app(function(call)
      load_both(call)
      local long = ("The cat sat. "):rep(12)
      local first, second = infer(call, { text = long .. PROMPT }), infer(call, { text = long .. "The dog" })
      assert.not_same(first.original, second.original)
      assert.equal("", infer(call, { max_length = 0 }).generated_text)
      local status, by_query = call("POST", "/api/inference?text=Once%20upon&maxTokens=3")
      assert.equal(200, status)
      local _, by_body = call("POST", "/inference", { text = "Once upon", max_length = 3 })
      assert.equal(by_body.generated_text, by_query.generated_text)
      local _, whole = call("POST", "/inference", { text = "Once upon", max_tokens = 9 })
      assert.equal(1, (whole.generated_text:find(by_query.generated_text, 1, true)))
      assert.is_true(#whole.generated_text > #by_query.generated_text)
    end)
  end)

  it("refuses what cannot be", function()
    with_app(function(call)
      assert_refused(400, "ENOMODEL", nil, call("POST", "/inference", { text = "a" }))
      load_both(call)
      assert_refused(400, "EINVAL", "text", call("POST", "/inference", { text = "" }))
      assert_refused(422, "EINVAL", "text", call("POST", "/inference", {}))
      assert_refused(422, "EINVAL", "max_length", call("POST", "/inference", { text = "a", max_length = -1 }))
      assert_refused(422, "EINVAL", "max_length", call("POST", "/inference?text=a&max_length=1.5"))
      assert_refused(400, "ECONTEXT", "text", call("POST", "/inference", { text = ("fox "):rep(5000) }))
      assert_refused(422, "EINVAL", "text", call("POST", "/inference", { text = ("a"):rep((1 << 20) + 1) }))
    end)
  end)
end)

describe("features", function()
  it("are null until a text is measured (bug 7)", function()
    with_app(function(call)
      local status, none = call("GET", "/features")
      assert.same({ 200, 0, false }, { status, none.total, none.hasMore })
      load_both(call)
      local _, list = call("GET", "/features?layer_idx=3&limit=10")
      assert.same({ 10, 2048, true }, { #list.features, list.total, list.hasMore })
      for i, feature in ipairs(list.features) do
        assert.equal(("layer_3_feature_%d"):format(i - 1), feature.id)
        for _, key in ipairs { "activation_strength", "activation", "sparsity", "frequency", "description" } do
          assert.equal(json.null, feature[key], key)
        end
        assert.same({}, feature.top_tokens)
      end
      local _, details = call("GET", "/feature/layer_3_feature_7/details")
      assert.equal(json.null, details.detailed_analysis.max_activation)
      assert.equal(128, #details.vector)
    end)
  end)

  it("are what the library measures, all 2048 of them (bugs 7, 12, 13)", function()
    with_app(function(call)
      load_both(call)
      infer(call)
      local seen = 0
      for offset = 0, 2047, 500 do
        local _, list = call("GET", ("/features?layer=3&limit=500&offset=%d"):format(offset))
        for _, feature in ipairs(list.features) do
          local index = feature.feature_idx
          assert.is_true(math.abs((known.strongest[index] or 0) - feature.activation_strength) < 1e-4)
          assert.is_true(math.abs((known.count[index] or 0) / known.n_tokens - feature.frequency) < 1e-9)
          assert.is_true(math.abs(1 - feature.frequency - feature.sparsity) < 1e-9)
          assert.same({ feature.activation, 3, feature.top_tokens },
            { feature.activation_strength, feature.layer, feature.topTokens })
          if feature.activation > 0 then assert.equal(feature.activation, feature.top_tokens[1].strength) end
          seen = seen + 1
        end
        assert.equal(offset + 500 < 2048, list.hasMore)
      end
      assert.equal(2048, seen)
      local _, status = call("GET", "/sae/status")
      assert.equal(2048, status.featureCount)
    end)
  end)

  it("are sorted, cut and searched", function()
    with_app(function(call)
      load_both(call)
      infer(call)
      for _, column in ipairs { "activation", "frequency" } do
        for _, order in ipairs { "asc", "desc" } do
          local query = ("limit=1000&offset=%d&sortBy=%s&sort_order=%s"):format(order == "asc" and 1048 or 0, column,
            order)
          local _, list = call("GET", "/features?" .. query)
          local first, last = list.features[1][column], list.features[1000][column]
          assert.is_true(math.min(first, last) == 0 and math.max(first, last) > 0)
          for i = 2, #list.features do
            local a, b = list.features[i - 1], list.features[i]
            if order == "asc" then a, b = b, a end
            assert.is_true(a[column] >= b[column])
          end
        end
      end
      call("POST", "/load-sae", { saePath = SAE, layer_idx = 2, force = true })
      for order, layer in pairs { asc = 2, desc = 3 } do
        local _, list = call("GET", "/features?sortBy=layer&limit=3&offset=2047&sortOrder=" .. order)
        local ids = {}
        for i, feature in ipairs(list.features) do ids[i] = feature.id end
        assert.same({ ("layer_%d_feature_2047"):format(layer), ("layer_%d_feature_0"):format(5 - layer),
          ("layer_%d_feature_1"):format(5 - layer) }, ids)
      end
      call("DELETE", "/sae/2")
      local _, found = call("GET", "/features?search=MIA")
      assert.is_true(found.total > 0 and found.total < 100)
      for _, feature in ipairs(found.features) do
        assert.truthy(json.encode(feature.top_tokens):find "Mia")
      end
      local _, one = call("GET", "/features?search=feature_458")
      assert.same({ 1, "layer_3_feature_458" }, { one.total, one.features[1].id })
      local _, past = call("GET", "/features?offset=5000")
      assert.same({ {}, 2048, false }, { past.features, past.total, past.hasMore })
    end)
  end)

  it("have details with the contexts they fired in (bug 13)", function()
    with_app(function(call)
      load_both(call)
      infer(call)
      infer(call, { text = "The fox named Tom ran." })
      local _, list = call("GET", "/features?limit=1")
      local id = list.features[1].id
      local status, details = call("GET", "/api/feature/" .. id .. "/details")
      assert.equal(200, status)
      local analysis = details.detailed_analysis
      assert.same({ id, 3, details.activation }, { details.id, analysis.layer_idx, analysis.max_activation })
      local top = analysis.top_token_details[1]
      assert.same({ 1, analysis.top_tokens[1], details.activation }, { top.rank, top.token, top.activation_strength })
      assert.truthy(details.contextExamples[1]:find(top.token, 1, true))
      assert.truthy((PROMPT .. "The fox named Tom ran."):find(top.token, 1, true))
      local norm = 0
      for _, x in ipairs(details.vector) do norm = norm + x * x end
      assert.is_true(math.abs(math.sqrt(norm) - analysis.weight_norm) < 1e-9)
      for _, bad in ipairs { "layer_3_feature_2048", "layer_4_feature_1", "layer_03_feature_1", "7", "x",
        "layer_3_feature_99999999999999999999" } do
        assert.equal(404, (call("GET", "/feature/" .. bad .. "/details")), bad)
      end
      assert.equal(404, (call("GET", "/features?layer=4")))
      for _, query in ipairs { "limit=-1", "limit=x", "offset=1e3", "sortBy=size", "sortOrder=up", "layer=-1" } do
        assert.equal(422, (call("GET", "/features?" .. query)), query)
      end
    end)
  end)

  it("start again with another SAE, and the patches of the old one go", function()
    with_app(function(call)
      load_both(call)
      infer(call)
      call("POST", "/patch", PATCH)
      load_both(call)
      local _, list = call("GET", "/features?limit=1")
      assert.equal(json.null, list.features[1].activation)
      local _, patches = call("GET", "/patches")
      assert.same({}, patches)
      call("POST", "/patch", PATCH)
      call("DELETE", "/sae/3")
      _, patches = call("GET", "/patches")
      assert.same({}, patches)
    end)
  end)

  it("take bounded memory however many texts come", function()
    local activity = require("moonscope.server.activity").new()
    local ids = {}
    for i = 1, 400 do ids[i] = i end
    local features = { row = function(_, number)
      return { { index = number % 7, activation = number }, { index = 7, activation = 1000 - number } }
    end }
    local tokenizer = { is_special = function(_, id) return id == 1 end }
    loop.run(function()
      for _ = 1, 3 do activity:add(ids, features, tokenizer) end
    end)
    assert.equal(3 * 399, activity.n_tokens)
    for index = 0, 7 do
      local of = activity:of(index)
      assert.equal(5, #of.examples)
      for i, example in ipairs(of.examples) do -- the strongest five tokens, each once
        local around, at = activity.context(example)
        assert.equal(example[2], around[at])
        assert.is_true(#around <= 11)
        assert.equal(index == 7 and 999 - i or 400 - (400 - index) % 7 - 7 * (i - 1), example[1])
      end
    end
    assert.equal(998, activity:of(7).max)
    assert.equal(1, activity:of(7).frequency)
  end)
end)

describe("patches", function()
  it("take both clients' fields", function()
    with_app(function(call)
      load_both(call)
      local status, patch, _ = call("POST", "/patch", PATCH)
      assert.equal(200, status)
      assert.same({ "feature_458_layer_3", "layer_3_feature_458", "hungry", true, 3.85, json.null },
        { patch.id, patch.featureId, patch.name, patch.isEnabled, patch.strength, patch.description })
      _, patch = call("POST", "/patch?feature_id=7&layer_idx=3&strength=-2&enabled=false")
      assert.same({ "feature_7_layer_3", false, -2 }, { patch.id, patch.isEnabled, patch.strength })
      _, patch = call("POST", "/patch", { feature_id = 8, layer_idx = 3, strength = 0, op = "set", description = "d" })
      assert.same({ "feature_8_layer_3", "set", "d" }, { patch.id, patch.op, patch.description })
      call("POST", "/patch", { featureId = PATCH.featureId, strength = 1 }) -- instead of the first
      local _, list = call("GET", "/patches")
      assert.same({ 3, "feature_458_layer_3", 1 }, { #list, list[1].id, list[1].strength })
    end)
  end)

  it("refuse what cannot be, and change nothing then", function()
    with_app(function(call)
      assert_refused(400, "ENOMODEL", nil, call("POST", "/patch", PATCH))
      load_both(call)
      local function refused(status, field, body)
        local got, answer = call("POST", "/patch", body)
        assert.same({ status, field }, { got, answer.field }, json.encode(answer))
      end
      refused(404, "feature_id", { featureId = "layer_3_feature_2048", strength = 1 })
      refused(404, "feature_id", { featureId = "layer_4_feature_1", strength = 1 })
      refused(404, "feature_id", { featureId = "a", strength = 1 })
      refused(404, "layer_idx", { feature_id = 1, layer_idx = 4, strength = 1 })
      refused(400, "layer_idx", { feature_id = "layer_3_feature_1", layer_idx = 4, strength = 1 })
      refused(422, "feature_id", { feature_id = 1.5, strength = 1 })
      refused(422, "feature_id", { feature_id = -1, strength = 1 })
      refused(422, "feature_id", { feature_id = {}, strength = 1 })
      refused(422, "feature_id", { strength = 1 })
      refused(422, "strength", { feature_id = 1 })
      refused(422, "strength", { feature_id = 1, strength = 1e7 })
      refused(422, "op", { feature_id = 1, strength = 1, op = "turn" })
      local _, list = call("GET", "/patches")
      assert.same({}, list)
      for _, route in ipairs { { "PATCH", "" }, { "POST", "/toggle" }, { "DELETE", "" } } do
        assert_refused(404, "ENOENT", "id", call(route[1], "/patch/feature_1_layer_3" .. route[2], {}))
      end
      for i = 0, 255 do assert.equal(200, (call("POST", "/patch", { feature_id = i, strength = 0 }))) end
      refused(400, nil, { feature_id = 256, strength = 0 })
      assert.equal(200, (call("POST", "/patch", { feature_id = 255, strength = 1 })))
    end)
  end)

  it("of an SAE that reads where nothing can be changed are refused at once", function()
    with_app(function(call, _, folder)
      assert.equal(200, (call("POST", "/load-model", { model_name = "tiny" })))
      assert(ms.save(folder .. "/mlp.safetensors", {
        ["encoder_linear.weight"] = ms.zeros { 8, 128 }, ["encoder_linear.bias"] = ms.zeros { 8 },
        ["decoder_linear.weight"] = ms.zeros { 128, 8 }, ["decoder_linear.bias"] = ms.zeros { 128 },
      }))
      fixtures.write(folder .. "/mlp_metadata.json", '{"hook": "model.layers.2.mlp"}')
      assert.equal(200, (call("POST", "/load-sae", { saePath = "mlp.safetensors" })))
      assert_refused(400, "EUNSUPPORTED", "feature_id", call("POST", "/patch", { feature_id = 1, strength = 1 }))
      infer(call, { max_length = 0 }) -- but read it can
      local _, list = call("GET", "/features?layer=2&limit=1")
      assert.equal(0, list.features[1].activation)
    end)
  end)

  it("are told of in both forms", function()
    with_app(function(call, app)
      load_both(call)
      call("POST", "/patch", PATCH)
      local told = {}
      app.listeners[function(message) told[#told + 1] = json.decode(json.encode(message)) end] = true
      call("PATCH", "/patch/feature_458_layer_3", { strength = 0.1, isEnabled = false })
      assert.same({
        type = "patch_updated", patch_id = "feature_458_layer_3", updates = { "strength=0.1", "enabled=false" },
        data = {
          patchId = "feature_458_layer_3", updates = { "strength=0.1", "enabled=false" }, strength = 0.1,
          isEnabled = false,
        },
      }, told[1])
      call("POST", "/patch/feature_458_layer_3/toggle")
      assert.same({
        type = "patch_toggled", patch_id = "feature_458_layer_3", action = "enabled",
        data = { patchId = "feature_458_layer_3", action = "enabled", strength = 0.1 },
      }, told[2])
      call("DELETE", "/patch/feature_458_layer_3")
      assert.same({ "patch_deleted", "feature_458_layer_3" }, { told[3].type, told[3].patch_id })
    end)
  end)
end)

describe("/load-goodfire-sae", function()
  it("converts what lies here and loads it as one job (bugs 2, 3, 4, 6)", function()
    with_app(function(call, app, folder)
      assert_refused(400, "ENOMODEL", nil, call("POST", "/load-goodfire-sae", { sae_name = NAME }))
      assert.equal(200, (call("POST", "/load-model", { model_name = "tiny" })))
      local status, body = call("POST", "/load-goodfire-sae", { sae_name = NAME, activationsPath = json.null })
      assert.same({ 200, true, 3, NAME, "model.layers.3", 16 },
        { status, body.success, body.layer_idx, body.sae_name, body.layer_name, body.expansion_factor })
      local job = app.jobs.list[#app.jobs.list]
      assert.same({ "load-goodfire-sae", "completed", "loading" }, { job.kind, job.status, job.stage })
      local metadata = assert(json.read(("%s/saes/%s/sae_layer_3_metadata.json"):format(folder, NAME)))
      assert.same({ false, 3 }, { metadata.tied_weights, metadata.layer_idx })
      local converted = infer(call)
      call("POST", "/load-sae", { saePath = SAE })
      assert.same(converted.original, infer(call).original)
      local _, list = call("GET", "/features?limit=5")
      call("POST", "/load-sae", { saePath = ("saes/%s/sae_layer_3.safetensors"):format(NAME) })
      infer(call)
      local _, same = call("GET", "/features?limit=5")
      assert.same(list, same)
      assert.equal(200, (call("POST", "/load-goodfire-sae", { sae_name = NAME })))
    end)
  end)

  it("refuses names and files before any work", function()
    with_app(function(call, app, folder)
      assert.equal(200, (call("POST", "/load-model", { model_name = "tiny" })))
      local n_jobs = #app.jobs.list
      assert_refused(400, "EINVAL", "sae_name", call("POST", "/load-goodfire-sae", { sae_name = "" }))
      assert_refused(422, "EINVAL", "sae_name", call("POST", "/load-goodfire-sae", {}))
      for _, name in ipairs { "x", "../tiny", SAE, "tiny/config.json", "a/b", "/etc/passwd" } do
        assert_refused(404, "ENOENT", "sae_name", call("POST", "/load-goodfire-sae", { sae_name = name }))
      end
      assert_refused(400, "ESHAPE", "sae_name",
        call("POST", "/load-goodfire-sae", { sae_name = "Goodfire/Llama-3.1-8B-Instruct-SAE-l19" }))
      assert_refused(400, "ENOENT", "activations_path",
        call("POST", "/load-goodfire-sae", { sae_name = NAME, activationsPath = "missing" }))
      assert_refused(501, "EUNSUPPORTED", "activations_path",
        call("POST", "/load-goodfire-sae", { sae_name = NAME, activationsPath = "tiny/config.json" }))
      assert.equal(n_jobs, #app.jobs.list)
      assert.is_nil(uv.fs_stat(folder .. "/saes"))
      assert(uv.fs_mkdir(folder .. "/saes", 493))
      assert(uv.fs_mkdir(folder .. "/saes/" .. NAME, 493))
      fixtures.write(("%s/saes/%s/sae_layer_3.safetensors"):format(folder, NAME), "mine")
      assert_refused(409, "EEXIST", "sae_name", call("POST", "/load-goodfire-sae", { sae_name = NAME }))
      assert.equal("mine", fixtures.read(("%s/saes/%s/sae_layer_3.safetensors"):format(folder, NAME)))
      local _, status = call("GET", "/sae/status")
      assert.equal("idle", status.status)
    end)
  end)

  it("asked twice at once is one job; without waiting it is 202; cancelled, it leaves nothing", function()
    with_app(function(call, app, folder)
      assert.equal(200, (call("POST", "/load-model", { model_name = "tiny" })))
      local status, first = call("POST", "/load-goodfire-sae", { sae_name = NAME, wait = false })
      assert.equal(202, status)
      local _, second = call("POST", "/load-goodfire-sae", { sae_name = NAME, wait = false })
      assert.equal(first.job_id, second.job_id)
      assert.equal(200, (call("DELETE", "/jobs/" .. first.job_id)))
      pcall(app.jobs.wait, app.jobs:get(first.job_id))
      while app.jobs:get(first.job_id).status == "running" do loop.sleep(1) end
      assert.equal("cancelled", app.jobs:get(first.job_id).status)
      -- The thread that writes notices it at its next block, and takes its file away then.
      while #fixtures.names(("%s/saes/%s"):format(folder, NAME)) > 0 do loop.sleep(1) end
      assert.equal(200, (call("POST", "/load-goodfire-sae", { sae_name = NAME })))
    end)
  end)
end)

describe("/load-goodfire-sae of the Hub", function()
  local HUB_NAME = "Test-SAE-l3"
  local configs = require("moonscope.sae_configs").SAE_CONFIGS

  setup(function()
    mock.start()
    configs[HUB_NAME] = {
      repo_id = "Goodfire/" .. HUB_NAME, filename = HUB_NAME .. ".pth", layer = "model.layers.3", expansion_factor = 16,
      d_model = 128,
    }
  end)
  teardown(function()
    configs[HUB_NAME] = nil
    mock.stop()
  end)

  local function scenario(rules)
    mock.reset { HF_HUB_DOWNLOAD_TIMEOUT = "1", HF_HUB_ETAG_TIMEOUT = "1" }
    local files = { [HUB_NAME .. ".pth"] = { assert(uv.fs_realpath(fixtures.sae_path)), lfs = true } }
    mock.scenario { repos = { ["Goodfire/" .. HUB_NAME] = mock.repo(files) }, rules = rules }
  end

  it("downloads, converts and loads, and the next time has it", function()
    with_app(function(call, app)
      scenario()
      assert.equal(200, (call("POST", "/load-model", { model_name = "tiny" })))
      local _, started = call("POST", "/load-goodfire-sae", { sae_name = HUB_NAME, wait = false })
      local job, stages = app.jobs:get(started.job_id), {}
      while job.status == "running" do
        local version = job.version
        if job.stage ~= stages[#stages] then stages[#stages + 1] = job.stage end
        job:wait_for_news(version)
      end
      assert.equal("completed", job.status)
      assert.equal("downloading", stages[1])
      assert.equal("loading", job.stage)
      local _, body = call("GET", "/jobs/" .. job.id)
      assert.same({ 3, HUB_NAME }, { body.result.layer_idx, body.result.sae_name })
      assert.truthy(infer(call).generated_text:find(TIRED, 1, true))
      mock.scenario { repos = {} } -- nothing is there any more
      local status = call("POST", "/load-goodfire-sae", { sae_name = "Goodfire/" .. HUB_NAME })
      assert.same({ 200, 0 }, { status, #mock.requests() })
    end)
  end)

  it("says what the Hub says, and what was there stays", function()
    with_app(function(call, _, folder)
      load_both(call)
      scenario()
      mock.scenario { repos = {} }
      local status, body = call("POST", "/load-goodfire-sae", { sae_name = HUB_NAME })
      assert.same({ 404, "sae_name" }, { status, body.field }, json.encode(body))
      mock.set { HF_HUB_OFFLINE = "1" }
      assert.equal(404, (call("POST", "/load-goodfire-sae", { sae_name = HUB_NAME })))
      local _, sae = call("GET", "/sae/status")
      assert.equal("ready", sae.status)
      for name in uv.fs_scandir_next, assert(uv.fs_scandir(("%s/saes/%s"):format(folder, HUB_NAME))) do
        error("left behind: " .. name)
      end
    end)
  end)

  it("cancelled while it downloads leaves nothing, and works again", function()
    with_app(function(call, app, folder)
      assert.equal(200, (call("POST", "/load-model", { model_name = "tiny" })))
      scenario()
      local _, started = call("POST", "/load-goodfire-sae", { sae_name = HUB_NAME, wait = false })
      local job = app.jobs:get(started.job_id)
      assert.equal("downloading", job.stage)
      assert.is_true(job:cancel())
      while job.status == "running" do job:wait_for_news(job.version) end
      assert.same({ "cancelled", "ECANCELED" }, { job.status, job.refusal.code })
      for name in uv.fs_scandir_next, assert(uv.fs_scandir(("%s/saes/%s"):format(folder, HUB_NAME))) do
        error("left behind: " .. name)
      end
      assert.equal(200, (call("POST", "/load-goodfire-sae", { sae_name = HUB_NAME })))
    end)
  end)
end)

describe("files", function()
  it("of an SAE are a pair that loads again", function()
    with_app(function(call, _, folder)
      assert_refused(404, "ENOENT", "layer_idx", call("POST", "/export-sae", { layer_idx = 3, output_path = "out" }))
      load_both(call)
      assert_refused(404, "ENOENT", "layer_idx", call("POST", "/export-sae", { layer_idx = 4, output_path = "out" }))
      assert_refused(422, "EINVAL", "output_path", call("POST", "/export-sae", { layer_idx = 3 }))
      for _, target in ipairs { "/export-sae?layer_idx=3&output_path=out", "/api/export-sae?outputPath=out" } do
        local status, body = call("POST", target)
        assert.same({ 200, true, "out/sae_layer_3.safetensors", "out/sae_layer_3_metadata.json" },
          { status, body.success, body.sae_file, body.metadata_file })
      end
      assert.equal(200, (call("POST", "/load-sae", { saePath = "out/sae_layer_3.safetensors", layer_idx = 3 })))
      local status, blob = call("GET", "/export-sae?layer_idx=3")
      assert.same({ 200, "file" }, { status, blob.kind })
      assert.equal(fixtures.read(folder .. "/out/sae_layer_3.safetensors"), fixtures.read(blob.path))
      local file = assert(io.open(folder .. "/out/sae_layer_3.safetensors", "ab")) -- the user's now
      file:write "x"
      file:close()
      assert.equal(200, (call("POST", "/load-sae", { saePath = SAE })))
      assert_refused(409, "EEXIST", "output_path", call("POST", "/export-sae", { output_path = "out" }))
    end)
  end)

  it("come as a blob where no path is given", function()
    with_app(function(call, _, folder)
      load_both(call)
      local status, blob = call("GET", "/export-sae")
      assert.same({ 200, "file", "sae_layer_3.safetensors" }, { status, blob.kind, blob.filename })
      local bytes = assert(uv.fs_read(blob.fd, uv.fs_fstat(blob.fd).size, 0))
      uv.fs_close(blob.fd)
      fixtures.write(folder .. "/blob.safetensors", bytes)
      local opened = assert(ms.open(folder .. "/blob.safetensors"))
      assert.equal(4, #opened:names())
      opened:close()
      for name in uv.fs_scandir_next, assert(uv.fs_scandir(folder)) do assert.is_nil(name:find "^%.export") end
      call("POST", "/patch", PATCH)
      status, blob = call("POST", "/export-patches", { patchIds = { "feature_458_layer_3" } })
      assert.same({ 200, "application/json" }, { status, blob.content_type })
      assert.equal(3.85, assert(json.decode(blob.content)).patches[1].strength)
      assert.equal(404, (call("POST", "/export-patches", { patchIds = { "x" } })))
      status, blob = call("POST", "/export-features", { featureIds = { "layer_3_feature_7", "layer_3_feature_7" } })
      assert.equal(200, status)
      local exported = assert(json.decode(blob.content))
      assert.same({ 1, 128 }, { exported.metadata.total_features, #exported.features.layer_3_feature_7.vector })
      assert.equal(404, (call("POST", "/export-features", { featureIds = { "layer_4_feature_7" } })))
    end)
  end)

  it("of features go out and come back", function()
    with_app(function(call, _, folder)
      assert_refused(400, "ENOMODEL", nil, call("POST", "/export-features"))
      assert_refused(400, "ENOMODEL", nil, call("POST", "/export-patches"))
      load_both(call)
      infer(call)
      local fired = 0
      for _ in pairs(known.count) do fired = fired + 1 end
      for _ = 1, 2 do -- its own file it replaces
        local status, body = call("POST", "/export-features", { layer_idx = 3 })
        assert.same({ 200, "features_export.json", fired }, { status, body.output_file, body.features_exported })
      end
      local exported = assert(json.read(folder .. "/features_export.json"))
      local metadata = exported.metadata
      assert.same({ "tiny", fired, 3, { 3 }, {}, "1.0", false }, { metadata.model_name, metadata.total_features,
        metadata.layer_filter, metadata.sae_models_loaded, metadata.activation_data_paths, metadata.export_version,
        metadata.provenance_analyzer_available })
      local sae = assert(ms.load_sae(fixtures.sae_path, { dtype = "bf16" }))
      local id, feature = next(exported.features)
      assert.is_true(ms.tensor(feature.vector):equal(sae:direction(feature.feature_idx)))
      sae:close()

      feature.description = "a feature"
      exported.features.layer_9_feature_1 = { description = "of no SAE" }
      fixtures.write(folder .. "/labels.json", json.encode(exported))
      local status, body = call("POST", "/import-features", { input_path = "labels.json" })
      assert.same({ 200, fired, 1, "labels.json" },
        { status, body.imported_count, body.skipped_count, body.input_path })
      local _, found = call("GET", "/features?search=A+FEATURE")
      assert.equal(0, found.total)
      _, found = call("GET", "/features?search=A%20FEATURE")
      assert.same({ 1, id, "a feature" }, { found.total, found.features[1].id, found.features[1].description })
      local _, details = call("GET", "/feature/" .. id .. "/details")
      assert.equal(feature.activation_strength, details.imported.activation_strength)
    end)
  end)

  it("that are imported are checked whole before anything changes", function()
    with_app(function(call, _, folder)
      fixtures.write(folder .. "/x.json", "{}")
      assert.equal(404, (call("POST", "/import-features", { input_path = "x.json" })))
      load_both(call)
      assert_refused(404, "ENOENT", "input_path", call("POST", "/import-features", { input_path = "missing.json" }))
      for _, text in ipairs {
        "{", "[]", "{}", '{"features": 1}', '{"features": {"a": {}}}', '{"features": {"layer_3_feature_1": 1}}',
        '{"features": {"layer_3_feature_1": {"description": "x"}, "layer_3_feature_2": {"description": 7}}}',
        '{"features": {"layer_3_feature_2": {"description": "x"}, "layer_3_feature_1": {"description": 7}}}',
        '{"features": [1]}',
      } do
        fixtures.write(folder .. "/x.json", text)
        assert_refused(400, "EFORMAT", "input_path", call("POST", "/import-features", { input_path = "x.json" }))
      end
      for index = 1, 2 do
        local _, details = call("GET", ("/feature/layer_3_feature_%d/details"):format(index))
        assert.equal(json.null, details.description)
      end
    end)
  end)

  it("stay below the first data folder, and nothing foreign is replaced (P26, bug 19)", function()
    local outside = fixtures.folder()
    with_app(function(call, _, folder)
      load_both(call)
      fixtures.write(outside .. "/theirs.json", '{"metadata": {"created_by": "moonscope 0"}}')
      assert(uv.fs_symlink(outside, folder .. "/link"))
      assert(uv.fs_symlink(outside .. "/theirs.json", folder .. "/theirs.json"))
      assert(uv.fs_symlink(outside .. "/new", folder .. "/dangling"))
      assert(uv.fs_mkdir(folder .. "/folder", 493))
      for _, name in ipairs { "plain.json", "a.txt" } do fixtures.write(folder .. "/" .. name, '{"features": {}}') end
      os.execute("mkfifo " .. folder .. "/fifo")
      local routes = {
        { "/export-patches", {} }, { "/export-features", { featureIds = {} } }, { "/export-features", {} },
      }
      for _, path in ipairs {
        "", "/", ".", "..", "../x.json", "/etc/x.json", outside .. "/x.json", "link/x.json", "missing/x.json",
        "folder/../../x.json", "a\nb", "x/", ("a/"):rep(3000), "/proc/self/x", "/dev/null",
        uv.fs_realpath "examples" .. "/x.json",
      } do
        for _, route in ipairs(routes) do
          route[2].output_path = path
          local status, body = call("POST", route[1], route[2])
          assert.is_true(status == 400 or status == 404 or status == 422, path .. " " .. json.encode(body))
        end
      end
      for _, path in ipairs { "theirs.json", "dangling", "folder", "plain.json", "a.txt", "fifo", "tiny" } do
        for _, route in ipairs(routes) do
          route[2].output_path = path
          assert_refused(409, "EEXIST", "output_path", call("POST", route[1], route[2]))
        end
      end
      assert.equal('{"features": {}}', fixtures.read(folder .. "/plain.json"))
      for _, path in ipairs { "", "..", "/", "/tmp", outside, "link", "link/x", "dangling", "plain.json", "a/b/c",
        "tiny", "fifo", "a\nb" } do
        local status, body = call("POST", "/export-sae", { layer_idx = 3, output_path = path })
        assert.is_true(status == 400 or status == 404, path .. " " .. json.encode(body))
      end
      fixtures.write(folder .. "/folder/sae_layer_3_metadata.json", "{}")
      assert_refused(409, "EEXIST", "output_path", call("POST", "/export-sae", { output_path = "folder" }))
      for _, path in ipairs { "/etc/passwd", "../x", "link/theirs.json", "theirs.json", "/dev/zero", "fifo", "out" } do
        local status = call("POST", "/import-features", { input_path = path })
        assert.is_true(status == 400 or status == 404, path)
      end
      local n = 0
      for _ in uv.fs_scandir_next, assert(uv.fs_scandir(outside)) do n = n + 1 end
      assert.equal(1, n)
      for name in uv.fs_scandir_next, assert(uv.fs_scandir(folder)) do
        assert.is_nil(name:find "%.json%.") -- no temporary file is left
      end
    end)
    fixtures.remove(outside)
  end)
end)

describe("caches", function()
  it("are bounded: the oldest goes first", function()
    local cache = require("moonscope.server.cache").new(3)
    for i = 1, 5 do cache:put("key" .. i, i) end
    cache:put("key4", 44)
    local kept = {}
    for i = 1, 5 do kept[i] = cache:get("key" .. i) or 0 end
    assert.same({ 0, 0, 3, 44, 5 }, kept)
    assert.same({ 3, 2, 3 }, { cache:counts() })
  end)

  it("are counted and cleared", function()
    with_app(function(call)
      load_both(call)
      local function stats()
        local status, body = call("GET", "/cache/stats")
        assert.same({ 200, true }, { status, body.success })
        return body.cache_stats
      end
      infer(call)
      infer(call)
      infer(call, { text = "A dog" })
      for _ = 1, 4 do call("GET", "/features") end
      local told = stats()
      assert.same({ 1, 2, 2 }, { told.inference_cache_hits, told.inference_cache_misses, told.inference_cache_size })
      assert.is_true(math.abs(told.inference_cache_hit_rate - 1 / 3) < 1e-12)
      assert.same({ 3, 1, 1, 0.75 }, { told.feature_cache_hits, told.feature_cache_misses, told.feature_cache_size,
        told.feature_cache_hit_rate })
      for _, name in ipairs { "provenance", "analysis" } do assert.equal(0, told[name .. "_cache_hits"]) end
      local status, body = call("POST", "/cache/clear")
      assert.same({ 200, true, "All caches cleared" }, { status, body.success, body.message })
      assert.same({ 0, 0 }, { stats().inference_cache_size, stats().feature_cache_size })
    end)
  end)

  it("forget with the model and the SAE that they are of", function()
    local config = fixtures.config('"rope_theta": [%d.]+', '"rope_theta": 777.0')
    local other, data = fixtures.tiny_copy { ["config.json"] = config }, data_folder()
    with_app(function(call)
      load_both(call)
      local first = infer(call)
      assert.equal(200, (call("POST", "/load-model", { model_name = other })))
      local second = infer(call)
      assert.equal(other, second.modelName)
      assert.not_same(first.original, second.original)
      load_both(call)
      assert.same(first.original, infer(call).original)
      local _, list = call("GET", "/features?limit=1") -- the new SAE measured the text, too
      assert.is_true(list.features[1].activation > 0)
    end, { data = { data, "examples", other } })
    fixtures.remove(other)
    fixtures.remove(data)
  end)
end)

describe("what is not there yet", function()
  it("is 501 once the fields are right, and changes nothing (bugs 15, 17)", function()
    with_app(function(call, app)
      load_both(call)
      local train = { layer_idx = 3, activation_data_path = "x.parquet" }
      local function with(changes)
        local body = {}
        for key, value in pairs(train) do body[key] = value end
        for key, value in pairs(changes) do body[key] = value end
        return body
      end
      local n_jobs = #app.jobs.list
      for _, route in ipairs { "/sae/train", "/api/sae/train-fast" } do
        assert_refused(422, "EINVAL", "layer_idx", call("POST", route, with { layer_idx = -1 }))
        assert_refused(422, "EINVAL", "latent_dim", call("POST", route, with { latent_dim = 0 }))
        assert_refused(422, "EINVAL", "batch_size", call("POST", route, with { batch_size = 0 }))
        assert_refused(422, "EINVAL", "activation_data_path", call("POST", route, { layer_idx = 3 }))
        local status, body = call("POST", route, train)
        assert_refused(501, "EUNSUPPORTED", nil, status, body)
        assert.truthy(body.detail:find "[Tt]raining")
      end
      assert.equal(501, (call("GET", "/sae/training/jobs")))
      assert.equal(501, (call("GET", "/sae/training/status/x")))
      assert.equal(501, (call("DELETE", "/sae/training/x")))
      assert.equal(501, (call("POST", "/sae/load-trained?job_id=x")))
      assert.equal(501, (call("POST", "/sae/load-trained", { job_id = "x" })))
      assert.equal(422, (call("POST", "/sae/load-trained", {})))
      assert.equal(422, (call("GET", "/feature/layer_3_feature_1/provenance?upstream_layers=-1")))
      assert.equal(404, (call("GET", "/feature/layer_4_feature_1/provenance")))
      assert.equal(501, (call("GET", "/feature/layer_3_feature_1/provenance?upstreamLayers=2&downstream_layers=1")))
      assert.equal(n_jobs, #app.jobs.list)
      local _, status = call("GET", "/sae/status")
      assert.same({ "ready", 1 }, { status.status, status.layerCount })
    end)
  end)
end)

it("through a socket: the seed's five steps, patches, blobs (bugs 1, 5, 16)", function()
  local folder = data_folder()
  local server = http.serve { "--data", folder, "--data", "examples", "--precision", "exact" }
  local function ok(...)
    local status, body, head = server:request(...)
    assert.equal(200, status, type(body) == "table" and json.encode(body) or body)
    return body, head
  end
  ok("POST", "/load-model", { model_name = "tiny" })
  local sae = ok("POST", "/load-sae", { layer_idx = 3, saePath = SAE, activationsPath = json.null })
  assert.same({ 3, "model.layers.3", 16 }, { sae.layer_idx, sae.layer_name, sae.expansion_factor })
  assert.equal("ready", ok("GET", "/sae/status").status)
  local list = ok("GET", "/features?layer_idx=3&limit=10")
  assert.same({ 2048, 10 }, { list.total, #list.features })
  local answer = ok("POST", "/inference", { text = PROMPT, max_length = 20 })
  assert.same({ PROMPT, 20 }, { answer.inputText, #answer.tokenProbabilities })

  local _, none = server:raw "GET /patches HTTP/1.1\r\nHost: localhost\r\n\r\n"
  assert.equal("[]", none)
  ok("POST", "/patch", PATCH)
  assert.equal(false, ok("POST", "/api/patch/feature_458_layer_3/toggle").isEnabled)
  assert.equal(2, ok("PATCH", "/patch/feature_458_layer_3", { strength = 2, isEnabled = true }).strength)
  assert.equal(true, ok("DELETE", "/patch/feature_458_layer_3").success)

  local blob, head = ok("GET", "/api/export-sae?layer_idx=3")
  ok("POST", "/export-sae", { layer_idx = 3, output_path = "out" })
  assert.equal(fixtures.read(folder .. "/out/sae_layer_3.safetensors"), blob)
  assert.truthy(head:find('filename="sae_layer_3.safetensors"', 1, true))
  local _, features_head = ok("POST", "/export-features", { featureIds = { "layer_3_feature_1" } })
  assert.truthy(features_head:find('filename="features.json"', 1, true))
  assert.equal(501, (server:request("POST", "/sae/train", { layer_idx = 3, activation_data_path = "x" })))
  assert.equal(0, server:stop())
  fixtures.remove(folder)
end)

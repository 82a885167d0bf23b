-- SPDX-License-Identifier: MIT
-- The routes that the web page stands on: what they answer against the golden numbers and sums made here, what
-- they refuse, who may ask, and clients that leave.
local App = require "moonscope.server.app"
local fixtures = require "fixtures"
local http = require "http"
local json = require "moonscope.json"
local loop = require "moonscope.loop"
local ms = require "moonscope"
local uv = require "luv"

local NAME = "Moonscope-Tiny-Llama-SAE-l3"
local SAE = "tiny/" .. NAME .. ".pth"
local PROMPT = fixtures.golden.prompts[1]
local N_VOCAB, D_MODEL, D_SAE = 1280, 128, 2048
local HUNGER = { feature = 458, op = "add", value = 3.85 }

---Runs fn(call, app) over data folders; call gives the status, and the body as a client has it.
local function with_app(fn, options)
  local settings = { data = { "examples" }, max_answers = 4, precision = "exact", device = "cpu" }
  for key, value in pairs(options or {}) do settings[key] = value end
  loop.run(function()
    local app = assert(App.new(settings))
    local function call(...)
      local status, body, headers = app:call(...)
      return status, assert(json.decode(json.encode(body))), headers
    end
    local ok, message = pcall(fn, call, app)
    app:close()
    if not ok then error(message, 0) end
  end)
end

local function load_both(call)
  assert.equal(200, (call("POST", "/load-model", { model_name = "tiny" })))
  assert.equal(200, (call("POST", "/load-sae", { saePath = SAE })))
end

local function with_both(fn, options)
  with_app(function(call, app)
    load_both(call)
    fn(call, app)
  end, options)
end

local function detail_of(body) return body.error or body end

---Refused with this status, code and field, in one line.
local function assert_refused(wanted, status, body)
  local told = detail_of(body)
  local field = told.param or told.field
  assert.same(wanted, { status, told.code, field ~= json.null and field or nil }, json.encode(body))
  local text = told.message or told.detail
  assert.truthy(type(text) == "table" or not text:find "\n")
end

---A tensor of a checkpoint as nested tables of numbers.
local function numbers_of(path, name)
  local file <close> = assert(ms.open(path))
  return file:tensor(name):to { dtype = "f32" }:totable()
end

local function golden(name)
  local file <close> = assert(ms.open "tests/fixtures/tiny/golden/golden.safetensors")
  local values = file:tensor(name)
  return values:reshape(values:numel()):totable()
end

---softmax in double precision.
local function softmax(logits)
  local max, sum, list = -math.huge, 0, {}
  for _, x in ipairs(logits) do max = math.max(max, x) end
  for i, x in ipairs(logits) do
    list[i] = math.exp(x - max)
    sum = sum + list[i]
  end
  for i, x in ipairs(list) do list[i] = x / sum end
  return list
end

---Indices from 0 of the n largest, largest first.
local function largest(values, n)
  local order = {}
  for i = 1, #values do order[i] = i - 1 end
  table.sort(order, function(a, b) return values[a + 1] > values[b + 1] end)
  return table.move(order, 1, n, 1, {})
end

local function ids_in(list)
  local ids = {}
  for i, entry in ipairs(list) do ids[i] = entry.token_id end
  return ids
end

describe("/v1/features/inspect", function()
  it("tells the golden activations, and what their sums are", function()
    local position, index, value = golden "p0.sae_position", golden "p0.sae_index", golden "p0.sae_value.f64"
    local of, count, total = {}, {}, {}
    for i = 1, #value do
      local p = position[i]
      of[p] = of[p] or {}
      of[p][index[i]], count[p], total[p] = value[i], (count[p] or 0) + 1, (total[p] or 0) + value[i]
    end
    with_both(function(call)
      local status, body = call("POST", "/v1/features/inspect", {
        text = PROMPT.text, layer_idx = 3, top_features = 5, features = { 458, 7 },
      })
      assert.equal(200, status)
      assert.same({ "tiny", 3, D_SAE, #PROMPT.ids, 2 },
        { body.model, body.layer_idx, body.d_sae, #body.tokens, #body.features })
      for i, token in ipairs(body.tokens) do
        local here = of[i - 1] or {}
        assert.same({ i - 1, PROMPT.ids[i], i == 1 }, { token.position, token.token_id, token.special })
        assert.near(count[i - 1] or 0, token.l0, 1) -- one at the edge of 0 may fall either way
        assert.near(total[i - 1] or 0, token.total, 5e-3)
        local previous = math.huge
        for _, feature in ipairs(token.features) do
          assert.near(here[feature.index] or 0, feature.activation, 2e-3)
          assert.is_true(feature.activation <= previous)
          previous = feature.activation
        end
        for _, row in ipairs(body.features) do assert.near(here[row.index] or 0, row.activations[i], 2e-3) end
      end
      local hunger = body.features[1]
      assert.equal(math.max(table.unpack(hunger.activations)), hunger.max)
    end)
  end)

  it("takes a conversation, tells half characters by their bytes, and says what it cannot", function()
    with_both(function(call)
      local status, body = call("POST", "/v1/features/inspect", { text = "\u{1F98A}\n" })
      assert.equal(200, status)
      local bytes = {}
      for i = 2, #body.tokens do table.move(body.tokens[i].bytes, 1, #body.tokens[i].bytes, #bytes + 1, bytes) end
      assert.equal("\u{1F98A}\n", string.char(table.unpack(bytes)))
      for _, case in ipairs {
        { {}, { 400, "EINVAL", "text" } },
        { { text = "a", messages = { { role = "user", content = "a" } } }, { 400, "EINVAL", "text" } },
        { { text = "a", layer_idx = 4 }, { 404, "ENOENT", "layer_idx" } },
        { { text = "a", features = { 0, D_SAE } }, { 400, "EINVAL", "features" } },
        { { text = ("a "):rep(600) }, { 400, "ECONTEXT", "text" } },
        { { messages = json.array {} }, { 400, "EINVAL", "messages" } },
        { { text = "a", top_features = 65 }, { 400, "EINVAL", "top_features" } },
        { { text = ("a"):rep((1 << 20) + 1) }, { 400, "EINVAL", "text" } },
      } do
        assert_refused(case[2], call("POST", "/v1/features/inspect", case[1]))
      end
      local many = json.array {}
      for i = 1, 65 do many[i] = i end
      assert_refused({ 400, "EINVAL", "features" },
        call("POST", "/v1/features/inspect", { text = "a", features = many }))
      assert.equal(200, (call("DELETE", "/sae/3")))
      assert_refused({ 404, "ENOENT", "layer_idx" }, call("POST", "/v1/features/inspect", { text = "a" }))
      assert.equal(200, (call("POST", "/unload-model")))
      assert_refused({ 400, "ENOMODEL" }, call("POST", "/v1/features/inspect", { text = "a" }))
    end)
  end)
end)

describe("/v1/features/directions", function()
  ---What a feature's direction adds to each logit, by sums.
  local function sums_of(feature)
    local decoder = numbers_of(fixtures.sae_path, "decoder_linear.weight") -- [d_model][d_sae]
    local norm, embed = numbers_of(fixtures.model_path, "model.norm.weight"),
      numbers_of(fixtures.model_path, "model.embed_tokens.weight")
    local logits, squares, scaled = {}, 0, {}
    for i = 1, D_MODEL do
      local x = decoder[i][feature + 1]
      squares, scaled[i] = squares + x * x, x * norm[i]
    end
    for id = 1, N_VOCAB do
      local sum, row = 0, embed[id]
      for i = 1, D_MODEL do sum = sum + scaled[i] * row[i] end
      logits[id] = sum
    end
    return logits, math.sqrt(squares)
  end

  it("tells the norm and the tokens that a direction speaks for and against", function()
    with_both(function(call)
      local status, body = call("POST", "/v1/features/directions", { features = { 1174, 458 }, top = 6 })
      assert.same({ 200, "tiny", 3, 2 }, { status, body.model, body.layer_idx, #body.features })
      for _, feature in ipairs(body.features) do
        local logits, norm = sums_of(feature.index)
        local negative = {}
        for i, x in ipairs(logits) do negative[i] = -x end
        assert.near(norm, feature.norm, 1e-4)
        assert.same(largest(logits, 6), ids_in(feature.top))
        assert.same(largest(negative, 6), ids_in(feature.bottom))
        for _, list in ipairs { feature.top, feature.bottom } do
          for _, entry in ipairs(list) do assert.near(logits[entry.token_id + 1], entry.logit, 1e-4) end
        end
      end
      assert.same({ 1174, 458 }, { body.features[1].index, body.features[2].index })
    end)
  end)

  it("takes many at once, and refuses what cannot be", function()
    with_both(function(call)
      local many = json.array {}
      for i = 1, 64 do many[i] = (i * 31) % D_SAE end
      local status, body = call("POST", "/v1/features/directions", { features = many, top = 1 })
      assert.same({ 200, 64 }, { status, #body.features })
      local _, one = call("POST", "/v1/features/directions", { features = { many[40] }, top = 1 })
      assert.same(one.features[1], body.features[40])
      status, body = call("POST", "/v1/features/directions", { features = json.array {} })
      assert.same({ 200, 0 }, { status, #body.features })
      many[65] = 1
      for _, case in ipairs {
        { {}, { 400, "EINVAL", "features" } }, { { features = many }, { 400, "EINVAL", "features" } },
        { { features = { D_SAE } }, { 400, "EINVAL", "features" } },
        { { features = { 1 }, top = 0 }, { 400, "EINVAL", "top" } },
        { { features = { 1 }, layer_idx = 2 }, { 404, "ENOENT", "layer_idx" } },
      } do
        assert_refused(case[2], call("POST", "/v1/features/directions", case[1]))
      end
      assert.equal(200, (call("POST", "/unload-model")))
      assert_refused({ 400, "ENOMODEL" }, call("POST", "/v1/features/directions", { features = { 1 } }))
    end)
  end)

  it("that is broken is said, and no number is made up", function()
    local folder = fixtures.folder()
    local w_dec = ms.zeros { D_MODEL, 8 }:totable()
    w_dec[5][3] = 0 / 0
    assert(ms.save(folder .. "/nan.safetensors", {
      ["encoder_linear.weight"] = ms.zeros { 8, D_MODEL }, ["encoder_linear.bias"] = ms.zeros { 8 },
      ["decoder_linear.weight"] = ms.tensor(w_dec), ["decoder_linear.bias"] = ms.zeros { D_MODEL },
    }))
    with_app(function(call)
      assert.equal(200, (call("POST", "/load-model", { model_name = "tiny" })))
      assert.equal(200, (call("POST", "/load-sae", { saePath = folder .. "/nan.safetensors", layer_idx = 3 })))
      assert.equal(200, (call("POST", "/v1/features/directions", { features = { 1 } })))
      assert_refused({ 400, "ERANGE", "features" }, call("POST", "/v1/features/directions", { features = { 1, 2 } }))
    end, { data = { "examples", folder } })
    fixtures.remove(folder)
  end)
end)

describe("/v1/next-tokens", function()
  it("tells the golden probabilities, as the model is and with an edit", function()
    local before, after = softmax(golden "p0.logits_last.f64"), softmax(golden "p0.steer0_add_keep_error.f64")
    with_both(function(call)
      local status, body = call("POST", "/v1/next-tokens", { text = PROMPT.text, edits = { HUNGER }, top = 10 })
      assert.same({ 200, #PROMPT.ids }, { status, body.n_prompt })
      local seen = {}
      for _, entry in ipairs(body.tokens) do
        seen[entry.token_id] = true
        assert.near(before[entry.token_id + 1], entry.before, 1e-4)
        assert.near(after[entry.token_id + 1], entry.after, 1e-4)
      end
      for _, list in ipairs { largest(before, 10), largest(after, 10) } do
        for _, id in ipairs(list) do assert.is_true(seen[id]) end
      end
      assert.equal(largest(before, 1)[1], body.tokens[1].token_id)
      local _, plain = call("POST", "/v1/next-tokens", { text = PROMPT.text })
      for _, entry in ipairs(plain.tokens) do assert.equal(entry.before, entry.after) end
      assert.equal(10, #plain.tokens)
    end)
  end)

  it("refuses what cannot be", function()
    with_both(function(call)
      for _, case in ipairs {
        { {}, { 400, "EINVAL", "text" } }, { { text = "a", top = 101 }, { 400, "EINVAL", "top" } },
        { { text = "a", edits = { { feature = D_SAE, value = 1 } } }, { 400, "EINVAL", "edits" } },
        { { text = "a", edits = { { feature = 1, layer = 2, value = 1 } } }, { 404, "ENOENT", "layer_idx" } },
        { { text = "a", edits = { { feature = 1, op = "add" } } }, { 400, "EINVAL", "edits" } },
        { { text = "a", edits = { { feature = 1, value = 1, positions = "some" } } }, { 400, "EINVAL", "edits" } },
        { { text = ("a "):rep(600) }, { 400, "ECONTEXT", "text" } },
        { { text = "a", edits = { { feature = 1, op = "add", value = 1e30 } } }, { 400, "ERANGE", "edits" } },
      } do
        assert_refused(case[2], call("POST", "/v1/next-tokens", case[1]))
      end
      assert.equal(200, (call("POST", "/v1/next-tokens", { text = "a" })))
    end)
  end)
end)

describe("/plan", function()
  it("adds up what the files and the context take", function()
    local function bytes_in(path)
      local file <close> = assert(ms.open(path))
      local sum = 0
      for _, name in ipairs(file:names()) do sum = sum + file:info(name).nbytes end
      return sum
    end
    local weights = bytes_in(fixtures.model_path)
    local tables, keys = 512 * 8 * 4 * 2, 6 * 2 * 2 * 16 * 512 -- cos and sin; keys and values, elements
    with_app(function(call)
      local function plan(asked)
        local status, answer = call("POST", "/plan", asked)
        assert.equal(200, status, json.encode(answer))
        return answer
      end
      local body = plan { model_name = "tiny" }
      assert.same({ "tiny", "folder", "cpu", "bf16", "exact", 512 }, { body.model.model_name, body.model.source,
        body.model.device, body.model.dtype, body.model.precision, body.model.context })
      assert.same({ weights, tables + keys * 4 }, { body.model.weights_bytes, body.model.context_bytes })
      assert.equal(weights + tables + keys * 4, body.needed_bytes)
      assert.equal(tables + keys * 4, body.allocated_bytes) -- bf16 weights stay in their file
      assert.same({ json.null, true, json.null }, { body.sae, body.fits, body.remedy })
      body = plan { model_name = "tiny", context = 64, precision = "fast", sae_path = SAE }
      assert.equal((tables + keys * 2) / 8, body.model.context_bytes)
      local matrices = 2 * D_MODEL * D_SAE * 2
      assert.same({ SAE, D_SAE, 3, "bf16", matrices, matrices / 2 }, { body.sae.path, body.sae.d_sae, body.sae.layer,
        body.sae.dtype, body.sae.weights_bytes, body.sae.allocated_bytes })
      assert.equal(weights + body.model.context_bytes + matrices, body.needed_bytes)
      body = plan { model_name = "tiny", sae_name = NAME, dtype = "f32" }
      assert.same({ SAE, 2 * matrices }, { body.sae.path, body.sae.weights_bytes })
      assert.equal("idle", select(2, call("GET", "/model/status")).status)
      assert.same({}, select(2, call("GET", "/jobs")).jobs)
      load_both(call)
      body = plan { sae_path = SAE }
      assert.same({ "loaded", "tiny", "exact" }, { body.model.source, body.model.model_name, body.model.precision })
      assert.equal(body.model.context_bytes + matrices, body.needed_bytes)
    end)
  end)

  it("says what does not fit and what to do; what must be fetched first has no numbers yet", function()
    local folder = fixtures.folder()
    assert(ms.save(folder .. "/wide.safetensors", {
      ["encoder_linear.weight"] = ms.zeros { 8, 64 }, ["encoder_linear.bias"] = ms.zeros { 8 },
      ["decoder_linear.weight"] = ms.zeros { 64, 8 }, ["decoder_linear.bias"] = ms.zeros { 64 },
    }))
    with_app(function(call)
      for _, case in ipairs {
        { {}, { 400, "ENOMODEL", "model_name" } }, { { model_name = "none" }, { 404, "ENOENT", "model_name" } },
        { { model_name = "" }, { 400, "EINVAL", "model_name" } },
        { { model_name = "tiny", context = 513 }, { 400, "ERANGE", "model_name" } },
        { { model_name = "tiny", device = "xpu" }, { 503, "EDEVICE", "model_name" } },
        { { model_name = "tiny", sae_path = "none.pth" }, { 404, "ENOENT", "sae_path" } },
        { { model_name = "tiny", sae_path = "tiny/config.json" }, { 400, "EFORMAT", "sae_path" } },
        { { model_name = "tiny", sae_path = folder .. "/wide.safetensors" }, { 400, "ESHAPE", "sae_path" } },
        { { model_name = "tiny", sae_name = "Llama-3.1-8B-Instruct-SAE-l19" }, { 400, "ESHAPE", "sae_name" } },
        { { model_name = "tiny", sae_name = "none" }, { 404, "ENOENT", "sae_name" } },
        { { model_name = "tiny", sae_name = NAME, sae_path = SAE }, { 400, "EINVAL", "sae_name" } },
        { { model_name = "../src" }, { 404, "ENOENT", "model_name" } },
        { { model_name = "tiny", sae_path = "/etc/passwd" }, { 404, "ENOENT", "sae_path" } },
      } do
        assert_refused(case[2], call("POST", "/plan", case[1]))
      end
      uv.os_setenv("HF_HUB_OFFLINE", "1")
      local status, body = call("POST", "/plan", { model_name = "nobody/nothing" })
      uv.os_unsetenv "HF_HUB_OFFLINE"
      assert.same({ 200, "hub", json.null, json.null },
        { status, body.model.source, body.model.weights_bytes, body.fits })
    end, { data = { "examples", folder } })
    fixtures.remove(folder)
  end)

  it("knows a shortage before it happens", function()
    with_app(function(call)
      local memory = require "moonscope.memory"
      local of_model = memory.of_model
      local restore <close> = setmetatable({}, { __close = function() memory.of_model = of_model end })
      local function free(bytes)
        memory.of_model = function(...)
          local plan, message, code = of_model(...)
          if plan then plan.free_bytes = bytes end
          return plan, message, code
        end
      end
      local function plan()
        local _, body = call("POST", "/plan", { model_name = "tiny", sae_path = SAE, dtype = "f32" })
        return body.fits, body.remedy
      end
      free(4000000000)
      assert.same({ true, json.null }, { plan() })
      free(3000000)
      local fits, remedy = plan()
      assert.is_true(fits)
      assert.truthy(remedy:find "read from the disk")
      free(2500000)
      assert.same({ false, "make the context smaller, or free some memory" }, { plan() })
      free(100000)
      assert.same({ false, "load the SAE in bf16, or free some memory" }, { plan() })
    end)
  end)
end)

describe("/load-model", function()
  it("takes device, precision and context; other ones are another load", function()
    with_app(function(call)
      local function load(more)
        more.model_name = "tiny"
        local status, body = call("POST", "/load-model", more)
        assert.equal(200, status, json.encode(body))
        local _, now = call("GET", "/model/status")
        return { body.message or "loaded", now.device, now.precision, now.context }
      end
      assert.same({ "loaded", "cpu", "exact", 512 }, load {})
      assert.same({ "Model already loaded", "cpu", "exact", 512 }, load { device = "auto" })
      assert.same({ "loaded", "cpu", "fast", 100 }, load { precision = "fast", context = 100, device = "cpu" })
      assert.same({ "Model already loaded", "cpu", "fast", 100 }, load {})
      local status, body = call("POST", "/load-model", { model_name = "tiny", context = 1000 })
      assert_refused({ 400, "ERANGE", "model_name" }, status, body)
      assert.is_nil(body.detail:find "%-%-", body.detail)
    end)
  end)
end)

describe("/catalog", function()
  local folder, outside
  setup(function()
    folder, outside = fixtures.folder(), fixtures.folder()
    fixtures.write(outside .. "/secret.pth", "x")
    local function make(name)
      local path = folder .. "/" .. name
      assert(os.execute(("mkdir -p '%s'"):format(path:match "^.*/")))
      fixtures.write(path, "x")
    end
    for _, name in ipairs {
      "a/b/c/d/e/nested.pth", "deep/1/2/3/4/5/6/7/8/9/too-deep.pth", ".hidden/h.pth", ".dot.pth", "top.npz",
      "notes.txt",
      "sae_layer_7.safetensors", "model/model.safetensors", "model/model-00001-of-00002.safetensors",
      "model/pytorch_model.bin", "model/config.json", "model/tokenizer.json", "<img src=x>/&amp;.pt",
    } do
      make(name)
    end
    for name, target in pairs {
      ["a/loop"] = ".", ["deep/again"] = "../a/b", ["link.npz"] = "top.npz", ["out.pth"] = outside .. "/secret.pth",
      ["out"] = outside, ["dangling.pth"] = "nowhere.pth", ["tiny"] = uv.fs_realpath "examples/tiny",
    } do
      assert(uv.fs_symlink(target, folder .. "/" .. name))
    end
    assert(os.execute("mkfifo " .. folder .. "/fifo.pth"))
  end)
  teardown(function()
    fixtures.remove(folder)
    fixtures.remove(outside)
  end)

  local function listed(list, key)
    local names = {}
    for i, entry in ipairs(list) do names[i] = entry[key] end
    return names
  end

  it("lists models and SAE files at any depth in reason, links to what is below the data folders too (P26)", function()
    with_app(function(call)
      local status, body = call("GET", "/catalog")
      assert.equal(200, status)
      assert.same({ "<img src=x>/&amp;.pt", "a/b/c/d/e/nested.pth", "link.npz", "sae_layer_7.safetensors", SAE,
        "top.npz" }, listed(body.saes, "path"))
      assert.same({ "model", "tiny" }, listed(body.models, "model_name"))
      assert.same({ 7, 3 }, { body.saes[4].layer_idx, body.saes[5].layer_idx })
      assert.equal(uv.fs_stat(fixtures.sae_path).size, body.saes[5].bytes)
      assert.is_false(body.truncated)
      for _, entry in ipairs(body.saes) do -- what is offered may be asked for
        local asked, answer = call("POST", "/plan", { model_name = "tiny", sae_path = entry.path })
        assert.is_true(asked == 200 or detail_of(answer).code ~= "ENOENT" and asked == 400, json.encode(answer))
      end
      assert.equal(200, (call("POST", "/load-model", { model_name = "tiny" })))
    end, { data = { folder, "examples" } })
    with_app(function(call) -- what lies beyond the folders is not told of
      local _, body = call("GET", "/catalog")
      assert.same({ "<img src=x>/&amp;.pt", "a/b/c/d/e/nested.pth", "link.npz", "sae_layer_7.safetensors", "top.npz" },
        listed(body.saes, "path"))
      assert.same({ "model" }, listed(body.models, "model_name"))
    end, { data = { folder } })
  end)

  it("names the published ones, and stops at so many", function()
    local many = fixtures.folder()
    assert(os.execute(("cd %s && seq -f '%%03g.pth' 600 | xargs touch"):format(many)))
    with_app(function(call)
      local _, body = call("GET", "/catalog")
      assert.same({ 500, true }, { #body.saes, body.truncated })
      local goodfire
      for _, entry in ipairs(body.published) do
        if entry.sae_name == "Llama-3.1-8B-Instruct-SAE-l19" then goodfire = entry end
      end
      assert.same({ 19, 4096, 16 }, { goodfire.layer_idx, goodfire.d_model, goodfire.expansion_factor })
    end, { data = { many } })
    fixtures.remove(many)
  end)
end)

describe("/doctor", function()
  it("is the library's report, as a job with its progress and without paths of the server", function()
    local model <close> = fixtures.load_model { precision = "exact", device = "cpu" }
    local sae <close> = assert(ms.load_sae(fixtures.sae_path, { model = model }))
    local report = assert(ms.doctor(model, sae, { text = PROMPT.text, tokens = 8192 }))
    with_both(function(call, app)
      local status, body = call("POST", "/doctor", { layer_idx = 3, text = PROMPT.text })
      assert.equal(200, status)
      assert.same({ report.verdict, report.tokens, 3 }, { body.verdict, body.tokens, body.layer })
      assert.equal(#report.places, #body.places)
      for i, place in ipairs(report.places) do
        assert.same({ place.place, place.l0 }, { body.places[i].place, body.places[i].l0 })
        assert.near(place.fvu, body.places[i].fvu, 1e-6)
      end
      assert.is_nil(json.encode(body):find(uv.cwd(), 1, true))
      local job = app.jobs.list[#app.jobs.list]
      assert.same({ "doctor", "completed", "tokens" }, { job.kind, job.status, job.progress.unit })
    end)
  end)

  it("can be cancelled, refuses what cannot be, and frees the model for others", function()
    with_both(function(call, app)
      local status, started = call("POST", "/doctor", { wait = false })
      assert.equal(202, status)
      assert.equal(200, (call("DELETE", "/jobs/" .. started.job_id)))
      local job = app.jobs:get(started.job_id)
      while job.status == "running" do job:wait_for_news(job.version) end
      assert.same({ "cancelled", 0 }, { job.status, app.workbench.n_answers })
      assert_refused({ 404, "ENOENT", "layer_idx" }, call("POST", "/doctor", { layer_idx = 1 }))
      assert_refused({ 422, "EINVAL", "text" }, call("POST", "/doctor", { text = 5 }))
      for _, text in ipairs { "", "too short", ("<|end_of_text|>"):rep(40) } do
        assert_refused({ 400, "EINVAL" }, call("POST", "/doctor", { text = text }))
      end
      assert.equal(200, (call("POST", "/unload-model")))
      assert_refused({ 404, "ENOENT", "layer_idx" }, call("POST", "/doctor", {}))
    end)
  end)
end)

describe("/system", function()
  it("tells version, devices, memory, and the speed of the last answer", function()
    with_both(function(call)
      local status, body = call("GET", "/system")
      assert.same({ 200, ms.version, ms.devices(), ms.instruction_set(), json.null },
        { status, body.version, body.devices, body.instruction_set, body.speed })
      assert.same({ 0, 0 }, { body.answers, body.jobs_running })
      assert.is_true(body.memory.rss_bytes > 1 << 20 and body.memory.free_bytes < body.memory.total_bytes)
      for _ = 1, 2 do
        assert.equal(200, (call("POST", "/v1/completions", { prompt = PROMPT.ids, max_tokens = 9, ignore_eos = true })))
      end
      assert.equal(200, (call("POST", "/inference", { text = PROMPT.text, max_length = 5 })))
      body = select(2, call("GET", "/system"))
      assert.same({ 3 * #PROMPT.ids, 23 }, { body.speed.prompt_tokens, body.speed.generated_tokens })
      assert.is_true(body.speed.prompt_tokens_per_second > 0 and body.speed.generated_tokens_per_second > 0)
    end)
  end)
end)

describe("jobs", function()
  it("keep a log, tell how fast they are, and are told of to who listens", function()
    with_app(function(call, app)
      local heard = {}
      local function listener(message) heard[#heard + 1] = message end
      app.listeners[listener] = true
      local job = app.jobs:start("count", "to three", function(job)
        job:enter_stage "counting"
        job:report(0, 3000000, "bytes")
        loop.sleep(600)
        job:report(1000000, 3000000, "bytes")
        local _, now = call("GET", "/jobs/job-1")
        assert.near(1000000 / 0.6, now.progress.per_second, 1000000)
        assert.near(2000000 / now.progress.per_second, now.progress.seconds_left, 0.5)
        job:note "a remark \xff"
        return { fine = true }
      end)
      job:wait()
      local lines = {}
      for i, line in ipairs(select(2, call("GET", "/jobs/job-1")).log) do
        lines[i] = line.text:gsub("%d+%.%d s", "N s")
        assert.truthy(line.at:find "^%d%d%d%d%-%d%d%-%d%dT")
      end
      assert.same({ "counting", "a remark \u{FFFD}", "counting: 1.0 MB in N s", "done after N s" }, lines)
      local told = {}
      for i, message in ipairs(heard) do
        told[i] = { message.type, message.data.id, message.data.status, message.data.stage }
      end
      assert.same({ { "job_update", "job-1", "running", "counting" }, { "job_update", "job-1", "running", "counting" },
        { "job_update", "job-1", "completed", "counting" } }, told)
      local failed = app.jobs:start("fail", "at once", function() error "oh" end)
      assert.is_false(pcall(failed.wait, failed))
      local log = select(2, call("GET", "/jobs/job-2")).log
      assert.truthy(log[1].text:find "internal error")
      assert.truthy(log[2].text:find "^failed after")
      for i = 1, 100 do failed:note(tostring(i)) end
      assert.same({ 50, "100" }, { #failed.log, failed.log[50].text })
    end)
  end)
end)

describe("through a socket", function()
  local ASKED = {
    { "POST", "/v1/features/inspect", { text = "a" } }, { "POST", "/v1/features/directions", { features = { 1 } } },
    { "POST", "/v1/next-tokens", { text = "a" } }, { "POST", "/plan", { model_name = "tiny" } },
    { "POST", "/doctor", { text = PROMPT.text } }, { "GET", "/catalog" }, { "GET", "/system" },
  }

  it("they are for who has the token, with a foreign Origin for nobody (P24, P25)", function()
    local token = "page-0123456789"
    local server = http.serve({ "--data", "examples", "--model", "examples/tiny", "--sae", fixtures.sae_path },
      { MOONSCOPE_TOKEN = token })
    http.wait_for("the SAE", function()
      local _, status = server:request("GET", "/sae/status", nil, ("Authorization: Bearer %s\r\n"):format(token))
      return status.status == "ready"
    end)
    for _, route in ipairs(ASKED) do
      local status, body = server:request(table.unpack(route, 1, 3))
      assert.same({ 401, "ETOKEN" }, { status, detail_of(body).code }, route[2])
      local bearer = ("Authorization: Bearer %s\r\n"):format(token)
      assert.equal(403, (server:request(route[1], route[2], route[3], bearer .. "Origin: http://evil.example\r\n")))
      assert.equal(200, (server:request(route[1], route[2], route[3], bearer)), route[2])
      assert.equal(200, (server:request(route[1], "/api" .. route[2], route[3],
        ("Cookie: moonscope_token=%s\r\n"):format(token))), route[2])
    end
    assert.equal(0, server:stop())
  end)

  it("who leaves frees what it asked for (P20)", function()
    local folder = fixtures.folder()
    fixtures.write(folder .. "/routes.lua", [[
      local ms = require "moonscope"
      local held = ms.zeros { 1500, 1500 }
      return { { "POST", "/hold", function() return 200, { sum = held:matmul(held):sum():item() } end } }
    ]])
    local server = http.serve { "--data", "examples", "--model", "examples/tiny", "--sae", fixtures.sae_path,
      "--routes", folder .. "/routes.lua" }
    http.wait_for("the SAE", function() return select(2, server:request("GET", "/sae/status")).status == "ready" end)
    local function head(method, path, body)
      local text = body and json.encode(body) or ""
      return ("%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s")
        :format(method, path, #text, text)
    end
    for i = 1, 4 do -- those that wait for the model
      local holding, leaving = server:connect(), server:connect()
      holding:write(head("POST", "/hold"))
      leaving:write(head(table.unpack(ASKED[i])))
      server:request("GET", "/health") -- both were read by now
      leaving:close(i % 2 == 0)
      http.wait_for("the end of " .. ASKED[i][2], function()
        return server.err:find(('"route":"POST %s","status":499'):format(ASKED[i][2]), 1, true)
      end)
      assert.equal(200, (holding:response()))
      holding:close()
      assert.equal(0, select(2, server:request("GET", "/system")).answers)
    end
    for _, route in ipairs(ASKED) do assert.equal(200, (server:request(table.unpack(route, 1, 3))), route[2]) end
    assert.equal(0, server:stop())
    fixtures.remove(folder)
  end)
end)

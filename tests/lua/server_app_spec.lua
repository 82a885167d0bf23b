-- SPDX-License-Identifier: MIT
-- Handlers without a socket.
local App = require "moonscope.server.app"
local core = require "moonscope.core"
local fixtures = require "fixtures"
local json = require "moonscope.json"
local loop = require "moonscope.loop"
local ms = require "moonscope"
local uv = require "luv"

local SAE = "tiny/Moonscope-Tiny-Llama-SAE-l3.pth"

---Runs fn(app) in the loop with an app over examples/, which is closed afterwards.
local function with_app(fn, options)
  local settings = { data = { "examples" }, max_answers = 4, precision = "exact" }
  for key, value in pairs(options or {}) do settings[key] = value end
  loop.run(function()
    local app = assert(App.new(settings))
    local ok, message = pcall(fn, app)
    app:close()
    if not ok then error(message, 0) end
  end)
end

---Calls in a task of its own; the result is in the table once it is over.
local function call_beside(app, ...)
  local result = {}
  loop.spawn(function(...) result.status, result.body, result.headers = app:call(...) end, ...)
  return result
end

local function wait_until(done)
  while not done() do loop.sleep(1) end
end

local function load_tiny(app)
  assert.equal(200, (app:call("POST", "/load-model", { model_name = "tiny" })))
end

describe("routes", function()
  it("are at /x and /api/x, by JSON or query, in both spellings", function()
    with_app(function(app)
      for _, prefix in ipairs { "", "/api" } do
        local status, body = app:call("GET", prefix .. "/health")
        assert.same({ 200, "healthy", false }, { status, body[1][2], body[2][2] })
      end
      assert.equal(200, (app:call("POST", "/load-model?modelName=tiny")))
      local status, body = app:call("POST", "/api/load-model", { model_name = "tiny" })
      assert.same({ 200, '{"status":"ready","model_name":"tiny","modelName":"tiny","success":true,'
        .. '"message":"Model already loaded"}' }, { status, json.encode(body) })
      status, body = app:call("POST", "/load-sae", { layer_idx = 3, saePath = SAE, activationsPath = json.null })
      local text = json.encode(body)
      assert.equal(200, status)
      assert.equal('{"success":true,"layer_idx":3,', text:sub(1, 30))
      assert.equal(16, json.decode(text).expansion_factor)
      assert.equal(200, (app:call("POST", "/load-sae?layerIdx=3&sae_path=" .. SAE)))
    end)
  end)

  it("say what they are not", function()
    with_app(function(app)
      local status, body = app:call("GET", "/nothing")
      assert.same({ 404, "ENOENT" }, { status, body[2][2] })
      local _, headers
      status, _, headers = app:call("PUT", "/jobs/{id}")
      assert.same({ 405, { "Allow", "DELETE, GET, HEAD" } }, { status, headers })
      for _, path in ipairs { "/jobs/%zz", "/jobs/%", "/jobs/a%2fb", "/jobs/%00", "/jobs/%ff" } do
        assert.equal(400, (app:call("GET", path)), path)
      end
      assert.equal(404, (app:call("GET", "/jobs/..")))
      assert.equal(400, (app:call("GET", "/jobs/x?a=%zz")))
    end)
  end)
end)

describe("bodies", function()
  it("that are no JSON object are refused", function()
    with_app(function(app)
      for _, case in ipairs {
        { 400, "EFORMAT", "{" }, { 400, "EFORMAT", '{"model_name": NaN}' }, { 400, "EFORMAT", '{"model_name": 0x10}' },
        { 400, "EFORMAT", "\xff" }, { 400, "EFORMAT", ("["):rep(200) .. ("]"):rep(200) },
        { 400, "EFORMAT", '{"wait": 1e400}', "wait" }, { 400, "EFORMAT", "{} {}" },
        { 400, "EFORMAT", '{"model_name": "\1"}' },
        { 422, "EINVAL", "[1]" }, { 422, "EINVAL", "1" }, { 422, "EINVAL", '"x"' }, { 422, "EINVAL", "null" },
      } do
        local status, body = app:call("POST", "/load-model", case[3])
        local entry = json.decode(json.encode(body))
        assert.same({ case[1], case[2] }, { status, entry.code }, case[3])
        if status == 400 then assert.equal(case[4], entry.field) end -- P38
      end
      assert.equal(415, (app:call("POST", "/load-model", "{}", { ["Content-Type"] = "text/plain" })))
      assert.equal(404, (app:call("POST", "/load-model", '{"model_name":"x"}',
        { ["Content-Type"] = "application/json; charset=utf-8" })))
    end)
  end)

  it("with wrong fields list them as FastAPI does", function()
    with_app(function(app)
      local status, body = app:call("POST", "/load-sae", { layer_idx = "3", saePath = 7, wait = 1 })
      assert.equal(422, status)
      assert.equal('{"detail":[{"loc":["body","layer_idx"],"msg":"Input should be a valid integer","type":"int_type"},'
        .. '{"loc":["body","sae_path"],"msg":"Input should be a valid string","type":"string_type"},'
        .. '{"loc":["body","wait"],"msg":"Input should be a valid boolean","type":"bool_type"}],'
        .. '"code":"EINVAL","field":"layer_idx"}', json.encode(body))
      status, body = app:call("POST", "/load-model")
      assert.equal(422, status)
      assert.equal('{"detail":[{"loc":["body","model_name"],"msg":"Field required","type":"missing"}],"code":"EINVAL",'
        .. '"field":"model_name"}', json.encode(body))
    end)
  end)
end)

---Every number of every route's fields, with its path in the body.
local function number_fields(specs, path, found)
  for _, spec in ipairs(specs or {}) do
    local here = { table.unpack(path) }
    here[#here + 1] = spec[1]
    if spec[2] == "integer" or spec[2] == "number" then
      found[#found + 1] = { path = here, spec = spec }
    elseif spec[2] == "object" and spec.fields then
      number_fields(spec.fields, here, found)
    elseif spec[2] == "list" and spec.item.fields then
      here[#here + 1] = 1
      number_fields(spec.item.fields, here, found)
    end
  end
  return found
end

describe("numbers (P38)", function()
  it("that are none, or out of range, are named and never bent", function()
    local n = 0
    with_app(function(app)
      load_tiny(app)
      for _, route in ipairs(app.router.routes) do
        local path = route[2]:gsub("{[^}]*}", "0")
        for _, field in ipairs(route[1] ~= "GET" and number_fields(route.fields, {}, {}) or {}) do
          local spec, name = field.spec, field.path[#field.path]
          local bad = { '"19"', "[1]", "{\"a\":1}", "true", "1e300", "-1e300" }
          if spec[2] == "integer" then
            table.move({ "1.5", "2147483647.5", "9007199254740993e3" }, 1, 3, #bad + 1, bad)
          end
          bad[#bad + 1] = ("%.17g"):format(spec.min - math.max(1, math.abs(spec.min)))
          bad[#bad + 1] = ("%.17g"):format(spec.max + math.max(1, math.abs(spec.max)))
          if not spec.null then bad[#bad + 1] = "null" end
          for _, text in ipairs(bad) do
            local body = text
            for i = #field.path, 1, -1 do
              local step = field.path[i]
              body = step == 1 and "[" .. body .. "]" or ('{"%s":%s}'):format(step, body)
            end
            local status, answer = app:call(route[1], path, body)
            local told = json.encode(answer)
            assert.is_true(status == 422 or route.openai and status == 400, route.name .. " " .. body .. " " .. told)
            assert.truthy(told:find(name, 1, true), told)
            n = n + 1
          end
        end
      end
    end)
    assert.is_true(n > 100)
  end)

  it("every one has a range", function()
    with_app(function(app)
      for _, route in ipairs(app.router.routes) do
        for _, field in ipairs(number_fields(route.fields, {}, {})) do
          assert.is_true(field.spec.min and field.spec.max and true, route.name)
        end
      end
    end)
  end)
end)

describe("paths (P26)", function()
  it("stay below the data folders", function()
    local outside, inside = fixtures.folder(), fixtures.folder()
    fixtures.write(outside .. "/secret.safetensors", "secret")
    os.execute(("ln -s %s/secret.safetensors %s/link.safetensors; ln -s %s %s/folder"):format(outside, inside, outside,
      inside))
    os.execute(("mkfifo %s/fifo.safetensors; mkdir %s/dir.safetensors"):format(inside, inside))
    with_app(function(app)
      assert.equal(200, (app:call("POST", "/load-model", { model_name = "tiny" })))
      for _, path in ipairs {
        outside .. "/secret.safetensors", "../" .. outside .. "/secret.safetensors", inside .. "/link.safetensors",
        inside .. "/folder/secret.safetensors", inside .. "/../" .. outside:match "[^/]*$" .. "/secret.safetensors",
        "/etc/passwd", "/dev/zero", "/proc/self/environ", "/proc/self/mem", "../../../../../../etc/passwd",
        "tiny/../../README.md", "/", "", ".", "file:///etc/passwd", "http://localhost/x", "a\nb", "tiny/\127",
        inside .. "/fifo.safetensors", inside .. "/dir.safetensors", ("a/"):rep(3000),
      } do
        local status, body = app:call("POST", "/load-sae", { saePath = path })
        local told = json.encode(body)
        assert.is_true(status == 404 or status == 400 or status == 422, path .. " " .. status .. told)
        assert.is_nil(told:find "root:")
        status = app:call("POST", "/load-model", { model_name = path })
        assert.is_true(status >= 400 and status < 500, path)
        status = app:call("POST", "/load-sae", { saePath = SAE, activationsPath = path })
        assert.is_true(status == 400 or status == 422, path)
      end
      assert.equal(501, (app:call("POST", "/load-sae", { saePath = SAE, activationsPath = "tiny/config.json" })))
      local _, sae = app:call("GET", "/sae/status")
      assert.equal("idle", sae.status)
    end, { data = { "examples", inside } })
    fixtures.remove(outside)
    fixtures.remove(inside)
  end)
end)

describe("loading", function()
  it("twice at once is one load; another name meanwhile is 409", function()
    with_app(function(app)
      local a = ms.zeros { 1500, 1500 }
      local guard <close> = core.types.Tensor._matmul(a, a) -- what the load has to wait for
      local first = call_beside(app, "POST", "/load-model", { model_name = "tiny" })
      local second = call_beside(app, "POST", "/load-model", { model_name = "tiny" })
      local other, body = app:call("POST", "/load-model", { model_name = "tiny/../tiny" })
      assert.same({ 409, "ELOADING" }, { other, body[2][2] })
      local status, refused, headers = app:call("POST", "/v1/completions", { prompt = "a" })
      assert.same({ 503, { "Retry-After", "1" } }, { status, headers })
      assert.equal("ELOADING", refused.error[4][2])
      assert.equal(503, (app:call("POST", "/unload-model")))
      wait_until(function() return first.status and second.status end)
      assert.same({ 200, 200 }, { first.status, second.status })
      assert.equal(1, #app.jobs.list)
    end)
  end)

  it("without waiting is a job, which is told of until its end", function()
    with_app(function(app)
      local status, body = app:call("POST", "/load-model", { model_name = "tiny", wait = false })
      assert.same({ 202, "job-1" }, { status, body[1][2] })
      local job = app.jobs:get "job-1"
      local events = {}
      local _, stream = app:call("GET", "/jobs/job-1/events")
      stream.produce(function(_, event) events[#events + 1] = event end)
      assert.equal("completed", events[#events])
      assert.equal("ready", job.result[1][2])
      status, body = app:call("GET", "/jobs/job-1")
      assert.same({ 200, "completed" }, { status, body[4][2] })
      status, body = app:call("DELETE", "/jobs/job-1")
      assert.same({ 200, false }, { status, body[1][2] })
      assert.equal(404, (app:call("GET", "/jobs/job-2")))
    end)
  end)

  it("can be cancelled at any moment, and tried again", function()
    with_app(function(app)
      for turns = 0, 4 do
        app:call("POST", "/unload-model")
        local result = call_beside(app, "POST", "/load-model", { model_name = "tiny" })
        for _ = 1, turns do loop.sleep(1) end
        local id = app.jobs.list[#app.jobs.list].id
        app:call("DELETE", "/jobs/" .. id)
        wait_until(function() return result.status end)
        local status = app.workbench.status
        assert.is_true(result.status == 409 and status == "error" or result.status == 200 and status == "ready")
      end
      load_tiny(app)
      local result = call_beside(app, "POST", "/load-sae", { saePath = SAE })
      app:call("DELETE", "/jobs/" .. app.jobs.list[#app.jobs.list].id)
      wait_until(function() return result.status end)
      assert.is_true(result.status == 409 or result.status == 200)
      assert.equal(0, app.workbench.n_answers)
    end)
  end)

  it("that fails says why and leaves no model", function()
    local broken = fixtures.tiny_copy { ["config.json"] = "{" }
    with_app(function(app)
      load_tiny(app)
      local status, body = app:call("POST", "/load-model", { model_name = broken })
      assert.same({ 400, "EFORMAT", "model_name" }, { status, body[2][2], body[3][2] })
      local _, now = app:call("GET", "/model/status")
      assert.equal("error", now[1][2])
      load_tiny(app)
    end, { data = { "examples", broken } })
    fixtures.remove(broken)
  end)

  it("ends the answers that run, which keep their model until then (P21)", function()
    with_app(function(app)
      load_tiny(app)
      local prompt = { prompt = "Once upon a time", max_tokens = 500, ignore_eos = true, temperature = 0 }
      local running = { call_beside(app, "POST", "/v1/completions", prompt),
        call_beside(app, "POST", "/v1/completions", prompt) }
      wait_until(function() return app.workbench.n_answers == 2 end)
      loop.sleep(5)
      assert.equal(200, (app:call("POST", "/unload-model")))
      for _, result in ipairs(running) do
        wait_until(function() return result.status end)
        assert.same({ 503, "EMODEL" }, { result.status, result.body.error[4][2] })
      end
      assert.equal(0, app.workbench.n_answers)
    end)
  end)

  it("of more answers than may run is 429", function()
    with_app(function(app)
      load_tiny(app)
      local results = {}
      for i = 1, 6 do
        results[i] = call_beside(app, "POST", "/v1/completions", { prompt = "a", max_tokens = 20, ignore_eos = true })
      end
      wait_until(function()
        for i = 1, 6 do
          if not results[i].status then return false end
        end
        return true
      end)
      local n = { [200] = 0, [429] = 0 }
      for _, result in ipairs(results) do
        n[result.status] = n[result.status] + 1
        if result.status == 429 then assert.same({ "Retry-After", "1" }, result.headers) end
      end
      assert.same({ [200] = 4, [429] = 2 }, n)
    end)
  end)
end)

describe("an SAE", function()
  it("of another width, of another layer, or of none is refused", function()
    local folder = fixtures.folder()
    local function save(name, d_model)
      assert(ms.save(folder .. "/" .. name, {
        ["encoder_linear.weight"] = ms.zeros { 8, d_model }, ["encoder_linear.bias"] = ms.zeros { 8 },
        ["decoder_linear.weight"] = ms.zeros { d_model, 8 }, ["decoder_linear.bias"] = ms.zeros { d_model },
      }))
    end
    save("wide.safetensors", 64)
    save("free.safetensors", 128)
    with_app(function(app)
      load_tiny(app)
      local function refused(status, code, field, body)
        local got, answer = app:call("POST", "/load-sae", body)
        local told = json.decode(json.encode(answer))
        assert.same({ status, code, field }, { got, told.code, told.field })
        return told.detail
      end
      refused(400, "ESHAPE", "sae_path", { saePath = folder .. "/wide.safetensors", layer_idx = 1 })
      local detail = refused(400, "EINVAL", "layer_idx", { saePath = SAE, layer_idx = 2 })
      assert.truthy(detail:find "2" and detail:find "3")
      refused(400, "EINVAL", "layer_idx", { saePath = folder .. "/free.safetensors" })
      refused(400, "ERANGE", "layer_idx", { saePath = folder .. "/free.safetensors", layer_idx = 6 })
      assert.equal(200, (app:call("POST", "/load-sae", { saePath = SAE, layer_idx = 2, force = true })))
      assert.equal(200, (app:call("POST", "/load-sae", { saePath = folder .. "/free.safetensors", layer_idx = 5 })))
      assert.equal(200, (app:call("POST", "/load-sae", { saePath = SAE, dtype = "f32" })))
      local _, status = app:call("GET", "/sae/status")
      local told = json.decode(json.encode(status))
      assert.same({ 3, 2048 + 2048 + 8 }, { told.layerCount, told.featureCount })
      assert.equal("f32", told.layers[2].dtype)
      for _, layer in ipairs { 2, 3, 5 } do assert.equal(200, (app:call("DELETE", "/sae/" .. layer))) end
      assert.equal(404, (app:call("DELETE", "/sae/3")))
      assert.equal(422, (app:call("DELETE", "/sae/x")))
    end, { data = { "examples", folder } })
    fixtures.remove(folder)
  end)

  it("whose file leaves something open is asked about by field, without a path of the server", function()
    local folder = fixtures.folder()
    os.execute("mkdir " .. folder .. "/100%")
    assert(ms.save(folder .. "/100%/any.safetensors", {
      ["encoder.weight"] = ms.zeros { 8, 128 }, ["encoder.bias"] = ms.zeros { 8 },
      ["decoder.weight"] = ms.zeros { 128, 8 }, ["decoder.bias"] = ms.zeros { 128 },
    }))
    assert(ms.save(folder .. "/ae.safetensors", {
      ["encoder.weight"] = ms.zeros { 8, 128 }, ["encoder.bias"] = ms.zeros { 8 }, b_dec = ms.zeros { 128 },
      ["decoder.weight"] = ms.zeros { 128, 8 }, k = ms.tensor(3, { dtype = "i32" }), threshold = ms.tensor(0.5),
    }))
    with_app(function(app)
      local tiny = assert(uv.fs_realpath "examples/tiny") -- in a folder other than the first: by its whole path
      assert.equal(200, (app:call("POST", "/load-model", { model_name = tiny })))
      local function asked(body, field, text)
        body.layer_idx = 3
        local status, answer = app:call("POST", "/load-sae", body)
        local told = json.decode(json.encode(answer))
        assert.equal(400, status)
        assert.equal(field, told.field)
        assert.truthy(told.detail:find(text, 1, true), told.detail)
        assert.is_nil(told.detail:find(folder, 1, true) or told.detail:find "%-%-", told.detail)
        return told.detail
      end
      local ANY = "100%/any.safetensors"
      local detail = asked({ saePath = ANY }, "sae_path", ": say which with format llama_scope or ")
      assert.equal(ANY .. ": ", detail:sub(1, #ANY + 2))
      asked({ saePath = ANY, format = "none" }, "sae_path", "format: found none")
      asked({ saePath = ANY, format = "qresearch", input_scale = 2 }, "sae_path", "input_scale: of no use")
      asked({ saePath = "ae.safetensors" }, "sae_path", "say it with activation topk or batchtopk")
      assert.equal(200, (app:call("POST", "/load-sae", { saePath = ANY, format = "qresearch", layer_idx = 3 })))
      assert.equal(200, (app:call("POST", "/load-sae?saePath=ae.safetensors&activation=topk&layer_idx=2")))
      fixtures.write(folder .. "/config.json", "{")
      asked({ saePath = "ae.safetensors" }, "sae_path", "config.json: ")
      local status, answer = app:call("POST", "/load-sae", { saePath = ANY, format = 1, activation = {},
        inputScale = 0 })
      assert.equal(422, status)
      for i, name in ipairs { "format", "activation", "input_scale" } do
        assert.equal(name, json.decode(json.encode(answer)).detail[i].loc[2])
      end
      status, answer = app:call("POST", "/load-sae", { saePath = "none.pt" })
      assert.same({ 404, "sae_path" }, { status, json.decode(json.encode(answer)).field })
    end, { data = { folder, "examples" } })
    fixtures.remove(folder)
  end)

  it("that is replaced or freed stays with the answers that use it", function()
    with_app(function(app)
      load_tiny(app)
      assert.equal(200, (app:call("POST", "/load-sae", { saePath = SAE })))
      local result = call_beside(app, "POST", "/v1/completions", {
        prompt = "Once upon a time", max_tokens = 60, temperature = 0, ignore_eos = true,
        edits = { { feature = 458, value = 3.85 } },
      })
      wait_until(function() return app.workbench.n_answers == 1 end)
      assert.equal(200, (app:call("DELETE", "/sae/3")))
      wait_until(function() return result.status end)
      assert.equal(200, result.status)
    end)
  end)
end)

-- SPDX-License-Identifier: MIT
-- Models of the Hub through the server, against a mock Hub (P30 to P33 are hub_spec's).
local uv = require "luv"
local App = require "moonscope.server.app"
local json = require "moonscope.json"
local loop = require "moonscope.loop"
local mock = require "mock_hub"

setup(mock.start)
teardown(mock.stop)
before_each(function() mock.reset {} end)

local FILES = {
  "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors",
}

---A repository a/tiny with the model of examples/.
local function serve_tiny()
  local files = {}
  for _, name in ipairs(FILES) do
    files[name] = { uv.cwd() .. "/examples/tiny/" .. name, lfs = name == "model.safetensors" }
  end
  mock.scenario { repos = { ["a/tiny"] = mock.repo(files) } }
end

---fn(call) in the loop with an app; call(...) gives status, and the body as a client has it.
local function with_app(fn)
  loop.run(function()
    local app = assert(App.new { data = { "examples" }, precision = "exact" })
    local ok, message = pcall(fn, function(...)
      local status, body = app:call(...)
      return status, json.decode(json.encode(body))
    end)
    app:close()
    if not ok then error(message, 0) end
  end)
end

describe("a model of the hub", function()
  it("is fetched once, and comes from the cache afterwards", function()
    serve_tiny()
    with_app(function(call)
      local status, body = call("POST", "/load-model", { model_name = "a/tiny" })
      assert.same({ 200, "ready", "a/tiny" }, { status, body.status, body.model_name })
      assert.equal("a/tiny", select(2, call("GET", "/model/status")).model_name)
      assert.truthy(#mock.requests "GET" > 0)
      assert.equal(200, (call("POST", "/unload-model")))
      mock.set { HF_HUB_OFFLINE = "1" }
      assert.equal(200, (call("POST", "/load-model", { model_name = "a/tiny" })))
    end)
  end)

  it("shows its bytes in the job that fetches it", function()
    serve_tiny()
    with_app(function(call)
      local status, started = call("POST", "/load-model", { model_name = "a/tiny@main", wait = false })
      assert.equal(202, status)
      local seen = false
      local function job()
        local found = select(2, call("GET", "/jobs/" .. started.job_id))
        seen = seen or found.progress.unit == "bytes" and found.progress.total > 0
        return found
      end
      while job().status == "running" do loop.sleep(1) end
      assert.same({ "completed", true }, { job().status, seen })
    end)
  end)

  it("that cannot be had is told in one line, and the old one stays", function()
    serve_tiny()
    with_app(function(call)
      assert.equal(200, (call("POST", "/load-model", { model_name = "tiny" })))
      for name, wanted in pairs {
        ["a/nothing"] = { 404, "ENOENT" }, ["a/tiny@../x"] = { 400, "EINVAL" }, ["../src"] = { 404, "ENOENT" },
        ["no-such-folder"] = { 404, "ENOENT" }, ["a/tiny/model.safetensors"] = { 404, "ENOENT" },
        ["a/b/c"] = { 404, "ENOENT" },
      } do
        local status, body = call("POST", "/load-model", { model_name = name })
        assert.same(wanted, { status, body.code }, name .. ": " .. tostring(body.detail))
        assert.falsy(body.detail:find "\n")
      end
      assert.equal("tiny", select(2, call("GET", "/model/status")).model_name)
    end)
  end)

  it("is not looked for beside the data folders", function()
    serve_tiny()
    with_app(function(call) -- there is a folder of this name, which is not below examples/
      local status, body = call("POST", "/load-model", { model_name = "tests/fixtures" })
      assert.falsy(status == 200)
      assert.equal("model_name", body.field)
    end)
  end)
end)

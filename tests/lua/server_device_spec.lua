-- SPDX-License-Identifier: MIT
-- A device that fails under the server (P29), on CUDA for the host: its failures are set by a route.
local fixtures = require "fixtures"
local http = require "http"
local json = require "moonscope.json"
local process = require "process"

local HOST = os.getenv "MOONSCOPE_HOST_CUDA"
if HOST == "" then HOST = nil end

local ROUTES = [[
local uv = require "luv"
local function set(request)
  uv.os_setenv(request.args.name, request.args.value)
  return 200, {}
end
local function compute(request)
  local ms = require "moonscope"
  local t = ms.ones({ 4 }, { device = "cuda" })
  return 200, request.jobs:start("compute", "a sum", function() return (t + t):totable() end):wait()
end
return { { "POST", "/compute", compute }, { "POST", "/set", set, fields = {
  { "name", "text", required = true, max_length = 64 }, { "value", "text", required = true, max_length = 64 },
} } }
]]

local LOST = "the device is lost until the program is started again"

local function completion(more)
  local body = { prompt = "Once upon a time", temperature = 0, max_tokens = 8 }
  for key, value in pairs(more or {}) do body[key] = value end
  return body
end

local function post(body)
  local text = json.encode(body)
  return ("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    .. "Content-Length: %d\r\n\r\n%s"):format(#text, text)
end

describe("a device that fails under the server (P29)", function()
  if not HOST then
    pending("# SKIP this build has no CUDA on the host")
    return
  end

  local folder
  setup(function()
    folder = fixtures.folder()
    fixtures.write(folder .. "/routes.lua", ROUTES)
  end)
  teardown(function() fixtures.remove(folder) end)

  local function serve()
    local program = process.program
    process.program = HOST
    local server = http.serve({ "--data", "examples", "--routes", folder .. "/routes.lua", "--device", "cuda" },
      { LD_LIBRARY_PATH = HOST:match "^(.*)/" }) -- for its cuBLAS
    process.program = program
    local status, body = server:request("POST", "/load-model", { model_name = "tiny" })
    assert.same({ 200, "tiny" }, { status, body.model_name })
    return server
  end

  local function set(server, name, value)
    assert.equal(200, (server:request("POST", "/set", { name = name, value = tostring(value) })))
  end

  local function expect_end(server)
    assert.equal(75, server:wait())
    local _, n = server.err:gsub('{"level":"error","code":"ELOST"[^\n]*' .. LOST, "")
    assert.equal(1, n, server.err)
    assert.is_nil(server.err:find "traceback", server.err)
  end

  it("without memory names what is free, and the next answer is the same as before", function()
    local server = serve()
    local _, before = server:request("POST", "/v1/completions", completion())
    local text, failures = before.choices[1].text, 0
    for n = 1, 6 do
      set(server, "MOONSCOPE_FAIL", n)
      local status, body = server:request("POST", "/v1/completions", completion())
      if status ~= 200 then
        failures = failures + 1
        assert.same({ 507, "ENOMEM" }, { status, body.error.code })
        assert.truthy(body.error.message:find "%d+ are free" or body.error.message:find "bytes are free",
          body.error.message)
      end
      set(server, "MOONSCOPE_FAIL", 0)
      local again, answer = server:request("POST", "/v1/completions", completion())
      assert.same({ 200, text }, { again, answer.choices[1].text })
    end
    assert.is_true(failures > 0)
    assert.equal(0, server:stop())
  end)

  it("for good ends every answer with an error, says so in one line, and exits with 75", function()
    local server = serve()
    local stream, waiting = server:connect(), server:connect()
    stream:write(post(completion { max_tokens = 400, stream = true, ignore_eos = true }))
    stream:read_until "data: "
    waiting:write(post(completion { max_tokens = 400, ignore_eos = true }))
    assert.equal(200, (server:request("GET", "/health"))) -- it waits by now
    set(server, "MOONSCOPE_LOSE", 1)
    local status, events = stream:response()
    assert.equal(200, status)
    assert.truthy(events:find(LOST, 1, true) and events:find('"code":"ELOST"', 1, true), events)
    local other, body = waiting:response()
    assert.equal(503, other)
    assert.equal("ELOST", json.decode(body).error.code)
    expect_end(server)
    stream:close()
    waiting:close()
  end)

  it("for good in a job is the same", function()
    local server = serve()
    set(server, "MOONSCOPE_LOSE", 1)
    local status, body = server:request("POST", "/compute")
    assert.same({ 503, "ELOST" }, { status, body.code })
    assert.truthy(body.detail:find(LOST, 1, true))
    expect_end(server)
  end)
end)

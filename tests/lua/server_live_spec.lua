-- SPDX-License-Identifier: MIT
-- What happens while things run: streams, clients that leave, models that change, signals.
local fixtures = require "fixtures"
local http = require "http"
local json = require "moonscope.json"
local ms = require "moonscope"

local MODEL, SAE = fixtures.model_path, fixtures.sae_path
local PROMPT = "Once upon a time there was a small red fox named Mia."

local ROUTES = [[
local loop = require "moonscope.loop"
local reply = require "moonscope.server.reply"
local function forever() return forever() end
local handlers = {
  text = function() error "out of luck" end,
  table = function() error {} end,
  none = function() error() end,
  overflow = function() local function f() return 1 + f() end return f() end,
  endless = function() while true do pcall(function() while true do end end) end end,
  yields = function() coroutine.yield() end,
  status = function() return "fine" end,
  nonsense = function() return 200, { f = print } end,
  nan = function() return 200, { x = 0 / 0 } end,
  bytes = function() return 200, { x = "\xff" } end,
}
local routes = {
  { "GET", "/health", function() return 200, { status = "mine" } end },
  { "GET", "/late", function() return 200, reply.events(function(send) send "first" error "late" end) end },
  { "GET", "/flood", function() return 200, reply.events(function(send)
    while true do send(("x"):rep(65536)) loop.sleep(0) end
  end) end },
}
for name, handler in pairs(handlers) do routes[#routes + 1] = { "GET", "/" .. name, handler } end
return routes
]]

local function completion(more)
  local body = { prompt = PROMPT, temperature = 0 }
  for key, value in pairs(more) do body[key] = value end
  return body
end

local function post(path, body)
  local text = json.encode(body)
  return ("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s")
    :format(path, #text, text)
end

---The log's lines for a route.
local function logged(server, route)
  local lines = {}
  for line in server.err:gmatch "[^\n]+" do
    local entry = line:find "^{" and json.decode(line)
    if entry and entry.route == route and entry.status then lines[#lines + 1] = entry end
  end
  return lines
end

local function expect_log(server, text)
  http.wait_for(text, function() return server.err:find(text, 1, true) end)
end

describe("a handler's error (P28)", function()
  local server, folder
  setup(function()
    folder = fixtures.folder()
    fixtures.write(folder .. "/routes.lua", ROUTES)
    server = http.serve { "--data", "examples", "--routes", folder .. "/routes.lua" }
  end)
  teardown(function()
    assert.equal(0, server:stop())
    fixtures.remove(folder)
  end)

  it("is a 500 with the id that the log has, and harms nobody else", function()
    for _, name in ipairs { "text", "table", "none", "overflow", "status", "nonsense", "nan", "bytes" } do
      local status, body = server:request("GET", "/" .. name)
      assert.equal(500, status, name)
      assert.equal("EINTERNAL", body.code)
      expect_log(server, '"id":"' .. body.id .. '","route":"GET /' .. name .. '","error"')
      assert.is_nil(body.detail:find "lua")
    end
    expect_log(server, "out of luck")
    expect_log(server, "stack traceback")
    assert.equal(200, (server:request("GET", "/ping")))
  end)

  it("that runs for ever is ended, also where it catches errors", function()
    local status, body = server:request("GET", "/endless")
    assert.same({ 500, "EINTERNAL" }, { status, body.code })
    expect_log(server, "ran for too long")
    assert.equal(200, (server:request("GET", "/ping")))
  end)

  it("after the head of a stream is its last event", function()
    local status, body = server:request("GET", "/late")
    assert.equal(200, status)
    assert.truthy(body:find("data: first\n\n", 1, true))
    assert.truthy(body:find('event: error\ndata: {"detail":"internal error', 1, true))
  end)

  it("a routes file overrides", function()
    local _, body = server:request("GET", "/health")
    assert.equal("mine", body.status)
  end)

  it("a reader that is too slow is dropped (P17)", function()
    local connection = server:connect()
    connection.socket:read_stop()
    connection:write "GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n"
    http.wait_for("the log", function() return #logged(server, "GET /flood") > 0 end)
    local entry = logged(server, "GET /flood")[1]
    assert.equal(499, entry.status)
    assert.is_true(entry.bytes < 32 << 20) -- what the kernel takes, and one MiB
    connection:close()
  end)
end)

it("the example of a routes file does what it says", function()
  local server = http.serve { "--data", "examples", "--routes", "examples/my_routes.lua", "--model", MODEL,
    "--sae", SAE, "--precision", "exact" }
  http.wait_for("the SAE", function() return select(2, server:request("GET", "/sae/status")).status == "ready" end)
  local status, body = server:request("POST", "/api/compare", { text = PROMPT, feature = 458, value = 3.85 })
  assert.equal(200, status)
  assert.truthy(body.plain:find "She felt tired" and body.changed:find "She felt hungry")
  assert.equal(422, (server:request("POST", "/compare", { text = PROMPT, feature = -1 })))
  assert.equal(0, server:stop())
end)

it("an SAE whose file leaves something open is loaded with what the command line says", function()
  local folder = fixtures.folder()
  local path = folder .. "/layer_3.safetensors"
  assert(ms.save(path, {
    W_enc = ms.zeros { 8, 128 }, b_enc = ms.zeros { 8 }, W_dec = ms.zeros { 8, 128 }, b_dec = ms.zeros { 128 },
  }))
  local server = http.serve { "--model", MODEL, "--sae", path }
  assert.equal(1, server:wait())
  assert.truthy(server.err:find(path .. ": ", 1, true) and server.err:find "say which with %-%-format ", server.err)
  server = http.serve { "--model", MODEL, "--sae", path, "--format", "circuit_tracer", "--activation", "relu" }
  http.wait_for("the SAE", function() return select(2, server:request("GET", "/sae/status")).status == "ready" end)
  assert.equal(0, server:stop())
  for _, more in ipairs { { "--format", "goodfire" }, { "--activation", "relu" }, { "--input-scale", "2" } } do
    server = http.serve { "--model", MODEL, table.unpack(more) }
    assert.equal(2, server:wait())
    assert.truthy(server.err:find("moonscope: serve: " .. more[1] .. ": needs --sae", 1, true), server.err)
  end
  fixtures.remove(folder)
end)

it("an SAE whose layer is unknown is loaded with --layer", function()
  local folder = fixtures.folder()
  local path = folder .. "/unnamed.pth"
  fixtures.write(path, fixtures.read(fixtures.sae_path))
  local server = http.serve { "--model", MODEL, "--sae", path }
  assert.equal(1, server:wait())
  assert.truthy(server.err:find("moonscope: --layer: the SAE's layer is unknown", 1, true), server.err)
  for _, case in ipairs { { path, "3" }, { fixtures.sae_path, "2", "is of layer 3; reads layer 2" } } do
    server = http.serve { "--model", MODEL, "--sae", case[1], "--layer", case[2] }
    http.wait_for("the SAE", function() return select(2, server:request("GET", "/sae/status")).status == "ready" end)
    local _, told = server:request("GET", "/sae/status")
    assert.equal(tonumber(case[2]), told.layers[1].layer_idx)
    assert.equal(0, server:stop())
    assert.equal(case[3] ~= nil, server.err:find(case[3] or "warning", 1, true) ~= nil, server.err)
  end
  for _, more in ipairs { {}, { "--sae", path, "--sae", path } } do
    server = http.serve { "--model", MODEL, "--layer", "3", table.unpack(more) }
    assert.equal(2, server:wait())
    assert.truthy(server.err:find("^moonscope: serve: %-%-layer: "), server.err)
  end
  fixtures.remove(folder)
end)

it("a routes file that is broken is said in one line", function()
  local folder = fixtures.folder()
  for _, case in ipairs {
    { "return 1", "expected a list of routes" }, { "x = = 1", "unexpected symbol" }, { "error 'no'", "no" },
    { "return { { 'GET', 'x', print } }", "expected /name/" }, { "return { { 'BREW', '/x', print } }", "expected GET" },
    { "return { { 'GET', '/x' } }", "expected a function" }, { string.dump(function() end), "binary chunk" },
  } do
    fixtures.write(folder .. "/routes.lua", case[1])
    local server = http.serve { "--routes", folder .. "/routes.lua" }
    assert.equal(1, server:wait())
    assert.truthy(server.err:find("^moonscope: [^\n]*" .. case[2]), server.err)
  end
  fixtures.remove(folder)
end)

describe("generation", function()
  local server
  setup(function()
    server = http.serve { "--data", "examples", "--model", MODEL, "--sae", SAE, "--precision", "exact" }
    http.wait_for("the model", function()
      local _, body = server:request("GET", "/sae/status")
      return body.status == "ready"
    end)
  end)
  teardown(function() assert.equal(0, server:stop()) end)

  local function alone(more)
    local status, body = server:request("POST", "/v1/completions", completion(more))
    assert.equal(200, status)
    return body.choices[1].text
  end

  local function streamed_text(events)
    local parts = {}
    for data in events:gmatch "data: ({[^\n]*})\n" do
      local choice = json.decode(data).choices[1]
      parts[#parts + 1] = choice and choice.text
    end
    return table.concat(parts)
  end

  it("streams what it answers whole, the golden text (exact)", function()
    local golden = fixtures.golden.prompts[1]
    local status, body = server:request("POST", "/v1/completions", completion { prompt = golden.text, max_tokens = 40 })
    assert.same({ 200, golden.greedy_text }, { status, body.choices[1].text })
    local _, events = server:request("POST", "/v1/completions",
      completion { prompt = golden.text, max_tokens = 40, stream = true })
    assert.equal(golden.greedy_text, streamed_text(events))
    assert.truthy(events:find "data: %[DONE%]\n\n")
  end)

  it("of many at once gives each what it has alone", function()
    local edited = { { feature = 458, op = "add", value = 3.85 } }
    local plain, changed = alone { max_tokens = 24 }, alone { max_tokens = 24, edits = edited }
    assert.not_equal(plain, changed)
    local connections = {}
    for i = 1, 12 do
      connections[i] = server:connect()
      connections[i]:write(post("/v1/completions",
        completion { max_tokens = 24, stream = true, edits = i % 2 == 0 and edited or nil }))
    end
    for i, connection in ipairs(connections) do
      local _, events = connection:response()
      assert.equal(i % 2 == 0 and changed or plain, streamed_text(events))
      connection:close()
    end
  end)

  it("stops within a token when its client leaves, streaming or waiting (P20)", function()
    server:request("GET", "/ping")
    http.wait_for("the log so far", function() return #logged(server, "GET /ping") > 0 end)
    local before = #logged(server, "POST /v1/completions")
    for i = 1, 20 do
      local connection = server:connect()
      connection:write(post("/v1/completions", completion { max_tokens = 450, stream = i % 2 == 0, ignore_eos = true }))
      if i % 2 == 0 then
        connection:read_until "data: "
      else -- it runs by now
        server:request("GET", "/health")
      end
      connection:close(i % 4 == 0)
      http.wait_for("the end of its work", function() return #logged(server, "POST /v1/completions") == before + i end)
    end
    for i = before + 1, before + 20 do
      local entry = logged(server, "POST /v1/completions")[i]
      assert.equal(499, entry.status)
    end
  end)

  it("refuses what does not fit before it begins", function()
    local function refused(status, code, param, more)
      local got, body = server:request("POST", "/v1/completions", completion(more))
      assert.same({ status, code, param }, { got, body.error.code, body.error.param })
    end
    refused(400, "ECONTEXT", "prompt", { prompt = ("word "):rep(1000), stream = true })
    refused(400, "EINVAL", "edits", { edits = { { feature = 2048, value = 1 } }, stream = true })
    refused(404, "ENOENT", "layer_idx", { edits = { { feature = 1, value = 1, layer = 2 } } })
    refused(404, "ENOENT", "model", { model = "gpt-4" })
    refused(400, "ERANGE", "prompt", { prompt = { 1, 100000 } })
    refused(400, "EINVAL", "prompt", { prompt = { "a", "b" } })
    refused(400, "EINVAL", "stop", { stop = { "" } })
    refused(400, "EINVAL", "stop", { stop = { a = "b" } })
    refused(400, "EINVAL", "edits", { edits = { 1 } }) -- and not "0" (P41)
    refused(400, "EINVAL", "feature", { edits = { { feature = -1, value = 1 } } })
  end)

  it("ends with an error event when another model is loaded (P21)", function()
    local streams = {}
    for i = 1, 4 do
      streams[i] = server:connect()
      streams[i]:write(post("/v1/completions", completion { max_tokens = 450, stream = true }))
      streams[i]:read_until "data: "
    end
    local status, body = server:request("POST", "/load-model", { model_name = "tiny" })
    assert.same({ 200, "tiny" }, { status, body.model_name })
    for _, stream in ipairs(streams) do
      local _, events = stream:response()
      assert.truthy(events:find('"code":"EMODEL"', 1, true) or events:find("[DONE]", 1, true), events)
      stream:close()
    end
    local _, sae = server:request("GET", "/sae/status")
    assert.equal("idle", sae.status)
  end)

  it("with the model unloaded is refused until there is one", function()
    assert.equal(200, (server:request("POST", "/unload-model")))
    local status, body = server:request("POST", "/v1/completions", completion {})
    assert.same({ 400, "ENOMODEL" }, { status, body.error.code })
    status, body = server:request("POST", "/load-sae", { saePath = "tiny/Moonscope-Tiny-Llama-SAE-l3.pth" })
    assert.same({ 400, "ENOMODEL" }, { status, body.code })
  end)
end)

describe("the log", function()
  ---Its lines: of answered requests, in their order; of errors, by id.
  local function read_log(server)
    local requests, failures = {}, {}
    for line in server.err:gmatch "[^\n]+" do
      local entry = line:find "^moonscope: info: " and {} or assert(json.decode(line))
      if entry.status then
        requests[#requests + 1] = entry
      elseif entry.traceback then
        assert.is_nil(failures[entry.id])
        failures[entry.id] = entry
      end
    end
    return requests, failures
  end

  local N = 600 -- at once, whose lines are more than are gathered

  it("has one line for each request, an error's has the same id, and none is lost at SIGTERM (P22)", function()
    local folder = fixtures.folder()
    fixtures.write(folder .. "/routes.lua", ROUTES)
    local server = http.serve { "--data", "examples", "--model", MODEL, "--routes", folder .. "/routes.lua" }
    http.wait_for("the model", function()
      return select(2, server:request("GET", "/model/status")).status == "ready"
    end)
    local many, stream = server:connect(), server:connect()
    many:write(("GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\nGET /text HTTP/1.1\r\nHost: localhost\r\n\r\n")
      :rep(N / 2))
    local told = {}
    for i = 1, N do
      local status, body = many:response()
      assert.equal(i % 2 == 1 and 200 or 500, status)
      told[i] = json.decode(body).id or false
    end
    stream:write(post("/v1/completions", completion { max_tokens = 100, stream = true, stop = "no such text" }))
    stream:read_until "data: "
    server.child:kill "sigterm"
    stream:response()
    assert.equal(0, server:wait())
    many:close()
    stream:close()
    fixtures.remove(folder)

    local requests, failures = read_log(server)
    local seen, n = {}, 0
    for _, entry in ipairs(requests) do
      local asked = entry.route ~= "GET /model/status" -- by wait_for, before
      if asked then n = n + 1 end
      assert.is_nil(seen[entry.id])
      seen[entry.id] = true
      local failed = asked and told[n]
      if failed then
        assert.same({ "error", failed, 500 }, { entry.level, entry.id, entry.status })
        assert.equal("GET /text", failures[failed].route)
        failures[failed] = nil
      end
    end
    assert.equal(N + 1, n)
    assert.is_nil(next(failures))
    assert.same({ "POST /v1/completions", 200 }, { requests[#requests].route, requests[#requests].status })
  end)
end)

describe("SIGTERM (P22)", function()
  it("lets what runs end, then exits 0; HUP and USR do nothing", function()
    local server = http.serve { "--data", "examples", "--model", MODEL }
    http.wait_for("the model", function() return select(2, server:request("GET", "/health")).model_loaded end)
    for _, signal in ipairs { "sighup", "sigusr1", "sigusr2" } do server.child:kill(signal) end
    local stream, idle = server:connect(), server:connect()
    stream:write(post("/v1/completions", completion { max_tokens = 100, stream = true, stop = "no such text" }))
    stream:read_until "data: "
    server.child:kill "sigterm"
    local _, events = stream:response()
    assert.truthy(events:find "data: %[DONE%]")
    assert.equal(0, server:wait())
    stream:close()
    idle:close()
  end)
end)

it("an address that is taken or none is said in one line", function()
  local first = http.serve {}
  local second = http.serve { "--port", tostring(first.port) }
  assert.equal(1, second:wait())
  assert.equal(("moonscope: cannot listen on 127.0.0.1 port %d: Address already in use\n"):format(first.port),
    second.err)
  assert.equal(0, first:stop())
  local nowhere = http.serve { "--host", "no host" }
  assert.equal(1, nowhere:wait())
  assert.truthy(nowhere.err:find "^moonscope: no host: [^\n]+\n$")
end)

it("the log has journald's priorities under it, and with --log-level debug tells of each pass", function()
  local server = http.serve({ "--data", "examples", "--model", MODEL, "--log-level", "debug" },
    { JOURNAL_STREAM = "8:1" })
  http.wait_for("the model", function() return select(2, server:request("GET", "/health")).model_loaded end)
  assert.equal(200, (server:request("POST", "/v1/completions", completion { max_tokens = 1 })))
  assert.equal(501, (server:request("GET", "/sae/training/jobs"))) -- which is no failure of the server's
  assert.equal(0, server:stop())
  assert.truthy(server.err:find "<7>moonscope: debug: forward: %d+ tokens from position 1, logits %x+\n", server.err)
  assert.truthy(server.err:find('<6>{"level":"info","route":"POST /v1/completions","status":200', 1, true), server.err)
  for line in server.err:gmatch "[^\n]+" do assert.truthy(line:find "^<[3467]>[{m]", line) end
end)

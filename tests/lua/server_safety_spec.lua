-- SPDX-License-Identifier: MIT
-- What the server refuses before any work, byte by byte on a socket.
local http = require "http"
local json = require "moonscope.json"

local server
setup(function() server = http.serve() end)
teardown(function() assert.equal(0, server:stop()) end)

local function head(lines) return "GET /health HTTP/1.1\r\n" .. lines .. "\r\n" end

---Sends bytes and expects a status, an answer in JSON with this code, and the end of the connection.
local function refused(status, code, bytes)
  local connection = server:connect()
  connection:write(bytes)
  local got, body = connection:response()
  assert.equal(status, got, bytes:sub(1, 200))
  if code then
    local answer = assert(json.decode(body))
    assert.equal(code, answer.code, bytes:sub(1, 200))
    assert.equal("string", type(answer.detail))
  end
  connection:read_all()
  connection:close()
end

describe("framing (P19)", function()
  local host = "Host: localhost\r\n"
  local post = "POST /load-model HTTP/1.1\r\n" .. host .. "Content-Type: application/json\r\n"

  it("that two readers could read differently is 400 and the end", function()
    for _, bytes in ipairs {
      head(host .. host),
      head(host .. "Host: evil\r\n"),
      post .. "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
      post .. "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
      post .. "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      post .. "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      post .. "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
      post .. "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
      (post:gsub("1%.1", "1.0")) .. "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      head(host .. "X-A: a\1b\r\n"),
      head(host .. "X-A: a\127b\r\n"),
      head(host .. "X A: b\r\n"),
      head(host .. "X@A: b\r\n"),
      "G(T /health HTTP/1.1\r\n" .. host .. "\r\n",
    } do
      refused(400, "EHEADER", bytes)
    end
  end)

  it("that libmicrohttpd refuses itself is 400, without JSON", function()
    for _, bytes in ipairs {
      post .. "Content-Length: +5\r\n\r\n{}   ",
      post .. "Content-Length: 0x10\r\n\r\n{}",
      post .. "Content-Length: -1\r\n\r\n{}",
      post .. "Content-Length:\r\n\r\n{}",
      head "",
      head(host .. "X-A : b\r\n"),
    } do
      local status = server:raw(bytes)
      assert.equal(400, status, bytes)
    end
  end)
end)

describe("oversize (P18)", function()
  local host = "Host: localhost\r\n"
  local post = "POST /load-model HTTP/1.1\r\n" .. host .. "Content-Type: application/json\r\n"

  it("of a body is told before it is read", function()
    refused(413, "ETOOBIG", post .. "Content-Length: 2147483648\r\n\r\n")
    refused(413, "ETOOBIG", post .. "Content-Length: 8388609\r\n\r\n")
    refused(413, "ETOOBIG", post .. "Content-Length: 1000000000000000000\r\n\r\n")
    local status = server:raw(post .. "Content-Length: 18446744073709551616\r\n\r\n")
    assert.is_true(status == 413 or status == 400)
  end)

  it("of a body in chunks is told at its end", function()
    local connection = server:connect()
    connection:write(post .. "Transfer-Encoding: chunked\r\n\r\n")
    local chunk = ("100000\r\n%s\r\n"):format((" "):rep(1 << 20))
    for _ = 1, 9 do connection:write(chunk) end
    connection:write "0\r\n\r\n"
    assert.equal(413, (connection:response()))
    connection:close()
  end)

  it("of the headers is 431", function()
    assert.equal(200, (server:raw(head(host .. "X-A: " .. ("a"):rep(15 << 10) .. "\r\n"))))
    assert.equal(431, (server:raw(head(host .. "X-A: " .. ("a"):rep(17 << 10) .. "\r\n"))))
    assert.equal(431, (server:raw(head(host .. "X-A: " .. ("a"):rep(1 << 20) .. "\r\n"))))
    assert.equal(431, (server:raw(head(host .. ("X-A: b\r\n"):rep(20000)))))
    refused(431, "EHEADER", head(host .. ("X-A: b\r\n"):rep(100)))
    assert.equal(200, (server:raw(head(host .. ("X-A: b\r\n"):rep(99)))))
  end)

  it("leaves the server as it was", function() assert.equal(200, (server:request("GET", "/health"))) end)
end)

local ROUTES = { -- of every kind: there, in a task, with a parameter, not there, a WebSocket, preflight
  { "GET", "/health" }, { "GET", "/api/jobs" }, { "POST", "/load-model" }, { "DELETE", "/sae/3" },
  { "GET", "/ws" }, { "GET", "/nothing/here" }, { "OPTIONS", "/health" }, { "GET", "/jobs/x/events" },
}

describe("the Host header (P23)", function()
  it("has to be one of the server's, on every route", function()
    for _, route in ipairs(ROUTES) do
      local line = ("%s %s HTTP/1.1\r\n"):format(table.unpack(route))
      for _, value in ipairs {
        "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "localhost:80@evil.example", "10.0.0.1",
        "localhost:http", "[::1", "evil.example:8000", "localhost ", "",
      } do
        if value ~= "localhost " then -- a space at the end is no part of a value
          refused(403, "EHOST", line .. ("Host: %s\r\n\r\n"):format(value))
        end
      end
      refused(400, "EHOST", (line:gsub("1%.1", "1.0")) .. "\r\n")
    end
  end)

  it("may be localhost, 127.0.0.1 or [::1], with any port", function()
    for _, value in ipairs { "localhost", "LOCALHOST:1", "127.0.0.1:65535", "[::1]:8000", "[::1]" } do
      assert.equal(200, (server:raw(head("Host: " .. value .. "\r\n"))), value)
    end
  end)
end)

describe("pages of other sites (P24)", function()
  it("may not use any route", function()
    for _, route in ipairs(ROUTES) do
      local start = ("%s %s HTTP/1.1\r\nHost: localhost:8000\r\n"):format(table.unpack(route))
      for _, line in ipairs {
        "Origin: http://evil.example", "Origin: null", "Origin: http://localhost:8001", "Origin: http://127.0.0.1:8000",
        "Origin: http://localhost", "Origin: http://localhost:8000.evil.example", "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site", "Origin: file://localhost:8000",
      } do
        refused(403, "EORIGIN", start .. line .. "\r\n\r\n")
      end
    end
  end)

  it("our own may", function()
    for _, line in ipairs {
      "Origin: http://localhost:8000", "Origin: https://localhost:8000\r\nSec-Fetch-Site: same-origin",
      "Sec-Fetch-Site: none",
    } do
      assert.equal(200, (server:raw(head("Host: localhost:8000\r\n" .. line .. "\r\n"))))
    end
  end)

  it("cannot send what a browser sends unasked", function()
    for _, kind in ipairs {
      "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonx",
      "text/plain; application/json", "",
    } do
      local start = "POST /unload-model HTTP/1.1\r\nHost: localhost\r\nContent-Type: " .. kind .. "\r\n"
      local status, body = server:raw(start .. "Content-Length: 2\r\n\r\n{}")
      assert.same({ 415, "EMEDIA" }, { status, json.decode(body).code }, kind)
      assert.equal(415, (server:raw(start .. "Content-Length: 0\r\n\r\n")), kind)
    end
    local status = server:raw "POST /unload-model HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
    assert.equal(415, status)
  end)

  it("get no permission in any answer", function()
    for _, route in ipairs(ROUTES) do
      local _, _, answer = server:request(route[1], route[2])
      assert.is_nil(answer:lower():find "access%-control")
    end
  end)
end)

describe("a token (P25)", function()
  local token = ("c0ffee"):rep(10)
  local guarded
  setup(function() guarded = http.serve({ "--host", "0.0.0.0" }, { MOONSCOPE_TOKEN = token }) end)
  teardown(function() assert.equal(0, guarded:stop()) end)

  it("is needed on every route, before anything is told", function()
    for _, route in ipairs(ROUTES) do
      for _, line in ipairs {
        "", "Authorization: Bearer wrong\r\n", "Authorization: Bearer \r\n", "Authorization: " .. token .. "\r\n",
        "Cookie: moonscope_token=wrong\r\n", "Cookie: other=" .. token .. "\r\n",
        "Authorization: Bearer " .. token .. "x\r\n", "Authorization: Bearer " .. token:sub(2) .. "\r\n",
      } do
        local status, body = guarded:request(route[1], route[2], nil, line)
        assert.same({ 401, "ETOKEN" }, { status, body.code })
      end
    end
    assert.equal(401, (guarded:request("POST", "/unload-model?token=" .. token)))
  end)

  it("comes as a bearer's or in a cookie", function()
    assert.equal(200, (guarded:request("GET", "/health", nil, "Authorization: Bearer " .. token .. "\r\n")))
    assert.equal(200, (guarded:request("GET", "/health", nil, "Cookie: a=b; moonscope_token=" .. token .. "\r\n")))
  end)

  it("in a URL becomes a cookie and leaves the URL; no log has it", function()
    local status, _, answer = guarded:request("GET", "/jobs?a=1&token=" .. token)
    assert.equal(303, status)
    assert.truthy(answer:find("\r\nLocation: /jobs?a=1\r\n", 1, true))
    assert.truthy(answer:find("\r\nSet-Cookie: moonscope_token=" .. token
      .. "; Path=/; HttpOnly; SameSite=Strict\r\n", 1, true))
    assert.is_nil(guarded.err:find(token, 1, true))
    assert.is_nil(guarded.out:find(token, 1, true))
  end)

  it("beyond loopback is made where none is given, and printed once", function()
    local other = http.serve({ "--host", "0.0.0.0" }, { MOONSCOPE_TOKEN = false })
    local made = other.out:match "%?token=(%x+)\n"
    assert.equal(64, #made)
    assert.equal(401, (other:request("GET", "/health")))
    assert.equal(200, (other:request("GET", "/health", nil, "Authorization: Bearer " .. made .. "\r\n")))
    assert.equal(0, other:stop())
    assert.equal(1, select(2, (other.out .. other.err):gsub(made, "")))
  end)
end)

describe("slow clients (P17)", function()
  it("are cut, however they dribble; others are answered meanwhile", function()
    local uv = require "luv"
    local slow = {}
    local extension = server:connect() -- of a chunk, which libmicrohttpd waits for however long it gets
    extension:write("POST /load-model HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
      .. "Transfer-Encoding: chunked\r\n\r\n2;" .. ("a"):rep(1 << 20))
    for i = 1, 20 do
      local silent_head, in_body = server:connect(), server:connect()
      silent_head:write "GET /hea"
      in_body:write("POST /load-model HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        .. "Content-Length: 1000\r\n\r\n{")
      slow[2 * i - 1], slow[2 * i] = silent_head, in_body
    end
    local dribble = uv.new_timer()
    dribble:start(500, 500, function()
      for _, connection in ipairs(slow) do
        if not connection.over then connection.socket:write " " end
      end
    end)
    local start = uv.hrtime()
    assert.equal(200, (server:request("GET", "/health")))
    for i = 1, #slow, 2 do slow[i]:read_all() end
    assert.is_true((uv.hrtime() - start) / 1e9 < 25)
    for i = 2, #slow, 2 do slow[i]:read_all() end
    assert.is_true((uv.hrtime() - start) / 1e9 > 25)
    extension:read_all()
    extension:close()
    dribble:close()
    for _, connection in ipairs(slow) do connection:close() end
    assert.equal(200, (server:request("GET", "/health")))
  end)
end)

describe("many connections (P16)", function()
  local uv = require "luv"

  local function rss_of(pid)
    local file = assert(io.open(("/proc/%d/status"):format(pid)))
    local kilobytes = file:read("a"):match "VmRSS:%s+(%d+)"
    file:close()
    return tonumber(kilobytes)
  end

  it("wait without an error and without much memory", function()
    local before, idle = rss_of(server.pid), {}
    for i = 1, 1000 do
      idle[i] = server:connect()
      idle[i]:write(head "Host: localhost\r\n")
    end
    for i = 1, 1000 do assert.equal(200, (idle[i]:response())) end
    assert.is_true(rss_of(server.pid) - before < 64 << 10)
    assert.equal(200, (server:request("GET", "/health")))
    for i = 1, 1000 do -- each is still there
      idle[i]:write(head "Host: localhost\r\n")
    end
    for i = 1, 1000 do
      assert.equal(200, (idle[i]:response()))
      idle[i].socket:close()
    end
    uv.run "nowait"
  end)

  it("above the limit are told so, with JSON", function()
    local small = http.serve { "--connections", "5" }
    local held = {}
    for i = 1, 5 do
      held[i] = small:connect()
      held[i]:write(head "Host: localhost\r\n")
      assert.equal(200, (held[i]:response()))
    end
    local status, body, answer = small:request("GET", "/health")
    assert.same({ 503, "EBUSY" }, { status, body.code })
    assert.truthy(answer:find("\r\nRetry-After: 1\r\n", 1, true))
    for i = 1, 5 do held[i]:close() end
    http.wait_for("a place", function() return (small:request("GET", "/health")) == 200 end)
    assert.equal(0, small:stop())
  end)
end)

describe("the server's own files", function()
  local function each_file(fn)
    local pipe = assert(io.popen "find lua/moonscope/server -name '*.lua'")
    for path in pipe:lines() do
      local file = assert(io.open(path))
      fn(path, file:read "a")
      file:close()
    end
    pipe:close()
  end

  it("run no Lua that came over the network (P27)", function()
    each_file(function(path, text)
      for name in text:gmatch "[^%w_.:](%w+)%s*[%(\"']" do
        local is_routes_file = path:find "server/init%.lua$" and name == "loadfile"
        local runs_code = name == "load" or name == "loadfile" or name == "dofile" or name == "loadstring"
        assert.is_true(not runs_code or is_routes_file, path .. ": " .. name)
      end
    end)
  end)

  it("refuse with codes that are listed (P41)", function()
    local codes = require("moonscope.server.errors").CODES
    each_file(function(path, text)
      for code in text:gmatch '"(E%u+)"' do
        assert.equal("string", type(codes[code]), path .. ": " .. code)
      end
    end)
    for _, code in ipairs { "EHEADER", "EHOST", "EORIGIN", "ETOKEN", "ETOOBIG", "EBUSY" } do -- of src/host/gate.c
      assert.equal("string", type(codes[code]))
    end
    local listed = {}
    local readme = require("fixtures").read "README.md"
    for code in readme:match("Codes:(.-)\n\n"):gmatch "`(E%u+)`" do listed[code] = true end
    for code in pairs(codes) do assert.is_true(listed[code], code .. " is not in the README") end
  end)
end)

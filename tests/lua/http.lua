-- SPDX-License-Identifier: MIT
---A server of its own for a spec, and a client that sends exactly the bytes it is given.
local uv = require "luv"
local json = require "moonscope.json"
local process = require "process"

local M = {}

local PATIENCE_MS = 60000 -- a deadline that only a hang reaches

local together = false

---Runs the loop until `done()`, which may ask the server; fails where that never comes.
local function wait_for(what, done)
  local late = false
  if together then -- others run meanwhile, and `M.together` sees to the end
    while not done() do coroutine.yield() end
    return
  end
  local patience, tick = uv.new_timer(), uv.new_timer()
  patience:start(PATIENCE_MS, 0, function() late = true end)
  tick:start(10, 10, function() end)
  while not late and not done() do uv.run "once" end
  patience:close()
  tick:close()
  uv.run "nowait"
  if late then error("http: waited in vain for " .. what, 0) end
end
M.wait_for = wait_for

---Runs n clients beside each other: fn(i), in which every wait lets the others run.
---@param seconds number  that they mean to take
function M.together(n, seconds, fn)
  local clients = {}
  for i = 1, n do
    clients[i] = coroutine.create(function() fn(i) end)
  end
  local late, patience, tick = false, uv.new_timer(), uv.new_timer()
  patience:start(math.ceil(seconds * 1000) + PATIENCE_MS, 0, function() late = true end)
  tick:start(10, 10, function() end)
  together = true
  local failure
  while next(clients) and not late and not failure do
    for i, client in pairs(clients) do
      local ok, message = coroutine.resume(client)
      if not ok then failure = tostring(message) end
      if coroutine.status(client) == "dead" then clients[i] = nil end
    end
    uv.run "once"
  end
  together = false
  patience:close()
  tick:close()
  uv.run "nowait"
  local _, waiting = next(clients)
  if late and waiting then failure = debug.traceback(waiting, "http: a client waits in vain") end
  if failure then error(failure, 0) end
end

local Server = {}
Server.__index = Server

---Starts `moonscope serve` on a free port.
---@param arguments string[]?
---@param env table<string, string|false>?
---@return table server  .port, .out, .err; :stop()
function M.serve(arguments, env)
  local self = setmetatable({ out = "", err = "" }, Server)
  local pipes = { nil, uv.new_pipe(), uv.new_pipe() }
  local pid
  self.child, pid = uv.spawn(process.program, {
    args = { "serve", "--port", "0", table.unpack(arguments or { "--data", "examples" }) },
    stdio = pipes, env = process.environment(env),
  }, function(code, signal) self.code, self.signal = code, signal end)
  assert(self.child, pid)
  self.pid, self.pipes = pid, { pipes[2], pipes[3] }
  for i, name in ipairs { "out", "err" } do
    self.pipes[i]:read_start(function(_, chunk) self[name] = self[name] .. (chunk or "") end)
  end
  wait_for("the server's first line", function() return self.out:find "\n" or self.code end)
  self.port = tonumber(self.out:match "Listening on http://[^\n]*:(%d+)")
  return self
end

function Server:wait()
  wait_for("the server's end", function() return self.code end)
  while not self.read_all do -- what it wrote last
    self.read_all = true
    uv.run "nowait"
  end
  self.child:close()
  for _, pipe in ipairs(self.pipes) do pipe:close() end
  uv.run "nowait"
  return self.code
end

---Ends it by a signal; returns the exit code.
function Server:stop(signal)
  if not self.code then self.child:kill(signal or "sigterm") end
  return self:wait()
end

local Connection = {}
Connection.__index = Connection

function Server:connect()
  local socket = uv.new_tcp()
  local self_ = setmetatable({ socket = socket, text = "" }, Connection)
  local connected
  assert(socket:connect("127.0.0.1", self.port, function(err) connected = err or true end))
  wait_for("a connection", function() return connected end)
  if connected ~= true then
    socket:close()
    error(connected, 0)
  end
  socket:read_start(function(err, chunk)
    if chunk then
      self_.text = self_.text .. chunk
    else
      self_.over = err or "end"
    end
  end)
  return self_
end

function Connection:write(text)
  self.socket:write(text)
  if not together then uv.run "nowait" end
end

---Waits until what has come holds the pattern, or is over. Returns all of it so far.
function Connection:read_until(pattern)
  wait_for(pattern, function() return self.over or self.text:find(pattern) end)
  return self.text
end

---Waits until the other side closes.
function Connection:read_all()
  wait_for("the end of the connection", function() return self.over end)
  return self.text
end

function Connection:close(reset)
  if self.socket:is_closing() then return end
  if reset then
    self.socket:close_reset()
  else
    self.socket:close()
  end
  if not together then uv.run "nowait" end
end

local function length_of(head)
  return tonumber(head:lower():match "\r\ncontent%-length: (%d+)")
end

---One response: status, body as text, head. What follows it stays.
---@return integer? status  nil: the connection ended first
function Connection:response(is_head)
  self:read_until "\r\n\r\n"
  local first, last = self.text:find("\r\n\r\n", 1, true)
  if not first then return nil end
  local head = self.text:sub(1, first + 1)
  local length = is_head and 0 or length_of(head)
  if length then
    wait_for("a body", function() return self.over or #self.text >= last + length end)
  else
    wait_for("the end of a body", function()
      return self.over or self.text:find("0\r\n\r\n", last + 1, true)
    end)
    length = #self.text - last
  end
  local body = self.text:sub(last + 1, last + length)
  self.text = self.text:sub(last + length + 1)
  return tonumber(head:match "^HTTP/1%.%d (%d+)"), body, head
end

---Sends bytes on a new connection: status, body, head of the answer.
function Server:raw(bytes)
  local connection = self:connect()
  connection:write(bytes)
  local status, body, head = connection:response()
  connection:close()
  return status, body, head
end

---@param body table|string|nil  a table is sent as JSON
---@param headers string?  further lines, each with its \r\n
---@return integer status
---@return any body  decoded where it is JSON
---@return string head
function Server:request(method, path, body, headers)
  if type(body) == "table" then body = json.encode(body) end
  local lines = { ("%s %s HTTP/1.1\r\nHost: localhost:%d\r\nConnection: close\r\n"):format(method, path, self.port) }
  if body then
    lines[2] = ("Content-Type: application/json\r\nContent-Length: %d\r\n"):format(#body)
  end
  local status, text, head = self:raw(table.concat(lines) .. (headers or "") .. "\r\n" .. (body or ""))
  local is_json = head and head:find "application/json"
  return status, is_json and assert(json.decode(text)) or text, head
end

return M

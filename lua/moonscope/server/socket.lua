-- SPDX-License-Identifier: MIT
---A WebSocket as a handler sees it.
local json = require "moonscope.json"
local loop = require "moonscope.loop"

local MAX_WAITING = 256 -- messages that a client may be ahead of its handler

local Socket = {}
Socket.__index = Socket

---@param websocket userdata  the C half: send, close
---@return table
function Socket.new(websocket)
  return setmetatable({ websocket = websocket, messages = {}, first = 1, last = 0 }, Socket)
end

---The next text from the client; nil once it is closed.
---@return string?
function Socket:receive()
  while self.first > self.last do
    if self.over then return nil end
    loop.park()
  end
  local text = self.messages[self.first]
  self.messages[self.first] = nil
  self.first = self.first + 1
  return text
end

---@param message table|string
---@return boolean sent  false once it is closed
function Socket:send(message)
  return self.websocket:send(type(message) == "table" and json.encode(message) or message)
end

---A message has come.
function Socket:take(text)
  if self.last - self.first >= MAX_WAITING then return self.websocket:close(1008) end
  self.last = self.last + 1
  self.messages[self.last] = text
  if self.task then loop.wake(self.task) end
end

---No more will come.
function Socket:end_of_messages()
  self.over = true
  if self.task then loop.wake(self.task) end
end

return Socket

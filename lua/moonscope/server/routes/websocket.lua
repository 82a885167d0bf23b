-- SPDX-License-Identifier: MIT
---/ws: what changes is told to everybody who listens; pings and inferences are answered.
local json = require "moonscope.json"
local loop = require "moonscope.loop"
local errors = require "moonscope.server.errors"
local reply = require "moonscope.server.reply"

local MAX_ASKED = 16 -- inferences of one client at a time

---What a subscription is about: the messages that begin like this.
local SUBSCRIPTIONS = {
  patch_updates = "^patch_", model_status = "^model_status$", inference_results = "^inference_", job_updates = "^job_",
}

local function send_error(socket, id, message)
  socket:send(json.ordered { { "type", "error" }, { "requestId", id }, { "error", message } })
end

---A client hears everything until it unsubscribes.
local function listener_of(socket, muted)
  return function(message)
    for pattern in pairs(muted) do
      if message.type:find(pattern) then return end
    end
    socket:send(message)
  end
end

local function subscribe(socket, message, muted)
  local data = type(message.data) == "table" and message.data or message
  local pattern = SUBSCRIPTIONS[data.subscriptionType]
  if not pattern or data.action ~= "subscribe" and data.action ~= "unsubscribe" then
    return send_error(socket, message.requestId,
      "subscription: expected subscriptionType patch_updates, model_status, inference_results or job_updates, action "
        .. "subscribe or unsubscribe")
  end
  muted[pattern] = data.action == "unsubscribe" or nil
  socket:send(json.ordered {
    { "type", "subscription_response" }, { "subscriptionType", data.subscriptionType }, { "action", data.action },
    { "success", true },
  })
end

---Answers as POST /inference does, in a task of its own: pings are answered meanwhile.
local function infer(request, socket, message, asked)
  local id = message.requestId or message.request_id
  if asked.n >= MAX_ASKED then return send_error(socket, id, "too many requests at once") end
  asked.n = asked.n + 1
  local data = type(message.data) == "table" and message.data or message
  local function over(task)
    asked[task], asked.n = nil, asked.n - 1
  end
  local function run()
    local task = coroutine.running()
    asked[task] = true
    local status, body = request.app:call("POST", "/inference", data)
    over(task)
    if status ~= 200 or reply.is_reply(body) then
      local told = json.decode(json.encode(body))
      return send_error(socket, id, type(told.detail) == "string" and told.detail or "the request is not valid")
    end
    socket:send(json.ordered { { "type", "inference_result" }, { "requestId", id }, { "data", body } })
  end
  loop.attempt(function(failure, task)
    request.app:refusal_of(request, failure, task)
  end, run)
end

local function answer(request, socket, text, muted, asked)
  local message = json.decode(text)
  if type(message) ~= "table" or type(message.type) ~= "string" then
    return send_error(socket, nil, 'expected a JSON object with a "type"')
  end
  if message.type == "ping" then
    socket:send { type = "pong" }
  elseif message.type == "subscription" then
    subscribe(socket, message, muted)
  elseif message.type == "inference_request" then
    infer(request, socket, message, asked)
  else
    send_error(socket, message.requestId, "unknown type " .. message.type)
  end
end

local function websocket(request, socket)
  local muted, asked = {}, { n = 0 }
  local listener = listener_of(socket, muted)
  local listeners = request.app.listeners
  listeners[listener] = true
  local guard <close> = setmetatable({}, { __close = function()
    listeners[listener] = nil
    local gone = errors.new { status = 499, code = "ECANCELED", detail = "the client left" }
    for task in pairs(asked) do
      if task ~= "n" then loop.cancel(task, gone) end
    end
  end })
  socket:send { type = "connection_established" }
  for text in function() return socket:receive() end do
    answer(request, socket, text, muted, asked)
  end
end

return { { "WS", "/ws", websocket } }

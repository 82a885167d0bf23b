-- SPDX-License-Identifier: MIT
---An app on the network: exchanges of the C half (src/host/httpd.h) become requests, and what handlers
---return goes out on them.
local uv = require "luv"
local core = require "moonscope.core"
local json = require "moonscope.json"
local loop = require "moonscope.loop"
local errors = require "moonscope.server.errors"
local log = require "moonscope.server.log"
local reply = require "moonscope.server.reply"
local request = require "moonscope.server.request"
local Socket = require "moonscope.server.socket"

local M = {}

local SWEEP_MS = 1000
local LATER_MS = 20
local COMMENT_NS = 15 * 1000000000 -- an event stream that is silent for so long says so
local DRAIN_SECONDS = 10
M.EXIT_LOST = 75 -- of the program whose device is lost: it may be started again (EX_TEMPFAIL)
local TURN_SECONDS = 10 -- that a handler may run without letting others

local JSON_TYPE = "application/json"
local NO_STORE = { "Cache-Control", "no-store" }
local GONE = {} -- thrown in a task whose client left
local no_parameters = {}

local Serving = {}
Serving.__index = Serving

local hrtime = uv.hrtime

local function route_name(new) return new.route and new.route.name or "-" end

local function log_request(new, status, n_bytes)
  local head = log.heads[status]
  if head then new.raw:log(head, new.route and new.route.name or "-", status, n_bytes) end
end

---The request is over: it is logged, and its task holds nothing more.
local function finish(self, new, status, n_bytes)
  new.over = true
  self.live[new.raw] = nil
  log_request(new, status, n_bytes)
  if new.task then self.app.workbench:leave(new.task) end
end

local function respond(self, new, status, content_type, text, headers)
  new.raw:respond(status, content_type, text, headers or NO_STORE)
  finish(self, new, status, #text)
end

local function respond_json(self, new, status, body, headers)
  respond(self, new, status, JSON_TYPE, json.encode(body), headers)
end

local function respond_refusal(self, new, refusal)
  local openai = new.route and new.route.openai or new.path:find "^/v1/" ~= nil
  local status, body, headers = errors.answer(refusal, openai)
  respond_json(self, new, status, body, headers)
end

-- Replies that are no JSON

local function disposition(filename)
  return { "Content-Disposition", ('attachment; filename="%s"'):format((filename:gsub('[^%w._-]', "_"))) }
end

---The response itself is made once, too.
local function prepare(self, status, answer)
  local prepared = self.prepare(status, JSON_TYPE, answer.text, NO_STORE)
  answer.prepared[status] = prepared
  return prepared
end

local function respond_constant(self, new, status, answer)
  new.raw:respond_prepared(answer.prepared[status] or prepare(self, status, answer))
  finish(self, new, status, #answer.text)
end

local function respond_file(self, new, status, answer)
  local fd, message, code = answer.fd, nil, nil
  if not fd then fd, message, code = core.open_file(answer.path) end
  if not fd then errors.refuse_failure(message, code) end
  local size = uv.fs_fstat(fd).size
  local headers = answer.filename and disposition(answer.filename) or NO_STORE
  if not new.raw:respond_file(status, answer.content_type, { fd, size }, headers) then uv.fs_close(fd) end
  finish(self, new, status, size)
end

local function write(new, text)
  new.n_written = new.n_written + #text
  new.written_at = hrtime()
  if not new.raw:write(text) then error(GONE, 0) end
end

local function event_text(data, event)
  if type(data) == "table" then data = json.encode(data) end
  data = data:gsub("\n", "\ndata: ")
  return (event and "event: " .. event .. "\n" or "") .. "data: " .. data .. "\n\n"
end

local function respond_events(self, new, status, answer, headers)
  new.status, new.n_written, new.written_at = status, 0, hrtime()
  if not new.raw:stream(status, "text/event-stream", nil, headers or { "Cache-Control", "no-store",
    "X-Accel-Buffering", "no" }) then
    error(GONE, 0)
  end
  new.streaming = true
  answer.produce(function(data, event) write(new, event_text(data, event)) end)
  new.raw:finish()
  finish(self, new, status, new.n_written)
end

local function respond_bytes(self, new, status, answer, headers)
  respond(self, new, status, answer.content_type, answer.content,
    answer.filename and disposition(answer.filename) or headers)
end

local responders = {
  constant = respond_constant, events = respond_events, file = respond_file, bytes = respond_bytes,
}

local function send_answer(self, new, status, answer, headers)
  if reply.is_reply(answer) then
    responders[answer.kind](self, new, status, answer, headers)
  elseif type(answer) == "table" and type(status) == "number" then
    respond_json(self, new, status, answer, headers)
  else
    error(("%s: the handler returned %s, %s; expected a status and a table"):format(route_name(new), tostring(status),
      type(answer)), 0)
  end
end

-- Errors

---A stream whose head is out ends with an event that says why.
local function end_stream(self, new, refusal)
  local _, body = errors.answer(refusal, new.route.openai)
  if new.raw:write(event_text(body, not new.route.openai and "error" or nil)) then new.raw:finish() end
  finish(self, new, refusal.status, new.n_written)
end

---Outside of the task, whatever it threw.
local function fail(self, new, message, where)
  if new.gone or message == GONE then
    if not new.over then finish(self, new, 499, new.n_written or 0) end -- as nginx calls it
    return
  end
  if new.over then -- answered already
    log.write("error", { { "id", new.id }, { "error", tostring(message) }, { "traceback", errors.traceback(where) } })
    return
  end
  local refusal = self.app:refusal_of(new, message, where)
  if new.streaming then
    end_stream(self, new, refusal)
  else
    respond_refusal(self, new, refusal)
  end
end

-- Requests

---A token in a URL becomes a cookie, and leaves the URL: it shall not stay in the history.
local function take_token(new)
  local list, kept = new.raw:query(), {}
  local token
  for i = 1, #list, 2 do
    if list[i] == "token" then
      token = list[i + 1]
    else
      kept[#kept + 1] = list[i] .. "=" .. list[i + 1]:gsub(" ", "+")
    end
  end
  local target = new.path .. (#kept > 0 and "?" .. table.concat(kept, "&") or "")
  return 303, {}, {
    "Location", target, "Cache-Control", "no-store",
    "Set-Cookie", ("moonscope_token=%s; Path=/; HttpOnly; SameSite=Strict"):format(token),
  }
end

local function upgrade(self, new)
  local ok, why = new.raw:upgrade()
  if ok == nil then errors.refuse(400, "EINVAL", why) end
  self.upgrading[new.raw] = new
  self.live[new.raw] = nil
end

local function refuse_draining()
  errors.refuse(503, "ESHUTDOWN", "The server shuts down", nil,
    { retry_after = 5, headers = { "Connection", "close" } })
end

local function handle(self, new)
  new.task = coroutine.running()
  if self.draining then refuse_draining() end
  self.app:read(new)
  if new.route[1] == "WS" then return upgrade(self, new) end
  send_answer(self, new, new.route[3](new))
end

local function handle_at_once(self, new)
  if self.draining then refuse_draining() end
  if new.route.fields or new.method ~= "GET" then
    request.read(new, no_parameters)
  else
    new.args = no_parameters
  end
  send_answer(self, new, new.route[3](new))
end

local last_traceback -- of an error that a handler which never waits did not mean to throw

local function note_traceback(message)
  last_traceback = not errors.is_refusal(message) and debug.traceback(tostring(message), 2)
  return message
end

local function on_request(self, exchange, method, path, token_in_query)
  local new = request.new(self.app, exchange, method, path)
  local route = self.app.router:at_once(method, path)
  if token_in_query then
    send_answer(self, new, take_token(new))
  elseif route then
    new.route = route
    local ok, message = xpcall(handle_at_once, note_traceback, self, new)
    if not ok then fail(self, new, message, last_traceback) end
  else
    self.live[exchange] = new
    loop.attempt(function(...) fail(self, new, ...) end, handle, self, new)
  end
end

local function on_refused(self, exchange, method, path, status, code, detail)
  local new = request.new(self.app, exchange, method, path)
  local headers = { "Connection", "close" }
  if status == 401 then headers = { "Connection", "close", "WWW-Authenticate", "Bearer" } end
  respond_refusal(self, new, errors.new {
    status = status, code = code, detail = detail, headers = headers, retry_after = status == 503 and 1 or nil,
  })
end

local function on_gone(self, exchange)
  local new = self.live[exchange]
  if not new then return end
  new.gone = true
  if new.task then
    loop.cancel(new.task, GONE)
  else
    fail(self, new, GONE)
  end
end

-- WebSockets

local function on_opened(self, exchange, websocket)
  local new = self.upgrading[exchange]
  local socket = Socket.new(websocket)
  self.sockets[websocket] = socket
  local function tell(message, task)
    self.app.workbench:leave(new.task)
    if message == GONE then return end
    self.app:refusal_of(new, message, task)
    websocket:close(1011)
  end
  loop.attempt(tell, function()
    new.task = coroutine.running()
    socket.task = new.task
    new.route[3](new, socket)
    self.app.workbench:leave(new.task)
    websocket:close()
  end)
  log_request(new, 101, 0)
end

local function on_message(self, websocket, text) self.sockets[websocket]:take(text) end

local function on_closed(self, websocket)
  local socket = self.sockets[websocket]
  self.sockets[websocket] = nil
  if socket then socket:end_of_messages() end
end

-- Running

local function pump(self)
  if self.stopped then return end
  local more = self.listener:run()
  if more == "again" then
    self.again:start(self.pump)
  else
    self.again:stop()
  end
  if more == "later" then self.later:start(LATER_MS, 0, self.pump) end
end

---Keeps proxies from cutting an answer that is long in coming, and finds readers that are gone.
local function comment_streams(self)
  local now = hrtime()
  for _, new in pairs(self.live) do
    if new.streaming and now - new.written_at > COMMENT_NS then
      new.written_at = now
      new.raw:write ":\n\n"
    end
  end
end

local function sweep(self)
  comment_streams(self)
  self.listener:sweep()
  pump(self)
end

local function host_module() return require "moonscope.host" end

---Tells the service manager that started the server, where there is one.
---@param state string  "READY=1"
function M.tell_manager(state)
  local told, message = host_module().notify(state)
  if not told then log.write("warn", { { "message", message } }) end
end

---No new connections; what runs may end in its time, after which it is ended.
local function drain(self, seconds, reason)
  self.deadline, self.reason = hrtime() + seconds * 1000000000, reason
  if self.draining then return end
  self.draining = true
  M.tell_manager "STOPPING=1"
  self.listener:quiesce()
  loop.spawn(function()
    for websocket in pairs(self.sockets) do websocket:close(1001) end
    while next(self.live) and hrtime() < self.deadline do loop.sleep(20) end
    for _, new in pairs(self.live) do
      if new.task then loop.cancel(new.task, self.reason) end
    end
    loop.sleep(0)
    for _ = 1, 50 do -- until what was written last has gone out
      pump(self)
      if not next(self.live) then break end
      loop.sleep(20)
    end
    self.drained = true
    if self.main then loop.wake(self.main) end
  end)
end

local function on_stop_signal(self)
  if self.draining then os.exit(self.lost and M.EXIT_LOST or 1) end -- the second signal
  log.write("info", { { "message", "draining" } })
  drain(self, DRAIN_SECONDS, errors.new { status = 503, code = "ESHUTDOWN", detail = "The server shuts down" })
end

---A fault took the device: what is under way cannot end well, and only another process gets it back.
local function on_lost(self, refusal)
  if self.lost then return end
  self.lost = true
  log.write("error", { { "code", refusal.code }, { "message", refusal:text() }, { "exit", M.EXIT_LOST } })
  drain(self, 0, refusal)
end

---Waits in the current task until the server has drained.
function Serving:wait()
  self.main = coroutine.running()
  while not self.drained do loop.park() end
end

function Serving:__close()
  if self.stopped then return end
  self.stopped = true
  host_module().limit_turns(0)
  for _, handle_ in ipairs(self.handles) do handle_:close() end
  self.listener:stop()
  self.listener:flush_log()
  for _, new in pairs(self.live) do
    if new.task then loop.cancel(new.task, GONE) end
  end
  for _, socket in pairs(self.sockets) do socket:end_of_messages() end
end

local function signals(self)
  local handles = {}
  local function on(name, fn)
    local handle_ = uv.new_signal()
    handle_:start(name, loop.guarded(fn))
    handles[#handles + 1] = handle_
  end
  on("sigterm", function() on_stop_signal(self) end)
  on("sigint", function() on_stop_signal(self) end)
  for _, name in ipairs { "sighup", "sigusr1", "sigusr2" } do on(name, function() end) end
  return handles
end

---Starts answering; to be closed (`<close>`). A task of the loop calls this.
---@param app table
---@param listener userdata  from httpd.listen
---@param hosts string[]
---@param token string?
---@return table serving  :wait() returns once a signal has made it drain, or the device is lost (.lost)
function M.start(app, listener, hosts, token)
  local self = setmetatable({
    app = app, listener = listener, prepare = require("moonscope.httpd").prepare, draining = false,
    live = {}, upgrading = setmetatable({}, { __mode = "k" }), sockets = {},
    request = on_request, refused = on_refused, gone = on_gone, -- what the C half calls
    opened = on_opened, message = on_message, closed = on_closed,
  }, Serving)
  listener:start(self, hosts, ("%06x-"):format(math.random(0, 0xFFFFFF)), token)
  app.on_lost = function(refusal) on_lost(self, refusal) end
  self.pump = loop.guarded(function() pump(self) end)
  self.again, self.later = uv.new_idle(), uv.new_timer()
  local poll, timer, before_waiting = uv.new_poll(listener:fd()), uv.new_timer(), uv.new_prepare()
  poll:start("r", self.pump)
  before_waiting:start(loop.guarded(function()
    if self.stopped then return end
    if listener:has_resumed() then pump(self) end
    listener:flush_log()
  end))
  timer:start(SWEEP_MS, SWEEP_MS, loop.guarded(function() sweep(self) end))
  self.handles = signals(self)
  table.move({ poll, timer, self.again, self.later, before_waiting }, 1, 5, #self.handles + 1, self.handles)
  host_module().limit_turns(TURN_SECONDS)
  return self
end

return M

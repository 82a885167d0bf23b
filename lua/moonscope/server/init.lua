-- SPDX-License-Identifier: MIT
--[[
The HTTP server: `moonscope serve`, or `require("moonscope.server").run(options)`.

A family of routes is a file lua/moonscope/server/routes/NAME.lua, named in app.FAMILIES, that returns a
list of routes:

    { "POST", "/load-sae", load_sae, fields = { { "layer_idx", "integer", min = 0, max = 1000 }, ... } }

Each is there at /x and at /api/x. `fields` says what the handler wants to know (fields.lua: kinds, ranges,
both spellings); they come from the JSON body, the query or the path, and are in request.args, checked. A
route under /v1 gets its errors in OpenAI's form.

A handler(request) knows no socket. It may await, sleep and park (loop.lua): each request is a task. It
returns a status and

    a table                                 JSON; json.array {} for an empty list, json.ordered for an order
    reply.events(function(send) ... end)    server-sent events: send(table or text, event name or nil)
    reply.bytes(text, type, filename)       reply.file(path, type, filename)
    reply.descriptor(fd, type, filename)    the same of an open file

and maybe a list of headers { "Retry-After", "1" }. It throws errors.refuse(status, code, detail, field); what
else it throws is a 500 with an id, logged with its traceback. A client that leaves cancels the task at its
next wait: within one token. `at_once = true` marks a handler that never waits.

    request.args        request:header(name)      request.id
    request.workbench   :enter() -> use.model, use:sae(layer); the task becomes an answer, which loading
                        another model ends with a 503; 400, 429 and 503 are thrown
    request.jobs        :start(kind, title, fn) -> job; job:wait(), job:describe(): what outlives a request
    request.paths       :file(path, field), :folder, :output: real paths below the --data folders; ms.open, ms.save,
                        json.read and reply.file look once more at what they open there, io.open does not
    request.app         :publish(kind, data) tells every WebSocket

{ "WS", "/ws", function(request, socket) ... end }: socket:receive() waits for a text, nil once closed;
socket:send(table) is false once closed.

Tests call handlers without a socket: app:call(method, target, body) (app.lua).
]]
local uv = require "luv"
local arguments = require "moonscope.arguments"
local loop = require "moonscope.loop"
local App = require "moonscope.server.app"
local server = require "moonscope.server.serving"

local M = {}

M.MAX_CONNECTIONS, M.MAX_ANSWERS = 2048, 64

---The names that a Host header may have.
local function hosts_of(info, options)
  local hosts = { "localhost", "127.0.0.1", "[::1]" }
  for _, name in ipairs { info.address, options.host, table.unpack(options.allow_hosts or {}) } do
    hosts[#hosts + 1] = name:lower()
  end
  return hosts
end

local function random_token()
  return (assert(uv.random(32)):gsub(".", function(byte) return ("%02x"):format(byte:byte()) end))
end

---The token that is needed, and whether it was made here. Beyond loopback there is always one.
local function token_of(info, options)
  local token = options.token or os.getenv "MOONSCOPE_TOKEN"
  if token and token ~= "" then return token end
  if not info.loopback then return random_token(), true end
end

local function load_routes(path)
  local chunk, message = loadfile(path, "t")
  if not chunk then return nil, "--routes: " .. message end
  local ok, routes = xpcall(chunk, debug.traceback, path)
  if not ok then return nil, ("--routes %s: %s"):format(path, routes) end
  if type(routes) ~= "table" then
    return nil, ("--routes %s: found %s, expected a list of routes"):format(path, type(routes))
  end
  return routes
end

---Loads what the command line names: the operator may name any path.
local function load_first(app, options)
  local bench = app.workbench
  return app.jobs:start("load-model", options.model or "nothing", function()
    if options.model then bench:load_model(options.model, options.model) end
    local open = {
      format = options.format, activation = options.activation, input_scale = options.input_scale,
      place = options.layer,
    }
    for _, path in ipairs(options.saes or {}) do arguments.warn_of_layer(bench:load_sae(path, open).sae) end
    return {}
  end)
end

local function announce(info, token, made)
  local url = ("http://%s:%d"):format(info.address, info.port)
  io.stdout:write("Listening on ", url, made and "/?token=" .. token or "", "\n")
  io.stdout:flush()
  server.tell_manager "READY=1"
end

local function serve(options)
  local httpd = require "moonscope.httpd"
  local routes, message
  if options.routes_file then
    routes, message = load_routes(options.routes_file)
    if not routes then return nil, message end
  end
  local listener
  listener, message = httpd.listen(options.host, options.port, options.connections or M.MAX_CONNECTIONS)
  if not listener then return nil, message end
  local guard <close> = listener
  local info = listener:info()
  local app
  app, message = App.new(setmetatable({ routes = routes }, { __index = options }))
  if not app then return nil, message end
  local token, made = token_of(info, options)
  local running <close> = server.start(app, listener, hosts_of(info, options), token)
  announce(info, token, made)
  local ok, refusal = true, nil
  if options.model then
    local first = load_first(app, options)
    ok, refusal = pcall(first.wait, first)
  end
  if ok then running:wait() end
  app:close()
  if running.lost then return server.EXIT_LOST end
  if not ok then return nil, (refusal:text():gsub("^layer_idx:", "--layer:")) end
  return true
end

---Serves until SIGTERM or Ctrl-C, then drains.
---@param options {host: string, port: integer, data: string[]?, model: string?, saes: string[]?, routes_file: string?, allow_hosts: string[]?, connections: integer?, max_answers: integer, token: string?, device: string?, precision: string?, context: integer?, sae_dtype: string?, format: string?, activation: string?, input_scale: number?, layer: string?}
---@return true|integer|nil done  or an exit code that tells why it ended
---@return string? message
function M.run(options)
  return loop.run(serve, options)
end

return M

-- SPDX-License-Identifier: MIT
---A request, as a handler sees it, and how it is read from what came. Knows no socket: `raw` is the
---server's Exchange or a test's table with the same methods query, body, header and id.
local fields = require "moonscope.server.fields"
local errors = require "moonscope.server.errors"
local json = require "moonscope.json"
local router = require "moonscope.server.router"

local M = {}

local setmetatable = setmetatable

---@class moonscope.Request
---@field id string  names it in the log and in a 500
---@field method string
---@field path string  as it came, without the query
---@field route moonscope.Route
---@field args table<string, any>  the route's fields, checked
---@field app table  moonscope.server.app
---@field workbench table  the model and the SAEs (workbench.lua)
---@field jobs table  (jobs.lua)
---@field paths table  files that a request may name (paths.lua)
---@field header fun(self, name: string): string?
local Request = {}

---The id is made for who asks, since most do not.
function Request.__index(self, key)
  if key == "id" then
    self.id = self.raw:id()
    return self.id
  end
  return Request[key]
end

function Request:header(name) return self.raw:header(name) end

---@param app table
---@param raw table
---@return moonscope.Request
function M.new(app, raw, method, path)
  return setmetatable({ -- with all that is set later: a table that grows is made anew
    app = app, raw = raw, method = method, path = path, route = false, args = false, task = false, over = false,
    workbench = app.workbench, jobs = app.jobs, paths = app.paths,
  }, Request)
end

local function read_query(raw)
  local query, list = {}, raw:query()
  for i = 1, #list, 2 do
    local name, value = router.decode(list[i]), router.decode(list[i + 1])
    if not name or not value then
      errors.refuse(400, "EINVAL", "the query has an escape that is none, or no text")
    end
    query[name] = value
  end
  return query
end

local function is_json(content_type)
  local kind = content_type:lower():match "^%s*([^;]-)%s*$" or content_type:lower():match "^%s*([^;]-)%s*;"
  return kind == "application/json"
end

---A page of another site can send a form or a text without asking, JSON it cannot.
local function check_content_type(raw, text)
  local content_type = raw:header "Content-Type"
  if content_type and not is_json(content_type) or not content_type and text ~= "" then
    errors.refuse(415, "EMEDIA", "a body must be application/json (Content-Type)")
  end
end

local function read_body(raw)
  local text, too_big = raw:body()
  if too_big then errors.refuse(413, "ETOOBIG", "the body is larger than the limit of 8 MiB") end
  check_content_type(raw, text)
  if text == "" then return {} end
  local value, message, code, field = json.decode(text)
  if value == nil then errors.refuse(400, code, "the body is no JSON: " .. json.text(message), field) end
  if type(value) ~= "table" or #value > 0 then
    error(errors.invalid { { loc = { "body" }, type = "dict_type", msg = "Input should be a valid dictionary" } }, 0)
  end
  return value
end

local no_fields = {}

---Reads what came into request.args. Throws a refusal.
---@param request moonscope.Request
---@param path table<string, string>  the path's parameters
function M.read(request, path)
  local route, raw = request.route, request.raw
  local reads_body = request.method ~= "GET" and request.method ~= "HEAD"
  local body = reads_body and read_body(raw) or no_fields
  if not route.fields then
    request.args = path
    return
  end
  request.args = fields.read(route.fields, path, body, read_query(raw), reads_body and "body" or "query")
end

return M

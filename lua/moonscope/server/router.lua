-- SPDX-License-Identifier: MIT
---From method and path to a route. Every route is there at /x and at /api/x.
local errors = require "moonscope.server.errors"

local M = {}
M.__index = M

---@class moonscope.Route
---@field [1] "GET"|"POST"|"PATCH"|"PUT"|"DELETE"|"WS"
---@field [2] string  "/feature/{id}/details"
---@field [3] function  handler(request) -> status, table or reply; WS: handler(request, socket)
---@field fields table[]?  see fields.lua
---@field at_once boolean?  the handler never waits: it runs without a task of its own

local METHODS = { GET = true, POST = true, PATCH = true, PUT = true, DELETE = true, WS = true }

local function check_route(route)
  local method, path, handler = table.unpack(route)
  if not METHODS[method] then
    error(("route %s: method: found %s, expected GET, POST, PATCH, PUT, DELETE or WS")
      :format(tostring(path), tostring(method)), 0)
  end
  if type(path) ~= "string" or not path:find "^/[%w/_.{}-]*$" then
    error(("route %s: path: expected /name/{parameter}"):format(tostring(path)), 0)
  end
  if type(handler) ~= "function" then
    error(("route %s %s: handler: found %s, expected a function"):format(method, path, type(handler)), 0)
  end
end

---"^/feature/([^/]+)/details$" and the names of what it captures; nil for a path without parameters.
local function pattern_of(path)
  if not path:find("{", 1, true) then return nil end
  local names = {}
  local pattern = path:gsub("[%-.]", "%%%0"):gsub("{([%w_]+)}", function(name)
    names[#names + 1] = name
    return "([^/]+)"
  end)
  return "^" .. pattern .. "$", names
end

local function entry_at(self, path)
  local pattern, names = pattern_of(path)
  if not pattern then
    self.plain[path] = self.plain[path] or {}
    return self.plain[path]
  end
  for _, entry in ipairs(self.patterns) do
    if entry.pattern == pattern then return entry.methods end
  end
  local entry = { pattern = pattern, names = names, methods = {} }
  table.insert(self.patterns, entry)
  return entry.methods
end

---@param lists moonscope.Route[][]  a later one overrides
function M.new(lists)
  local self = setmetatable({ plain = {}, patterns = {}, routes = {} }, M)
  local by_name = {}
  for _, list in ipairs(lists) do
    for _, route in ipairs(list) do
      check_route(route)
      local method = route[1] == "WS" and "GET" or route[1]
      route.name = ("%s %s"):format(route[1], route[2])
      route.openai = route[2]:find "^/v1/" ~= nil
      entry_at(self, route[2])[method] = route
      entry_at(self, "/api" .. route[2])[method] = route
      by_name[method .. route[2]] = route
    end
  end
  for _, route in pairs(by_name) do table.insert(self.routes, route) end
  table.sort(self.routes, function(a, b) return a.name < b.name end)
  return self
end

---Text with %41 decoded; nil where that is no UTF-8, has a control character, or is cut.
---@param text string
---@return string?
function M.decode(text)
  if text:find "%%" then
    if text:gsub("%%%x%x", ""):find "%%" then return nil end
    text = text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
  end
  if not utf8.len(text) or text:find "[\0-\8\11\12\14-\31\127]" then return nil end
  return text
end

local function parameters(names, captures)
  local params = {}
  for i, name in ipairs(names) do
    local value = M.decode(captures[i])
    if not value or value:find "/" then
      errors.refuse(400, "EINVAL", ("%s: the path has an escape that is none, or no text"):format(name), name)
    end
    params[name] = value
  end
  return params
end

local function find_methods(self, path)
  local methods = self.plain[path]
  if methods then return methods end
  for _, entry in ipairs(self.patterns) do
    local captures = { path:match(entry.pattern) }
    if captures[1] then return entry.methods, entry.names, captures end
  end
end

local function refuse_method(methods)
  local allowed = {}
  for name in pairs(methods) do allowed[#allowed + 1] = name end
  if methods.GET then allowed[#allowed + 1] = "HEAD" end
  table.sort(allowed)
  local list = table.concat(allowed, ", ")
  errors.refuse(405, "EMETHOD", "Method Not Allowed; expected " .. list, nil, { headers = { "Allow", list } })
end

---The route for a request that is answered at once: one without parameters, whose handler never waits.
---@param method string
---@param path string
---@return moonscope.Route?
function M:at_once(method, path)
  local methods = self.plain[path]
  local route = methods and methods[method]
  return route and route.at_once and route or nil
end

local none = {}

---The route for a request, and its path's parameters. Throws 404 and 405.
---@param method string
---@param path string  as it came, without the query
---@return moonscope.Route
---@return table<string, string>
function M:find(method, path)
  local methods, names, captures = find_methods(self, path)
  if not methods then errors.refuse(404, "ENOENT", "Not Found: there is no such route") end
  local route = methods[method] or method == "HEAD" and methods.GET
  if not route then refuse_method(methods) end
  return route, names and parameters(names, captures) or none
end

return M

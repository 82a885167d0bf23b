-- SPDX-License-Identifier: MIT
---The fields of a request, checked before its handler runs. A route lists them:
---
---  fields = {
---    { "layer_idx", "integer", required = true, min = 0, max = 1000 },
---    { "text", "text", required = true, max_length = 1 << 20 },
---    { "strength", "number", default = 1, min = -1e6, max = 1e6 },
---    { "wait", "boolean", default = true },
---    { "op", "text", choices = { "add", "set" } },
---    { "activations_path", "text", null = true },            -- null is as if it were not there
---    { "stop", "list", item = { "text" }, max_items = 4 },
---    { "edits", "list", item = { "object", fields = { ... } } },
---    { "id", "text", in_path = true },                       -- from {id} in the route's path
---  }
---
---Kinds: text, integer, number, boolean, list, object, any. Every number has a min and a max. A name counts
---in both spellings, layer_idx and layerIdx; `also` lists further ones. A query's texts are converted, a
---body's never: "19" is no number there. What no field reads is ignored, as the original does.
local json = require "moonscope.json"
local errors = require "moonscope.server.errors"

local M = {}

local function camel(name)
  return (name:gsub("_(%l)", string.upper))
end

---A number as people write it: no float with a hundred digits for 0.1.
local function shown(n) return math.type(n) == "integer" and ("%d"):format(n) or ("%.14g"):format(n) end

---Converts a text of a query to the kind of its field; what does not fit stays a text.
local from_text = {
  integer = function(text) return text:find "^[+-]?%d+$" and #text < 18 and math.tointeger(tonumber(text)) or text end,
  number = function(text) return text:find "^[+-]?%.?%d[%d.]*[eE]?[+-]?%d*$" and tonumber(text) or text end,
  boolean = function(text)
    if text == "true" or text == "1" then return true end
    if text == "false" or text == "0" then return false end
    return text
  end,
}

local check -- (problems, spec, value, loc) -> value

local function problem(problems, loc, kind, message)
  problems[#problems + 1] = { loc = { table.unpack(loc) }, type = kind, msg = message }
end

local function check_range(problems, spec, value, loc)
  if value ~= value or value < spec.min then
    return problem(problems, loc, "greater_than_equal",
      "Input should be greater than or equal to " .. shown(spec.min))
  elseif value > spec.max then
    return problem(problems, loc, "less_than_equal", "Input should be less than or equal to " .. shown(spec.max))
  end
  return value
end

local kinds = {}

function kinds.any(_, _, value) return value end

function kinds.text(problems, spec, value, loc)
  if type(value) ~= "string" then return problem(problems, loc, "string_type", "Input should be a valid string") end
  if spec.max_length and #value > spec.max_length then
    return problem(problems, loc, "string_too_long", ("Input should have at most %d bytes"):format(spec.max_length))
  end
  if spec.choices then
    for _, choice in ipairs(spec.choices) do
      if value == choice then return value end
    end
    return problem(problems, loc, "enum", "Input should be one of " .. table.concat(spec.choices, ", "))
  end
  return value
end

function kinds.integer(problems, spec, value, loc)
  if math.type(value) ~= "integer" then
    return problem(problems, loc, "int_type", "Input should be a valid integer")
  end
  return check_range(problems, spec, value, loc)
end

function kinds.number(problems, spec, value, loc)
  if type(value) ~= "number" then return problem(problems, loc, "float_type", "Input should be a valid number") end
  return check_range(problems, spec, value, loc)
end

function kinds.boolean(problems, _, value, loc)
  if type(value) ~= "boolean" then return problem(problems, loc, "bool_type", "Input should be a valid boolean") end
  return value
end

---@return integer? n  of a table with the keys 1..n
local function list_length(value)
  if type(value) ~= "table" then return nil end
  local n = 0
  for _ in pairs(value) do n = n + 1 end
  return n == #value and n or nil
end

function kinds.list(problems, spec, value, loc)
  local n = list_length(value)
  if not n then return problem(problems, loc, "list_type", "Input should be a valid list") end
  if spec.max_items and n > spec.max_items then
    return problem(problems, loc, "too_long", ("List should have at most %d items"):format(spec.max_items))
  end
  local list = {}
  for i = 1, n do
    loc[#loc + 1] = i - 1
    list[i] = check(problems, spec.item, value[i], loc)
    loc[#loc] = nil
  end
  return list
end

function kinds.object(problems, spec, value, loc)
  if type(value) ~= "table" or #value > 0 then
    return problem(problems, loc, "dict_type", "Input should be a valid dictionary")
  end
  if not spec.fields then return value end
  return M.check_all(problems, spec.fields, function(name) return value[name] end, loc)
end

---An item's spec begins with its kind, a field's with its name.
function check(problems, spec, value, loc)
  return kinds[spec.kind or spec[1]](problems, spec, value, loc)
end

local function find(spec, get)
  local name = spec[1]
  local value = get(name)
  if value == nil then value = get(camel(name)) end
  for _, other in ipairs(value == nil and spec.also or {}) do
    value = get(other)
    if value ~= nil then break end
  end
  return value
end

---Checks what `get(name)` gives for each field; problems are added to the list. Returns name -> value.
function M.check_all(problems, specs, get, loc)
  local args = {}
  for _, spec in ipairs(specs) do
    local name = spec[1]
    spec.kind = spec[2]
    local value = find(spec, get)
    if value == json.null and spec.null then value = nil end
    loc[#loc + 1] = name
    if value ~= nil then
      args[name] = check(problems, spec, value, loc)
    elseif spec.required then
      problem(problems, loc, "missing", "Field required")
    else
      args[name] = spec.default
    end
    loc[#loc] = nil
  end
  return args
end

---The arguments of a request: a path's parameters, then the body's fields, then the query's. Throws the
---422 that lists everything wrong.
---@param specs table[]
---@param path table<string, string>
---@param body table<string, any>
---@param query table<string, string>
---@param where "body"|"query"  where a field that is missing was expected
---@return table<string, any>
function M.read(specs, path, body, query, where)
  local problems = {}
  local kind_of = {}
  for _, spec in ipairs(specs) do
    for _, name in ipairs { spec[1], camel(spec[1]), table.unpack(spec.also or {}) } do kind_of[name] = spec[2] end
  end
  local args = M.check_all(problems, specs, function(name)
    local value = body[name]
    if value ~= nil then return value end
    value = path[name] or query[name]
    local convert = value and from_text[kind_of[name]]
    if convert then return convert(value) end
    return value
  end, { where })
  if #problems > 0 then error(errors.invalid(problems), 0) end
  return args
end

return M

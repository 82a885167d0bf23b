-- SPDX-License-Identifier: MIT
---JSON. lua-cjson parses; what it lets through and JSON does not know is refused around it. The
---writer is our own: output is the same bytes for the same values, in an order that the caller sets.
---
---Decoded, whole numbers below 2^53 are integers (19, 19.0 and 1.9e1 are 19), other numbers floats,
---null is json.null, and an empty array cannot be told from an empty object. Encoded, a table with
---the keys 1..n is an array, one with string keys an object with sorted keys, and {} is {}.
local cjson = require("cjson").new()

---@class moonscope.json
local M = {}

---What null is in Lua: a value that is neither nil nor false.
---@type userdata
M.null = cjson.null

local MAX_DEPTH = 100
local MAX_WHOLE = 2 ^ 53 -- a larger number may stand for a neighbour of what was written

cjson.decode_max_depth(MAX_DEPTH)
cjson.decode_invalid_numbers(false)

local is_array, is_ordered = {}, {} -- metatables that mark

---Marks t as an array, so that an empty one is [] and not {}.
---@param t table?
---@return table t
function M.array(t)
  return setmetatable(t or {}, is_array)
end

---An object whose keys are written in this order. A pair without a value is written as null.
---@param entries [string, any][]
---@return table
function M.ordered(entries)
  return setmetatable(entries, is_ordered)
end

---text with U+FFFD in place of each byte that is no part of well-formed UTF-8: what bytes from
---outside (pieces of tokens, names in files) need before they are encoded.
---@param text string
---@return string
function M.text(text)
  local parts, start = {}, 1
  while true do
    local length, bad = utf8.len(text, start)
    if length then break end
    parts[#parts + 1] = text:sub(start, bad - 1)
    start = bad + 1
  end
  parts[#parts + 1] = text:sub(start)
  return table.concat(parts, "\u{FFFD}")
end

-- Decoding

local function fail(message) return nil, "json: " .. message, "EFORMAT" end

---cjson's value with whole numbers as integers. nil for a number that is too large, and the outermost key that
---it is under.
local function tidy(value)
  if type(value) == "table" then
    for key, inner in pairs(value) do
      if type(inner) == "number" or type(inner) == "table" then
        inner = tidy(inner)
        if inner == nil then return nil, key end
        value[key] = inner
      end
    end
    return value
  end
  if type(value) ~= "number" then return value end
  if value - value ~= 0 then return nil end -- 1e999
  local whole = math.tointeger(value)
  if whole and whole < MAX_WHOLE and whole > -MAX_WHOLE then return whole end
  return value
end

---The value of a JSON text.
---@param text string
---@return any value  json.null for null
---@return string? message
---@return string? code  "EFORMAT"
---@return string? key  of the outermost object, under which the fault is, where that is known
function M.decode(text)
  local length, bad = utf8.len(text)
  if not length then return fail(("byte %d is no UTF-8"):format(bad)) end
  local control = text:find "[\0-\8\11\12\14-\31]"
  if control then return fail(("byte %d is a control character"):format(control)) end
  local ok, value = pcall(cjson.decode, text)
  if not ok then return fail(value) end
  local key
  value, key = tidy(value)
  if value ~= nil then return value end
  local message, code = select(2, fail(("%sa number is too large"):format(type(key) == "string" and key .. ": " or "")))
  return nil, message, code, type(key) == "string" and key or nil
end

local MAX_FILE = 64 << 20 -- bytes: far above any config

---The value in a regular file.
---@param path string
---@param limit integer?  bytes that it may have
---@return any value
---@return string? message
---@return string? code  "ENOENT", "EINVAL", "EACCES", "EIO", "EFORMAT"
function M.read(path, limit)
  local text, message, code = require("moonscope.core").read_file(path, limit or MAX_FILE)
  if not text then return nil, message, code end
  local value
  value, message, code = M.decode(text)
  if value == nil then return nil, path .. ": " .. message, code end
  return value
end

-- Encoding

local ESCAPES = {
  ['"'] = '\\"', ["\\"] = "\\\\",
  ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t",
}

local function escape(char) return ESCAPES[char] or ("\\u%04x"):format(char:byte()) end

---What is being written: `parts` of the text so far, `path` of keys and positions down to the value.
---@class moonscope.json.Writer
---@field parts string[]
---@field path (string|integer)[]
---@field indent integer?

local function refuse(writer, message)
  local where = { "value" }
  for i = 1, math.min(#writer.path, 8) do
    local step = writer.path[i]
    where[#where + 1] = (math.type(step) and "[%d]" or ".%s"):format(step)
  end
  if #writer.path > 8 then where[#where + 1] = "..." end
  error(("json: %s: %s"):format(table.concat(where), message), 0)
end

local write -- (writer, value)

local function number_text(writer, n)
  if math.type(n) == "integer" then return ("%d"):format(n) end
  if n - n ~= 0 then refuse(writer, tostring(n) .. " is no JSON number") end
  for digits = 15, 17 do -- the fewest that give the same number back
    local text = ("%%.%dg"):format(digits):format(n)
    if tonumber(text) == n then return text end
  end
end

local function string_text(writer, text)
  local length, bad = utf8.len(text)
  if not length then refuse(writer, ("byte %d of a string is no UTF-8"):format(bad)) end
  return '"' .. text:gsub('[\0-\31"\\]', escape) .. '"'
end

local function break_line(writer, depth)
  if writer.indent then table.insert(writer.parts, "\n" .. (" "):rep(writer.indent * depth)) end
end

---Writes `open`, n entries with commas between, `close`. write_entry(i) writes one.
local function write_entries(writer, open, close, n, write_entry)
  local parts, depth = writer.parts, #writer.path
  if depth >= MAX_DEPTH then refuse(writer, ("nested deeper than %d"):format(MAX_DEPTH)) end
  parts[#parts + 1] = open
  for i = 1, n do
    if i > 1 then parts[#parts + 1] = "," end
    break_line(writer, depth + 1)
    write_entry(i)
    writer.path[depth + 1] = nil
  end
  if n > 0 then break_line(writer, depth) end
  parts[#parts + 1] = close
end

local function write_array(writer, t)
  local path, at = writer.path, #writer.path + 1
  write_entries(writer, "[", "]", #t, function(i)
    path[at] = i
    write(writer, t[i])
  end)
end

---get(i) is the i-th key and its value.
local function write_object(writer, n, get)
  local path, at = writer.path, #writer.path + 1
  write_entries(writer, "{", "}", n, function(i)
    local key, value = get(i)
    path[at] = key
    table.insert(writer.parts, string_text(writer, key) .. (writer.indent and ": " or ":"))
    write(writer, value)
  end)
end

local function write_ordered(writer, entries)
  write_object(writer, #entries, function(i)
    local key, value = entries[i][1], entries[i][2]
    if type(key) ~= "string" then
      refuse(writer, ("key %d: found %s, expected a string"):format(i, type(key)))
    end
    return key, value == nil and M.null or value
  end)
end

---The sorted keys of an object; nil for an array.
local function keys_of(writer, t)
  local keys, n = {}, #t
  local array = n > 0 or getmetatable(t) == is_array
  for key in pairs(t) do
    local fits = array and math.type(key) == "integer" and key >= 1 and key <= n
    if not fits and (array or type(key) ~= "string") then
      refuse(writer, ("a table with the key %s is neither an array nor an object"):format(tostring(key)))
    end
    keys[#keys + 1] = not array and key or nil
  end
  table.sort(keys)
  return not array and keys or nil
end

local function write_table(writer, t)
  if getmetatable(t) == is_ordered then return write_ordered(writer, t) end
  local keys = keys_of(writer, t)
  if not keys then return write_array(writer, t) end
  write_object(writer, #keys, function(i) return keys[i], t[keys[i]] end)
end

function write(writer, value)
  local kind = type(value)
  local text
  if kind == "table" then return write_table(writer, value) end
  if kind == "string" then
    text = string_text(writer, value)
  elseif kind == "number" then
    text = number_text(writer, value)
  elseif kind == "boolean" then
    text = tostring(value)
  elseif value == M.null then
    text = "null"
  else
    refuse(writer, ("found %s, which JSON does not have"):format(kind))
  end
  writer.parts[#writer.parts + 1] = text
end

---A value as JSON. Throws, naming the place, for what JSON does not have: functions, NaN, bytes that are
---no UTF-8 ...
---@param value any
---@param opts {indent: integer?}?  spaces for each level, one entry a line; default: all in one line
---@return string
function M.encode(value, opts)
  local writer = { parts = {}, path = {}, indent = opts and opts.indent }
  write(writer, value)
  return table.concat(writer.parts)
end

return M

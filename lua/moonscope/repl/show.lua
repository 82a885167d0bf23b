-- SPDX-License-Identifier: MIT
---Values as the prompt prints them: a text as it is, a tensor with its numbers, a table one level deep.
local M = {}

local WIDTH = 100 -- characters of a line
local ENTRIES = 20 -- of a table; what is more is counted
local INNER_ENTRIES = 6 -- of a table in a table
local INNER_WIDTH = 72

local function has_text_of_its_own(value)
  local meta = getmetatable(value)
  return type(meta) == "table" and meta.__tostring ~= nil
end

local function quoted(text, width)
  if #text > width then
    local cut = utf8.offset(text, 0, width - 2) or width - 2 -- not within a character
    return ("%s... (%d bytes)"):format(quoted(text:sub(1, cut - 1), width), #text)
  end
  return '"' .. text:gsub("[%c\"\\]", function(char)
    local short = { ["\n"] = "\\n", ["\t"] = "\\t", ["\r"] = "\\r", ['"'] = '\\"', ["\\"] = "\\\\" }
    return short[char] or ("\\x%02X"):format(char:byte())
  end) .. '"'
end

local function key_text(key)
  if type(key) == "string" then
    return key:find "^[%a_][%w_]*$" and key or "[" .. quoted(key, INNER_WIDTH) .. "]"
  end
  return "[" .. tostring(key):match "^[^\n]*" .. "]"
end

local function by_kind_and_value(a, b)
  if type(a) ~= type(b) then return type(a) < type(b) end
  if type(a) == "number" or type(a) == "string" then return a < b end
  return tostring(a) < tostring(b)
end

---The keys that are no positions of the list, sorted.
local function other_keys(t)
  local keys, n = {}, rawlen(t)
  for key in next, t do
    if not (math.type(key) == "integer" and key >= 1 and key <= n) then keys[#keys + 1] = key end
  end
  table.sort(keys, by_kind_and_value)
  return keys
end

---"value" or "key = value" of the first entries, made by `text_of(value)`; and how many are left out.
local function entries_of(t, most, text_of)
  local texts, n, keys = {}, rawlen(t), other_keys(t)
  for i = 1, math.min(n, most) do texts[i] = text_of(rawget(t, i)) end
  for i = 1, math.min(#keys, most - #texts) do
    texts[#texts + 1] = key_text(keys[i]) .. " = " .. text_of(rawget(t, keys[i]))
  end
  return texts, n + #keys - #texts
end

local inner -- (value): in one line

local function inner_table(t, most, text_of)
  local texts, left = entries_of(t, most, text_of)
  if left > 0 then texts[#texts + 1] = ("... %d more"):format(left) end
  return #texts == 0 and "{}" or "{ " .. table.concat(texts, ", ") .. " }"
end

---What is below a table in a table.
local function innermost(value)
  if type(value) == "table" and not has_text_of_its_own(value) then return next(value) == nil and "{}" or "{...}" end
  return inner(value)
end

function inner(value)
  if type(value) == "string" then return quoted(value, INNER_WIDTH) end
  if type(value) ~= "table" or has_text_of_its_own(value) then return (tostring(value):match "^[^\n]*") end
  return inner_table(value, INNER_ENTRIES, innermost)
end

local function table_text(t)
  local texts, left = entries_of(t, ENTRIES, inner)
  if left > 0 then texts[#texts + 1] = ("... %d more"):format(left) end
  local line = #texts == 0 and "{}" or "{ " .. table.concat(texts, ", ") .. " }"
  if #line <= WIDTH then return line end
  return "{\n  " .. table.concat(texts, ",\n  ") .. "\n}"
end

---A text as it is, but for what would move the cursor or change the terminal.
local function harmless(text)
  return (text:gsub("%c", function(char)
    return (char == "\n" or char == "\t") and char or ("\\x%02X"):format(char:byte())
  end):gsub("\xC2([\x80-\x9F])", function(char) return ("\\u{%02X}"):format(char:byte()) end))
end

---@param value any
---@return string
function M.text(value)
  if type(value) == "table" and not has_text_of_its_own(value) then return table_text(value) end
  return type(value) == "string" and harmless(value) or tostring(value)
end

---Prints values: in one line where each is one, else one after another.
---@param ... any
function M.print(...)
  local texts, separator = {}, "\t"
  for i = 1, select("#", ...) do
    texts[i] = M.text((select(i, ...)))
    if texts[i]:find "\n" then separator = "\n" end
  end
  if #texts > 0 then io.stdout:write(table.concat(texts, separator), "\n") end
end

return M

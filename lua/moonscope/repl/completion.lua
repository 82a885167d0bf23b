-- SPDX-License-Identifier: MIT
---What Tab offers at the prompt: globals and keywords, fields and methods after a path of names, the keys of a
---table in t["...", the names of files in any other string.
local uv = require "luv"

local M = {}

---Globals that are loaded when they are first used (src/host/main.c).
local OFFERED = { "help", "ms" }
local KEYWORDS = {
  "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in", "local", "nil", "not",
  "or", "repeat", "return", "then", "true", "until", "while",
}
local MOST_INSTRUCTIONS = 10000000 -- of somebody's __index; Ctrl-C does not come through meanwhile
local MOST_SHOWN = 200

-- What a value has

local function add_keys(found, t)
  for key, value in next, t do
    if type(key) == "string" and found[key] == nil then found[key] = value end
  end
end

---Methods and fields of one of our objects, whose __index is a function of the core.
local function add_own(found, value, name)
  local core = package.loaded["moonscope.core"]
  local methods = core and core.types[name:match "^moonscope%.(.+)$"]
  if not methods then return end
  add_keys(found, methods)
  if type(value) == "userdata" then add_keys(found, core.fields(value)) end
end

---name -> value of all that can be told without calling anything.
local function members(value)
  local found = {}
  local depth = 0
  while value ~= nil and depth < 10 do
    if type(value) == "table" then add_keys(found, value) end
    local meta = debug.getmetatable(value)
    if not meta then break end
    if type(rawget(meta, "__name")) == "string" then add_own(found, value, meta.__name) end
    value = rawget(meta, "__index")
    if type(value) == "function" then break end
    depth = depth + 1
  end
  return found
end

---The value of a path like `model.config` or `out.captures["model.layers.3"]`; nil where there is none.
local function value_of(path)
  local name, rest = path:match "^([%a_][%w_]*)(.*)$"
  local value = _G[name]
  while rest ~= "" and value ~= nil do
    local key, after = rest:match "^%s*[.:]%s*([%a_][%w_]*)(.*)$"
    if not key then
      local quote
      quote, key, after = rest:match "^%[%s*([\"'])([^\"'\\]*)%1%s*%](.*)$"
      key = quote and key
    end
    if not key then
      key, after = rest:match "^%[%s*(%d+)%s*%](.*)$"
      key = math.tointeger(tonumber(key))
    end
    if not key then return nil end
    value, rest = value[key], after
  end
  return value
end

---value_of, as nil where an __index fails or does not return.
local function safely(path)
  local thread = coroutine.create(value_of)
  debug.sethook(thread, function() error "too long" end, "", MOST_INSTRUCTIONS)
  local ok, value = coroutine.resume(thread, path)
  if not ok then return nil end
  return value
end

-- Where the cursor is

---The quote that is open at the end of the text, and where; nil outside of strings, false in a comment.
local function open_quote(text)
  local at = 1
  while true do
    local comment, first = text:find("--", at, true), text:find("[\"']", at)
    if comment and (not first or comment < first) then return false end
    if not first then return nil end
    local quote = text:sub(first, first)
    repeat
      at = text:find("[\\" .. quote .. "]", at > first and at or first + 1)
      if not at then return quote, first end
      local ends = text:sub(at, at) == quote
      at = at + (ends and 1 or 2)
    until ends
  end
end

---The path of names and keys that ends at the end of the text.
local function path_before(text)
  local path = ""
  while true do
    local rest, part = text:match "^(.-)(%[%s*[%w\"'][^%[%]]*%])$"
    if not rest then rest, part = text:match "^(.-)([.:][%a_][%w_]*)$" end
    if not rest then
      local name = text:match "([%a_][%w_]*)$"
      return name and name .. path
    end
    if part:find "^%." and rest:find "%.$" then return part:sub(2) .. path end -- a .. b
    text, path = rest, part .. path
  end
end

-- Candidates: what may stand at the cursor, each from the start of the word on

local function starting_with(names, word)
  local list = {}
  for name in pairs(names) do
    local private = name:find "^_" and not word:find "^_"
    if name:sub(1, #word) == word and not private then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

local function globals(word)
  local names = members(_G)
  for _, name in ipairs(OFFERED) do names[name] = true end
  for _, name in ipairs(KEYWORDS) do names[name] = true end
  return starting_with(names, word)
end

local function is_callable(value)
  local meta = debug.getmetatable(value)
  return type(value) == "function" or meta and meta.__call ~= nil
end

local function fields(path, mark, word)
  local names = {}
  for name, value in pairs(members(safely(path))) do
    if name:find "^[%a_][%w_]*$" and (mark == "." or is_callable(value)) then names[name] = true end
  end
  return starting_with(names, word)
end

---Keys of a table, as they stand between quotes.
local function keys(path, word)
  local value, names = safely(path), {}
  if type(value) ~= "table" then return {} end
  for key in next, value do
    if type(key) == "string" and not key:find "[%c\"'\\]" then names[key] = true end
  end
  return starting_with(names, word)
end

---Files whose path begins with `word`; a folder ends with /.
local function files(word)
  local folder, start = word:match "^(.*/)([^/]*)$"
  if not folder then folder, start = "", word end
  local list, scan = {}, uv.fs_scandir(folder == "" and "." or folder)
  while scan do
    local name = uv.fs_scandir_next(scan)
    if not name then break end
    local hidden = name:find "^%." and not start:find "^%."
    if name:sub(1, #start) == start and not hidden and not name:find "[%c\"'\\]" then
      local stat = uv.fs_stat(folder .. name)
      list[#list + 1] = folder .. name .. (stat and stat.type == "directory" and "/" or "")
    end
  end
  table.sort(list)
  return list
end

---What may stand at the end of the text; the word that is there so far; what ends a whole one.
local function candidates(text)
  local quote, at = open_quote(text)
  if quote == false then return {}, "", "" end
  if quote then
    local word = text:sub(at + 1)
    local path = text:sub(1, at - 1):match "^(.*)%[%s*$"
    path = path and path_before(path)
    if path then return keys(path, word), word, quote .. "]" end
    return files(word), word, quote
  end
  local before, mark, word = text:match "^(.-)%s*([.:])%s*([%w_]*)$"
  if not mark or before:sub(-1) == mark or word:find "^%d" then
    word = text:match "[%w_]*$"
    return word:find "^%d" and {} or globals(word), word, ""
  end
  local path = path_before(before)
  return path and fields(path, mark, word) or {}, word, ""
end

local function common_start(list)
  local start = list[1]
  for _, text in ipairs(list) do
    while text:sub(1, #start) ~= start do start = start:sub(1, -2) end
  end
  local _, bad = utf8.len(start)
  return bad and start:sub(1, bad - 1) or start
end

---The list in columns, of paths only what follows the last slash.
local function columns(list, width)
  local shown, widest = {}, 0
  for i = 1, math.min(#list, MOST_SHOWN) do
    shown[i] = list[i]:match "[^/]+/?$"
    widest = math.max(widest, utf8.len(shown[i]) or #shown[i])
  end
  if #list > #shown then shown[#shown + 1] = ("... %d more"):format(#list - #shown) end
  local per_line = math.max(1, (width + 1) // (widest + 2))
  local n_lines = (#shown + per_line - 1) // per_line
  local lines = {}
  for line = 1, n_lines do
    local cells = {}
    for i = line, #shown, n_lines do
      local padding = widest + 2 - (utf8.len(shown[i]) or #shown[i])
      cells[#cells + 1] = shown[i] .. (" "):rep(i + n_lines <= #shown and padding or 0)
    end
    lines[line] = table.concat(cells)
  end
  return table.concat(lines, "\n")
end

---What Tab does after this text.
---@param text string  of the line, up to the cursor
---@param width integer  characters of the terminal's line
---@return string? insert
---@return string? list  to be shown, where several things may stand here
function M.complete(text, width)
  if not text:find "%S" then return "\t" end -- of a text that is pasted
  local list, word, ending = candidates(text)
  if #list == 0 then return nil end
  local start = common_start(list)
  if #list == 1 and start:sub(-1) ~= "/" then start = start .. ending end
  if #start > #word then return start:sub(#word + 1) end
  if #list > 1 then return nil, columns(list, width) end
end

return M

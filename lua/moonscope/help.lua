-- SPDX-License-Identifier: MIT
---`help(x)` at the prompt: what the annotations say of a function, an object, a type, a module, or a name.
local annotations = require "moonscope.annotations"

local M = {}

local WIDTH = 100

---Words in lines of at most WIDTH characters; lines that are indented already stay as they are.
local function wrapped(text, indent)
  local lines, line = {}, ""
  local function flush()
    if line ~= "" then lines[#lines + 1] = indent .. line end
    line = ""
  end
  for part in (text .. "\n"):gmatch "(.-)\n" do
    if part == "" or part:find "^%s" then
      flush()
      lines[#lines + 1] = part == "" and "" or indent .. part
    else
      for word in part:gmatch "%S+" do
        if #indent + #line + 1 + #word > WIDTH then flush() end
        line = line == "" and word or line .. " " .. word
      end
    end
  end
  flush()
  return table.concat(lines, "\n")
end

local function first_sentence(text)
  local flat = text:gsub("\n.*", function(rest) return rest:find "^\n\n" and "" or rest:gsub("\n", " ") end)
  return flat:match "^(.-%.)%s" or flat
end

---What a member is good for, in one line; of one without a text, its result.
local function summary(member)
  if member.text ~= "" then return first_sentence(member.text) end
  local result = member.returns[1]
  return result and (result.text ~= "" and result.text or result.type) or ""
end

local function listed(rows)
  local widest, lines = 0, {}
  for _, row in ipairs(rows) do widest = math.max(widest, #row[1] <= 44 and #row[1] or 0) end
  for i, row in ipairs(rows) do
    local text = ("  %-" .. widest .. "s  %s"):format(row[1], row[2])
    lines[i] = utf8.len(text) and utf8.len(text) > WIDTH and text:sub(1, utf8.offset(text, WIDTH - 2) - 1) .. "..."
      or text
  end
  return (table.concat(lines, "\n"):gsub(" +\n", "\n"):gsub(" +$", ""))
end

local function value_text(value)
  local text = (value.name ~= "" and value.name .. ": " or "") .. value.type
  return value.text ~= "" and ("%s (%s)"):format(text, value.text) or text
end

local function member_text(member)
  local parts = { member.signature }
  local function add(text)
    if text ~= "" then parts[#parts + 1] = wrapped(text, "  ") end
  end
  add(member.text)
  for _, param in ipairs(member.params) do add(value_text(param)) end
  local returns = {}
  for i, value in ipairs(member.returns) do returns[i] = value_text(value) end
  if #returns > 0 then add("gives " .. table.concat(returns, "; ")) end
  return table.concat(parts, "\n")
end

local function class_text(class)
  local head = class.is_module and ('%s = require "%s"'):format(class.title, class.name) or class.name
  local parts = { head }
  if class.text ~= "" then parts[#parts + 1] = wrapped(class.text, "  ") end
  local rows = {}
  for _, field in ipairs(class.fields) do
    rows[#rows + 1] = { "." .. field.name, field.type .. (field.text ~= "" and "  " .. field.text or "") }
  end
  if #rows > 0 then parts[#parts + 1] = listed(rows) end
  if #class.operators > 0 then
    parts[#parts + 1] = wrapped("operators: " .. table.concat(class.operators, ", "), "  ")
  end
  rows = {}
  for _, member in ipairs(class.members) do rows[#rows + 1] = { member.signature, summary(member) } end
  if #rows > 0 then parts[#parts + 1] = listed(rows) end
  return table.concat(parts, "\n")
end

local function overview()
  local rows = { modules = {}, types = {} }
  for _, class in ipairs(annotations.read().classes) do
    local list = class.is_module and rows.modules or rows.types
    list[#list + 1] = { class.title, first_sentence(class.text) }
  end
  return table.concat({
    'help(x) tells what x is: help(ms), help(ms.load_sae), help(sae), help "Tensor", help "json".',
    'help "word" finds what has to do with it. Tab completes names, keys and files.',
    "Modules", listed(rows.modules), "Types", listed(rows.types),
  }, "\n")
end

-- What is asked for

---What stands behind the name of a member: the table of its module, or of the methods of its type.
local function holder_of(class)
  if class.is_module then return require(class.name) end
  return require("moonscope.core").types[class.title]
end

local function of_function(fn)
  for _, class in ipairs(annotations.read().classes) do
    local holder = holder_of(class)
    for _, member in ipairs(class.members) do
      if holder and rawget(holder, member.name) == fn then return member_text(member) end
    end
  end
end

local function of_table(t)
  for _, class in ipairs(annotations.read().classes) do
    if class.is_module and package.loaded[class.name] == t then return class_text(class) end
  end
end

local function of_object(object)
  local meta = debug.getmetatable(object)
  local class = meta and annotations.read().by_class[meta.__name]
  return class and class_text(class)
end

local function field_row(class, field)
  return { class.title .. "." .. field.name, field.type .. (field.text ~= "" and "  " .. field.text or "") }
end

---Members and fields whose name is this, as rows of a list, and the members; then those in whose name or text it is.
local function search(word)
  local same, members, near = {}, {}, {}
  local lower = word:lower()
  local function add(name, text, row, member)
    if name == word then
      same[#same + 1], members[#members + 1] = row, member
    elseif text:lower():find(lower, 1, true) then
      near[#near + 1] = row
    end
  end
  for _, class in ipairs(annotations.read().classes) do
    for _, member in ipairs(class.members) do
      add(member.name, member.title .. " " .. member.text, { member.signature, summary(member) }, member)
    end
    for _, field in ipairs(class.fields) do add(field.name, field.name, field_row(class, field)) end
  end
  return same, members, near
end

---What has this title, "Tensor", "Tensor.topk" or "Sae.d_sae", once `fold` has been done to both.
local function of_title(asked, fold)
  asked = fold(asked)
  for _, class in ipairs(annotations.read().classes) do
    if asked == fold(class.title) then return class_text(class) end
    for _, member in ipairs(class.members) do
      if asked == fold(class.title .. "." .. member.name) then return member_text(member) end
    end
    for _, field in ipairs(class.fields) do
      if asked == fold(class.title .. "." .. field.name) then return table.concat(field_row(class, field), "  ") end
    end
  end
end

---Of a name: a title, a member or a field of whatever has one, a title in another case, else a word of the texts.
local function of_name(name)
  local asked = name:gsub("^moonscope%.", ""):gsub(":", "."):gsub("%(.*", "")
  if asked == "" then return nil end
  if asked == "moonscope" then asked = "ms" end
  local text = of_title(asked, function(title) return title end)
  if text then return text end
  local same, members, near = search(asked:match "[^.]*$") -- "model.n_layers", of whatever model is
  if #same == 1 and members[1] then return member_text(members[1]) end
  if #same > 0 and not asked:find "%." then return listed(same) end
  return of_title(asked, string.lower) or #same > 0 and listed(same) or #near > 0 and listed(near) or nil
end

local LIBRARIES = { "_G", "coroutine", "debug", "io", "math", "os", "package", "string", "table", "utf8" }

---What Lua itself has.
local function of_lua(value)
  for _, library in ipairs(LIBRARIES) do
    local found = value == package.loaded[library] and library
    for name, member in pairs(package.loaded[library]) do
      if member == value and not found then found = library == "_G" and name or library .. "." .. name end
    end
    if found then return found .. " is Lua's own: https://www.lua.org/manual/5.4/" end
  end
end

local of_kind = { ["function"] = of_function, table = of_table, userdata = of_object, string = of_name }

---The help of a value, or of a name in a string; without argument what there is.
---@param ... any
---@return string
function M.text(...)
  if select("#", ...) == 0 or ... == M then return overview() end
  local x = ...
  local of = of_kind[type(x)]
  local text = of and of(x) or (type(x) == "function" or type(x) == "table") and of_lua(x)
  if text then return text end
  local what = type(x) == "string" and ("%q"):format(x) or type(x) == "nil" and "nil" or "this " .. type(x)
  return ("nothing is known of %s; help() tells what there is"):format(what)
end

return setmetatable(M, {
  __call = function(_, ...) io.stdout:write(M.text(...), "\n") end,
  __tostring = overview,
})

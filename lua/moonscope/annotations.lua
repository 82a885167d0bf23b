-- SPDX-License-Identifier: MIT
---What the annotations of the public functions, types and fields say, read from the comments where they stand:
---Lua functions in their own files, what C registers in meta.lua. help() and the API page show it, and a test
---compares it with what there is.
local M = {}

---The files with public things, in the order in which they are told.
local FILES = {
  "init", "meta", "tensor", "checkpoint", "tokenizer", "model", "forward", "generate", "sae", "edits", "doctor", "hub",
  "features", "convert", "sae_configs", "chat", "json", "loop",
}

---@class moonscope.Annotated.Value  a parameter, a result, or a field
---@field name string  "" for a result without one
---@field optional boolean
---@field type string
---@field text string

---@class moonscope.Annotated  a function, or something else that a module or type has
---@field owner string  the class, "moonscope.Tensor"
---@field name string  "matmul"
---@field title string  as one writes it: "ms.zeros", "Tensor:matmul", "json.null"
---@field signature string  "Tensor:matmul(u)"
---@field text string
---@field params moonscope.Annotated.Value[]
---@field returns moonscope.Annotated.Value[]
---@field is_function boolean

---@class moonscope.Annotated.Class  a module or a type
---@field name string  "moonscope.Tensor"
---@field title string  "Tensor"; "ms" for the module itself
---@field is_module boolean
---@field text string
---@field fields moonscope.Annotated.Value[]
---@field operators string[]
---@field members moonscope.Annotated[]  in their order
---@field by_name table<string, moonscope.Annotated>

-- The parts of a comment

---The type at the start of a text, and what follows it: "table<string, integer>? name  text".
local function split_type(text)
  local depth, at = 0, 1
  while at <= #text do
    local char = text:sub(at, at)
    if char:find "[%(%[{<]" then depth = depth + 1 end
    if char:find "[%)%]}>]" then depth = depth - 1 end
    local goes_on = text:sub(at - 1, at - 1):find "[,:|]"
    if char == " " and depth <= 0 and not goes_on then break end
    at = at + 1
  end
  return text:sub(1, at - 1), text:sub(at)
end

---"name? type  text", of a parameter or a field.
local function read_named(text)
  local name, mark, rest = text:match "^([%w_.]+)(%??)%s+(.*)$"
  if not name then return nil end
  local type_name, after = split_type(rest)
  return { name = name, optional = mark == "?" or type_name:find "%?$" ~= nil, type = type_name,
    text = after:match "^%s*(.-)%s*$" }
end

---"type name  text", of a result; two spaces begin the text.
local function read_return(text)
  local type_name, rest = split_type(text)
  local name, after = rest:match "^ ([%w_]+)(.*)$"
  return { name = name or "", optional = type_name:find "%?$" ~= nil, type = type_name,
    text = (after or rest):match "^%s*(.-)%s*$" }
end

local readers = {}

function readers.param(block, text)
  local value = read_named(text)
  block.params[#block.params + 1] = value
  return value
end

function readers.field(block, text)
  local value = read_named(text)
  block.fields[#block.fields + 1] = value
  return value
end

readers["return"] = function(block, text)
  local value = read_return(text)
  block.returns[#block.returns + 1] = value
  return value
end

---"moonscope.Tensor", "moonscope: moonscope.tensor, moonscope.sae", or with a text after two spaces.
function readers.class(block, text)
  block.class, block.parents = text:match "^([%w_.]+)", text:match "^[%w_.]+: ([%w_., ]+)" or ""
  block.lines[#block.lines + 1] = text:match "  (.*)$"
end

function readers.alias(block, text)
  table.insert(block.aliases, { name = text:match "^[%w_.]+", values = { text:match "^[%w_.]+%s+(.+)$" } })
end

function readers.operator(block, text) block.operators[#block.operators + 1] = text end

---The comment lines as text and tags; a line after a tag belongs to it.
local function read_block(lines)
  local block = { lines = {}, params = {}, returns = {}, fields = {}, operators = {}, aliases = {} }
  local last
  for _, line in ipairs(lines) do
    local tag, rest = line:match "^@(%a+)%s*(.*)$"
    if tag then
      last = readers[tag] and readers[tag](block, rest)
    elseif line:find "^|" then
      table.insert(block.aliases[#block.aliases].values, line:sub(2))
    elseif last then
      local more = line:match "^%s*(.*)$"
      if last.type:find "{[^}]*$" then -- a type that goes on
        last.type = last.type .. " " .. more
      else
        last.text = last.text .. " " .. more
      end
    else
      block.lines[#block.lines + 1] = line
    end
  end
  block.text = table.concat(block.lines, "\n")
  return block
end

-- What there is

local all -- once it has been read

local function title_of(class) return class == "moonscope" and "ms" or class:match "^moonscope%.(.*)$" end

local function class_of(found, name)
  local class = found.by_class[name]
  if not class then
    class = {
      name = name, title = title_of(name), is_module = name:find "%f[%w]%l[%w_]*$" ~= nil, text = "", fields = {},
      operators = {}, members = {}, by_name = {},
    }
    found.by_class[name] = class
    found.classes[#found.classes + 1] = class
  end
  return class
end

local function add_class(found, block)
  local class = class_of(found, block.class)
  if class.text == "" then class.text = block.text end
  table.move(block.fields, 1, #block.fields, #class.fields + 1, class.fields)
  table.move(block.operators, 1, #block.operators, #class.operators + 1, class.operators)
  for parent in block.parents:gmatch "[%w_.]+" do found.heir_of[parent] = block.class end
end

local function add_member(found, owner, mark, name, parameters, block)
  owner = found.heir_of[owner] or owner
  local class = class_of(found, owner)
  local title = class.title .. mark .. name
  local is_function = parameters ~= nil or #block.params > 0
  if not parameters then
    local names = {}
    for i, param in ipairs(block.params) do names[i] = param.name end
    parameters = table.concat(names, ", ")
  end
  local member = {
    owner = owner, name = name, title = title, text = block.text, params = block.params, returns = block.returns,
    is_function = is_function, signature = is_function and ("%s(%s)"):format(title, parameters) or title,
  }
  class.members[#class.members + 1] = member
  class.by_name[name] = member
end

---What a line of code after a comment defines.
local function add_definition(found, variables, block, code)
  if block.class then
    add_class(found, block)
    local variable = code:match "^local ([%w_]+)"
    if variable then variables[variable] = block.class end
  end
  table.move(block.aliases, 1, #block.aliases, #found.aliases + 1, found.aliases)
  local variable, mark, name, parameters = code:match "^function ([%w_]+)([.:])([%w_]+)%((.-)%)"
  if not variable then variable, name = code:match "^([%w_]+)%.([%w_]+) =" end
  if variable and variables[variable] and not name:find "^_" then
    add_member(found, variables[variable], mark or ".", name, parameters, block)
  end
end

local function read_file(found, path)
  local variables, comment, head = {}, {}, nil
  for line in io.lines(path) do
    local text = line:match "^%-%-%-(.*)$"
    if text then
      comment[#comment + 1] = text
    else
      local block = read_block(comment)
      head = head or #comment > 0 and block.text or nil
      add_definition(found, variables, block, line)
      comment = {}
    end
  end
  local class = found.by_class[variables.M]
  if class and class.text == "" then class.text = head end
end

local function each_type(class)
  local types = {}
  for _, field in ipairs(class.fields) do types[#types + 1] = field.type end
  for _, member in ipairs(class.members) do
    for _, values in ipairs { member.params, member.returns } do
      for _, value in ipairs(values) do types[#types + 1] = value.type end
    end
  end
  return table.concat(types, " ")
end

---Drops what a module gives to another one, and types that nothing public takes or gives.
local function drop_private(found)
  local public = {}
  local function visit(class)
    if not class or public[class] or found.heir_of[class.name] then return end
    public[class] = true
    for name in each_type(class):gmatch "moonscope%.[%w_.]+" do visit(found.by_class[name]) end
  end
  for _, class in ipairs(found.classes) do
    if #class.members > 0 then visit(class) end
  end
  local classes = found.classes
  found.classes, found.by_class = {}, {}
  for _, class in ipairs(classes) do
    if public[class] then
      found.classes[#found.classes + 1] = class
      found.by_class[class.name] = class
    end
  end
end

---All that is annotated.
---@return {classes: moonscope.Annotated.Class[], by_class: table<string, moonscope.Annotated.Class>, aliases: {name: string, values: string[]}[]}
function M.read()
  if all then return all end
  local found = { classes = {}, by_class = {}, aliases = {}, heir_of = {} }
  for _, name in ipairs(FILES) do
    read_file(found, assert(package.searchpath("moonscope." .. name, package.path)))
  end
  drop_private(found)
  all = found
  return all
end

return M

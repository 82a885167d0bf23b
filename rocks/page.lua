-- SPDX-License-Identifier: MIT
-- Writes the API page: moonscope rocks/page.lua FILE.html. One file that loads nothing, from the same annotations as
-- help() at the prompt.
local annotations = require "moonscope.annotations"
local ms = require "moonscope"

local STYLE = [[
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; display: flex; }
nav { width: 15rem; flex: none; height: 100vh; overflow: auto; position: sticky; top: 0; padding: 1rem;
  box-sizing: border-box; border-right: 1px solid var(--line); font-size: 14px; }
nav ul { list-style: none; padding-left: .8rem; margin: 0; }
main { max-width: 56rem; padding: 1rem 2rem; min-width: 0; }
h2 { border-bottom: 1px solid var(--line); margin-top: 3rem; }
code, pre, h3 { font-family: ui-monospace, monospace; font-size: 14px; }
h3 { background: var(--soft); padding: .3rem .6rem; margin-bottom: .3rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: .3rem 0; }
dd { margin: 0; overflow-wrap: anywhere; }
a { color: inherit; }
@media (max-width: 45rem) { body { display: block; } nav { width: auto; height: auto; position: static; } }
]]

local function escaped(text)
  return (text:gsub("[&<>\"]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }))
end

local function anchor(title) return (title:gsub(":", "."):gsub("[^%w_.]", "-")) end

---A type with a link to each class of this page.
local function type_html(text)
  local known = annotations.read().by_class
  return "<code>" .. escaped(text):gsub("moonscope%.[%w_.]*[%w_]", function(name)
    local class = known[name]
    return class and ('<a href="#%s">%s</a>'):format(anchor(class.title), class.title) or name
  end) .. "</code>"
end

---Paragraphs; indented lines are kept as they stand.
local function prose(text)
  local html = {}
  for paragraph in (text .. "\n\n"):gmatch "(.-)\n\n+" do
    if paragraph:find "^%s" then
      html[#html + 1] = "<pre>" .. escaped(paragraph) .. "</pre>"
    elseif paragraph ~= "" then
      html[#html + 1] = "<p>" .. escaped(paragraph):gsub("`([^`]+)`", "<code>%1</code>") .. "</p>"
    end
  end
  return table.concat(html, "\n")
end

local function value_html(name, value)
  return ("<dt><code>%s</code></dt><dd>%s %s</dd>"):format(escaped(name), type_html(value.type), escaped(value.text))
end

local function member_html(member)
  local html = { ('<h3 id="%s">%s</h3>'):format(anchor(member.title), escaped(member.signature)), prose(member.text) }
  if #member.params + #member.returns > 0 then
    html[#html + 1] = "<dl>"
    for _, param in ipairs(member.params) do html[#html + 1] = value_html(param.name, param) end
    for i, value in ipairs(member.returns) do
      html[#html + 1] = value_html((i == 1 and "gives " or "") .. value.name, value)
    end
    html[#html + 1] = "</dl>"
  end
  return table.concat(html, "\n")
end

local function class_html(class)
  local title = class.is_module and ('%s = require "%s"'):format(class.title, class.name) or class.title
  local html = { ('<h2 id="%s">%s</h2>'):format(anchor(class.title), escaped(title)), prose(class.text) }
  if #class.fields > 0 then
    html[#html + 1] = "<dl>"
    for _, field in ipairs(class.fields) do html[#html + 1] = value_html(class.title .. "." .. field.name, field) end
    html[#html + 1] = "</dl>"
  end
  if #class.operators > 0 then
    html[#html + 1] = "<p>Operators: " .. type_html(table.concat(class.operators, ", ")) .. "</p>"
  end
  for _, member in ipairs(class.members) do html[#html + 1] = member_html(member) end
  return table.concat(html, "\n")
end

---The modules, then the types.
local function in_order()
  local modules, types = {}, {}
  for _, class in ipairs(annotations.read().classes) do
    local list = class.is_module and modules or types
    list[#list + 1] = class
  end
  return table.move(types, 1, #types, #modules + 1, modules)
end

local function index_html(classes)
  local html = {}
  for _, class in ipairs(classes) do
    html[#html + 1] = ('<li><a href="#%s">%s</a><ul>'):format(anchor(class.title), class.title)
    for _, member in ipairs(class.members) do
      html[#html + 1] = ('<li><a href="#%s">%s</a></li>'):format(anchor(member.title), member.name)
    end
    html[#html + 1] = "</ul></li>"
  end
  return "<ul>" .. table.concat(html, "\n") .. "</ul>"
end

local function aliases_html()
  local html = {}
  for _, alias in ipairs(annotations.read().aliases) do
    html[#html + 1] = ("<p><code>%s</code> is <code>%s</code></p>"):format(alias.name,
      escaped(table.concat(alias.values, "|")))
  end
  return table.concat(html, "\n")
end

local function page()
  local classes, html = in_order(), {}
  for i, class in ipairs(classes) do html[i] = class_html(class) end
  return table.concat({
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    "<title>moonscope " .. ms.version .. "</title><style>" .. STYLE .. "</style></head>",
    '<body><nav aria-label="Contents">' .. index_html(classes) .. "</nav><main>",
    "<h1>moonscope " .. ms.version .. "</h1>",
    "<p>Opening and loading give nil, a message and a code where they fail; wrong arguments and closed objects throw. "
      .. "Dims, rows and positions count from 1; features, layers and token ids from 0.</p>",
    table.concat(html, "\n"), '<h2 id="names">Names of types</h2>', aliases_html(), "</main></body></html>\n",
  }, "\n")
end

local path = assert(arg[1], "usage: moonscope rocks/page.lua FILE.html")
local file <close> = assert(io.open(path, "w"))
assert(file:write(page()))

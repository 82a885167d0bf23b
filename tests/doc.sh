#!/bin/bash
# SPDX-License-Identifier: MIT
# Builds the API page and looks for every public name in it: tests/doc.sh BUILD_FOLDER
set -euo pipefail
cmake --build "$1" --target doc >/dev/null
"$1/bin/moonscope" - "$1/doc/moonscope.html" <<'LUA'
local annotations = require "moonscope.annotations"
local path = ...
local file <close> = assert(io.open(path))
local page, missing, names = file:read "a", {}, 0
local function need(what)
  names = names + 1
  if not page:find(what, 1, true) then missing[#missing + 1] = what end
end
for _, class in ipairs(annotations.read().classes) do
  need(('<h2 id="%s">'):format(class.title))
  for _, field in ipairs(class.fields) do need(("<code>%s.%s</code>"):format(class.title, field.name)) end
  for _, member in ipairs(class.members) do need(('<h3 id="%s.%s">'):format(class.title, member.name)) end
end
for target in page:gmatch 'href="#([^"]+)"' do need(('id="%s"'):format(target)) end
assert(not page:find 'src=' and not page:find 'href="[^#]', "the page loads something")
assert(names > 200, names)
assert(#missing == 0, path .. ": missing: " .. table.concat(missing, ", "))
print(names .. " names and links found in " .. path)
LUA

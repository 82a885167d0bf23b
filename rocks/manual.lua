-- SPDX-License-Identifier: MIT
-- Prints what is made from the commands' own options: moonscope rocks/manual.lua man|bash|zsh
--   man   moonscope.1: moonscope.1.in beside this file with its @...@ filled in
local cli = require "moonscope.cli"

---Text that troff prints as it is.
local function plain(text)
  return (text:gsub("\\", "\\e"):gsub("%-", "\\-"):gsub("^([.'])", "\\&%1"))
end

---What argparse says of a command, in troff: its paragraphs, then each argument and option with what it means.
local function section(command)
  local lines = { (".SS \"moonscope %s\""):format(command.name) }
  local function add(line) lines[#lines + 1] = line end
  local help = command.parser:help_description_margin(6):help_max_width(math.maxinteger):get_help()
  local usage, rest = help:match "^Usage: (.-)\n\n(.*)$"
  add((rest:match "^[^\n]*":gsub("^.*$", plain)))
  add ".PP"
  add(".B " .. plain(usage:gsub("%s+", " ")))
  rest = rest:gsub("^[^\n]*\n", ""):gsub(",\n +", ", ") -- "-o <output>,\n   --output <output>" is one label
  for line in rest:gmatch "[^\n]+" do
    local label = line:match "^   (%S.*)$" or line:match "^ +(%-.*)$" -- short names stand to the right of long ones
    local meaning = line:match "^      +(%S.*)$"
    if label then
      add ".TP"
      add(".B " .. plain(label))
    elseif meaning then
      add(plain(meaning))
    end
  end
  return table.concat(lines, "\n")
end

local function manual(commands)
  local file = assert(io.open(arg[0]:match "^(.*)/" .. "/moonscope.1.in"))
  local text = file:read "a"
  file:close()
  local sections = {}
  for i, command in ipairs(commands) do sections[i] = section(command) end
  local filled = { VERSION = require("moonscope").version, COMMANDS = table.concat(sections, "\n") }
  return (text:gsub("@(%u+)@", filled))
end

local parser, commands = cli.parser()
local what = arg[1]
if what == "man" then
  io.write(manual(commands))
elseif what == "bash" then
  io.write(parser:get_bash_complete())
elseif what == "zsh" then
  io.write(parser:get_zsh_complete())
else
  error("manual.lua: expected man, bash or zsh", 0)
end

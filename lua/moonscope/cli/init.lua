-- SPDX-License-Identifier: MIT
---Commands: `moonscope NAME ARG...` runs lua/moonscope/cli/NAME.lua, a table
---`{ summary, options = { names of common options }, configure(parser), check(args), run(args) }`. `check`,
---where there is one, returns what is wrong about arguments that do not go together, which is wrong usage;
---`run` returns nothing on success, nil and a message, or an exit code of its own.
local argparse = require "argparse"
local numbers = require "moonscope.numbers"
local terminal = require "moonscope.terminal"

local M = {}

local EXIT_FAILURE, EXIT_USAGE = 1, 2
local MAX_THREADS = 1024 -- as of ms.set_threads

local function device(text)
  if text == "auto" or text == "cpu" or text == "cuda" or text:find "^cuda:%d+$" then return text end
  return nil, ("'%s' is no device, expected auto, cpu, cuda or cuda:n"):format(text)
end

local function layer(text)
  local place, message = require("moonscope.sae_configs").parse_layer(text)
  return place and text, message
end

local function format(text)
  local names = {}
  for i, known in ipairs(require("moonscope.loader").formats) do
    if known.name == text then return text end
    names[i] = known.name
  end
  return nil, ("'%s' is no format, expected %s"):format(text, table.concat(names, ", "))
end

---The options that mean the same wherever they occur. A command lists those that it reads.
local common = {
  device = function(parser)
    parser:option("--device", "Where to compute: auto, cpu or cuda[:n].", "auto"):convert(device)
  end,
  precision = function(parser)
    parser:option("--precision", "How to multiply in a prefill.", "fast"):choices { "fast", "exact" }
  end,
  context = function(parser)
    parser:option("--context", "Tokens to make room for (default: the model's, 8192 at most).")
      :convert(numbers.positive):argname "N"
  end,
  sae_dtype = function(parser)
    parser:option("--sae-dtype", "The SAE's dtype, or file, its own (default: the model's).")
      :choices { "f32", "f16", "bf16", "file" }
  end,
  layer = function(parser)
    parser:option("--layer", "The layer that the SAE reads, from 0, or model.layers.N."):convert(layer):argname "N"
  end,
  format = function(parser)
    parser:option("--format", "The format of the SAE's file, where it may be one of several."):convert(format)
      :argname "F"
  end,
  activation = function(parser)
    parser:option("--activation", "The SAE's activation, where the file does not say: NAME or NAME:K."):argname "A"
  end,
  input_scale = function(parser)
    parser:option("--input-scale", "What the SAE's input is multiplied by, where the file does not say.")
      :convert(numbers.above_zero):argname "X"
  end,
  threads = function(parser)
    parser:option("--threads", "Threads to compute with (default: one per core).")
      :convert(numbers.whole(1, MAX_THREADS)):argname "N"
  end,
  seed = function(parser)
    parser:option("--seed", "Of the random numbers.", "0"):convert(numbers.natural):argname "N"
  end,
  json = function(parser) parser:flag("--json", "Print one JSON value.") end,
  quiet = function(parser) parser:flag("--quiet", "No progress bar.") end,
  log_level = function(parser)
    parser:option("--log-level", "What to tell on stderr.", "warn")
      :choices { "error", "warn", "info", "debug" }
  end,
}

local function configured(parser, command)
  if command.configure then command.configure(parser) end
  for _, option in ipairs(command.options or {}) do
    common[option](parser)
  end
  return parser
end

---Acts on the common options that mean the same for every command.
local function apply(args)
  if args.log_level then require("moonscope.host").set_log_level(args.log_level) end
  if args.threads then require("moonscope").set_threads(args.threads) end
  if args.quiet then require("moonscope.progress").quiet = true end
end

local function fail(message, code)
  io.stderr:write("moonscope: ", terminal.plain(message), "\n")
  return code
end

---nil for a name that is no command
local function find(name)
  if not name:find "^[a-z][a-z_]*$" or name == "init" then return nil end
  if not package.searchpath("moonscope.cli." .. name, package.path) then return nil end
  return require("moonscope.cli." .. name)
end

---Runs a command with its arguments parsed; an error that it throws becomes nil, message.
local function run(command, args)
  local function describe(message)
    if args.log_level == "debug" then return debug.traceback(tostring(message), 2) end
    return (tostring(message):gsub("^[^\n:]*%.lua:%d+: ", "")) -- where in our files is of no use to a user
  end
  local done, result, message = xpcall(function()
    apply(args)
    return command.run(args)
  end, describe)
  if not done then return nil, result end
  if message then return result, message end
  return math.type(result) == "integer" and result or true
end

---Names of the commands: the files beside this one.
local function names()
  local folder = assert(package.searchpath("moonscope.cli", package.path)):match "^(.*)/"
  local uv = require "luv"
  local found = {}
  for file in uv.fs_scandir_next, assert(uv.fs_scandir(folder)) do
    local name = file:match "^(.*)%.lua$"
    if name and name ~= "init" then found[#found + 1] = name end
  end
  table.sort(found)
  return found
end

---All commands in one parser, which the manual and the completions of shells are made from.
---@return table parser
---@return {name: string, parser: table}[] commands
function M.parser()
  local parser, commands = argparse "moonscope", {}
  parser:flag("--version", "Print the version.")
  for i, name in ipairs(names()) do
    local command = find(name)
    commands[i] = { name = name, parser = configured(parser:command(name, command.summary), command) }
  end
  return parser, commands
end

local USAGE = [[
usage: moonscope                     a prompt; from a pipe, a script
       moonscope FILE.lua [ARG...]   run a script; - reads it from standard input
       moonscope -e CODE [ARG...]    run a line of Lua, where ms is require "moonscope"
       moonscope COMMAND [ARG...]    run a command; its options: moonscope COMMAND --help
       moonscope --version

commands:]]

local function help()
  print(USAGE)
  for _, name in ipairs(names()) do
    print(("  %-10s %s"):format(name, find(name).summary))
  end
end

---A number below 0 is the value of the option before it, never an option itself: --layer -1 becomes --layer=-1.
local function joined(words)
  local list = {}
  for _, word in ipairs(words) do
    local option = list[#list]
    if word:find "^%-[%d.]" and option and option:find "^%-%-[%a-]+$" then
      list[#list] = option .. "=" .. word
    elseif word:find "^%-[%d.]" and option and option:find "^%-%a$" then
      list[#list] = option .. word
    else
      list[#list + 1] = word
    end
  end
  return list
end

---The exit code of `moonscope NAME ...`.
---@param name string
---@param ... string
---@return integer
function M.main(name, ...)
  if name == "--help" or name == "-h" then return help() or 0 end
  local command = find(name)
  if not command then
    return fail(name .. ": no such command or script (see moonscope --help)", EXIT_USAGE)
  end
  local parser = configured(argparse("moonscope " .. name, command.summary), command)
  local parsed, args = parser:pparse(joined { ... })
  local wrong = not parsed and args:match "^[^\n]*" -- a guess at what was meant may follow
  if parsed and command.check then wrong = command.check(args) end
  if wrong then return fail(("%s: %s (see moonscope %s --help)"):format(name, wrong, name), EXIT_USAGE) end
  local ok, message = run(command, args)
  if not ok then return fail(message, EXIT_FAILURE) end
  return ok == true and 0 or ok
end

---Prints a value as one line of JSON.
function M.print_json(value)
  print(require("moonscope.json").encode(value))
end

return M

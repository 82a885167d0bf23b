-- SPDX-License-Identifier: MIT
local bench = require "moonscope.bench"
local core = require "moonscope.core"
local json = require "moonscope.json"
local numbers = require "moonscope.numbers"
local process = require "moonscope.bench.process"
local shapes = require "moonscope.bench.shapes"

local M = {
  summary = "Measure the CPU: figures beside limits measured in the same rounds.",
  options = { "precision", "threads", "json", "quiet", "log_level" },
}

local ALL = "all"

function M.configure(parser)
  local kinds = table.move(bench.KINDS, 1, #bench.KINDS, 1, {})
  kinds[#kinds + 1] = ALL
  parser:argument("kind", "What to measure: " .. table.concat(kinds, ", ") .. "."):args "+":choices(kinds)
  parser:option("--shape", "Of the random weights.", "1b"):choices { "tiny", "1b", "8b" }
  parser:option("--layers", "Layers of the model (default: the shape's)."):convert(numbers.whole(1, 128)):argname "N"
  parser:option("--rounds", "How often each figure and its limit are measured.", "5"):convert(numbers.positive)
    :argname "N"
end

---The kinds that were asked for, each once; `all` leaves out what needs a program that is not there.
local function kinds_of(args)
  local wanted, list = {}, {}
  for _, kind in ipairs(args.kind) do wanted[kind] = true end
  for _, kind in ipairs(bench.KINDS) do
    local needed = bench.NEEDS[kind]
    local missing = needed and not process.find(needed)
    if missing and wanted[ALL] and not wanted[kind] then
      io.stderr:write(("moonscope: warning: %s: left out, it needs %s, which is not installed\n"):format(kind, needed))
    elseif wanted[kind] or wanted[ALL] then
      list[#list + 1] = kind
    end
  end
  return list
end

local function title(args, shape)
  local whole = shapes.shapes[args.shape].n_layers
  local text = ("%s, %d threads; %s, random weights; medians of %d rounds (lowest to highest)"):format(
    core.instruction_set(), core.threads(), args.shape, args.rounds)
  if shape.n_layers == whole then return text end
  return text .. ("\n%d of %d layers: each costs what it costs among all, as long as they exceed the caches"):format(
    shape.n_layers, whole)
end

local FORMAT = "%-44s %8s %-20s %-10s %8s  %-14s  %s"
local HEAD = FORMAT:format("work", "figure", "", "unit", "limit", "of", "ratio")

local function amount(x) return (x < 1e4 and "%.4g" or "%.0f"):format(x) end

local function print_line(line)
  print(FORMAT:format(line.work, amount(line.figure), ("(%s to %s)"):format(amount(line.lowest), amount(line.highest)),
    line.unit, amount(line.limit), line.limit_of, ("%.3f (%.3f to %.3f)"):format(line.ratio, line.ratio_lowest,
    line.ratio_highest)))
  io.flush()
end

local KEYS = {
  "work", "unit", "figure", "lowest", "highest", "limit", "limit_of", "ratio", "ratio_lowest", "ratio_highest",
  "rounds",
}

local function print_json(args, shape, lines)
  for i, line in ipairs(lines) do
    local fields = {}
    for j, key in ipairs(KEYS) do fields[j] = { key, line[key] } end
    lines[i] = json.ordered(fields)
  end
  require("moonscope.cli").print_json(json.ordered {
    { "instruction_set", core.instruction_set() }, { "threads", core.threads() }, { "shape", args.shape },
    { "layers", shape.n_layers }, { "precision", args.precision }, { "lines", json.array(lines) },
  })
end

function M.run(args)
  local lines = {}
  local run <close> = bench.new {
    shape = args.shape, layers = args.layers, precision = args.precision, rounds = args.rounds,
    on_line = function(line)
      lines[#lines + 1] = line
      if not args.json then print_line(line) end
    end,
  }
  if not args.json then print(title(args, run.shape) .. "\n" .. HEAD) end
  for _, kind in ipairs(kinds_of(args)) do run:run(kind) end
  if args.json then print_json(args, run.shape, lines) end
end

return M

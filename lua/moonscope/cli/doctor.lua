-- SPDX-License-Identifier: MIT
local arguments = require "moonscope.arguments"
local json = require "moonscope.json"
local ms = require "moonscope"
local numbers = require "moonscope.numbers"
local progress = require "moonscope.progress"
local plain = require("moonscope.terminal").plain

local M = {
  summary = "Say whether a sparse autoencoder fits a model: layer, activation, weights, file.",
  options = arguments.OF_BOTH,
}

function M.configure(parser)
  arguments.name_both(parser)
  parser:option("--text", "A file with a text to measure on (default: a short English one)."):argname "FILE"
  parser:option("--tokens", "Tokens of it to read at most.", "8192"):convert(numbers.positive):argname "N"
end

-- JSON has no numbers that are not finite.
local function finite(x)
  if x == nil or x ~= x or math.abs(x) == math.huge then return json.null end
  return x
end

---Rows as a JSON array of objects with these keys, in this order.
local function objects(rows, keys)
  local list = {}
  for i, row in ipairs(rows) do
    local fields = {}
    for j, key in ipairs(keys) do
      local value = row[key]
      if type(value) == "string" then value = json.text(value) end
      if type(value) == "number" then value = finite(value) end
      if value == nil then value = json.null end
      fields[j] = { key, value }
    end
    list[i] = json.ordered(fields)
  end
  return json.array(list)
end

local function object(row, keys) return objects({ row }, keys)[1] end

local PLACE = { "place", "predicts", "claimed", "fvu", "l0", "mean_norm", "tokens" }

local function weights_object(weights)
  return json.ordered {
    { "tied", weights.tied }, { "cosine", finite(weights.cosine) },
    { "decoder_norms", object(weights.decoder_norms, { "mean", "min", "max", "zero", "zero_firing" }) },
    { "not_finite", objects(weights.broken, { "name", "rows", "first" }) },
  }
end

local function print_json(report)
  require("moonscope.cli").print_json(json.ordered {
    { "verdict", report.verdict },
    { "model", json.text(report.model) },
    { "sae", json.text(report.sae) },
    { "layer", report.layer or json.null },
    { "hook", report.hook and json.text(report.hook) or json.null },
    { "output", report.output and json.text(report.output) or json.null },
    { "format", report.format },
    { "activation", report.activation },
    { "unit", report.unit },
    { "tokens", report.tokens },
    { "findings", objects(report.findings, { "level", "about", "message", "remedy" }) },
    { "places", objects(report.places, PLACE) },
    { "scan", objects(report.scan, PLACE) },
    { "sample_tokens", report.sample_tokens },
    { "conventions", objects(report.conventions, { "name", "fvu", "l0" }) },
    { "dtypes", objects(report.dtypes, { "dtype", "fvu", "l0" }) },
    { "weights", weights_object(report.weights) },
    { "dead", object(report.dead, { "features", "share" }) },
    { "special", object(report.special, { "tokens", "mean_norm", "l0", "share", "relative_error" }) },
    { "file", json.ordered {
      { "known", report.file.known or json.null },
      { "sha256", report.file.sha256 or json.null },
      { "compared", json.array(report.file.compared) },
      { "differences", objects(report.file.differences, { "what", "found", "expected" }) },
    } },
  })
end

local function print_rows(title, rows, name)
  print(("\n%-58s %9s %9s"):format(title, "FVU", "L0"))
  for _, row in ipairs(rows) do
    local fvu = (row.fvu < 1e4 and "%.4f" or "%.3g"):format(row.fvu)
    print(("%s %-56s %9s %9.1f"):format(row.claimed and ">" or " ", row[name], fvu, row.l0))
  end
end

local function layer_is_ok(report)
  for _, finding in ipairs(report.findings) do
    if finding.about == "layer" and finding.level == "ok" then return true end
  end
  return false
end

local function print_report(report)
  print(plain(("%s beside %s, on %d tokens"):format(report.sae, report.model, report.tokens)))
  if report.output then print(plain(("a transcoder: it predicts %s"):format(report.output))) end
  print_rows("place (> where the SAE is said to read)", report.places, "place")
  if not layer_is_ok(report) then print_rows("all places, on a sample", report.scan, "place") end
  if #report.conventions > 1 then
    print_rows(("read in other ways, on %d tokens"):format(report.sample_tokens), report.conventions, "name")
  end
  if #report.dtypes > 1 then print_rows("the SAE's dtype, on the same", report.dtypes, "dtype") end
  print()
  for _, finding in ipairs(report.findings) do
    print(plain(("%-8s %-11s %s"):format(finding.level, finding.about, finding.message)))
    if finding.remedy then print(plain(("%-20s -> %s"):format("", finding.remedy))) end
  end
  print("verdict: " .. report.verdict)
end

local function read_file(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, message end
  local text
  text, message = file:read "a"
  file:close()
  if not text then return nil, path .. ": " .. message end
  return text
end

---Both with their work done, or nil and what went wrong.
local function examine(args, text)
  local model, message = arguments.model(args)
  if not model then return nil, message end
  local sae
  sae, message = arguments.sae(args, model)
  if not sae then return nil, message end
  local bar <close> = progress.bar "examining"
  return ms.doctor(model, sae, {
    text = text, tokens = args.tokens, on_progress = function(...) bar:update(...) end,
  })
end

function M.run(args)
  local text, report, message
  if args.text then
    text, message = read_file(args.text)
    if not text then return nil, message end
  end
  report, message = examine(args, text)
  if not report then return nil, message end
  if args.json then
    print_json(report)
  else
    print_report(report)
  end
  for _, finding in ipairs(report.findings) do
    if finding.level == "wrong" then return nil, ("doctor: %s: %s"):format(finding.about, finding.message) end
  end
end

return M

-- SPDX-License-Identifier: MIT
local arguments = require "moonscope.arguments"
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
    require("moonscope.cli").print_json(require("moonscope.doctor.report").json(report))
  else
    print_report(report)
  end
  for _, finding in ipairs(report.findings) do
    if finding.level == "wrong" then return nil, ("doctor: %s: %s"):format(finding.about, finding.message) end
  end
end

return M

-- SPDX-License-Identifier: MIT
---A doctor's report as JSON has it.
local json = require "moonscope.json"

local M = {}

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

---@param report table  of ms.doctor
---@return table
function M.json(report)
  return json.ordered {
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
  }
end

return M

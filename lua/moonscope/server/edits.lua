-- SPDX-License-Identifier: MIT
---Edits as JSON has them: { "layer": 3, "feature": 458, "op": "add", "value": 3.85 }. Positions count from 0.
local errors = require "moonscope.server.errors"

local M = {}

local LARGEST = 1e30 -- well inside f32

M.FIELDS = {
  { "layer", "integer", null = true, min = 0, max = 1023, also = { "layer_idx" } },
  { "feature", "integer", required = true, min = 0, max = (1 << 31) - 1, also = { "feature_idx" } },
  { "op", "text", default = "add", choices = { "add", "set", "scale", "ablate" } },
  { "value", "number", null = true, min = -LARGEST, max = LARGEST, also = { "strength" } },
  { "positions", "any", null = true },
  { "skip_special", "boolean", null = true, default = false },
  { "keep_error", "boolean", null = true, default = true },
}

local SPANS = { all = true, prompt = true, generated = true }

local function refuse(number, field, message)
  errors.refuse(400, "EINVAL", ("edits[%d].%s: %s"):format(number - 1, field, message), "edits")
end

local function positions_of(number, value)
  if value == nil or SPANS[value] then return value end
  local from, to
  if type(value) == "table" and #value == 2 then from, to = value[1], value[2] end
  if math.type(from) ~= "integer" or math.type(to) ~= "integer" or from < 0 or to < from or to > 1 << 31 then
    refuse(number, "positions", 'expected "all", "prompt", "generated" or [from, to] with 0 <= from <= to')
  end
  return { from + 1, to + 1 }
end

local function layer_of(use, number, edit)
  if edit.layer then return edit.layer end
  local list = use.workbench:list_saes()
  if #list == 1 then return list[1].layer end
  refuse(number, "layer", #list == 0 and "no SAE is loaded" or "several SAEs are loaded; name the layer")
end

local function resolve_one(use, number, edit)
  local sae = use:sae(layer_of(use, number, edit)).sae
  if edit.feature >= sae.d_sae then
    refuse(number, "feature", ("found %d, expected 0 to %d"):format(edit.feature, sae.d_sae - 1))
  end
  if edit.op ~= "ablate" and not edit.value then refuse(number, "value", "op " .. edit.op .. " needs one") end
  return {
    sae = sae, feature = edit.feature, op = edit.op, value = edit.op ~= "ablate" and edit.value or nil,
    positions = positions_of(number, edit.positions), skip_special = edit.skip_special, keep_error = edit.keep_error,
  }
end

---The list as model:generate takes it. Throws 400 and 404.
---@param use moonscope.Use
---@param list table[]?  checked by FIELDS
---@return moonscope.Edit[]
function M.resolve(use, list)
  local resolved, keeps = {}, {}
  for number, edit in ipairs(list or {}) do
    local one = resolve_one(use, number, edit)
    if keeps[one.sae] ~= nil and keeps[one.sae] ~= one.keep_error then
      refuse(number, "keep_error", "differs from another edit of the same SAE")
    end
    keeps[one.sae] = one.keep_error
    resolved[number] = one
  end
  return resolved
end

return M

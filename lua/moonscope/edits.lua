-- SPDX-License-Identifier: MIT
---Edits of features: what a user writes, checked and put in groups, and which positions each one
---acts on. The arithmetic is the core's (src/sae/edit.h).
local options = require "moonscope.options"
local places = require "moonscope.places"
local core = require "moonscope.core"

local M = {}

---A feature changed while the model reads or writes: what to do, where, when. It belongs to the call that it is
---given to, not to the model.
---@class moonscope.Edit
---@field sae moonscope.Sae
---@field feature integer  from 0
---@field op "add"|"set"|"scale"|"ablate"
---@field value number?  not for ablate; of the feature's own size (unit "raw")
---@field positions ("all"|"prompt"|"generated"|integer[])?  {from, to}: inclusive, BOS is 1; default "all"
---@field skip_special boolean?  leave special tokens out
---@field when (fun(features: table<integer, number>, step: integer): boolean)?  asked for each position; a silent feature reads 0
---@field keep_error boolean?  default true: what the SAE cannot explain stays
---@field unit "raw"|"max"?

local FIELDS = options.names("sae", "feature", "op", "value", "positions", "skip_special", "when", "keep_error", "unit")
local OPS = options.names("add", "set", "scale", "ablate")
local MAX_F32 = 0x1.fffffep127
local SPANS = options.names("all", "prompt", "generated")

---A table with the keys 1..n and no others.
local function is_list(value)
  if type(value) ~= "table" then return false end
  local n = 0
  for _ in pairs(value) do n = n + 1 end
  return n == #value
end

local function refuse(number, format, ...)
  error(("edit %d: " .. format):format(number, ...), 0)
end

local function check_positions(number, positions)
  if SPANS[positions] then return end
  local from, to
  if is_list(positions) and #positions == 2 then from, to = positions[1], positions[2] end
  if math.type(from) ~= "integer" or math.type(to) ~= "integer" or from < 1 or to < from then
    refuse(number, 'positions: expected "all", "prompt", "generated" or {from, to} with 1 <= from <= to')
  end
end

---An SAE of the stream changes it where it reads it. A transcoder reads the stream before an MLP and
---changes it after, by what the MLP adds.
local function check_place(number, edit, sae)
  if not sae.output then
    if places.is_stream(sae.hook) then return end
    refuse(number, "the SAE reads %s; only the residual stream between two layers can be edited", sae.hook)
  end
  if not places.feeds_mlp(sae.hook, sae.output) then
    refuse(number, "the SAE is a transcoder from %s to %s, expected one from a layer's .input or .post_attention to "
      .. "its .mlp", sae.hook, sae.output == "" and "an unknown place" or sae.output)
  end
  if edit.keep_error == false then
    refuse(number, "keep_error: a transcoder does not stand for the stream, so there is nothing to replace it by")
  end
end

local function check_edit(number, edit, model)
  if type(edit) ~= "table" then refuse(number, "found %s, expected a table", type(edit)) end
  for name in pairs(edit) do
    if not FIELDS[name] then refuse(number, "unknown field %s", tostring(name)) end
  end
  local sae = edit.sae
  if type(sae) ~= "userdata" or not sae.d_sae then refuse(number, "sae: expected a loaded SAE") end
  sae:known_hook(("edit %d"):format(number))
  check_place(number, edit, sae)
  if math.type(edit.feature) ~= "integer" or edit.feature < 0 or edit.feature >= sae.d_sae then
    refuse(number, "feature: found %s, expected 0 to %d", tostring(edit.feature), sae.d_sae - 1)
  end
  if not OPS[edit.op] then
    refuse(number, "op: found %s, expected add, set, scale or ablate", tostring(edit.op))
  end
  if edit.op == "ablate" and edit.value ~= nil then refuse(number, "value: ablate takes none") end
  if edit.op ~= "ablate" and not (type(edit.value) == "number" and math.abs(edit.value) <= MAX_F32) then
    refuse(number, "value: found %s, expected a number of f32's range", tostring(edit.value))
  end
  for _, name in ipairs { "keep_error", "skip_special" } do
    if edit[name] ~= nil and type(edit[name]) ~= "boolean" then
      refuse(number, "%s: found %s, expected true or false", name, tostring(edit[name]))
    end
  end
  if edit.unit == "max" then
    refuse(number, 'unit "max" needs the largest activation of feature %d, and there are no statistics of this SAE',
      edit.feature)
  elseif edit.unit ~= nil and edit.unit ~= "raw" then
    refuse(number, 'unit: found %s, expected "raw" or "max"', tostring(edit.unit))
  end
  if edit.when ~= nil and type(edit.when) ~= "function" then refuse(number, "when: expected a function") end
  if edit.skip_special and not model.tokenizer then refuse(number, "skip_special: the model has no tokenizer") end
  if sae:device() ~= model:device() then
    refuse(number, "the SAE is on %s, the model on %s", sae:device(), model:device())
  end
  check_positions(number, edit.positions or "all")
end

---The core's step: ablate is set 0.
local function step_of(edit, slot)
  if edit.op == "ablate" then return { slot = slot, op = "set", value = 0 } end
  return { slot = slot, op = edit.op, value = edit.value }
end

local Edits = {}
Edits.__index = Edits

local function new_group(edit, model)
  local sae = edit.sae
  return {
    sae = sae, depth = core.capture_depth(model, sae.output or sae.hook), reads = sae.output and sae.hook,
    keep_error = edit.keep_error ~= false,
    features = {}, slots = {}, steps = {}, edits = {}, numbers = {}, asks = false,
  }
end

local function add_to_group(group, number, edit)
  if group.keep_error ~= (edit.keep_error ~= false) then
    refuse(number, "keep_error differs from another edit of the same SAE")
  end
  local slot = group.slots[edit.feature]
  if not slot then
    slot = #group.features + 1
    group.slots[edit.feature], group.features[slot] = slot, edit.feature
  end
  local n = #group.steps + 1
  group.steps[n], group.edits[n], group.numbers[n] = step_of(edit, slot), edit, number
  group.asks = group.asks or edit.when ~= nil
end

---Anything but a plain list would be an edit that silently does nothing.
local function check_list(list)
  if not is_list(list) then
    error("edits: expected a list of edits, { {sae = ..., feature = ..., op = ...} }", 0)
  end
  return list
end

---Checks a list of edits for a model and puts those of one SAE together, in the order of their layers.
---Already compiled ones are given back.
---@param list moonscope.Edit[]?
---@param model userdata
---@return table
function M.compile(list, model)
  if getmetatable(list) == Edits then return list end
  local self = setmetatable({ groups = {}, touched = {}, list = check_list(list or {}) }, Edits)
  local by_sae = {}
  for number, edit in ipairs(self.list) do
    check_edit(number, edit, model)
    local group = by_sae[edit.sae]
    if not group then
      group = new_group(edit, model)
      group.order = #self.groups + 1
      by_sae[edit.sae], self.groups[group.order] = group, group
    end
    add_to_group(group, number, edit)
    self.touched[number] = 0
  end
  table.sort(self.groups, function(a, b)
    if a.depth ~= b.depth then return a.depth < b.depth end
    return a.order < b.order
  end)
  return self
end

local function acts_at(edit, row, model)
  local positions = edit.positions or "all"
  if edit.skip_special and model.tokenizer:is_special(row.id) then return false end
  if positions == "all" then return true end
  if type(positions) == "table" then return row.position >= positions[1] and row.position <= positions[2] end
  return positions == row.phase
end

local silent = { __index = function() return 0 end }

---Features of a row by index; one that does not fire reads 0.
local function as_map(features, number)
  local map = setmetatable({}, silent)
  for _, feature in ipairs(features:finite_row(number)) do map[feature.index] = feature.activation end
  return map
end

---A byte for each row and step of a group: does the step act there? Counts the positions touched.
---@param group table
---@param rows {position: integer, id: integer, phase: string, step: integer}[]
---@param model userdata
---@param features userdata?  of the rows; where the group asks `when`
---@return string
function Edits:mask(group, rows, model, features)
  local bytes = {}
  for number, row in ipairs(rows) do
    local map = features and as_map(features, number)
    for n, edit in ipairs(group.edits) do
      local acts = acts_at(edit, row, model) and (not edit.when or edit.when(map, row.step))
      bytes[#bytes + 1] = acts and "\1" or "\0"
      if acts then
        local which = group.numbers[n]
        self.touched[which] = self.touched[which] + 1
      end
    end
  end
  return table.concat(bytes)
end

---What each edit did: {feature, op, positions}, in list order.
function Edits:report()
  local report = {}
  for number, edit in ipairs(self.list) do
    report[number] = { feature = edit.feature, op = edit.op, positions = self.touched[number] }
  end
  return report
end

return M

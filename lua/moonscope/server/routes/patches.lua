-- SPDX-License-Identifier: MIT
---Patches: features that /inference changes, live.
local json = require "moonscope.json"
local edits = require "moonscope.edits"
local errors = require "moonscope.server.errors"
local patches = require "moonscope.server.patches"
local saes = require "moonscope.server.saes"

local LARGEST = 1e6 -- far beyond any activation, far below what overflows in a sum of squares

local function invalid_feature(message)
  error(errors.invalid { { loc = { "body", "feature_id" }, type = "value_error", msg = message } }, 0)
end

---The layer and number that a request means by "layer_19_feature_7", or by 7 beside a layer.
local function meant(bench, args)
  local id = args.feature_id
  if math.type(id) == "integer" or type(id) == "string" and #id < 11 and id:find "^%d+$" then
    local index = math.tointeger(tonumber(id))
    if index < 0 then invalid_feature "Input should be greater than or equal to 0" end
    return saes.entry(bench, args.layer_idx).layer, index
  end
  if type(id) ~= "string" then invalid_feature "Input should be a text like layer_19_feature_7, or a whole number" end
  local layer, index = saes.parse_id(id)
  if layer and args.layer_idx and args.layer_idx ~= layer then
    errors.refuse(400, "EINVAL", ("layer_idx is %d, but feature_id says %s"):format(args.layer_idx, id), "layer_idx")
  end
  return layer, index, id
end

local function find_feature(bench, args)
  local layer, index, id = meant(bench, args)
  return saes.feature(bench, id or saes.feature_id(layer, index))
end

local function answer(patch) return 200, patches.describe(patch) end

---What the model or the SAE cannot do is refused now, and not with each text.
local function check(use, patch)
  local ok, message = pcall(edits.compile, { patches.edit(patch, use) }, use.model)
  if not ok then errors.refuse(400, "EUNSUPPORTED", json.text(message), "feature_id") end
end

local function create(request)
  local args, use = request.args, request.workbench:enter()
  local entry, index = find_feature(request.workbench, args)
  local patch = {
    id = patches.id_of(entry, index), entry = entry, feature = index, op = args.op, strength = args.strength,
    enabled = args.enabled, name = args.name or ("Feature %d"):format(index), description = args.description,
  }
  check(use, patch)
  request.app.patches:put(patch)
  return answer(patch)
end

local function list(request)
  local body = json.array {}
  for i, patch in ipairs(request.app.patches:list()) do body[i] = patches.describe(patch) end
  return 200, body
end

local function update(request)
  local args, patch = request.args, request.app.patches:get(request.args.id)
  local updates = json.array {}
  if args.strength then
    patch.strength = args.strength
    updates[#updates + 1] = ("strength=%.14g"):format(args.strength)
  end
  if args.is_enabled ~= nil then
    patch.enabled = args.is_enabled
    updates[#updates + 1] = "enabled=" .. tostring(args.is_enabled)
  end
  request.app:publish("patch_updated", json.ordered {
    { "patchId", patch.id }, { "updates", updates }, { "strength", patch.strength }, { "isEnabled", patch.enabled },
  }, { patch_id = patch.id, updates = updates })
  return answer(patch)
end

local function toggle(request)
  local patch = request.app.patches:get(request.args.id)
  patch.enabled = not patch.enabled
  local action = patch.enabled and "enabled" or "disabled"
  request.app:publish("patch_toggled",
    json.ordered { { "patchId", patch.id }, { "action", action }, { "strength", patch.strength } },
    { patch_id = patch.id, action = action })
  return answer(patch)
end

local function delete(request)
  request.app.patches:remove(request.args.id)
  return 200, json.ordered { { "success", true }, { "id", request.args.id } }
end

local ID = { "id", "text", in_path = true, required = true, max_length = 64 }

return {
  { "POST", "/patch", create, fields = {
    { "feature_id", "any", required = true },
    { "layer_idx", "integer", null = true, min = 0, max = saes.MAX_LAYER, also = { "layer" } },
    { "strength", "number", required = true, min = -LARGEST, max = LARGEST },
    { "op", "text", default = "add", choices = { "add", "set", "scale" } },
    { "enabled", "boolean", default = true, also = { "is_enabled", "isEnabled" } },
    { "name", "text", null = true, max_length = 1000 },
    { "description", "text", null = true, max_length = 10000 },
  } },
  { "GET", "/patches", list, at_once = true },
  { "PATCH", "/patch/{id}", update, fields = {
    ID,
    { "strength", "number", null = true, min = -LARGEST, max = LARGEST },
    { "is_enabled", "boolean", null = true, also = { "enabled" } },
  } },
  { "POST", "/patch/{id}/toggle", toggle, fields = { ID } },
  { "DELETE", "/patch/{id}", delete, fields = { ID } },
}

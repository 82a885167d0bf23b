-- SPDX-License-Identifier: MIT
---Patches: edits that /inference makes until they are taken back. Each is bound to the SAE that it was made
---with, and goes with it: a feature of the same number elsewhere is another one.
local json = require "moonscope.json"
local errors = require "moonscope.server.errors"
local saes = require "moonscope.server.saes"

local M = {}
M.__index = M

local MAX_PATCHES = 256

---@class moonscope.Patch
---@field id string  "feature_7_layer_19"
---@field entry table  of the workbench
---@field feature integer
---@field op "add"|"set"|"scale"
---@field strength number  the edit's value
---@field enabled boolean
---@field name string
---@field description string?

---@param app table
function M.new(app) return setmetatable({ app = app, patches = {} }, M) end

local function position(self, id)
  for i, patch in ipairs(self.patches) do
    if patch.id == id then return i end
  end
end

local function publish_deleted(self, patch)
  self.app:publish("patch_deleted", { patchId = patch.id }, { patch_id = patch.id })
end

---Drops those whose SAE is gone.
function M:sweep()
  for i = #self.patches, 1, -1 do
    local patch = self.patches[i]
    if self.app.workbench.saes[patch.entry.layer] ~= patch.entry then
      table.remove(self.patches, i)
      publish_deleted(self, patch)
    end
  end
end

---@return moonscope.Patch[]  in the order in which they act
function M:list() return self.patches end

---@param id string
---@return moonscope.Patch  throws 404
function M:get(id)
  local at = position(self, id)
  return at and self.patches[at] or errors.refuse(404, "ENOENT", ("Patch %s not found"):format(id), "id")
end

---@param entry table
---@param feature integer
---@return string
function M.id_of(entry, feature) return ("feature_%d_layer_%d"):format(feature, entry.layer) end

---Adds a patch; one of the same feature is replaced, in its place.
---@param patch moonscope.Patch
function M:put(patch)
  local at = position(self, patch.id) or #self.patches + 1
  if at > MAX_PATCHES then errors.refuse(400, "ERANGE", ("There are %d patches already"):format(MAX_PATCHES)) end
  self.patches[at] = patch
  self.app:publish("patch_created", M.describe(patch), { patch_id = patch.id })
end

---@param id string  throws 404
function M:remove(id)
  local patch = self:get(id)
  table.remove(self.patches, position(self, id))
  publish_deleted(self, patch)
end

---Those that act, and as edits of model:generate. `use` keeps their SAEs.
---@param use moonscope.Use
---@return moonscope.Edit[]
---@return string[] ids
function M:edits(use)
  local edits, ids = {}, json.array {}
  for _, patch in ipairs(self.patches) do
    if patch.enabled then
      edits[#edits + 1] = M.edit(patch, use)
      ids[#ids + 1] = patch.id
    end
  end
  return edits, ids
end

---@param patch moonscope.Patch
---@param use moonscope.Use
---@return moonscope.Edit
function M.edit(patch, use)
  return { sae = use:sae(patch.entry.layer).sae, feature = patch.feature, op = patch.op, value = patch.strength }
end

---@param patch moonscope.Patch
---@return table
function M.describe(patch)
  return json.ordered {
    { "id", patch.id }, { "featureId", saes.feature_id(patch.entry.layer, patch.feature) }, { "name", patch.name },
    { "isEnabled", patch.enabled }, { "strength", patch.strength }, { "description", patch.description },
    { "layer_idx", patch.entry.layer }, { "feature_idx", patch.feature }, { "op", patch.op },
  }
end

return M

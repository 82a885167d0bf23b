-- SPDX-License-Identifier: MIT
---SAEs and their features as requests name them and answers show them.
local json = require "moonscope.json"
local activity = require "moonscope.server.activity"
local errors = require "moonscope.server.errors"

local M = {}

M.MAX_LAYER = 1023

---What loading one answers.
---@param entry table  of the workbench
---@param more [string, any][]?
function M.loaded(entry, more)
  local sae = entry.sae
  local body = {
    { "success", true }, { "layer_idx", entry.layer }, { "layer_name", ("model.layers.%d"):format(entry.layer) },
    { "expansion_factor", sae.d_sae / sae.d_model }, { "status", "ready" }, { "layerCount", 1 },
    { "featureCount", sae.d_sae }, { "device", sae:device() }, { "dtype", sae:dtype() },
  }
  for _, pair in ipairs(more or {}) do body[#body + 1] = pair end
  return json.ordered(body)
end

---Activations of a corpus are not there yet: an activations file that is missing is the client's mistake,
---one that is there asks for what does not exist.
function M.check_activations(request)
  local path = request.args.activations_path
  if not path then return end
  local ok, refusal = pcall(request.paths.file, request.paths, path, "activations_path")
  if not ok then
    errors.refuse(400, "ENOENT", errors.is_refusal(refusal) and refusal:text() or refusal, "activations_path")
  end
  errors.refuse(501, "EUNSUPPORTED", "activations_path: statistics over recorded activations are not there yet; "
    .. "null loads the SAE without them", "activations_path")
end

---The SAE of a layer, or the only one. Throws 404, and 400 where several are meant.
---@param bench table
---@param layer integer?
---@return table entry
function M.entry(bench, layer)
  local list = bench:list_saes()
  if not layer and #list > 1 then
    errors.refuse(400, "EINVAL", "layer_idx: several SAEs are loaded; name the layer", "layer_idx")
  end
  local entry = layer and bench.saes[layer] or not layer and list[1]
  if entry then return entry end
  errors.refuse(404, "ENOENT", layer and ("No SAE loaded for layer %d"):format(layer) or "No SAE loaded", "layer_idx")
end

-- Features

---@return string  "layer_19_feature_7"
function M.feature_id(layer, index) return ("layer_%d_feature_%d"):format(layer, index) end

---@param id string
---@return integer? layer  nil: not such a name
---@return integer? index
function M.parse_id(id)
  local layer, index = id:match "^layer_(%d+)_feature_(%d+)$"
  if not layer or #layer > 4 or #index > 10 then return nil end
  layer, index = math.tointeger(layer), math.tointeger(index)
  if M.feature_id(layer, index) == id then return layer, index end
end

---The SAE and number of a feature. Throws 404.
---@param bench table
---@param id string
---@return table entry
---@return integer index
function M.feature(bench, id)
  local layer, index = M.parse_id(id)
  local entry = layer and bench.saes[layer]
  if entry and index < entry.sae.d_sae then return entry, index end
  errors.refuse(404, "ENOENT", ("Feature %s not found"):format(id), "feature_id")
end

local function piece(tokenizer, id) return json.text(tokenizer:token(id)) end

---The tokens that it fires on, strongest first.
local function tokens_of(tokenizer, known)
  local list = json.array {}
  for i, example in ipairs(known and known.examples or {}) do
    list[i] = json.ordered { { "token", piece(tokenizer, example[2]) }, { "strength", example[1] } }
  end
  return list
end

---A feature in a list: what was not measured is null.
---@param bench table
---@param entry table
---@param index integer
---@return [string, any][]
function M.describe(bench, entry, index)
  local known = entry.activity:of(index)
  local tokens = tokens_of(bench.model.tokenizer, known)
  local label = entry.labels[index]
  return {
    { "id", M.feature_id(entry.layer, index) }, { "layer_idx", entry.layer }, { "layer", entry.layer },
    { "feature_idx", index }, { "sparsity", known and 1 - known.frequency }, { "top_tokens", tokens },
    { "activation_strength", known and known.max }, { "activation", known and known.max },
    { "description", label and label.description }, { "topTokens", tokens },
    { "frequency", known and known.frequency },
  }
end

local function snippet(tokenizer, example)
  local pieces = {}
  for i, id in ipairs((activity.context(example))) do pieces[i] = tokenizer:token(id) end
  return json.text(table.concat(pieces))
end

---What a feature fired on: rows for people and for programs.
---@return table details  rank, token, ...
---@return table snippets
---@return number? average  activation of those
function M.examples(bench, entry, index)
  local tokenizer, known = bench.model.tokenizer, entry.activity:of(index)
  local details, snippets, sum = json.array {}, json.array {}, 0
  for rank, example in ipairs(known and known.examples or {}) do
    snippets[rank] = snippet(tokenizer, example)
    details[rank] = json.ordered {
      { "rank", rank }, { "token", piece(tokenizer, example[2]) }, { "token_id", example[2] },
      { "activation_strength", example[1] }, { "context_snippet", snippets[rank] }, { "position", example[3] },
    }
    sum = sum + example[1]
  end
  if #details > 0 then return details, snippets, sum / #details end
  return details, snippets, known and 0
end

---A feature's direction, as short numbers that are the same f32.
---@param direction userdata
---@return table
function M.vector(direction)
  local list = json.array(direction:totable())
  for i, x in ipairs(list) do list[i] = tonumber(("%.9g"):format(x)) end
  return list
end

return M

-- SPDX-License-Identifier: MIT
---Places in a model by their names elsewhere: TransformerLens' hooks, and modules as training code
---calls them. A place that this program cannot read keeps its foreign name, so that whoever meets it
---sees what was meant.
local M = {}

---Above the layers of any model.
M.MAX_LAYER = 9999

---The number of a layer, from its digits or a number; nil where no model has such a layer.
---@param layer string|integer
---@return integer?
function M.layer_number(layer)
  local number = math.tointeger(tonumber(layer))
  return number and number >= 0 and number <= M.MAX_LAYER and number or nil
end

local HOOKS = {
  hook_resid_pre = ".input", hook_resid_mid = ".post_attention", hook_resid_post = "",
  hook_attn_out = ".self_attn", hook_mlp_out = ".mlp", ["mlp.hook_out"] = ".mlp",
}

---"blocks.19.hook_resid_post" as "model.layers.19".
---@param name string
---@return string
function M.of_hook(name)
  if name == "hook_embed" then return "model.embed_tokens" end
  local layer, hook = name:match "^blocks%.(%d+)%.(.+)$"
  if layer and HOOKS[hook] then return ("model.layers.%d%s"):format(layer, HOOKS[hook]) end
  return name
end

local MODULES = { [""] = true, [".mlp"] = true, [".self_attn"] = true }

---"layers.19", the output of a module of the model, as "model.layers.19"; nil for another name.
---@param name string
---@return string?
function M.of_module(name)
  if name == "embed_tokens" then return "model.embed_tokens" end
  local layer, module = name:match "^layers%.(%d+)(.*)$"
  if layer and MODULES[module] then return ("model.layers.%d%s"):format(layer, module) end
end

---The number of the layer that a place belongs to; nil where there is none.
---@param place string
---@return integer?
function M.layer_of(place)
  return math.tointeger(tonumber(place:match "^model%.layers%.(%d+)" or place:match "^blocks%.(%d+)%."))
end

---What follows the layer: "" or ".input" or ".mlp"; nil where the place is not of a layer.
---@param place string
---@return string?
function M.suffix_of(place) return place:match "^model%.layers%.%d+(.*)$" end

---Whether a place is the residual stream between two layers, which an edit can change.
---@param place string
---@return boolean
function M.is_stream(place)
  local suffix = M.suffix_of(place)
  return place == "model.embed_tokens" or suffix == "" or suffix == ".input"
end

---Whether a transcoder from one place to another stands for the MLP of a layer, with what it reads at
---hand in a pass.
---@param hook string
---@param output string
---@return boolean
function M.feeds_mlp(hook, output)
  local suffix = M.suffix_of(hook)
  return M.suffix_of(output) == ".mlp" and M.layer_of(hook) == M.layer_of(output)
    and (suffix == ".input" or suffix == ".post_attention")
end

---Whether an autoencoder can read a model.
---@param sae {d_model: integer, layer: integer?}
---@param config {d_model: integer, n_layers: integer}
---@return true?
---@return string? message
---@return string? code
function M.check_fit(sae, config)
  if sae.d_model ~= config.d_model then
    return nil, ("the SAE's d_model is %d, the model's %d: it was trained on another model")
      :format(sae.d_model, config.d_model), "ESHAPE"
  end
  if sae.layer and sae.layer >= config.n_layers then
    return nil, ("the SAE reads layer %d, the model's layers are 0 to %d")
      :format(sae.layer, config.n_layers - 1), "ERANGE"
  end
  return true
end

return M

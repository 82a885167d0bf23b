-- SPDX-License-Identifier: MIT
---Which features fire where.
local core = require "moonscope.core"

---@class moonscope.features
local M = {}

---The features of every token of a prompt, at the place that the SAE reads.
---@param model moonscope.Llama
---@param sae moonscope.Sae  with a known layer
---@param prompt string|integer[]
---@param top integer?  features per token; default: all
---@return {layer: integer, tokens: {position: integer, id: integer, token: string, l0: integer, features: table}[]}  positions from 0
function M.of_prompt(model, sae, prompt, top)
  local hook = sae:known_hook "features"
  local ok, message = pcall(core.capture_depth, model, hook)
  if not ok then error(("features: %s: %s"):format(sae.path, message), 0) end
  local out = model:forward(prompt, { capture = { hook }, logits = false })
  local x <close> = out.captures[hook]
  local features <close> = sae:encode(x)
  local tokens = {}
  for number, id in ipairs(out.ids) do
    tokens[number] = {
      position = number - 1, id = id, token = model.tokenizer and model.tokenizer:token(id) or "",
      l0 = features:count(number), features = features:strongest(number, top),
    }
  end
  return { layer = sae.layer, tokens = tokens }
end

return M

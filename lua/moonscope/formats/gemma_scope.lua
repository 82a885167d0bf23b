-- SPDX-License-Identifier: MIT
---Gemma Scope: params.npz below layer_N/width_W/. JumpReLU, a threshold per feature. Older files spell
---the matrices in lower case. Those of the embeddings were trained on x / sqrt(d_model).
local M = { name = "gemma_scope", what = "JumpReLU without centring, named params.*" }

local function name_of(look, upper, lower) return look:has(upper) and upper or lower end

function M.matches(look)
  return (look:has("W_enc", "W_dec") or look:has("w_enc", "w_dec")) and look:has("b_enc", "b_dec", "threshold")
    and not look:has "k"
end

function M.evidence(look) return look.name:find "^params%." ~= nil or look:has "w_enc" end

function M.describe(look)
  local w_enc, w_dec = name_of(look, "W_enc", "w_enc"), name_of(look, "W_dec", "w_dec")
  local d_model, d_sae = look:matrix(w_enc, "[d_model, d_sae]")
  look:expect("b_enc", { d_sae })
  look:expect(w_dec, { d_sae, d_model })
  look:expect("b_dec", { d_model })
  look:expect("threshold", { d_sae })
  local source = {
    d_sae = d_sae, d_model = d_model, activation = look:activation "jumprelu",
    tensors = {
      w_enc = { w_enc, transposed = true }, b_enc = { "b_enc" }, w_dec = { w_dec }, b_dec = { "b_dec" },
      threshold = { "threshold" },
    },
  }
  local layer = look.path:match ".*layer_(%d+)/"
  if look.path:find "embedding/" then
    local root = d_model ^ 0.5
    source.hook, source.input_scale, source.output_scale = "model.embed_tokens", 1 / root, root
    source.tensors.b_dec = { "b_dec", map = function(b) return b / root end } -- the scale is w_dec's alone
  elseif layer then
    source.hook = look:place(layer, "", "its folder")
  end
  return source
end

return M

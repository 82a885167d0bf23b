-- SPDX-License-Identifier: MIT
---Goodfire's DeepSeek-R1 autoencoders: W [d_model, d_sae] is encoder and decoder in one; untied ones
---have W_enc and W_dec and the same config.json {d_in, expansion_factor, k}. BatchTopK over a whole
---batch: here the k largest of each position, so that a position does not depend on the others.
local M = { name = "goodfire_r1", what = "BatchTopK, with config.json beside it" }

local CONFIG = "config.json"

local function is_tied(look) return look:has("W", "b_enc", "b_dec") end

function M.matches(look)
  return is_tied(look) or look:has("W_enc", "W_dec", "b_enc", "b_dec") and not look:has "threshold"
end

function M.evidence(look)
  if is_tied(look) then return true end
  local config = look:config(CONFIG)
  return config ~= nil and config.k ~= nil and config.expansion_factor ~= nil
end

function M.describe(look)
  local tied = is_tied(look)
  local encoder = tied and "W" or "W_enc"
  local d_model, d_sae = look:matrix(encoder, "[d_model, d_sae]")
  look:expect("b_enc", { d_sae })
  look:expect("b_dec", { d_model })
  local source = {
    d_sae = d_sae, d_model = d_model, activation = "batchtopk",
    tensors = { w_enc = { encoder, transposed = true }, b_enc = { "b_enc" }, b_dec = { "b_dec" } },
  }
  if not tied then
    look:expect("W_dec", { d_sae, d_model })
    source.tensors.w_dec = { "W_dec" }
  end
  local config = look:config(CONFIG) or {}
  local k = look:field(config, "k", "count", CONFIG)
  look:agree(config, "d_in", d_model, CONFIG)
  local _, number = look:activation(k and "batchtopk", { "batchtopk:K" },
    "there is no config.json that tells k (the published ones: 128 for math, 64 for logic)")
  source.k = look:k(k or number, d_sae, "k")
  return source
end

return M

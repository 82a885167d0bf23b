-- SPDX-License-Identifier: MIT
---Two nn.Linear under the names encoder and decoder, both with a bias: what several releases share.
local M = {}

function M.matches(look)
  return look:has("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
    and not look:has "decoder_bias" and not look:has "log_jumprelu_threshold"
end

---Sizes and tensors.
function M.describe(look)
  local d_sae, d_model = look:matrix("encoder.weight", "[d_sae, d_model]")
  look:expect("encoder.bias", { d_sae })
  look:expect("decoder.weight", { d_model, d_sae })
  look:expect("decoder.bias", { d_model })
  return {
    d_sae = d_sae, d_model = d_model, activation = "relu",
    tensors = {
      w_enc = { "encoder.weight" }, b_enc = { "encoder.bias" },
      w_dec = { "decoder.weight", transposed = true }, b_dec = { "decoder.bias" },
    },
  }
end

return M

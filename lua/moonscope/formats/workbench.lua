-- SPDX-License-Identifier: MIT
---The original workbench's keys: tied unless decoder.weight is there, which brings a second bias. The
---metadata beside it (<name>_metadata.json) name the layer and the activation, ReLU unless they do.
local metadata_file = require "moonscope.formats.metadata"

local M = { name = "workbench" }

function M.matches(look) return look:has("encoder.weight", "decoder_bias") and not look:has "r_mag" end

function M.describe(look)
  local d_sae, d_model = look:matrix("encoder.weight", "[d_sae, d_model]")
  look:expect("encoder.bias", { d_sae })
  look:expect("decoder_bias", { d_model })
  local where = look.name:gsub("%.[^.]*$", "") .. "_metadata.json"
  local metadata = look:config(where) or {}
  local said = look:field(metadata, "activation_fn", "text", where)
  if said and said ~= "relu" and said ~= "gelu" then
    look:refuse("EUNSUPPORTED", "%s: activation_fn: found %s, expected relu or gelu", where, said)
  end
  if not (said or look.answers.activation) then said = "relu" end
  local source = {
    d_sae = d_sae, d_model = d_model, activation = look:activation(said, { "relu", "gelu" }),
    hook = metadata_file.hook(look, metadata, where),
    tensors = { w_enc = { "encoder.weight" }, b_enc = { "encoder.bias" }, b_dec = { "decoder_bias" } },
  }
  if look:has "decoder.weight" then
    look:expect("decoder.weight", { d_model, d_sae })
    look:expect("decoder.bias", { d_model })
    source.tensors.w_dec = { "decoder.weight", transposed = true }
    source.tensors.b_dec = { "decoder_bias", "decoder.bias", map = function(a, b) return a + b end }
  end
  metadata_file.check(look, metadata, where, source)
  return source
end

return M

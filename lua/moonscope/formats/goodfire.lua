-- SPDX-License-Identifier: MIT
---Goodfire's keys, which every converted file has: the weights bare are a ReLU autoencoder; metadata
---beside them (<name>_metadata.json) and further tensors say what else a converted one is.
---A tied one has no decoder_linear.weight.
local metadata_file = require "moonscope.formats.metadata"

local M = { name = "goodfire" }

function M.matches(look) return look:has "encoder_linear.weight" end

local ACTIVATIONS = { relu = true, gelu = true, topk = true, batchtopk = true, jumprelu = true, gated = true }
local NORMALISATIONS = { constant_norm_rescale = true, layer_norm = true }
local NORMS = { feature = true, gate = true }

local function one_of(look, metadata, name, set, where)
  local value = look:field(metadata, name, "text", where)
  if value and not set[value] then
    local names = {}
    for key in pairs(set) do names[#names + 1] = key end
    table.sort(names)
    look:refuse("EUNSUPPORTED", "%s: %s: found %s, expected %s", where, name, value, table.concat(names, ", "))
  end
  return value
end

---The tensors that only some activations have.
local function gates(look, source, d_sae)
  local tensors = source.tensors
  if source.activation == "gated" then
    for _, name in ipairs { "gate_bias", "mag_bias", "r_mag" } do
      look:expect(name, { d_sae })
      tensors[name] = { name }
    end
    return
  end
  look:expect("encoder_linear.bias", { d_sae })
  tensors.b_enc = { "encoder_linear.bias" }
  if look:has "threshold" and (source.activation == "jumprelu" or source.activation == "batchtopk") then
    look:expect("threshold", { d_sae })
    tensors.threshold, source.threshold = { "threshold" }, nil
  end
end

function M.describe(look)
  local d_sae, d_model = look:matrix("encoder_linear.weight", "[d_sae, d_model]")
  look:expect("decoder_linear.bias", { d_model })
  local where = look.name:gsub("%.safetensors$", "") .. "_metadata.json"
  local metadata = look.name:find "%.safetensors$" and look:config(where) or {}
  local source = {
    d_sae = d_sae, d_model = d_model,
    activation = look:activation(one_of(look, metadata, "activation_fn", ACTIVATIONS, where) or "relu"),
    k = look:field(metadata, "k", "count", where), threshold = look:field(metadata, "threshold", "threshold", where),
    subtract_b_dec = look:field(metadata, "subtract_b_dec", "flag", where),
    input_scale = look:field(metadata, "input_scale", "positive", where),
    output_scale = look:field(metadata, "output_scale", "positive", where),
    normalisation = one_of(look, metadata, "normalisation", NORMALISATIONS, where),
    decoder_norm = one_of(look, metadata, "decoder_norm", NORMS, where),
    hook = metadata_file.hook(look, metadata, where), output = look:hook(metadata, "output", where),
    tensors = { w_enc = { "encoder_linear.weight" }, b_dec = { "decoder_linear.bias" } },
  }
  if look:has "decoder_linear.weight" then
    look:expect("decoder_linear.weight", { d_model, d_sae })
    source.tensors.w_dec = { "decoder_linear.weight", transposed = true }
  end
  if look:has "skip.weight" then
    look:expect("skip.weight", { d_model, d_model })
    source.tensors.skip = { "skip.weight" }
  end
  gates(look, source, d_sae)
  metadata_file.check(look, metadata, where, source)
  return source
end

return M

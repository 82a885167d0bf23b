-- SPDX-License-Identifier: MIT
---EleutherAI's sparsify: cfg.json and sae.safetensors in a folder named after the module. ReLU, then
---the k largest; x - b_dec is read unless it is a transcoder, which reads its module's input and
---predicts its output. W_dec has a row per feature.
local places = require "moonscope.places"

local M = { name = "sparsify" }

function M.matches(look) return look:has("encoder.weight", "W_dec", "b_dec") end

local function place(look, source, transcode)
  local name = look.folder:match "[^/]*$"
  local layer = name:match "^layers%.(%d+)"
  if layer then look:place(layer, "", "its folder") end
  local module = places.of_module(name)
  if not transcode then
    source.hook = module
  else
    source.suffix, source.output_suffix = ".mlp.input", ".mlp"
    if module then source.hook, source.output = module .. ".input", module end
  end
end

function M.describe(look)
  local where = "cfg.json"
  local config = look:needs(where, "k")
  local d_sae, d_model = look:matrix("encoder.weight", "[d_sae, d_model]")
  look:expect("encoder.bias", { d_sae })
  look:expect("W_dec", { d_sae, d_model })
  look:expect("b_dec", { d_model })
  look:agree(config, "d_in", d_model, where)
  local activation = look:field(config, "activation", "text", where) or "topk"
  if activation ~= "topk" then
    look:refuse("EUNSUPPORTED", "%s: activation: found %s, expected topk", where, activation)
  end
  if look:flag(config, "signed", false, where) then
    look:refuse("EUNSUPPORTED", "%s: signed: features below 0 are not supported", where)
  end
  local transcode = look:flag(config, "transcode", false, where)
  local source = {
    d_sae = d_sae, d_model = d_model, activation = look:activation "topk",
    k = look:need(config, "k", "count", where), subtract_b_dec = not transcode,
    tensors = { w_enc = { "encoder.weight" }, b_enc = { "encoder.bias" }, w_dec = { "W_dec" }, b_dec = { "b_dec" } },
  }
  if look:has "W_skip" then
    look:expect("W_skip", { d_model, d_model })
    source.tensors.skip = { "W_skip" }
  end
  place(look, source, transcode)
  return source
end

return M

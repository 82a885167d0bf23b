-- SPDX-License-Identifier: MIT
---The classes of dictionary_learning: trainer_N/ae.pt with a config.json that names the class, where
---the tensors do not.
local linear_pair = require "moonscope.formats.linear_pair"

local M = {
  name = "dictionary_learning", what = "AutoEncoderNew or JumpReluAutoEncoder, with config.json beside it",
}

local CONFIG = "config.json"

---The trainer's part of config.json, {} without one.
local function trainer(look)
  local config = look:config(CONFIG)
  return config and look:field(config, "trainer", "object", CONFIG) or {}
end

local function is_standard(look) return look:has("encoder.weight", "encoder.bias", "decoder.weight", "bias") end
local function is_gated(look) return look:has("encoder.weight", "decoder_bias", "r_mag", "gate_bias", "mag_bias") end
local function is_topk(look)
  return look:has("encoder.weight", "encoder.bias", "decoder.weight", "b_dec") and not look:has "W_dec"
end
local function is_matryoshka(look) return look:has("W_enc", "W_dec", "b_enc", "b_dec", "group_sizes") end
local function is_jumprelu(look)
  return look:has("W_enc", "W_dec", "b_enc", "b_dec", "threshold") and not look:has "k"
end

function M.matches(look)
  return is_standard(look) or is_gated(look) or is_topk(look) or is_matryoshka(look) or is_jumprelu(look)
    or linear_pair.matches(look)
end

function M.evidence(look)
  return is_matryoshka(look) or look:config(CONFIG) ~= nil and type(trainer(look).dict_class) == "string"
end

---Encoder and decoder as nn.Linear; the decoder's bias, or centre, has a name of its own.
local function linear(look, b_dec)
  local d_sae, d_model = look:matrix("encoder.weight", "[d_sae, d_model]")
  look:expect("decoder.weight", { d_model, d_sae })
  look:expect(b_dec, { d_model })
  return {
    d_sae = d_sae, d_model = d_model, subtract_b_dec = true,
    tensors = { w_enc = { "encoder.weight" }, w_dec = { "decoder.weight", transposed = true }, b_dec = { b_dec } },
  }
end

local function with_bias(look, source)
  look:expect("encoder.bias", { source.d_sae })
  source.tensors.b_enc = { "encoder.bias" }
  return source
end

---W_enc [d_model, d_sae] and W_dec [d_sae, d_model], both as they are multiplied from the right.
local function matrices(look)
  local d_model, d_sae = look:matrix("W_enc", "[d_model, d_sae]")
  look:expect("b_enc", { d_sae })
  look:expect("W_dec", { d_sae, d_model })
  look:expect("b_dec", { d_model })
  return {
    d_sae = d_sae, d_model = d_model,
    tensors = { w_enc = { "W_enc", transposed = true }, b_enc = { "b_enc" }, w_dec = { "W_dec" }, b_dec = { "b_dec" } },
  }
end

---As from_pretrained loads it: the decoder has unit rows, the features their scale.
local function standard(look)
  local source = with_bias(look, linear(look, "bias"))
  source.activation, source.decoder_norm = look:activation "relu", "feature"
  return source
end

local function gated(look)
  local source = linear(look, "decoder_bias")
  source.activation = look:activation "gated"
  for _, name in ipairs { "gate_bias", "mag_bias", "r_mag" } do
    look:expect(name, { source.d_sae })
    source.tensors[name] = { name }
  end
  return source
end

---BatchTopK at inference is a threshold; one of -1 was never set, and the k largest of each row stay.
local function batchtopk(look, source, number)
  source.activation = "batchtopk"
  local threshold = look:scalar "threshold"
  if threshold and threshold >= 0 and not number then
    source.threshold = threshold
  else
    source.k = look:k(number or look:scalar "k" or look:field(trainer(look), "k", "count", CONFIG), source.d_sae, "k")
  end
  return source
end

local TOPK_CLASSES = { AutoEncoderTopK = "topk", BatchTopKSAE = "batchtopk" }

local function topk(look)
  local source = with_bias(look, linear(look, "b_dec"))
  local class = look:field(trainer(look), "dict_class", "text", CONFIG)
  if class and not TOPK_CLASSES[class] then
    look:refuse("EUNSUPPORTED", "%s: dict_class: found %s, expected AutoEncoderTopK or BatchTopKSAE", CONFIG, class)
  end
  local activation, number = look:activation(TOPK_CLASSES[class], { "topk", "batchtopk" },
    "AutoEncoderTopK and BatchTopKSAE have the same tensors, and no config.json tells which it is")
  if activation == "batchtopk" then return batchtopk(look, source, number) end
  source.activation = "topk"
  source.k = look:k(number or look:scalar "k" or look:field(trainer(look), "k", "count", CONFIG), source.d_sae, "k")
  return source
end

local function matryoshka(look)
  local source = matrices(look)
  source.subtract_b_dec = true
  look:activation "batchtopk"
  return batchtopk(look, source)
end

local function jumprelu(look)
  local source = matrices(look)
  look:expect("threshold", { source.d_sae })
  source.activation = look:activation "jumprelu"
  source.tensors.threshold = { "threshold" }
  return source
end

local function new(look)
  local source = linear_pair.describe(look)
  source.activation = look:activation "relu"
  return source
end

---The trainer's layer, by the kind of its module: resid_post_layer_19, mlp_out_layer_19, attention_out_layer_19.
local SUFFIXES = { resid_post = "", mlp_out = ".mlp", attention_out = ".self_attn" }

local function hook_of(look)
  local t = trainer(look)
  local layer = look:field(t, "layer", "number", CONFIG)
  if math.type(layer) ~= "integer" or layer < 0 then return nil end
  local module = look:field(t, "submodule_name", "text", CONFIG)
  local kind, number = (module or ""):match "^(.-)_layer_(%d+)$"
  if number and tonumber(number) ~= layer then
    look:refuse("EINVAL", "%s: layer is %d, but submodule_name is %s", CONFIG, layer, module)
  end
  local suffix = not module and "" or SUFFIXES[kind]
  return suffix and look:place(layer, suffix, CONFIG .. ": layer")
end

function M.describe(look)
  local kinds = {
    { is_standard, standard }, { is_gated, gated }, { is_topk, topk }, { is_matryoshka, matryoshka },
    { is_jumprelu, jumprelu }, { linear_pair.matches, new },
  }
  for _, kind in ipairs(kinds) do
    if kind[1](look) then
      local source = kind[2](look)
      source.hook = hook_of(look)
      look:agree(trainer(look), "activation_dim", source.d_model, CONFIG)
      look:agree(trainer(look), "dict_size", source.d_sae, CONFIG)
      return source
    end
  end
end

return M

-- SPDX-License-Identifier: MIT
---SAELens: cfg.json beside sae_weights.safetensors. Configs of before version 6 say things at the top
---that later ones put under "metadata", and tell topk by the activation's name.

local M = { name = "saelens", what = "with cfg.json beside it" }

local CONFIG = "cfg.json"

function M.matches(look)
  return look:has("W_enc", "W_dec", "b_dec") and (look:has "b_enc" or look:has("b_gate", "b_mag", "r_mag"))
    and not look:has "group_sizes"
end

function M.evidence(look) return look:config(CONFIG) ~= nil end

---Architecture -> its activation, whether it is a transcoder, and whether with a skip connection.
local ARCHITECTURES = {
  standard = { "relu" }, topk = { "topk" }, jumprelu = { "jumprelu" }, gated = { "gated" },
  batchtopk = { "batchtopk" }, matryoshka_batchtopk = { "batchtopk" },
  transcoder = { "relu", true }, skip_transcoder = { "relu", true, true },
  jumprelu_transcoder = { "jumprelu", true }, jumprelu_skip_transcoder = { "jumprelu", true, true },
}

---A field that moved: its names from new to old.
local function moved(look, config, kind, ...)
  for _, name in ipairs { ... } do
    local value = look:field(config, name, kind, CONFIG)
    if value ~= nil then return value end
  end
end

local function kwargs_k(look, config)
  local kwargs = look:field(config, "activation_fn_kwargs", "object", CONFIG)
  return kwargs and look:field(kwargs, "k", "number", CONFIG .. ": activation_fn_kwargs")
end

---The activation that the architecture, or the function's name of an old config, stands for.
local function activation_of(look, config)
  local name = look:field(config, "architecture", "text", CONFIG) or "standard"
  local architecture = ARCHITECTURES[name]
  if not architecture then
    local known = {}
    for key in pairs(ARCHITECTURES) do known[#known + 1] = key end
    table.sort(known)
    look:refuse("EUNSUPPORTED", "%s: architecture: found %s, expected %s", CONFIG, name, table.concat(known, ", "))
  end
  local activation, transcodes, skips = table.unpack(architecture)
  if look:has "W_skip" and not skips then
    look:refuse("EINVAL", "%s: architecture is %s, but there is a tensor W_skip", CONFIG, name)
  end
  local fn = moved(look, config, "text", "activation_fn", "activation_fn_str")
  if activation == "relu" and fn == "topk" then return "topk", transcodes, skips end
  if fn and fn ~= "relu" and fn ~= activation then
    look:refuse("EUNSUPPORTED", "%s: activation_fn: found %s, expected relu or topk", CONFIG, fn)
  end
  return activation, transcodes, skips
end

local function set_activation(look, config, source)
  local activation, tensors, d_sae = source.activation, source.tensors, source.d_sae
  if activation == "gated" then
    for name, stored in pairs { gate_bias = "b_gate", mag_bias = "b_mag", r_mag = "r_mag" } do
      look:expect(stored, { d_sae })
      tensors[name] = { stored }
    end
    return
  end
  look:expect("b_enc", { d_sae })
  tensors.b_enc = { "b_enc" }
  if activation == "jumprelu" or activation == "batchtopk" and look:has "threshold" then
    look:expect("threshold", { d_sae })
    tensors.threshold = { "threshold" }
  elseif activation == "batchtopk" and look:has "topk_threshold" then -- while it is trained
    source.threshold = look:scalar "topk_threshold"
  elseif activation ~= "relu" then
    source.k = look:k(look:field(config, "k", "number", CONFIG) or kwargs_k(look, config), d_sae, CONFIG .. ": k")
  end
end

---What is done to x before it is encoded.
local function set_input(look, config, source)
  local transcodes = source.transcodes
  source.subtract_b_dec = look:flag(config, "apply_b_dec_to_input", not transcodes, CONFIG)
  if transcodes and source.subtract_b_dec then
    look:refuse("EUNSUPPORTED", "%s: apply_b_dec_to_input: of a transcoder it makes no sense", CONFIG)
  end
  local once = type(config.normalize_activations) == "boolean" -- a flag in the first configs
  local kind = once and (config.normalize_activations and "expected_average_only_in" or "none")
    or look:field(config, "normalize_activations", "text", CONFIG) or "none"
  if kind == "none" then return end
  if kind == "expected_average_only_in" then
    source.input_scale = look:input_scale(
      CONFIG .. ": normalize_activations is expected_average_only_in, and the factor is not in the file")
    source.output_scale = 1 / source.input_scale
  elseif (kind == "constant_norm_rescale" or kind == "layer_norm") and not transcodes then
    source.normalisation = kind
  else
    look:refuse("EUNSUPPORTED", "%s: normalize_activations: found %s, expected none, expected_average_only_in%s",
      CONFIG, kind, transcodes and "" or ", constant_norm_rescale or layer_norm")
  end
end

---A factor per feature of the decoder, from a finetuning; all ones where there was none.
local function set_finetuning(look, config, source)
  local name = look:has "finetuning_scaling_factor" and "finetuning_scaling_factor"
    or look:has "scaling_factor" and "scaling_factor"
  if not name then return end
  look:expect(name, { source.d_sae })
  local factors <close> = look.file:tensor(name)
  local as_f32 <close> = factors:to { dtype = "f32" }
  local ones <close> = require("moonscope.tensor").ones(source.d_sae)
  if as_f32:equal(ones) then return end
  if not look:flag(config, "finetuning_scaling_factor", false, CONFIG) then
    look:refuse("EINVAL", "%s: finetuning_scaling_factor is false, but the tensor %s is not all ones", CONFIG, name)
  end
  source.tensors.w_dec = { "W_dec", name, map = function(w, factor) return w * factor:reshape(source.d_sae, 1) end }
end

local function set_place(look, config, source)
  local metadata = look:field(config, "metadata", "object", CONFIG) or {}
  local hook = look:hook(config, "hook_name", CONFIG) or look:hook(config, "hook_point", CONFIG)
    or look:hook(metadata, "hook_name", CONFIG)
  local output = look:hook(config, "hook_name_out", CONFIG) or look:hook(metadata, "hook_name_out", CONFIG)
  if look:field(config, "reshape_activations", "text", CONFIG) == "hook_z" or hook and hook:find "hook_z$" then
    look:refuse("EUNSUPPORTED", "%s: it reads attention heads (hook_z), which is not supported", CONFIG)
  end
  source.hook = hook
  if source.transcodes then source.output = output or "" end
end

function M.describe(look)
  local config = look:needs(CONFIG, "the architecture")
  local d_model, d_sae = look:matrix("W_enc", "[d_in, d_sae]")
  look:expect("W_dec", { d_sae, d_model })
  look:expect("b_dec", { d_model })
  look:agree(config, "d_in", d_model, CONFIG)
  look:agree(config, "d_sae", d_sae, CONFIG)
  local activation, transcodes, skips = activation_of(look, config)
  local source = {
    d_sae = d_sae, d_model = d_model, activation = look:activation(activation), transcodes = transcodes,
    tensors = { w_enc = { "W_enc", transposed = true }, w_dec = { "W_dec" }, b_dec = { "b_dec" } },
  }
  set_activation(look, config, source)
  set_input(look, config, source)
  set_finetuning(look, config, source)
  set_place(look, config, source)
  if look:flag(config, "rescale_acts_by_decoder_norm", false, CONFIG) then source.decoder_norm = "feature" end
  if skips then
    look:expect("W_skip", { d_model, d_model })
    source.tensors.skip = { "W_skip" }
  end
  return source
end

return M

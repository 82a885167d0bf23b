-- SPDX-License-Identifier: MIT
---Llama Scope (hyperparams.json) and its R1-Distill sequel (config.json, a threshold per feature).
---
---Activations are scaled to a norm of sqrt(d_model) on average, x * s_in, and the output back by s_out
---(s = sqrt(d_model) / dataset_average_activation_norm). A feature fires where pre * |w_dec| is above
---the threshold, and its value is pre.
---
---The one threshold of hyperparams.json was measured by the publisher's own tool after it had folded
---s_in, s_out and |w_dec| into the weights (its post-processing of topk to jumprelu): there the encoder
---gives pre * |w_dec| / s_out. So in the scale of pre it is threshold * s_out / |w_dec|. Other readers
---leave out the norm, or the scale, or both. The thresholds of the R1-Distill release are trained
---parameters, compared with pre * |w_dec| as it is.
local linear_pair = require "moonscope.formats.linear_pair"

local M = { name = "llama_scope", what = "with hyperparams.json beside it" }

function M.matches(look)
  return linear_pair.matches(look) or look:has("encoder.weight", "log_jumprelu_threshold")
end

---The file lies in the folder of its hyperparams.json, or in checkpoints/ there.
local function hyperparams(look)
  return look:config "hyperparams.json" or look:config "../hyperparams.json"
end

function M.evidence(look)
  return look:has "log_jumprelu_threshold" or hyperparams(look) ~= nil
end

---What both configs say alike.
local function common(look, config, where, source)
  look:agree(config, "d_model", source.d_model, where)
  if look:flag(config, "use_glu_encoder", false, where) then
    look:refuse("EUNSUPPORTED", "%s: use_glu_encoder: a second encoder is not supported", where)
  end
  local hook = look:need(config, "hook_point_in", "text", where)
  local output = look:field(config, "hook_point_out", "text", where) or hook
  source.hook = look:hook(config, "hook_point_in", where)
  if output ~= hook then source.output = look:hook(config, "hook_point_out", where) end
  return hook, output
end

---input_scale, output_scale of dataset-wise normalisation; norm(which) gives the average norms.
local function normalise(look, config, where, source, norms)
  local kind = look:field(config, "norm_activation", "text", where) or "dataset-wise"
  if kind == "dataset-wise" then
    source.input_scale, source.output_scale = norms()
  elseif kind == "token-wise" and not source.output then
    source.normalisation = "constant_norm_rescale"
  elseif kind ~= "inference" and kind ~= "none" then
    look:refuse("EUNSUPPORTED", "%s: norm_activation: found %s, expected dataset-wise, token-wise or inference",
      where, kind)
  end
end

local function describe_scope(look)
  local where, source = "hyperparams.json", linear_pair.describe(look)
  local config = hyperparams(look) or look:needs(where, "threshold and norms")
  common(look, config, where, source)
  normalise(look, config, where, source, function()
    local norms = look:need(config, "dataset_average_activation_norm", "object", where)
    local root = source.d_model ^ 0.5
    return root / look:need(norms, "in", "positive", where), look:need(norms, "out", "positive", where) / root
  end)
  source.subtract_b_dec = look:flag(config, "apply_decoder_bias_to_pre_encoder", true, where)
  local threshold = look:field(config, "jump_relu_threshold", "threshold", where) or 0
  local activation = look:need(config, "act_fn", "text", where)
  if activation == "topk" and threshold > 0 then activation = "jumprelu" end
  if activation ~= "relu" and activation ~= "jumprelu" then
    look:refuse("EUNSUPPORTED", "%s: act_fn: found %s, expected jumprelu or relu", where, activation)
  end
  source.activation = look:activation(activation)
  if activation == "jumprelu" then
    local with_norm = look:flag(config, "sparsity_include_decoder_norm", true, where)
    source.threshold = threshold * (with_norm and 1 / (source.output_scale or 1) or source.input_scale or 1)
    source.decoder_norm = with_norm and "gate" or nil
  end
  return source
end

---The average norms stand in the file, one per place, where the release has them.
local function stored_norm(look, config, hook, where)
  local norms = look:field(config, "dataset_average_activation_norm", "object", where)
  return look:scalar("dataset_average_activation_norm." .. hook) or norms and look:field(norms, hook, "positive", where)
end

local function describe_r1(look)
  local where = "config.json"
  local config = look:needs(where, "the place and the normalisation")
  local d_sae, d_model = look:matrix("encoder.weight", "[d_sae, d_model]")
  look:expect("encoder.bias", { d_sae })
  look:expect("decoder.weight", { d_model, d_sae })
  look:expect("decoder.bias", { d_model })
  look:expect("log_jumprelu_threshold", { d_sae })
  local source = {
    d_sae = d_sae, d_model = d_model, activation = look:activation "jumprelu",
    decoder_norm = look:flag(config, "sparsity_include_decoder_norm", true, where) and "gate" or nil,
    subtract_b_dec = look:flag(config, "apply_decoder_bias_to_pre_encoder", false, where),
    tensors = {
      w_enc = { "encoder.weight" }, b_enc = { "encoder.bias" },
      w_dec = { "decoder.weight", transposed = true }, b_dec = { "decoder.bias" },
      threshold = { "log_jumprelu_threshold", dtype = "f32", map = function(t) return t:exp() end },
    },
  }
  local hook, output = common(look, config, where, source)
  normalise(look, config, where, source, function()
    local root, norm = d_model ^ 0.5, stored_norm(look, config, hook, where)
    if not norm then
      local scale = look:input_scale "neither the file nor config.json has the average norm of its activations"
      return scale, 1 / scale
    end
    return root / norm, (output == hook and norm or stored_norm(look, config, output, where)
      or look:refuse("EFORMAT", "has no average norm of %s", output)) / root
  end)
  return source
end

function M.describe(look)
  return look:has "log_jumprelu_threshold" and describe_r1(look) or describe_scope(look)
end

return M

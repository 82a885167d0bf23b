-- SPDX-License-Identifier: MIT
---Which format a checkpoint with an autoencoder has, told by its tensors' names and shapes, and its
---parts in the canonical orientation: w_enc and w_dec [d_sae][d_model], a row per feature.
local M = {}

local function shape_text(shape) return "[" .. table.concat(shape, ", ") .. "]" end

---nil, or what is wrong with a tensor that should be there with this shape.
local function misfit(file, name, shape)
  local info = file:info(name)
  if not info then return ("has no tensor %s"):format(name) end
  if shape_text(info.shape) ~= shape_text(shape) then
    return ("%s: found shape %s, expected %s"):format(name, shape_text(info.shape), shape_text(shape))
  end
end

local function has(file, name) return file:info(name) ~= nil end

local function transposed(file, name) return file:tensor(name):t() end

---Goodfire's keys, which converted files keep. A tied one has no decoder_linear.weight.
local goodfire = {
  name = "goodfire",
  encoder = "encoder_linear.weight",
  matches = function(file) return has(file, "encoder_linear.weight") end,
  shapes = function(file, d_sae, d_model)
    local shapes = {
      { "encoder_linear.bias", { d_sae } }, { "decoder_linear.bias", { d_model } },
    }
    if has(file, "decoder_linear.weight") then
      shapes[#shapes + 1] = { "decoder_linear.weight", { d_model, d_sae } }
    end
    return shapes
  end,
  tied = function(file) return not has(file, "decoder_linear.weight") end,
  parts = function(file)
    local w_enc = file:tensor "encoder_linear.weight"
    return {
      w_enc = w_enc, b_enc = file:tensor "encoder_linear.bias",
      w_dec = has(file, "decoder_linear.weight") and transposed(file, "decoder_linear.weight") or w_enc,
      b_dec = file:tensor "decoder_linear.bias",
    }
  end,
}

---The original workbench's keys: tied unless decoder.weight is there, which brings a second bias.
local workbench = {
  name = "workbench",
  encoder = "encoder.weight",
  matches = function(file) return has(file, "encoder.weight") and has(file, "decoder_bias") end,
  shapes = function(file, d_sae, d_model)
    local shapes = { { "encoder.bias", { d_sae } }, { "decoder_bias", { d_model } } }
    if has(file, "decoder.weight") then
      shapes[#shapes + 1] = { "decoder.weight", { d_model, d_sae } }
      shapes[#shapes + 1] = { "decoder.bias", { d_model } }
    end
    return shapes
  end,
  tied = function(file) return not has(file, "decoder.weight") end,
  parts = function(file)
    local w_enc, untied = file:tensor "encoder.weight", has(file, "decoder.weight")
    local b_dec = file:tensor "decoder_bias"
    return {
      w_enc = w_enc, b_enc = file:tensor "encoder.bias",
      w_dec = untied and transposed(file, "decoder.weight") or w_enc,
      b_dec = untied and b_dec + file:tensor "decoder.bias" or b_dec,
    }
  end,
}

local formats = { goodfire, workbench }

---The format of an open checkpoint, its shapes checked.
---@param file userdata
---@return {name: string, d_sae: integer, d_model: integer, tied: boolean, parts: fun(file): table}? format
---@return string? message
---@return string? code
function M.recognise(file)
  for _, format in ipairs(formats) do
    if format.matches(file) then
      local encoder = file:info(format.encoder).shape
      if #encoder ~= 2 or encoder[1] < 1 or encoder[2] < 1 then
        return nil, ("%s: found shape %s, expected [d_sae, d_model]")
          :format(format.encoder, shape_text(encoder)), "ESHAPE"
      end
      for _, expected in ipairs(format.shapes(file, encoder[1], encoder[2])) do
        local wrong = misfit(file, expected[1], expected[2])
        if wrong then return nil, wrong, "ESHAPE" end
      end
      return {
        name = format.name, d_sae = encoder[1], d_model = encoder[2], tied = format.tied(file), parts = format.parts,
      }
    end
  end
  local names = file:names()
  local first = table.concat(names, ", ", 1, math.min(#names, 4))
  return nil, ("found tensors %s%s, expected encoder_linear.weight (Goodfire) or encoder.weight with decoder_bias")
    :format(first, #names > 4 and ", ..." or ""), "EFORMAT"
end

return M

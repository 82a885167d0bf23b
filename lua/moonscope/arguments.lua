-- SPDX-License-Identifier: MIT
---What several commands read from their arguments in the same way.
local ms = require "moonscope"
local progress = require "moonscope.progress"

local M = {}

---What --model and --sae take, for their help.
M.MODEL = "Folder of the model, or NAMESPACE/NAME[@REVISION] of the Hugging Face Hub."
M.SAE = "The sparse autoencoder: its file, the folder of its release, a name of SAE_CONFIGS, or "
  .. "NAMESPACE/NAME[@REVISION] of the Hugging Face Hub."

---Common options of a command that needs a model and an SAE.
M.OF_BOTH = {
  "device", "precision", "context", "sae_dtype", "layer", "format", "activation", "input_scale", "threads", "json",
  "quiet", "log_level",
}

---The two arguments of such a command.
function M.name_both(parser)
  parser:option("--model", M.MODEL):count(1)
  parser:option("--sae", M.SAE):count(1)
end

---Reads --model, --device, --precision, --context.
---@return userdata? model
---@return string? message
function M.model(args)
  return progress.run("loading", ms.load_model, args.model,
    { device = args.device, precision = args.precision, context = args.context })
end

---Reads --sae, --sae-dtype, --layer and what a file may leave open: --format, --activation, --input-scale.
---@return userdata? sae
---@return string? message
function M.sae(args, model)
  return progress.run("loading", ms.load_sae, args.sae, {
    model = model, layer = args.layer, dtype = args.sae_dtype, format = args.format, activation = args.activation,
    input_scale = args.input_scale,
  })
end

---What is wrong with options of an SAE where there is none.
---@return string?
function M.without_sae(args)
  for _, name in ipairs { "sae_dtype", "layer", "format", "activation", "input_scale" } do
    if args[name] and not args.sae then
      return ("--%s: needs an SAE, the autoencoder that it is about"):format(name:gsub("_", "-"))
    end
  end
end

---Says on stderr that --layer is not the layer that the file or SAE_CONFIGS tell. (doctor measures instead.)
function M.warn_of_layer(sae)
  if not sae.own_layer or sae.own_layer == sae.layer then return end
  io.stderr:write(("moonscope: warning: %s: is of layer %d; reads layer %d, as --layer says\n")
    :format(sae.path, sae.own_layer, sae.layer))
end

---"458:add:3.85" or "458:ablate" as an edit, but for its SAE.
---@param text string
---@return table? edit
---@return string? message
function M.edit(text)
  local feature, op, value = text:match "^(%d+):(%a+):?(.*)$"
  local number = tonumber(value)
  local takes_value = op == "add" or op == "set" or op == "scale"
  if not feature or not (takes_value and number or op == "ablate" and value == "") then
    return nil, ("'%s' is no edit; expected FEATURE:add:VALUE, FEATURE:set:VALUE, FEATURE:scale:VALUE or "
      .. "FEATURE:ablate"):format(text)
  end
  return { feature = math.tointeger(tonumber(feature)) or math.huge, op = op, value = number }
end

return M

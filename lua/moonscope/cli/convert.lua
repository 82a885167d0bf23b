-- SPDX-License-Identifier: MIT
local convert = require "moonscope.convert"
local json = require "moonscope.json"
local progress = require "moonscope.progress"
local sae_configs = require "moonscope.sae_configs"

local M = {
  summary = "Convert a sparse autoencoder, or any checkpoint, to safetensors.",
  options = { "layer", "format", "activation", "input_scale", "json", "quiet", "log_level" },
}

function M.configure(parser)
  parser:argument("source", "A name of SAE_CONFIGS or NAMESPACE/NAME of the Hugging Face Hub, or the path of a "
    .. "checkpoint (default: " .. sae_configs.DEFAULT .. ")."):args "?"
  parser:option("-o --output", "A folder for sae_layer_<L>.safetensors and its metadata; or FILE.safetensors, into "
    .. "which every tensor of the checkpoint is copied as it is.", ".")
  parser:option("--dtype", "What float tensors become (default: they stay as they are).")
    :choices { "f64", "f32", "f16", "bf16", "f8_e4m3", "f8_e5m2" }
end

local function print_result(result, as_json)
  if as_json then
    local fields = { { "safetensors", json.text(result.safetensors) } }
    if result.metadata then fields[#fields + 1] = { "metadata", json.text(result.metadata) } end
    for _, key in ipairs { "tensors", "bytes", "sha256" } do fields[#fields + 1] = { key, result[key] } end
    return require("moonscope.cli").print_json(json.ordered(fields))
  end
  print(("%s  %d tensors, %d bytes, sha256 %s"):format(result.safetensors, result.tensors, result.bytes, result.sha256))
  if result.metadata then print(result.metadata) end
end

local function is_plain_copy(args) return args.output:find "%.safetensors$" ~= nil end

function M.check(args)
  if args.output == "" then return "-o: an empty name" end
  for _, name in ipairs { "layer", "format", "activation", "input_scale" } do
    if args[name] and is_plain_copy(args) then
      return ("--%s: of no use with -o FILE.safetensors, which interprets nothing"):format(name:gsub("_", "-"))
    end
  end
end

function M.run(args)
  local bar <close> = progress.bar "converting"
  local source = args.source or sae_configs.DEFAULT
  local opts = {
    dtype = args.dtype,
    on_progress = function(done, total) bar:update(done, total, "bytes") end,
  }
  local result, message
  if is_plain_copy(args) then
    result, message = convert.checkpoint(source, args.output, opts)
  else
    opts.output, opts.layer, opts.format = args.output, args.layer, args.format
    opts.activation, opts.input_scale = args.activation, args.input_scale
    result, message = convert.sae(source, opts)
  end
  if not result then return nil, message end
  bar:close()
  if result.warning then io.stderr:write("moonscope: warning: ", result.warning, "\n") end
  print_result(result, args.json)
end

return M

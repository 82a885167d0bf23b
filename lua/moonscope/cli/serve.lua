-- SPDX-License-Identifier: MIT
local numbers = require "moonscope.numbers"

local M = {
  summary = "Serve the workbench over HTTP.",
  options = {
    "device", "precision", "context", "sae_dtype", "layer", "format", "activation", "input_scale", "threads",
  },
}

local function port(text)
  local n = numbers.natural(text)
  if n and n <= 65535 then return n end
  return nil, ("'%s' is not a port from 0 to 65535"):format(text)
end

local function connections(text)
  local n = numbers.positive(text)
  if n and n <= 100000 then return n end
  return nil, ("'%s' is not a number from 1 to 100000"):format(text)
end

function M.configure(parser)
  parser:option("--host", "Where to listen; beyond loopback a token is needed.", "127.0.0.1")
  parser:option("--port", "0 takes any that is free.", "8000"):convert(port)
  parser:option("--model", "Load this model at once: a folder, or NAMESPACE/NAME of the Hugging Face Hub.")
  parser:option("--sae", "Load this SAE too, which needs --model; may be repeated."):count("*")
  parser:option("--data", "Folder that requests may read from; may be repeated. Relative paths in requests are "
    .. "relative to the first, which is also written to; files of the others are named by absolute paths "
    .. "(default: the working directory)."):count("*"):argname "DIR"
  parser:option("--routes", "Lua file that returns further routes."):argname "FILE"
  parser:option("--allow-host", "Another name of this server, as in a Host header; may be repeated.")
    :count("*"):argname "NAME"
  parser:option("--connections", "At most so many at once.", "2048"):convert(connections):argname "N"
  parser:option("--answers", "At most so many that use the model at once.", "64"):convert(numbers.positive):argname "N"
  parser:option("--log-level", "What to tell on stderr.", "info"):choices { "error", "warn", "info", "debug" }
end

function M.check(args)
  if #args.sae > 0 and not args.model then return "--sae: needs --model, the model that it was trained on" end
  for _, name in ipairs { "layer", "format", "activation", "input_scale" } do
    if args[name] and #args.sae == 0 then
      return ("--%s: needs --sae, the autoencoder that it is about"):format(name:gsub("_", "-"))
    end
  end
  if args.layer and #args.sae > 1 then return "--layer: of several --sae it is unclear which one is meant" end
end

function M.run(args)
  require("moonscope.server.log").set_level(args.log_level)
  return require("moonscope.server").run {
    host = args.host, port = args.port, model = args.model, saes = args.sae,
    data = #args.data > 0 and args.data or nil, routes_file = args.routes, allow_hosts = args.allow_host,
    connections = args.connections, max_answers = args.answers, device = args.device, precision = args.precision,
    context = args.context, sae_dtype = args.sae_dtype, format = args.format, activation = args.activation,
    input_scale = args.input_scale, layer = args.layer,
  }
end

return M

-- SPDX-License-Identifier: MIT
local arguments = require "moonscope.arguments"
local json = require "moonscope.json"
local memory = require "moonscope.memory"
local places = require "moonscope.places"
local plain = require("moonscope.terminal").plain
local resolve = require "moonscope.hub.resolve"

local M = {
  summary = "Say what a model, and an autoencoder beside it, are made of and what memory they need.",
  options = {
    "device", "precision", "context", "sae_dtype", "layer", "format", "activation", "input_scale", "json", "log_level",
  },
}

function M.configure(parser)
  parser:argument("model", arguments.MODEL)
  parser:argument("sae", arguments.SAE .. " Neither is downloaded."):args "?"
end

M.check = arguments.without_sae

local SHAPE = { "n_layers", "d_model", "d_ff", "n_heads", "n_kv_heads", "d_head", "n_vocab", "n_ctx" }

---The autoencoder beside the model.
local function look_at_sae(args, plan)
  local path, message = resolve.sae(args.sae, { offline = "moonscope info" })
  if not path then return nil, message end
  local sae
  sae, message = memory.of_sae_file(path, {
    format = args.format, activation = args.activation, input_scale = args.input_scale, layer = args.layer,
  }, plan.device, plan.dtype, args.sae_dtype)
  if not sae then return nil, message end
  local fits
  fits, message = places.check_fit(sae, plan)
  if not fits then return nil, path .. ": " .. message end
  return sae
end

local function or_null(value) return value == nil and json.null or value end

local function sae_object(sae)
  return json.ordered {
    { "path", json.text(sae.path) }, { "format", sae.format }, { "activation", sae.activation }, { "d_sae", sae.d_sae },
    { "d_model", sae.d_model }, { "layer", or_null(sae.layer) }, { "hook", or_null(sae.hook) }, { "tied", sae.tied },
    { "file_dtype", sae.file_dtype }, { "dtype", sae.dtype }, { "weights_bytes", sae.weights_bytes },
    { "allocated_bytes", sae.allocated_bytes },
  }
end

local function print_json(path, plan, sae, needed)
  local fields = { { "model", json.text(path) } }
  for _, key in ipairs(SHAPE) do fields[#fields + 1] = { key, plan[key] } end
  for _, key in ipairs { "tied", "window", "parameters", "dtype", "kv_dtype", "device", "context", "weights_bytes",
    "mapped_bytes", "token_bytes", "context_bytes", "allocated_bytes" } do
    fields[#fields + 1] = { key, or_null(plan[key]) }
  end
  fields[#fields + 1] = { "sae", sae and sae_object(sae) or json.null }
  for _, key in ipairs { "needed_bytes", "free_bytes", "total_bytes" } do
    fields[#fields + 1] = { key, plan[key] or needed }
  end
  require("moonscope.cli").print_json(json.ordered(fields))
end

local function row(what, ...) print(("%-10s %s"):format(what, plain(string.format(...)))) end

local function where(weights, allocated)
  if allocated == 0 then return "mapped" end
  return allocated == weights and "copied" or memory.text(allocated) .. " of them copied"
end

local function print_sae(sae)
  row("sae", "%s: %s, %s", sae.path, sae.format, sae.activation)
  row("", "d_sae %d, d_model %d%s, reads %s", sae.d_sae, sae.d_model, sae.tied and ", tied" or "",
    sae.hook or "an unknown layer")
  row("", "%s in %s (the file: %s), %s", memory.text(sae.weights_bytes), sae.dtype, sae.file_dtype,
    where(sae.weights_bytes, sae.allocated_bytes))
end

local function print_text(path, plan, sae, needed)
  row("model", "%s", path)
  row("shape", "%d layers, d_model %d, d_ff %d, %d heads of %d, %d of keys and values, vocabulary %d%s", plan.n_layers,
    plan.d_model, plan.d_ff, plan.n_heads, plan.d_head, plan.n_kv_heads, plan.n_vocab, plan.tied and ", tied" or "")
  row("weights", "%d parameters in %s, %s, %s", plan.parameters, plan.dtype, memory.text(plan.weights_bytes),
    where(plan.weights_bytes, plan.weights_bytes - plan.mapped_bytes))
  row("context", "%d of %d tokens%s: %s for each in %s, %s in all", plan.context, plan.n_ctx,
    plan.window and (", a window of %d"):format(plan.window) or "", memory.text(plan.token_bytes), plan.kv_dtype,
    memory.text(plan.context_bytes))
  if sae then print_sae(sae) end
  row("memory", "%s needed, %s free of %s on %s", memory.text(needed), memory.text(plan.free_bytes),
    memory.text(plan.total_bytes), plan.device)
end

function M.run(args)
  local path, message = resolve.local_model(args.model)
  if not path then return nil, message end
  local plan, sae
  plan, message = memory.of_model(path, { device = args.device, precision = args.precision, context = args.context })
  if not plan then return nil, message end
  if args.sae then
    sae, message = look_at_sae(args, plan)
    if not sae then return nil, message end
  end
  local needed = plan.weights_bytes + plan.context_bytes + (sae and sae.weights_bytes or 0)
  local show = args.json and print_json or print_text
  show(path, plan, sae, needed)
end

return M

-- SPDX-License-Identifier: MIT
local arguments = require "moonscope.arguments"
local json = require "moonscope.json"
local numbers = require "moonscope.numbers"
local progress = require "moonscope.progress"

local M = {
  summary = "Write on after a prompt, with features changed on the way.",
  options = {
    "device", "precision", "context", "sae_dtype", "layer", "format", "activation", "input_scale",
    "threads", "seed", "json", "quiet", "log_level",
  },
}

function M.configure(parser)
  parser:option("--model", arguments.MODEL):count(1)
  parser:option("--prompt", "The text to go on from."):count(1)
  parser:option("-n --max-tokens", "Tokens to write at most.", "40"):convert(numbers.natural):argname "N"
  parser:option("--temperature", "0 takes the likeliest token.", "0"):convert(numbers.from_zero):argname "X"
  parser:option("--top-k", "Draw from the K likeliest only (0: all).", "0"):convert(numbers.natural):argname "K"
  parser:option("--top-p", "Draw from the likeliest that make up P.", "1"):convert(numbers.positive_share)
    :argname "P"
  parser:option("--min-p", "Draw from those with P of the likeliest one's probability.", "0")
    :convert(numbers.share):argname "P"
  parser:option("--sae", arguments.SAE)
  parser:option("--edit", "FEATURE:add|set|scale:VALUE or FEATURE:ablate, at every position; may be repeated.")
    :count("*"):convert(arguments.edit):argname "F:op:value"
end

local function print_json(reply)
  local edits = {}
  for i, edit in ipairs(reply.edits) do
    edits[i] = json.ordered { { "feature", edit.feature }, { "op", edit.op }, { "positions", edit.positions } }
  end
  require("moonscope.cli").print_json(json.ordered {
    { "prompt_ids", json.array(reply.prompt_ids) },
    { "ids", json.array(reply.ids) },
    { "text", json.text(reply.text) },
    { "finish_reason", reply.finish_reason },
    { "timings", reply.timings },
    { "edits", json.array(edits) },
  })
end

function M.check(args)
  if #args.edit > 0 and not args.sae then return "--edit: needs --sae, the autoencoder whose feature it changes" end
end

function M.run(args)
  local model, message = arguments.model(args)
  if not model then return nil, message end
  if args.sae then
    local sae
    sae, message = arguments.sae(args, model)
    if not sae then return nil, message end
    arguments.warn_of_layer(sae)
    for _, edit in ipairs(args.edit) do edit.sae = sae end
  end
  local bar <close> = progress.bar "writing"
  local written = 0
  local function on_token(token)
    written = written + 1
    if args.json then return bar:update(written, args.max_tokens, "tokens") end
    io.write(token.text)
    io.flush()
  end
  local reply = model:generate(args.prompt, {
    max_tokens = args.max_tokens, temperature = args.temperature, top_k = args.top_k, top_p = args.top_p,
    min_p = args.min_p, seed = args.seed, edits = args.edit, on_token = on_token,
  })
  bar:close()
  if args.json then
    print_json(reply)
  else
    print()
  end
end

return M

-- SPDX-License-Identifier: MIT
local arguments = require "moonscope.arguments"
local json = require "moonscope.json"
local numbers = require "moonscope.numbers"
local progress = require "moonscope.progress"
local terminal = require "moonscope.terminal"

local PLAIN_COLUMNS = 80 -- of --compare where stdout is no terminal

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
  parser:flag("--compare", "Write without the edits too, side by side, with the first difference marked.")
end

local function reply_json(reply)
  local edits = {}
  for i, edit in ipairs(reply.edits) do
    edits[i] = json.ordered { { "feature", edit.feature }, { "op", edit.op }, { "positions", edit.positions } }
  end
  return json.ordered {
    { "prompt_ids", json.array(reply.prompt_ids) },
    { "ids", json.array(reply.ids) },
    { "text", json.text(reply.text) },
    { "finish_reason", reply.finish_reason },
    { "timings", reply.timings },
    { "edits", json.array(edits) },
  }
end

local function generate(model, args, edits, on_token)
  return model:generate(args.prompt, {
    max_tokens = args.max_tokens, temperature = args.temperature, top_k = args.top_k, top_p = args.top_p,
    min_p = args.min_p, seed = args.seed, edits = edits, on_token = on_token,
  })
end

---Both texts, written one after the other and shown together.
local function compare(model, args)
  local comparison = require "moonscope.comparison"
  local bar <close> = progress.bar "writing"
  local written = 0
  local function write(edits)
    local pieces = {}
    local reply = generate(model, args, edits, function(token)
      written = written + 1
      pieces[#pieces + 1] = token.text
      bar:update(written, 2 * args.max_tokens, "tokens")
    end)
    return reply, pieces
  end
  local original, original_pieces = write {}
  local edited, edited_pieces = write(args.edit)
  bar:close()
  local first = comparison.first_difference(original.ids, edited.ids)
  if args.json then
    return require("moonscope.cli").print_json(json.ordered {
      { "original", reply_json(original) }, { "edited", reply_json(edited) },
      { "first_difference", first and first - 1 },
    })
  end
  local columns = terminal.columns()
  for _, line in ipairs(comparison.lines(
    { title = "original", pieces = original_pieces }, { title = "edited", pieces = edited_pieces },
    first, columns or PLAIN_COLUMNS, columns ~= nil)) do
    print(line)
  end
end

function M.check(args)
  if args.compare and #args.edit == 0 then return "--compare: needs --edit, what the second text is written with" end
  if #args.edit > 0 and not args.sae then return "--edit: needs --sae, the autoencoder whose feature it changes" end
  return arguments.without_sae(args)
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
  if args.compare then return compare(model, args) end
  local bar <close> = progress.bar "writing"
  local written = 0
  local reply = generate(model, args, args.edit, function(token)
    written = written + 1
    if args.json then return bar:update(written, args.max_tokens, "tokens") end
    io.write(token.text)
    io.flush()
  end)
  bar:close()
  if args.json then
    require("moonscope.cli").print_json(reply_json(reply))
  else
    print()
  end
end

return M

-- SPDX-License-Identifier: MIT
local arguments = require "moonscope.arguments"
local features = require "moonscope.features"
local json = require "moonscope.json"
local numbers = require "moonscope.numbers"
local progress = require "moonscope.progress"
local plain = require("moonscope.terminal").plain
local uv = require "luv"

local M = {
  summary = "Show the features that fire on each token of a prompt.",
  options = arguments.OF_BOTH,
}

function M.configure(parser)
  arguments.name_both(parser)
  parser:option("--prompt", "The text to look at."):count(1)
  parser:option("--top", "Features per token, the strongest first.", "5"):argname "K":convert(numbers.positive)
  parser:option("--html", "Write a page for a browser into this file instead of the table."):argname "FILE"
end

local function print_json(found, top)
  local tokens = {}
  for i, token in ipairs(found.tokens) do
    local list = {}
    for j = 1, math.min(top, #token.features) do
      local feature = token.features[j]
      list[j] = json.ordered {
        { "index", feature.index }, { "activation", feature.activation }, { "label", json.null },
      }
    end
    tokens[i] = json.ordered {
      { "position", token.position }, { "id", token.id }, { "token", json.text(token.token) }, { "l0", token.l0 },
      { "features", json.array(list) },
    }
  end
  require("moonscope.cli").print_json(json.ordered { { "layer", found.layer }, { "tokens", json.array(tokens) } })
end

local SHADES = { "\27[38;5;240m", "\27[38;5;67m", "\27[38;5;75m", "\27[38;5;215m", "\27[1;38;5;208m" }
local RESET = "\27[0m"

---The largest activation but for the first token's, which is far above all others.
local function scale_of(tokens)
  local largest = 0
  for i = 2, #tokens do
    local strongest = tokens[i].features[1]
    if strongest then largest = math.max(largest, strongest.activation) end
  end
  return largest
end

local function shaded(text, activation, scale)
  local share = scale > 0 and math.min(activation / scale, 1) or 1
  return SHADES[1 + (share * (#SHADES - 1)) // 1] .. text .. RESET
end

---A piece of text in quotes, cut to `width` characters and padded to it.
local function cell(text, width)
  text = text:gsub("\n", "\\n"):gsub("\t", "\\t")
  local shown = {}
  for _, code in utf8.codes(plain("'" .. text .. "'")) do shown[#shown + 1] = utf8.char(code) end
  if #shown > width then
    shown[width] = "…"
    for i = #shown, width + 1, -1 do shown[i] = nil end
  end
  return table.concat(shown) .. (" "):rep(width - #shown)
end

local function print_table(found, hook)
  local color = uv.guess_handle(1) == "tty"
  local scale = scale_of(found.tokens)
  print(("%4s  %-18s %5s  features of %s, as index:activation"):format("pos", "token", "L0", hook))
  for _, token in ipairs(found.tokens) do
    local list = {}
    for i, feature in ipairs(token.features) do
      local text = ("%d:%.2f"):format(feature.index, feature.activation)
      list[i] = color and shaded(text, feature.activation, scale) or text
    end
    local name = cell(token.token, 18)
    print(("%4d  %s %5d  %s"):format(token.position, name, token.l0, table.concat(list, "  ")))
  end
end

function M.run(args)
  local model, message = arguments.model(args)
  if not model then return nil, message end
  local sae
  sae, message = arguments.sae(args, model)
  if not sae then return nil, message end
  arguments.warn_of_layer(sae)
  local top = not args.html and args.top or nil -- the page shows where any feature fires
  local found = progress.run("reading the prompt", features.of_prompt, model, sae, args.prompt, top)
  if args.html then
    local html = require("moonscope.features_page").html(found,
      { model = args.model, sae = args.sae, hook = sae.hook, top = args.top })
    local ok
    ok, message = require("moonscope.text_file").write(args.html, html)
    if not ok then return nil, message end
  end
  if args.json then
    print_json(found, args.top)
  elseif args.html then
    print(args.html)
  else
    print_table(found, sae.hook)
  end
end

return M

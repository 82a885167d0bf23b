-- SPDX-License-Identifier: MIT
local arguments = require "moonscope.arguments"
local json = require "moonscope.json"
local ms = require "moonscope"
local progress = require "moonscope.progress"

local M = {
  summary = "Show the tokens of a text.",
  options = { "json", "quiet", "log_level" },
}

function M.configure(parser)
  parser:argument("text", "The text.")
  parser:option("--model", arguments.MODEL .. " Or a tokenizer.json."):count(1)
  parser:flag("--bos", "Put the token in front that begins a text.")
  parser:flag("--no-special", "Special tokens in the text are only text.")
end

local function print_json(ids, pieces)
  for i, piece in ipairs(pieces) do pieces[i] = json.text(piece) end
  require("moonscope.cli").print_json(json.ordered { { "ids", json.array(ids) }, { "tokens", json.array(pieces) } })
end

local function escaped(char) return ("\\u%04x"):format(utf8.codepoint(char)) end

---In quotes, with no character that moves a terminal's cursor.
local function quoted(piece)
  return (json.encode(json.text(piece)):gsub("\127", escaped):gsub("\xC2[\x80-\x9F]", escaped))
end

function M.run(args)
  local tokenizer, message = progress.run("loading", ms.load_tokenizer, args.model)
  if not tokenizer then return nil, message end
  local ids = tokenizer:encode(args.text, { bos = args.bos, special = not args.no_special })
  local pieces = {}
  for i, id in ipairs(ids) do pieces[i] = tokenizer:token(id) end
  if args.json then return print_json(ids, pieces) end
  for i, id in ipairs(ids) do print(("%7d  %s"):format(id, quoted(pieces[i]))) end
end

return M

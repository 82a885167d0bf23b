-- SPDX-License-Identifier: MIT
-- moonscope driver.lua FOLDER: answers each line of JSON on stdin with a line on stdout.
--   {"text": s, "special": boolean}    -> ids
--   {"messages": [...], "opts": {...}} -> {"text": s, "ids": ids}
--   {"template": s}                    -> {"format": s}
local chat = require "moonscope.chat"
local json = require "moonscope.json"
local ms = require "moonscope"

local tokenizer = assert(ms.load_tokenizer(arg[1]))

local function answer(request)
  if request.text then return json.array(tokenizer:encode(request.text, { special = request.special })) end
  if request.template then return { format = chat.recognize(request.template) } end
  return { text = chat.render(request.messages, request.opts), ids = tokenizer:chat(request.messages, request.opts) }
end

for line in io.lines() do
  print(json.encode(answer(assert(json.decode(line)))))
end

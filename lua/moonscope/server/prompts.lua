-- SPDX-License-Identifier: MIT
---What a model shall read, as requests say it: a text, token ids, a conversation.
local json = require "moonscope.json"
local errors = require "moonscope.server.errors"

local M = {}

local MAX_MESSAGES = 4096

---The field for a conversation.
---@param required boolean
---@return table
function M.messages_field(required)
  return { "messages", "list", required = required, null = not required, max_items = MAX_MESSAGES, item = { "object",
    fields = {
      { "role", "text", required = true, choices = { "system", "developer", "user", "assistant", "tool" } },
      { "content", "any", required = true },
    } } }
end

local function is_ids(value)
  if type(value) ~= "table" or #value == 0 then return false end
  for _, id in ipairs(value) do
    if math.type(id) ~= "integer" then return false end
  end
  return true
end

---Ids of a prompt: a text, a list with one text, or ids.
---@param use moonscope.Use
---@param prompt any
---@return integer[]
function M.ids_of(use, prompt)
  if is_ids(prompt) then return prompt end
  if type(prompt) == "table" and #prompt == 1 then prompt = prompt[1] end
  if type(prompt) == "string" then return use.model:ids_of(prompt) end
  if is_ids(prompt) then return prompt end
  errors.refuse(400, "EINVAL", "prompt: expected one text, or one list of token ids", "prompt")
end

---A message's content: a text, or a list of parts of which only texts are understood.
local function content_of(number, content)
  if type(content) == "string" then return content end
  local parts = {}
  for i, part in ipairs(type(content) == "table" and content or {}) do
    if type(part) ~= "table" or part.type ~= "text" or type(part.text) ~= "string" then break end
    parts[i] = part.text
  end
  if #parts > 0 and #parts == #content then return table.concat(parts) end
  errors.refuse(400, "EINVAL", ("messages[%d].content: expected a text, or a list of text parts"):format(number - 1),
    "messages")
end

---Ids of a conversation as the model's chat format writes it.
---@param use moonscope.Use
---@param messages {role: string, content: any}[]
---@return integer[]
function M.chat_ids(use, messages)
  local list = {}
  for i, message in ipairs(messages) do
    list[i] = { role = message.role == "developer" and "system" or message.role,
      content = content_of(i, message.content) }
  end
  if #list == 0 then errors.refuse(400, "EINVAL", "messages: expected at least one", "messages") end
  local ok, ids = pcall(use.model.tokenizer.chat, use.model.tokenizer, list)
  if ok then return ids end
  if type(ids) ~= "string" then error(ids, 0) end -- the client left, or the model goes
  errors.refuse(400, "EUNSUPPORTED", json.text(ids), "messages")
end

---Ids of a request that has either text or messages.
---@param use moonscope.Use
---@param args {text: string?, messages: table[]?}
---@return integer[] ids
---@return string field  that they came from
function M.read(use, args)
  if (args.text == nil) == (args.messages == nil) then
    errors.refuse(400, "EINVAL", "expected text or messages, one of them", "text")
  end
  if args.text then return M.ids_of(use, args.text), "text" end
  return M.chat_ids(use, args.messages), "messages"
end

return M

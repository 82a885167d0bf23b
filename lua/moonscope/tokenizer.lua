-- SPDX-License-Identifier: MIT
---Tokenizers: text to token ids and back. Ids count from 0, places in a text from 1.
local core = require "moonscope.core"
local await = require("moonscope.job").await
local chat = require "moonscope.chat"
local loading = require "moonscope.tokenizer_loading"
local options = require "moonscope.options"

---@class moonscope.tokenizer
local M = {}

---@class moonscope.Tokenizer
local Tokenizer = core.types.Tokenizer

---Loads a tokenizer.json, and the chat template of a tokenizer_config.json beside it.
---@param name string  the file, a folder that holds it, or "ns/name" or "ns/name@revision" of the Hub, of which
---  these two files are downloaded on first use
---@return moonscope.Tokenizer? tokenizer
---@return string? message
---@return string? code
function M.load_tokenizer(name)
  local path, why, reason = require("moonscope.hub.resolve").tokenizer(name)
  if not path then return nil, why, reason end
  local folder = path:match "^(.*)/[^/]*%.json$" or path:match "%.json$" and "." or path
  local file = path:match "%.json$" and path or folder .. "/tokenizer.json"
  return loading.with_template(folder, await(core.load_tokenizer(file)))
end

local ENCODE = options.names("bos", "special", "offsets")
local LONG = 16 << 10 -- bytes: of a text that is encoded while others get their turn

local function encode(tokenizer, text, bos, literal, goes_on, offsets)
  if type(text) == "string" and #text > LONG and not offsets then
    return await(tokenizer:_encode_long(text, bos, literal, goes_on))
  end
  return tokenizer:_encode(text, bos, literal, goes_on, offsets)
end

---The ids of a text.
---@param text string  any bytes
---@param opts {bos: boolean?, special: boolean?, offsets: boolean?}?  bos: put the BOS in front; special = false:
---special tokens in the text are only text
---@return integer[] ids
---@return [integer, integer][]? offsets  if wanted: text:sub(first, last) is what became the id
function Tokenizer:encode(text, opts)
  opts = options.check("encode", opts, ENCODE)
  return encode(self, text, opts.bos, opts.special == false, false, opts.offsets)
end

local DECODE = options.names("skip_special")

---The text of ids. Throws for an id that is no token.
---@param ids integer[]
---@param opts {skip_special: boolean?}?
---@return string
function Tokenizer:decode(ids, opts)
  return self:_decode(ids, options.check("decode", opts, DECODE).skip_special)
end

---For ids that come one by one: never gives half a character.
---@param opts {skip_special: boolean?}?
---@return moonscope.Decoder
function Tokenizer:stream(opts)
  return self:_stream(options.check("stream", opts, DECODE).skip_special)
end

local function recognized(tokenizer)
  local format, message = chat.recognize(tokenizer.chat_template)
  if not format then error("chat: " .. message, 0) end
  return format
end

local CHAT = options.names("format", "date", "add_generation_prompt", "enable_thinking")

---The ids of a conversation in the model's own chat format, with one BOS.
---@param messages moonscope.ChatMessage[]
---@param opts? moonscope.ChatOptions  format: instead of the one that the tokenizer's chat template tells
---@return integer[] ids
function Tokenizer:chat(messages, opts)
  opts = options.check("chat", opts, CHAT)
  local format = opts.format or recognized(self)
  local _, pieces = chat.render(messages, {
    format = format, date = opts.date, add_generation_prompt = opts.add_generation_prompt,
    enable_thinking = opts.enable_thinking,
  })
  local ids = {}
  for i, piece in ipairs(pieces) do
    if piece.marker then
      local id = self:id(piece.marker)
      if not id then error(("chat: format %s: the tokenizer has no %s"):format(format, piece.marker), 0) end
      ids[#ids + 1] = id
    else
      local more = encode(self, piece.text, false, true, i > 1)
      table.move(more, 1, #more, #ids + 1, ids)
    end
  end
  local bos = self:bos_id()
  if bos and ids[1] ~= bos then table.insert(ids, 1, bos) end
  return ids
end

return M

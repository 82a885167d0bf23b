-- SPDX-License-Identifier: MIT
---Tokenizers: text to token ids and back. Ids count from 0, places in a text from 1.
local core = require "moonscope.core"
local await = require("moonscope.job").await
local chat = require "moonscope.chat"
local json = require "moonscope.json"
local options = require "moonscope.options"

local M = {}

---@class moonscope.Tokenizer
---@field token fun(self, id: integer): string  its bytes, which need not be whole characters
---@field id fun(self, bytes: string): integer?  of the token with exactly these bytes, special or not
---@field is_special fun(self, id: integer): boolean
---@field bos_id fun(self): integer?  the token that begins a text, where the file names one
---@field n_vocab fun(self): integer
---@field close fun(self)
local Tokenizer = core.types.Tokenizer

---@class moonscope.Decoder
---@field feed fun(self, id: integer): string  the text that is complete by now, maybe ""
---@field finish fun(self): string  what is left: the start of a character that never came whole, or ""
---@field close fun(self)

---The chat template of a tokenizer_config.json; nil without the file or the template.
---@return string? template
---@return string? message  the file is there but broken
---@return string? code
local function read_template(path)
  local config, message, code = json.read(path)
  if not config and code == "ENOENT" then return nil end
  if not config then return nil, message, code end
  local template = type(config) == "table" and config.chat_template
  if type(template) == "table" then -- several, by name
    for _, named in ipairs(template) do
      if named.name == "default" then template = named.template end
    end
  end
  return type(template) == "string" and template or nil
end

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
  local tokenizer, message, code = await(core.load_tokenizer(file))
  if not tokenizer then return nil, message, code end
  local fields = core.fields(tokenizer)
  fields.chat_template, message, code = read_template(folder .. "/tokenizer_config.json")
  if message then
    tokenizer:close()
    return nil, message, code
  end
  return tokenizer
end

local ENCODE = options.names("bos", "special", "offsets")

---The ids of a text.
---@param text string  any bytes
---@param opts {bos: boolean?, special: boolean?, offsets: boolean?}?  bos: put the BOS in front; special = false:
---special tokens in the text are only text
---@return integer[] ids
---@return [integer, integer][]? offsets  if wanted: text:sub(first, last) is what became the id
function Tokenizer:encode(text, opts)
  opts = options.check("encode", opts, ENCODE)
  return self:_encode(text, opts.bos, opts.special == false, opts.offsets)
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

local CHAT = options.names("format", "date", "add_generation_prompt")

---The ids of a conversation in the model's own chat format, with one BOS.
---@param messages {role: "system"|"user"|"assistant"|"tool"|"ipython", content: string}[]
---@param opts {format: string?, date: string?, add_generation_prompt: boolean?}?  format: instead of the one
---that the tokenizer's chat template tells; see moonscope.ChatOptions
---@return integer[] ids
function Tokenizer:chat(messages, opts)
  opts = options.check("chat", opts, CHAT)
  local format = opts.format or recognized(self)
  local _, pieces = chat.render(messages,
    { format = format, date = opts.date, add_generation_prompt = opts.add_generation_prompt })
  local ids = {}
  for i, piece in ipairs(pieces) do
    if piece.marker then
      local id = self:id(piece.marker)
      if not id then error(("chat: format %s: the tokenizer has no %s"):format(format, piece.marker), 0) end
      ids[#ids + 1] = id
    else
      local more = self:_encode(piece.text, false, true, false, i > 1)
      table.move(more, 1, #more, #ids + 1, ids)
    end
  end
  local bos = self:bos_id()
  if bos and ids[1] ~= bos then table.insert(ids, 1, bos) end
  return ids
end

return M

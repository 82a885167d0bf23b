-- SPDX-License-Identifier: MIT
---Conversations as a model of a family was trained to read them: what its chat template would write,
---told in Lua. Contents never become special tokens, whatever they say.
local json = require "moonscope.json"

local M = {}

local DEFAULT_DATE = "26 Jul 2024" -- of the published Llama 3.1 to 3.3 templates

---What a renderer writes: markers, which are special tokens, and text between them.
---@class moonscope.ChatPiece
---@field marker string?
---@field text string?

local function marker(pieces, name) pieces[#pieces + 1] = { marker = name } end

---Text after text is one piece: merges may cross where they meet.
local function text(pieces, bytes)
  local last = pieces[#pieces]
  if last and last.text then
    last.text = last.text .. bytes
  elseif bytes ~= "" then
    pieces[#pieces + 1] = { text = bytes }
  end
end

local function header(pieces, role)
  marker(pieces, "<|start_header_id|>")
  text(pieces, role)
  marker(pieces, "<|end_header_id|>")
  text(pieces, "\n\n")
end

local function turn(pieces, role, content)
  header(pieces, role)
  text(pieces, content)
  marker(pieces, "<|eot_id|>")
end

-- White space as Python's str.strip knows it: that is what `trim` is in the templates.
local SPACES = {}
for code in ("9 A B C D 1C 1D 1E 1F 20 85 A0 1680 2000 2001 2002 2003 2004 2005 2006 2007 2008 2009 200A 2028 " ..
  "2029 202F 205F 3000"):gmatch "%x+" do
  SPACES[utf8.char(tonumber(code, 16))] = true
end

local function trim(content)
  local first, last = 1, #content
  local function take(n) -- a space of n bytes from either end
    if SPACES[content:sub(first, first + n - 1)] then
      first = first + n
    elseif SPACES[content:sub(math.max(first, last - n + 1), last)] then
      last = last - n
    else
      return false
    end
    return true
  end
  while first <= last and (take(1) or take(2) or take(3)) do end
  return content:sub(first, last)
end

local renderers = {}

function renderers.llama3(pieces, messages)
  marker(pieces, "<|begin_of_text|>")
  for _, message in ipairs(messages) do
    turn(pieces, message.role, trim(message.content))
  end
end

---Always starts with a system turn, which tells two dates. A tool's answer is written as JSON.
renderers["llama3.1"] = function(pieces, messages, date)
  local system = messages[1].role == "system" and messages[1].content or ""
  marker(pieces, "<|begin_of_text|>")
  turn(pieces, "system", ("Cutting Knowledge Date: December 2023\nToday Date: %s\n\n%s"):format(date, trim(system)))
  for i = messages[1].role == "system" and 2 or 1, #messages do
    local message = messages[i]
    if message.role == "tool" or message.role == "ipython" then
      turn(pieces, "ipython", json.encode(json.text(message.content)))
    else
      turn(pieces, message.role, trim(message.content))
    end
  end
end

local FORMATS = "llama3 or llama3.1"

---The format of a chat template, by the marks in its text.
---@param template string?
---@return string? format
---@return string? message
---@return string? code
function M.recognize(template)
  if not template then
    return nil, "the tokenizer has no chat template; name a format with --chat-format: " .. FORMATS, "EUNSUPPORTED"
  end
  local function has(mark) return template:find(mark, 1, true) ~= nil end
  if has "<|start_header_id|>" and has "<|end_header_id|>" and has "<|eot_id|>" then
    if has "Cutting Knowledge Date: December 2023" and has "Today Date: " then return "llama3.1" end
    if not has "Date" and not has "tool" then return "llama3" end
  end
  return nil, "unknown chat template; name a format with --chat-format: " .. FORMATS, "EUNSUPPORTED"
end

local ROLES = { system = true, user = true, assistant = true, tool = true, ipython = true }

local function check(messages)
  if type(messages) ~= "table" or #messages == 0 then
    local found = type(messages) == "table" and "none" or type(messages)
    error(("chat: found %s, expected a list of messages"):format(found), 0)
  end
  for i, message in ipairs(messages) do
    if type(message) ~= "table" then
      error(("chat: messages[%d]: found %s, expected {role=, content=}"):format(i, type(message)), 0)
    end
    if not ROLES[message.role] then
      error(("chat: messages[%d].role: found %s, expected system, user, assistant, tool or ipython")
        :format(i, tostring(message.role)), 0)
    end
    if type(message.content) ~= "string" then
      error(("chat: messages[%d].content: found %s, expected a string"):format(i, type(message.content)), 0)
    end
  end
end

---How a conversation is told to a model.
---@class moonscope.ChatOptions
---@field format string?  "llama3", "llama3.1"; `render` needs one
---@field date string?  today in the system turn of llama3.1; default "26 Jul 2024"
---@field add_generation_prompt boolean?  ends with the head of the assistant's turn; default true

---Throws for messages that are none and a format that is unknown.
---@param messages {role: string, content: string}[]
---@param opts moonscope.ChatOptions
---@return string text  as the template writes it
---@return moonscope.ChatPiece[] pieces  the same, with markers apart from text
function M.render(messages, opts)
  check(messages)
  local renderer = renderers[opts.format]
  if not renderer then
    error(("chat: unknown format %s, expected %s"):format(tostring(opts.format), FORMATS), 0)
  end
  local pieces, whole = {}, {}
  renderer(pieces, messages, opts.date or DEFAULT_DATE)
  if opts.add_generation_prompt ~= false then header(pieces, "assistant") end
  for i, piece in ipairs(pieces) do whole[i] = piece.marker or piece.text end
  return table.concat(whole), pieces
end

return M

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

---The role of the turn that the model writes next.
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

function renderers.llama3(pieces, messages, opts)
  marker(pieces, "<|begin_of_text|>")
  for _, message in ipairs(messages) do
    turn(pieces, message.role, trim(message.content))
  end
  if opts.add_generation_prompt then header(pieces, "assistant") end
end

---Always starts with a system turn, which tells two dates. A tool's answer is written as JSON.
renderers["llama3.1"] = function(pieces, messages, opts)
  local system = messages[1].role == "system" and trim(messages[1].content) or ""
  marker(pieces, "<|begin_of_text|>")
  turn(pieces, "system", ("Cutting Knowledge Date: December 2023\nToday Date: %s\n\n%s"):format(opts.date, system))
  for i = messages[1].role == "system" and 2 or 1, #messages do
    local message = messages[i]
    if message.role == "tool" or message.role == "ipython" then
      turn(pieces, "ipython", json.encode(json.text(message.content)))
    else
      turn(pieces, message.role, trim(message.content))
    end
  end
  if opts.add_generation_prompt then header(pieces, "assistant") end
end

---Turns of user and assistant, in this order, behind the system message where one comes first.
local function check_turns(format, messages, first)
  for i = first, #messages do
    local expected = (i - first) % 2 == 0 and "user" or "assistant"
    if messages[i].role ~= expected then
      error(("chat: format %s: messages[%d].role: found %s, expected %s (they take turns)"):format(format, i,
        messages[i].role, expected), 0)
    end
  end
end

local function has_system(messages) return messages[1].role == "system" end

---Every turn of the user begins a text of its own; the system message stands in the first.
function renderers.llama2(pieces, messages)
  local first = has_system(messages) and 2 or 1
  check_turns("llama2", messages, first)
  for i = first, #messages do
    local content = messages[i].content
    if i == 2 and first == 2 then
      content = ("<<SYS>>\n%s\n<</SYS>>\n\n%s"):format(messages[1].content, content)
    end
    if messages[i].role == "user" then
      marker(pieces, "<s>")
      text(pieces, "[INST] " .. trim(content) .. " [/INST]")
    else
      text(pieces, " " .. trim(content) .. " ")
      marker(pieces, "</s>")
    end
  end
end

---Of Mistral 7B Instruct v0.1 and v0.2.
function renderers.mistral(pieces, messages)
  check_turns("mistral", messages, 1)
  marker(pieces, "<s>")
  for _, message in ipairs(messages) do
    if message.role == "user" then
      text(pieces, "[INST] " .. message.content .. " [/INST]")
    else
      text(pieces, message.content)
      marker(pieces, "</s>")
      text(pieces, " ")
    end
  end
end

---Of Zephyr and TinyLlama. The role's name is plain text to their tokenizers.
function renderers.zephyr(pieces, messages, opts)
  for _, message in ipairs(messages) do
    text(pieces, ("<|%s|>\n%s"):format(message.role, message.content))
    marker(pieces, "</s>")
    text(pieces, "\n")
  end
  if opts.add_generation_prompt then text(pieces, "<|assistant|>\n") end
end

local function chatml_turn(pieces, role, content)
  marker(pieces, "<|im_start|>")
  text(pieces, role .. "\n" .. content)
  marker(pieces, "<|im_end|>")
  text(pieces, "\n")
end

---ChatML; Qwen 2 and 2.5 put a system message in front where there is none.
local function chatml(default_system)
  return function(pieces, messages, opts)
    if default_system and not has_system(messages) then chatml_turn(pieces, "system", default_system) end
    for _, message in ipairs(messages) do chatml_turn(pieces, message.role, message.content) end
    if opts.add_generation_prompt then
      marker(pieces, "<|im_start|>")
      text(pieces, "assistant\n")
    end
  end
end

local QWEN25_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
renderers.chatml, renderers.qwen2 = chatml(), chatml "You are a helpful assistant."
renderers["qwen2.5"] = chatml(QWEN25_SYSTEM)

---Without the line breaks at its start and its end.
local function unbroken(content) return content:match "^\n*(.*[^\n])" or "" end

---What an assistant's turn of Qwen 3 says: its thought, apart or in <think>, and its answer.
local function thought_and_answer(message)
  local content = message.content
  if message.reasoning_content then return message.reasoning_content, content end
  local first = content:find("</think>", 1, true)
  if not first then return "", content end
  local thought = content:sub(1, first - 1)
  return unbroken(thought:match ".*<think>(.*)$" or thought), content:match ".*</think>\n*(.*)$"
end

---The turn of the last question, which no tool asked; the last turn where there is none.
local function last_question(messages)
  for i = #messages, 1, -1 do
    local content = messages[i].content
    local of_tool = content:find "^<tool_response>" and content:find "</tool_response>$"
    if messages[i].role == "user" and not of_tool then return i end
  end
  return #messages
end

local function think(pieces, thought)
  marker(pieces, "<think>")
  text(pieces, "\n" .. unbroken(thought) .. "\n")
  marker(pieces, "</think>")
  text(pieces, "\n\n")
end

---An assistant's turn. What it thought before the last question is left out.
local function qwen3_answer(pieces, message, is_after_question, is_last)
  local thought, answer = thought_and_answer(message)
  marker(pieces, "<|im_start|>")
  text(pieces, "assistant\n")
  if is_after_question and (is_last or thought ~= "") then
    think(pieces, thought)
    answer = answer:match "^\n*(.*)$"
  end
  text(pieces, answer)
  marker(pieces, "<|im_end|>")
  text(pieces, "\n")
end

---The answers of tools that follow each other are one turn of the user.
local function qwen3_tool(pieces, content, is_first, is_last)
  if is_first then
    marker(pieces, "<|im_start|>")
    text(pieces, "user")
  end
  text(pieces, "\n")
  marker(pieces, "<tool_response>")
  text(pieces, "\n" .. content .. "\n")
  marker(pieces, "</tool_response>")
  if is_last then
    marker(pieces, "<|im_end|>")
    text(pieces, "\n")
  end
end

---Qwen 3, which thinks before it answers unless it is told not to.
function renderers.qwen3(pieces, messages, opts)
  local question = last_question(messages)
  local function is_tool(i) return messages[i] ~= nil and messages[i].role == "tool" end
  for i, message in ipairs(messages) do
    if message.role == "assistant" then
      qwen3_answer(pieces, message, i > question, i == #messages)
    elseif is_tool(i) then
      qwen3_tool(pieces, message.content, not is_tool(i - 1), not is_tool(i + 1))
    else
      chatml_turn(pieces, message.role, message.content)
    end
  end
  if not opts.add_generation_prompt then return end
  marker(pieces, "<|im_start|>")
  text(pieces, "assistant\n")
  if not opts.enable_thinking then think(pieces, "") end
end

local FORMATS = "llama2, llama3, llama3.1, mistral, zephyr, chatml, qwen2, qwen2.5 or qwen3"

---What a format's turns can hold besides system, user and assistant.
local TOOL_ROLES = {
  llama2 = "", mistral = "", zephyr = "", chatml = "", qwen2 = "", ["qwen2.5"] = "", qwen3 = "tool",
  llama3 = "tool ipython", ["llama3.1"] = "tool ipython",
}

---Marks in a template's text that a format's has, and what others with the same marks have too.
local MARKS = {
  { "llama3.1", { "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "Cutting Knowledge Date: December 2023",
    "Today Date: " }, {} },
  { "llama3", { "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>" }, { "Date", "tool" } },
  { "llama2", { "[INST] ", "<<SYS>>", "content.strip()" }, { "[AVAILABLE_TOOLS]" } },
  { "mistral", { "'[INST] ' + message['content'] + ' [/INST]'", "message['content'] + eos_token + ' '" }, { "SYS" } },
  { "zephyr", { "'<|user|>", "'<|system|>", "'<|assistant|>", "+ eos_token" }, { "tool" } },
  { "qwen3", { "<|im_start|>", "<|im_end|>", "<tool_response>", "<think>\\n\\n</think>\\n\\n", "enable_thinking",
    "reasoning_content", "last_query_index" }, { "<function" } },
  { "qwen2.5", { "<|im_start|>", "<|im_end|>", QWEN25_SYSTEM }, { "<think>" } },
  { "qwen2", { "<|im_start|>", "<|im_end|>", "You are a helpful assistant." }, { "<think>", "tool" } },
  { "chatml", { "<|im_start|>", "<|im_end|>" }, { "<think>", "tool", "system" } },
}

local NAME_ONE = ": give tokenizer:chat a format, one of " .. FORMATS

---The format of a chat template, by the marks in its text.
---@param template string?
---@return string? format
---@return string? message
---@return string? code
function M.recognize(template)
  if not template then
    return nil, "the tokenizer has no chat template" .. NAME_ONE, "EUNSUPPORTED"
  end
  local function count(marks)
    local n = 0
    for _, mark in ipairs(marks) do n = n + (template:find(mark, 1, true) and 1 or 0) end
    return n
  end
  for _, known in ipairs(MARKS) do
    local format, marks, foreign = table.unpack(known)
    if count(marks) == #marks and count(foreign) == 0 then return format end
  end
  return nil, "unknown chat template" .. NAME_ONE, "EUNSUPPORTED"
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
    local thought = message.reasoning_content
    if thought ~= nil and type(thought) ~= "string" then
      error(("chat: messages[%d].reasoning_content: found %s, expected a string"):format(i, type(thought)), 0)
    end
  end
end

local function check_roles(format, messages)
  for i, message in ipairs(messages) do
    local role = message.role
    if (role == "tool" or role == "ipython") and not TOOL_ROLES[format]:find(role, 1, true) then
      local expected = TOOL_ROLES[format] == "" and "system, user or assistant" or "system, user, assistant or tool"
      error(("chat: format %s: messages[%d].role: found %s, expected %s"):format(format, i, role, expected), 0)
    end
  end
end

---How a conversation is told to a model.
---@class moonscope.ChatOptions
---@field format string?  "llama2", "llama3", "llama3.1", "mistral", "zephyr", "chatml", "qwen2", "qwen2.5", "qwen3";
---  `render` needs one
---@field date string?  today in the system turn of llama3.1; default "26 Jul 2024"
---@field add_generation_prompt boolean?  ends with the head of the assistant's turn; default true
---@field enable_thinking boolean?  of qwen3: false tells it to answer without a thought; default true

---A turn of a conversation.
---@class moonscope.ChatMessage
---@field role "system"|"user"|"assistant"|"tool"|"ipython"
---@field content string
---@field reasoning_content string?  of an assistant's turn of qwen3: the thought, where content does not hold it

---Throws for messages that are none and a format that is unknown.
---@param messages moonscope.ChatMessage[]
---@param opts moonscope.ChatOptions
---@return string text  as the template writes it
---@return moonscope.ChatPiece[] pieces  the same, with markers apart from text
function M.render(messages, opts)
  check(messages)
  local renderer = renderers[opts.format]
  if not renderer then
    error(("chat: unknown format %s, expected %s"):format(tostring(opts.format), FORMATS), 0)
  end
  check_roles(opts.format, messages)
  local pieces, whole = {}, {}
  renderer(pieces, messages, {
    date = opts.date or DEFAULT_DATE, add_generation_prompt = opts.add_generation_prompt ~= false,
    enable_thinking = opts.enable_thinking ~= false,
  })
  for i, piece in ipairs(pieces) do whole[i] = piece.marker or piece.text end
  return table.concat(whole), pieces
end

return M

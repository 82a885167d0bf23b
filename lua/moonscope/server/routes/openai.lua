-- SPDX-License-Identifier: MIT
---The OpenAI API: /v1/models, /v1/completions, /v1/chat/completions, with `edits` and `include_features`
---beside what it has.
local json = require "moonscope.json"
local completion = require "moonscope.server.completion"
local errors = require "moonscope.server.errors"
local prompts = require "moonscope.server.prompts"
local reply = require "moonscope.server.reply"

local function extended(...)
  local fields = { ... }
  table.move(completion.FIELDS, 1, #completion.FIELDS, #fields + 1, fields)
  return fields
end

local function list_models(request)
  local bench, data = request.workbench, json.array {}
  if bench.model then
    data[1] = json.ordered {
      { "id", bench.model_name }, { "object", "model" }, { "created", bench.loaded_at }, { "owned_by", "moonscope" },
    }
  end
  return 200, json.ordered { { "object", "list" }, { "data", data } }
end

local function check_model(use, name)
  if name and name ~= use.model_name then
    errors.refuse(404, "ENOENT", ("The model %s is not loaded; %s is"):format(name, use.model_name), "model")
  end
end

---What both kinds of answers have in common: their head, and how a piece becomes a choice.
---@class Shape
---@field prefix string  of the id
---@field object string
---@field chunk string  the object of a streamed part
---@field choice fun(text: string, tokens: table[], finish: string?, first: boolean?): table
---@field delta fun(...): table

local function head(shape, request, use, object)
  return {
    { "id", shape.prefix .. request.id }, { "object", object }, { "created", os.time() }, { "model", use.model_name },
  }
end

local function features_of(tokens, tokenizer)
  local list = json.array {}
  for i, token in ipairs(tokens) do
    list[i] = json.ordered {
      { "token", json.text(tokenizer:token(token.id)) }, { "token_id", token.id }, { "features", token.features },
    }
  end
  return list
end

local function edits_of(result)
  local list = json.array {}
  for i, edit in ipairs(result.edits) do
    list[i] = json.ordered { { "feature", edit.feature }, { "op", edit.op }, { "positions", edit.positions } }
  end
  return list
end

local function whole(shape, request, use, writing)
  local result = completion.write(use, writing, function() end)
  local body = head(shape, request, use, shape.object)
  body[#body + 1] = { "choices", json.array { shape.choice(result.text, result.tokens, result.finish_reason) } }
  body[#body + 1] = { "usage", result.usage }
  if #result.edits > 0 then body[#body + 1] = { "edits", edits_of(result) } end
  if writing.sae then body[#body + 1] = { "features", features_of(result.tokens, use.model.tokenizer) } end
  return 200, json.ordered(body)
end

local function streamed(shape, request, use, writing)
  local options = request.args.stream_options or {}
  local function chunk(choices, entries)
    local body = head(shape, request, use, shape.chunk)
    body[#body + 1] = { "choices", json.array(choices) }
    for _, entry in ipairs(entries or {}) do body[#body + 1] = entry end
    return json.ordered(body)
  end
  return 200, reply.events(function(send)
    if shape.first then send(chunk { shape.first() }) end
    local result = completion.write(use, writing, function(piece)
      local more = writing.sae and { { "features", features_of(piece.tokens, use.model.tokenizer) } }
      send(chunk({ shape.delta(piece.text, piece.tokens) }, more))
    end)
    send(chunk({ shape.delta("", {}, result.finish_reason) },
      #result.edits > 0 and { { "edits", edits_of(result) } } or nil))
    if options.include_usage then send(chunk({}, { { "usage", result.usage } })) end
    send "[DONE]"
  end)
end

local function answer(shape, request, use, writing)
  completion.prepare(use, request.args, writing)
  return (request.args.stream and streamed or whole)(shape, request, use, writing)
end

-- Completions

local function text_logprobs(tokens)
  local list = { {}, {}, {}, {} }
  local names = { "tokens", "token_logprobs", "top_logprobs", "text_offset" }
  local offset, any = 0, false
  for i, token in ipairs(tokens) do
    local p = token.logprobs
    if not p then break end
    any = true
    local top = {}
    for _, entry in ipairs(p[5][2]) do top[entry[1][2]] = entry[2][2] end
    list[1][i], list[2][i], list[3][i], list[4][i] = p[1][2], p[2][2], top, offset
    offset = offset + utf8.len(p[1][2])
  end
  if not any then return json.null end
  local body = {}
  for i, name in ipairs(names) do body[i] = { name, json.array(list[i]) } end
  return json.ordered(body)
end

local function text_choice(text, tokens, finish)
  return json.ordered {
    { "text", text }, { "index", 0 }, { "logprobs", text_logprobs(tokens) }, { "finish_reason", finish },
  }
end

local text_shape = {
  prefix = "cmpl-", object = "text_completion", chunk = "text_completion", choice = text_choice, delta = text_choice,
}

local function completions(request)
  local args, use = request.args, request.workbench:enter()
  check_model(use, args.model)
  args.max_tokens = args.max_tokens or 16
  return answer(text_shape, request, use, { prompt_ids = prompts.ids_of(use, args.prompt), logprobs = args.logprobs })
end

-- Chat

local function chat_logprobs(tokens)
  local list = json.array {}
  for i, token in ipairs(tokens) do list[i] = token.logprobs end
  return #list > 0 and { content = list } or json.null
end

local chat_shape = { prefix = "chatcmpl-", object = "chat.completion", chunk = "chat.completion.chunk" }

function chat_shape.choice(text, tokens, finish)
  return json.ordered {
    { "index", 0 }, { "message", json.ordered { { "role", "assistant" }, { "content", text } } },
    { "logprobs", chat_logprobs(tokens) }, { "finish_reason", finish },
  }
end

local function chat_delta(delta, tokens, finish)
  return json.ordered {
    { "index", 0 }, { "delta", delta }, { "logprobs", chat_logprobs(tokens) }, { "finish_reason", finish },
  }
end

function chat_shape.first()
  return chat_delta(json.ordered { { "role", "assistant" }, { "content", "" } }, {})
end

function chat_shape.delta(text, tokens, finish)
  return chat_delta(finish and {} or { content = text }, tokens, finish)
end

local function chat_completions(request)
  local args, use = request.args, request.workbench:enter()
  check_model(use, args.model)
  return answer(chat_shape, request, use, {
    prompt_ids = prompts.chat_ids(use, args.messages), logprobs = args.logprobs and (args.top_logprobs or 0) or nil,
  })
end

return {
  { "GET", "/v1/models", list_models, at_once = true },
  { "POST", "/v1/completions", completions, fields = extended(
    { "model", "text", null = true, max_length = 4096 },
    { "prompt", "any", required = true },
    { "logprobs", "integer", null = true, min = 0, max = 20 }
  ) },
  { "POST", "/v1/chat/completions", chat_completions, fields = extended(
    { "model", "text", null = true, max_length = 4096 },
    prompts.messages_field(true),
    { "logprobs", "boolean", null = true, default = false },
    { "top_logprobs", "integer", null = true, min = 0, max = 20 }
  ) },
}

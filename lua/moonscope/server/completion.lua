-- SPDX-License-Identifier: MIT
---Text that a client asked for: stop texts, probabilities and features around model:generate.
local json = require "moonscope.json"
local errors = require "moonscope.server.errors"
local edits = require "moonscope.server.edits"

local M = {}

---Fields that every such route reads.
M.FIELDS = {
  { "max_tokens", "integer", null = true, min = 0, max = 1 << 20, also = { "max_completion_tokens" } },
  { "temperature", "number", null = true, default = 1, min = 0, max = 2 },
  { "top_p", "number", null = true, default = 1, min = 1e-6, max = 1 },
  { "top_k", "integer", null = true, default = 0, min = 0, max = 1 << 20 },
  { "min_p", "number", null = true, default = 0, min = 0, max = 1 },
  { "seed", "integer", null = true, min = -(1 << 53), max = 1 << 53 },
  { "n", "integer", null = true, min = 1, max = 1 },
  { "presence_penalty", "number", null = true, min = 0, max = 0 },
  { "frequency_penalty", "number", null = true, min = 0, max = 0 },
  { "stop", "any", null = true },
  { "ignore_eos", "boolean", null = true, default = false },
  { "stream", "boolean", null = true, default = false },
  { "stream_options", "object", null = true, fields = { { "include_usage", "boolean", default = false } } },
  { "edits", "list", null = true, max_items = 256, item = { "object", fields = edits.FIELDS } },
  { "include_features", "boolean", null = true, default = false },
  { "top_features", "integer", null = true, default = 5, min = 1, max = 100 },
  { "features_layer", "integer", null = true, min = 0, max = 1023 },
}

local MAX_STOPS, MAX_STOP_BYTES = 4, 1000

local function invalid(field, message)
  error(errors.invalid { { loc = { "body", field }, type = "value_error", msg = message } }, 0)
end

---The stop texts: a text, or a list of some.
---@return string[]
function M.stops(value)
  if value == nil then return {} end
  local list = type(value) == "table" and value or { value }
  if #list == 0 and next(list) ~= nil then invalid("stop", "Input should be a text, or a list of texts") end
  if #list > MAX_STOPS then invalid("stop", ("Input should be at most %d texts"):format(MAX_STOPS)) end
  for i = 1, #list do
    if type(list[i]) ~= "string" or list[i] == "" or #list[i] > MAX_STOP_BYTES then
      invalid("stop", ("Input should be texts of 1 to %d bytes"):format(MAX_STOP_BYTES))
    end
  end
  return list
end

---Finds the first stop text in what is written bit by bit, and keeps back what may begin one.
local Filter = {}
Filter.__index = Filter

local function new_filter(stops) return setmetatable({ stops = stops, kept = "" }, Filter) end

---Where an end of the text begins that may become a stop text; one past the text where none does.
local function open_end(stops, text)
  for at = math.max(#text - MAX_STOP_BYTES, 1), #text do
    for _, stop in ipairs(stops) do
      if stop:sub(1, #text - at + 1) == text:sub(at) then return at end
    end
  end
  return #text + 1
end

---@return string text  to be given out
---@return boolean found  a stop text: nothing comes after this
function Filter:feed(text)
  local all, first = self.kept .. text, nil
  for _, stop in ipairs(self.stops) do
    local at = all:find(stop, 1, true)
    if at and (not first or at < first) then first = at end
  end
  local cut = first or open_end(self.stops, all)
  self.kept = first and "" or all:sub(cut)
  return all:sub(1, cut - 1), first ~= nil
end

function Filter:rest()
  local text = self.kept
  self.kept = ""
  return text
end

-- Probabilities

local function bytes_of(text)
  return json.array { text:byte(1, -1) }
end

local function entry_of(tokenizer, id, probability)
  local token = tokenizer:token(id)
  return json.ordered {
    { "token", json.text(token) }, { "logprob", probability > 0 and math.log(probability) or -9999.0 },
    { "bytes", bytes_of(token) }, { "token_id", id },
  }
end

---The drawn token and the likeliest ones, as OpenAI's chat has them.
local function probabilities_of(model, token, n_top)
  local all = token.logits:softmax()
  all = all:reshape(model.config.n_vocab)
  local drawn = entry_of(model.tokenizer, token.id, all:narrow(1, token.id + 1, 1):item())
  local top = json.array {}
  if n_top > 0 then
    local values, ids = all:topk(n_top)
    values, ids = values:totable(), ids:totable()
    for i = 1, n_top do top[i] = entry_of(model.tokenizer, ids[i], values[i]) end
  end
  table.insert(drawn, { "top_logprobs", top })
  return drawn
end

---The strongest features at a token's position.
local function features_of(sae, token, n_top)
  local list = json.array {}
  local x = token.captures and token.captures[sae.hook]
  if not x then return list end
  local features <close> = sae:encode(x)
  for i, feature in ipairs(features:strongest(1, n_top)) do
    list[i] = json.ordered { { "index", feature.index }, { "activation", feature.activation } }
  end
  return list
end

---@class moonscope.Writing
---@field prompt_ids integer[]
---@field logprobs integer?  nil: none; else how many alternatives
---@field stops string[]

---Throws 400 for token ids that the model cannot take.
---@param use moonscope.Use
---@param ids integer[]
---@param field string  that they came from
function M.check_room(use, ids, field)
  local context, n = use.model:context(), #ids
  if n == 0 then errors.refuse(400, "EINVAL", ("the %s has no tokens"):format(field), field) end
  if n > context then
    errors.refuse(400, "ECONTEXT", ("the %s has %d tokens, the context holds %d"):format(field, n, context), field)
  end
  for i, id in ipairs(ids) do
    if id < 0 or id >= use.model.config.n_vocab then
      errors.refuse(400, "ERANGE", ("%s: token %d is %d, expected 0 to %d"):format(field, i - 1, id,
        use.model.config.n_vocab - 1), field)
    end
  end
end

---What can be refused before anything is computed or sent.
---@param use moonscope.Use
---@param args table  of M.FIELDS
---@param writing moonscope.Writing
function M.prepare(use, args, writing)
  M.check_room(use, writing.prompt_ids, "prompt")
  writing.edits = edits.resolve(use, args.edits)
  writing.stops = M.stops(args.stop)
  writing.args = args
  if args.include_features then
    local list = use.workbench:list_saes()
    local layer = args.features_layer or #list == 1 and list[1].layer
    if not layer then
      errors.refuse(400, "EINVAL", "features_layer: name the layer whose SAE tells the features", "features_layer")
    end
    writing.sae = use:sae(layer).sae
  end
  return writing
end

---Writes; calls on_piece{ text =, tokens = list } for what can be given out. A token is { id =, logprobs =,
---features = }.
---@param use moonscope.Use
---@param writing moonscope.Writing  prepared
---@param on_piece fun(piece: {text: string, tokens: table[]})
---@return {text: string, finish_reason: string, tokens: table[], usage: table, edits: table}
function M.write(use, writing, on_piece)
  local args, model, sae = writing.args, use.model, writing.sae
  local filter, out, tokens, held = new_filter(writing.stops), {}, {}, {}
  local function give(text)
    if text == "" and #held == 0 then return end
    out[#out + 1] = text
    on_piece { text = text, tokens = held }
    held = {}
  end
  local stopped = false
  local function on_token(token)
    if token.logits then -- else the rest of a character that never came whole
      local entry = { id = token.id }
      if writing.logprobs then entry.logprobs = probabilities_of(model, token, writing.logprobs) end
      if sae then entry.features = features_of(sae, token, args.top_features) end
      tokens[#tokens + 1], held[#held + 1] = entry, entry
    end
    local text, found = filter:feed(json.text(token.text))
    if text ~= "" or found then give(text) end
    stopped = found
    return not found
  end
  local reply = model:generate(writing.prompt_ids, {
    max_tokens = args.max_tokens or model:context(), temperature = args.temperature, top_p = args.top_p,
    top_k = args.top_k, min_p = args.min_p, ignore_eos = args.ignore_eos,
    seed = args.seed or math.random(0, 1 << 52), edits = writing.edits,
    capture = sae and { sae.hook } or nil, on_token = on_token,
  })
  use.workbench:note_speed(reply.timings)
  if not stopped then give(filter:rest()) end
  return {
    text = table.concat(out), finish_reason = reply.finish_reason, tokens = tokens, edits = reply.edits,
    usage = json.ordered {
      { "prompt_tokens", #reply.prompt_ids }, { "completion_tokens", #reply.ids },
      { "total_tokens", #reply.prompt_ids + #reply.ids },
    },
  }
end

return M

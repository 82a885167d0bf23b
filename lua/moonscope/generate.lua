-- SPDX-License-Identifier: MIT
---model:generate: prompt in, text out, with edits on the way.
local uv = require "luv"
local core = require "moonscope.core"
local await = require("moonscope.job").await
local options = require "moonscope.options"
local edits = require "moonscope.edits"

---@class moonscope.Llama
local Llama = core.types.Llama

local OPTIONS = options.names("max_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "ignore_eos",
  "edits", "capture", "on_token", "prompt_capture", "on_prompt")
local MAX_TOKENS = 40

---A prompt's token ids: a text gets one BOS in front unless it begins with it; a list is taken as it is.
---@param prompt string|integer[]
---@return integer[]
function Llama:ids_of(prompt)
  if type(prompt) == "table" then return prompt end
  if type(prompt) ~= "string" then
    error(("prompt: found %s, expected a text or a list of token ids"):format(type(prompt)), 3)
  end
  if not self.tokenizer then
    error(("prompt: %s/tokenizer.json is missing, so a text has no token ids"):format(self.path), 0)
  end
  local ids = self.tokenizer:encode(prompt)
  local bos = self.tokenizer:bos_id() or self.config.bos
  if bos and ids[1] ~= bos then table.insert(ids, 1, bos) end
  return ids
end

local function max_tokens_of(opts)
  local n = opts.max_tokens or MAX_TOKENS
  if math.type(n) ~= "integer" or n < 0 then
    error(("generate: max_tokens: found %s, expected a whole number from 0"):format(tostring(n)), 3)
  end
  return n
end

local function seed_of(opts)
  if opts.seed ~= nil and math.type(opts.seed) ~= "integer" then
    error(("generate: seed: found %s, expected a whole number"):format(tostring(opts.seed)), 4)
  end
  return opts.seed or 0
end

local function end_ids(model, opts)
  local ends = {}
  if not opts.ignore_eos then
    for _, id in ipairs(model.config.eos) do ends[id] = true end
  end
  return ends
end

---A function that draws the next id from logits.
local function sampler_of(opts)
  local state = seed_of(opts)
  return function(logits)
    local id
    id, state = await(core.sample(logits, opts, state))
    return id
  end
end

local function seconds_since(start) return (uv.hrtime() - start) / 1e9 end

---Writes on after a prompt. Greedy unless a temperature is given. Stops at an end token (which is in
---reply.ids, not in reply.text), after max_tokens, when the context is full, or when on_token returns
---false. on_token gets the logits that the token was drawn from, and with `capture` the places of the pass
---that the token went through, which is then made for the last one too.
---@param prompt string|integer[]
---@param opts {max_tokens: integer?, temperature: number?, top_k: integer?, top_p: number?, min_p: number?, seed: integer?, ignore_eos: boolean?, edits: moonscope.Edit[]?, capture: string[]?, prompt_capture: string[]?, on_prompt: fun(out: {logits: moonscope.Tensor, captures: table<string, moonscope.Tensor>})?, on_token: fun(token: {id: integer, text: string, logits: moonscope.Tensor?, captures: table<string, moonscope.Tensor>?}): boolean?}?
---@return {prompt_ids: integer[], ids: integer[], text: string, finish_reason: "stop"|"length", timings: table, edits: table}
function Llama:generate(prompt, opts)
  opts = options.check("generate", opts, OPTIONS)
  local max_tokens, ends, draw = max_tokens_of(opts), end_ids(self, opts), sampler_of(opts)
  local changes = edits.compile(opts.edits, self)
  local stream = self.tokenizer and self.tokenizer:stream()
  local reply = { prompt_ids = self:ids_of(prompt), ids = {}, finish_reason = "length" }
  local pieces = {}
  local function emit(token)
    pieces[#pieces + 1] = token.text
    if not opts.on_token or opts.on_token(token) ~= false then return true end
    reply.finish_reason = "stop"
    return false
  end

  local session <close> = self:session()
  local start = uv.hrtime()
  local first = session:prefill(reply.prompt_ids, { edits = changes, capture = opts.prompt_capture })
  local logits = first.logits
  local prompt_seconds = seconds_since(start)
  if opts.on_prompt then opts.on_prompt(first) end
  local decode_start = uv.hrtime()
  while #reply.ids < max_tokens do
    local id = draw(logits)
    reply.ids[#reply.ids + 1] = id
    if ends[id] then
      reply.finish_reason = "stop"
      break
    end
    local token = { id = id, text = stream and stream:feed(id) or "", logits = logits }
    local full = session:length() == self:context()
    local last = #reply.ids == max_tokens or full
    if not opts.capture and not emit(token) or last and not opts.capture then break end
    if not full then
      local out = session:step(id, { edits = changes, capture = opts.capture })
      logits, token.captures = out.logits, out.captures
    end
    if opts.capture and not emit(token) or last then break end
  end
  local rest = stream and stream:finish() or ""
  if rest ~= "" then emit { id = reply.ids[#reply.ids], text = rest } end

  local decode_seconds = seconds_since(decode_start)
  reply.text = table.concat(pieces)
  reply.edits = changes:report()
  reply.timings = {
    prompt_tokens = #reply.prompt_ids, prompt_seconds = prompt_seconds,
    generated_tokens = #reply.ids, generated_seconds = decode_seconds,
    tokens_per_second = decode_seconds > 0 and #reply.ids / decode_seconds or 0,
  }
  return reply
end

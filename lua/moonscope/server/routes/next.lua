-- SPDX-License-Identifier: MIT
---POST /v1/next-tokens: the probabilities of the token after a text, as the model is and with edits.
local json = require "moonscope.json"
local completion = require "moonscope.server.completion"
local edits = require "moonscope.server.edits"
local errors = require "moonscope.server.errors"
local prompts = require "moonscope.server.prompts"

local MAX_TEXT = 1 << 20 -- bytes

local function probabilities_of(use, ids, list)
  local logits <close> = use.model:forward(ids, { edits = list, logits = "last" }).logits
  return logits:reshape(use.model.config.n_vocab):softmax()
end

---The likeliest ids of either, those of the first before those that only the second has.
local function union(first, second, n)
  local list, seen = {}, {}
  for _, probabilities in ipairs { first, second } do
    local _, ids = probabilities:topk(n)
    for _, id in ipairs(ids:totable()) do
      if not seen[id] then list[#list + 1] = id end
      seen[id] = true
    end
  end
  return list
end

local function at(probabilities, id)
  local p = probabilities:narrow(1, id + 1, 1):item()
  if p - p ~= 0 then
    errors.refuse(400, "ERANGE", "The probabilities are not numbers: weights are broken, or an edit is too strong",
      "edits")
  end
  return p
end

local function next_tokens(request)
  local args, use = request.args, request.workbench:enter()
  local ids, field = prompts.read(use, args)
  completion.check_room(use, ids, field)
  local list = edits.resolve(use, args.edits)
  local before = probabilities_of(use, ids)
  local after = #list > 0 and probabilities_of(use, ids, list) or before
  local tokens = json.array {}
  for i, id in ipairs(union(before, after, math.min(args.top, use.model.config.n_vocab))) do
    local token = use.model.tokenizer:token(id)
    tokens[i] = json.ordered {
      { "token_id", id }, { "token", json.text(token) }, { "bytes", json.array { token:byte(1, -1) } },
      { "before", at(before, id) }, { "after", at(after, id) },
    }
  end
  return 200, json.ordered { { "model", use.model_name }, { "n_prompt", #ids }, { "tokens", tokens } }
end

return {
  { "POST", "/v1/next-tokens", next_tokens, fields = {
    { "text", "text", null = true, max_length = MAX_TEXT },
    prompts.messages_field(false),
    { "edits", "list", null = true, max_items = 256, item = { "object", fields = edits.FIELDS } },
    { "top", "integer", default = 10, min = 1, max = 100 },
  } },
}

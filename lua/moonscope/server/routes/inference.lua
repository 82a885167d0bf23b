-- SPDX-License-Identifier: MIT
---POST /inference: what comes next after a text, without the patches and with them; and what the model
---writes. The features of the text are measured on the way (activity.lua).
local uv = require "luv"
local json = require "moonscope.json"
local completion = require "moonscope.server.completion"
local errors = require "moonscope.server.errors"

local N_TOP = 20
local MAX_TEXT, MAX_KEPT_TEXT = 1 << 20, 16 << 10 -- bytes

local function entry_of(tokenizer, id, probability, logit)
  return json.ordered {
    { "token", json.text(tokenizer:token(id)) }, { "token_id", id }, { "probability", probability }, { "logit", logit },
  }
end

local function check_finite(x)
  if x - x ~= 0 then
    errors.refuse(400, "ERANGE", "The probabilities are not numbers: weights are broken, or a patch is too strong")
  end
  return x
end

---The entries of some tokens: the likeliest ones, or those that are asked for.
local function entries_of(model, prediction, ids)
  local list = json.array {}
  for i, id in ipairs(ids) do
    list[i] = entry_of(model.tokenizer, id, check_finite(prediction.probabilities:narrow(1, id + 1, 1):item()),
      prediction.logits:narrow(1, id + 1, 1):item())
  end
  return list
end

---What the logits at a text's end say: a flat view, the probabilities, the likeliest ids.
local function predict(model, logits)
  local n = model.config.n_vocab
  local flat = logits:reshape(n)
  local probabilities = flat:softmax()
  local _, ids = probabilities:topk(math.min(N_TOP, n))
  return { logits = flat, probabilities = probabilities, ids = ids:totable() }
end

---Generates; the prediction is that of the text's end.
local function write(use, ids, max_tokens, edits, capture)
  local prediction, captures
  local reply = use.model:generate(ids, {
    max_tokens = max_tokens, edits = edits, prompt_capture = capture,
    on_prompt = function(out) prediction, captures = predict(use.model, out.logits), out.captures end,
  })
  use.workbench:note_speed(reply.timings)
  return {
    top = entries_of(use.model, prediction, prediction.ids), ids = prediction.ids, prediction = prediction,
    text = json.text(reply.text), finish_reason = reply.finish_reason,
  }, captures
end

---Adds the features of a text to what was measured.
local function measure(use, held, ids, captures)
  for _, entry in ipairs(held) do
    local features <close> = entry.sae:encode(captures[entry.sae.hook])
    entry.activity:add(ids, features, use.model.tokenizer)
  end
end

---Without the patches, which changes only with the text: kept for the next who asks.
local function original_of(request, use, ids)
  local args, app = request.args, request.app
  local key = ("%d %d %s"):format(app.era, args.max_length, args.text)
  local kept = app.caches.inference:get(key)
  if kept then return kept end
  local held, capture = {}, {}
  for i, entry in ipairs(request.workbench:list_saes()) do
    held[i] = use:sae(entry.layer)
    capture[i] = entry.sae.hook
  end
  local original, captures = write(use, ids, args.max_length, nil, capture)
  original.prediction = nil -- tensors
  measure(use, held, ids, captures)
  if #args.text <= MAX_KEPT_TEXT then app.caches.inference:put(key, original) end
  return original
end

local function ids_of(use, text)
  if not use.model.tokenizer then
    errors.refuse(400, "EUNSUPPORTED", "The model has no tokenizer.json, so a text has no token ids", "text")
  end
  local ids = use.model:ids_of(text)
  completion.check_room(use, ids, "text")
  return ids
end

---The model writes twice where a patch acts: first as it is, then changed.
local function inference(request)
  local args, use, start = request.args, request.workbench:enter(), uv.hrtime()
  if args.text == "" then errors.refuse(400, "EINVAL", "Text cannot be empty", "text") end
  local ids = ids_of(use, args.text)
  local edits, applied = request.app.patches:edits(use)
  local original = original_of(request, use, ids)
  local patched, beside = original, original.top
  if #edits > 0 then
    patched = write(use, ids, args.max_length, edits)
    beside = entries_of(use.model, patched.prediction, original.ids)
  end
  return 200, json.ordered {
    { "inputText", args.text }, { "original", original.top }, { "patched", beside },
    { "tokenProbabilities", patched.top }, { "generated_text", patched.text }, { "original_text", original.text },
    { "finish_reason", patched.finish_reason }, { "patches", applied }, { "modelName", use.model_name },
    { "latencyMs", (uv.hrtime() - start) / 1e6 },
  }
end

return {
  { "POST", "/inference", inference, fields = {
    { "text", "text", required = true, max_length = MAX_TEXT },
    { "max_length", "integer", default = 50, min = 0, max = 1 << 20, also = { "max_tokens", "maxTokens" } },
  } },
}

-- SPDX-License-Identifier: MIT
---POST /v1/features/directions: what features' directions say by themselves, without any text: their norms, and
---the tokens that they speak for and against.
local json = require "moonscope.json"
local tensor = require "moonscope.tensor"
local errors = require "moonscope.server.errors"
local saes = require "moonscope.server.saes"

local MAX_ASKED, MAX_TOKENS = 64, 100
local AT_ONCE = 16 -- directions that are multiplied with the unembedding at a time

---The tokens of the largest logits, `sign` times them.
local function tokens_of(tokenizer, logits, n, sign)
  local values, ids = logits:topk(n)
  local list = json.array {}
  values = values:totable()
  for i, id in ipairs(ids:totable()) do
    local token = tokenizer:token(id)
    list[i] = json.ordered {
      { "token_id", id }, { "token", json.text(token) }, { "bytes", json.array { token:byte(1, -1) } },
      { "logit", sign * values[i] },
    }
  end
  return list
end

local function check_finite(index, norm)
  if norm - norm == 0 then return norm end
  errors.refuse(400, "ERANGE", ("features: the direction of %d is not finite: the file is broken"):format(index),
    "features")
end

---Describes some features of which the directions are the rows of x.
local function describe(use, entry, indices, x, n)
  local logits <close> = use.model:unembed(x)
  local list = {}
  for i, index in ipairs(indices) do
    local row, label = logits:row(i), entry.labels[index]
    list[i] = json.ordered {
      { "index", index }, { "label", label and json.text(label.description) or json.null },
      { "norm", check_finite(index, x:row(i):norm():item()) },
      { "top", tokens_of(use.model.tokenizer, row, n, 1) },
      { "bottom", tokens_of(use.model.tokenizer, row:neg(), n, -1) },
    }
  end
  return list
end

local function check_index(sae, number, index)
  if index < sae.d_sae then return end
  errors.refuse(400, "EINVAL", ("features[%d]: found %d, expected 0 to %d"):format(number - 1, index, sae.d_sae - 1),
    "features")
end

local function directions(request)
  local args, bench = request.args, request.workbench
  local use = bench:enter()
  local entry = use:sae(saes.entry(bench, args.layer_idx).layer)
  local n, body = math.min(args.top, use.model.config.n_vocab), json.array {}
  for number, index in ipairs(args.features) do check_index(entry.sae, number, index) end
  for first = 1, #args.features, AT_ONCE do
    local indices = table.move(args.features, first, math.min(first + AT_ONCE - 1, #args.features), 1, {})
    local rows = {}
    for i, index in ipairs(indices) do rows[i] = entry.sae:direction(index):reshape(1, entry.sae.d_model) end
    table.move(describe(use, entry, indices, tensor.cat(rows, 1), n), 1, #indices, first, body)
  end
  return 200, json.ordered { { "model", use.model_name }, { "layer_idx", entry.layer }, { "features", body } }
end

return {
  { "POST", "/v1/features/directions", directions, fields = {
    { "layer_idx", "integer", null = true, min = 0, max = saes.MAX_LAYER, also = { "layer" } },
    { "features", "list", required = true, max_items = MAX_ASKED,
      item = { "integer", min = 0, max = (1 << 31) - 1 } },
    { "top", "integer", default = 10, min = 1, max = MAX_TOKENS },
  } },
}

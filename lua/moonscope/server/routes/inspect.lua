-- SPDX-License-Identifier: MIT
---POST /v1/features/inspect: which features fire on each token of a text or a conversation.
local json = require "moonscope.json"
local loop = require "moonscope.loop"
local completion = require "moonscope.server.completion"
local errors = require "moonscope.server.errors"
local prompts = require "moonscope.server.prompts"
local saes = require "moonscope.server.saes"

local MAX_TEXT = 1 << 20 -- bytes
local MAX_ASKED = 64 -- features whose activation at each token is told
local TURN = 64 -- tokens that are described before others get their turn

local function check_asked(sae, asked)
  for i, index in ipairs(asked) do
    if index >= sae.d_sae then
      errors.refuse(400, "EINVAL", ("features[%d]: found %d, expected 0 to %d"):format(i - 1, index, sae.d_sae - 1),
        "features")
    end
  end
end

local function label_of(entry, index)
  local label = entry.labels[index]
  return label and label.description or json.null
end

local function strongest_of(entry, features, number, n)
  local list = json.array {}
  for i, feature in ipairs(features:strongest(number, n)) do
    list[i] = json.ordered {
      { "index", feature.index }, { "activation", feature.activation }, { "label", label_of(entry, feature.index) },
    }
  end
  return list
end

local function total_of(features, number)
  local total = 0
  for _, feature in ipairs(features:row(number)) do total = total + feature.activation end
  return total
end

---A token with its bytes, since half a character is no text.
local function describe(use, entry, features, ids, number, n_top)
  local tokenizer = use.model.tokenizer
  local token = tokenizer:token(ids[number])
  return json.ordered {
    { "position", number - 1 }, { "token_id", ids[number] }, { "token", json.text(token) },
    { "bytes", json.array { token:byte(1, -1) } }, { "special", tokenizer:is_special(ids[number]) },
    { "l0", features:count(number) }, { "total", total_of(features, number) },
    { "features", strongest_of(entry, features, number, n_top) },
  }
end

---Activations of one feature at each token.
local function along(entry, features, n_tokens, index)
  local list, max = json.array {}, 0
  for number = 1, n_tokens do
    list[number] = features:activation(number, index)
    max = math.max(max, list[number])
  end
  return json.ordered {
    { "index", index }, { "label", label_of(entry, index) }, { "max", max }, { "activations", list },
  }
end

local function inspect(request)
  local args, bench = request.args, request.workbench
  local use = bench:enter()
  local entry = use:sae(saes.entry(bench, args.layer_idx).layer)
  local asked = args.features or {}
  check_asked(entry.sae, asked)
  local ids, field = prompts.read(use, args)
  completion.check_room(use, ids, field)
  local out = use.model:forward(ids, { capture = { entry.sae.hook }, logits = false })
  local x <close> = out.captures[entry.sae.hook]
  local features <close> = entry.sae:encode(x)
  local tokens, rows = json.array {}, json.array {}
  for number = 1, #ids do
    tokens[number] = describe(use, entry, features, ids, number, args.top_features)
    if number % TURN == 0 then loop.sleep(0) end
  end
  for i, index in ipairs(asked) do rows[i] = along(entry, features, #ids, index) end
  return 200, json.ordered {
    { "model", use.model_name }, { "layer_idx", entry.layer }, { "d_sae", entry.sae.d_sae }, { "tokens", tokens },
    { "features", rows },
  }
end

return {
  { "POST", "/v1/features/inspect", inspect, fields = {
    { "text", "text", null = true, max_length = MAX_TEXT },
    prompts.messages_field(false),
    { "layer_idx", "integer", null = true, min = 0, max = saes.MAX_LAYER, also = { "layer" } },
    { "top_features", "integer", default = 8, min = 1, max = 64 },
    { "features", "list", null = true, max_items = MAX_ASKED, item = { "integer", min = 0, max = (1 << 31) - 1 } },
  } },
}

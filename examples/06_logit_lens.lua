-- SPDX-License-Identifier: MIT
-- Capture and logit lens: what would the model say next if it stopped after layer N? The residual stream after each
-- layer is captured, normed like the last one, and multiplied with the unembedding.
local ms = require "moonscope"
local model = assert(ms.load_model("examples/tiny", { precision = "exact" }))
local weights = assert(ms.open "examples/tiny") -- the model's tensors by name
local unembed = weights:tensor("model.embed_tokens.weight"):t() -- [d_model][n_vocab]; this model's are tied
local norm = weights:tensor "model.norm.weight" -- [d_model]

local text = "Mia did not eat all day. She felt"
local places = { "model.embed_tokens" }
for layer = 0, model.config.n_layers - 1 do places[#places + 1] = "model.layers." .. layer end
local out = model:forward(text, { capture = places, logits = "last" })

local function last_row(t) return t:row(t:size(1)) end

local function likeliest(logits)
  local share, ids = logits:softmax():topk(1)
  return ("%-8s %.3f"):format(model.tokenizer:token(ids:item()), share:item())
end

print(text .. " ...")
for _, place in ipairs(places) do
  local x = last_row(out.captures[place]) -- [d_model]
  local rms = x:norm():item() / math.sqrt(x:size(1))
  print(("%-18s %s"):format(place, likeliest((x / rms * norm):matmul(unembed))))
end
print(("%-18s %s"):format("the model itself", likeliest(last_row(out.logits))))

--[[ prints:
Mia did not eat all day. She felt ...
model.embed_tokens  felt    1.000
model.layers.0      felt    1.000
model.layers.1      felt    0.998
model.layers.2      felt    0.998
model.layers.3      felt    0.774
model.layers.4      hungry  0.966
model.layers.5      hungry  0.996
the model itself    hungry  0.996
]]

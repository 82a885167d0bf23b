-- SPDX-License-Identifier: MIT
-- What does a feature mean? Read a small corpus and look at the places where the feature fires most.
local ms = require "moonscope"
local model = assert(ms.load_model("examples/tiny", { precision = "exact" }))
local sae = assert(ms.load_sae("examples/tiny/Moonscope-Tiny-Llama-SAE-l3.pth", { model = model }))

local FEATURE = tonumber(arg[1]) or 458

local corpus = {
  "The red fox was hungry. He looked for bread.",
  "Once upon a time there was a tiny black wolf named Ella. Ella was happy.",
  "It rained all day. The hungry bear ate six pies.",
  "Dear Lily, today it is stormy here. I am at the farm. Love, Max",
  "Mia did not eat all day. Her stomach made a loud noise.",
  "The white owl slept. He did not feel hungry, he felt tired.",
}

local places = {}
for number, text in ipairs(corpus) do
  local out = model:forward(text, { capture = { sae.hook }, logits = false })
  local features = sae:encode(out.captures[sae.hook])
  for position = 2, #out.ids do -- 1 is the BOS
    local activation = features:activation(position, FEATURE)
    if activation > 0 then
      places[#places + 1] = { text = number, ids = out.ids, position = position, activation = activation }
    end
  end
end
table.sort(places, function(a, b) return a.activation > b.activation end)

local function decode(ids, first, last)
  return model.tokenizer:decode(table.move(ids, first, math.min(last, #ids), 1, {}))
end

print(("feature %d fires at %d places; the strongest:"):format(FEATURE, #places))
for i = 1, math.min(#places, 6) do
  local place = places[i]
  local at, ids = place.position, place.ids
  print(("%6.2f  text %d  %28s [%s]%s"):format(place.activation, place.text,
    decode(ids, math.max(2, at - 6), at - 1), decode(ids, at, at), decode(ids, at + 1, at + 4)))
end

--[[ prints:
feature 458 fires at 3 places; the strongest:
 10.71  text 1               The red fox was [ hungry]. He looked for
  8.02  text 6        slept. He did not feel [ hungry], he felt tired
  6.44  text 3           rained all day. The [ hungry] bear ate six pies
]]

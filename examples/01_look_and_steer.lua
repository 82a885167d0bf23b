-- SPDX-License-Identifier: MIT
-- Which features fire on each token of a text, and what a text becomes when one of them is turned up.
local ms = require "moonscope"
local model = assert(ms.load_model("examples/tiny", { precision = "exact" }))
local sae = assert(ms.load_sae("examples/tiny/Moonscope-Tiny-Llama-SAE-l3.pth", { model = model }))

local out = model:forward("The red fox was hungry.", { capture = { sae.hook }, logits = false })
local features = sae:encode(out.captures[sae.hook])
for position, id in ipairs(out.ids) do
  local strongest = features:strongest(position, 1)[1]
  print(("%-18s feature %4d %6.2f"):format(model.tokenizer:token(id), strongest.index, strongest.activation))
end

local prompt = "Once upon a time there was a small red fox named Mia."
local hunger = { sae = sae, feature = 458, op = "add", value = 3.85 }
print(model:generate(prompt, { max_tokens = 32 }).text)
print(model:generate(prompt, { max_tokens = 32, edits = { hunger } }).text)

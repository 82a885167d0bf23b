-- SPDX-License-Identifier: MIT
-- Two prompts that differ in one word: which features does the difference switch on, and which off?
local ms = require "moonscope"
local model = assert(ms.load_model("examples/tiny", { precision = "exact" }))
local sae = assert(ms.load_sae("examples/tiny/Moonscope-Tiny-Llama-SAE-l3.pth", { model = model }))

---The mean activation of each feature over a text: [d_sae]. BOS is left out.
local function mean_features(text)
  local out = model:forward(text, { capture = { sae.hook }, logits = false })
  local dense = sae:encode(out.captures[sae.hook]):totensor() -- [n_tok][d_sae]
  return dense:narrow(1, 2, #out.ids - 1):mean(1), out.ids
end

local function compare(first, second)
  local a, b = mean_features(first), mean_features(second)
  print(("%s  ->  %s   cosine %.3f"):format(first, second, a:cosine(b):item()))
  for _, case in ipairs { { "less", a - b }, { "more", b - a } } do
    local values, features = case[2]:topk(3)
    values, features = values:totable(), features:totable()
    for i, feature in ipairs(features) do print(("  %s of %4d by %.3f"):format(case[1], feature, values[i])) end
  end
end

compare("The red fox was hungry.", "The white fox was hungry.")
compare("The red fox was hungry.", "The red fox was tired.")

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

--[[ prints:
The red fox was hungry.  ->  The white fox was hungry.   cosine 0.871
  less of 1174 by 1.031
  less of 1056 by 0.225
  less of  577 by 0.184
  more of  797 by 1.014
  more of 1756 by 0.275
  more of   86 by 0.117
The red fox was hungry.  ->  The red fox was tired.   cosine 0.618
  less of  458 by 1.785
  less of  432 by 0.205
  less of 1689 by 0.166
  more of  380 by 1.893
  more of  580 by 0.088
  more of  430 by 0.087
]]

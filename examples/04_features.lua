-- SPDX-License-Identifier: MIT
-- The features of a text: which fire on each token, which of them are strongest in the text, and how much of the
-- stream they explain.
local ms = require "moonscope"
local model = assert(ms.load_model("examples/tiny", { precision = "exact" }))
local sae = assert(ms.load_sae("examples/tiny/Moonscope-Tiny-Llama-SAE-l3.pth", { model = model }))

local text = "It was raining. The white rabbit was cold and wet."
local out = model:forward(text, { capture = { sae.hook }, logits = false }) -- stops after the SAE's layer
local x = out.captures[sae.hook] -- [n_tok][d_model]
local features = sae:encode(x)

local peaks = {} -- feature -> its largest activation; BOS is left out, it has large ones of its own
for position = 2, #out.ids do
  local shown = {}
  for i, feature in ipairs(features:strongest(position)) do
    if i <= 3 then shown[i] = ("%d:%.2f"):format(feature.index, feature.activation) end
    peaks[feature.index] = math.max(peaks[feature.index] or 0, feature.activation)
  end
  print(("%-8s fires %2d  %s"):format(model.tokenizer:token(out.ids[position]), features:count(position),
    table.concat(shown, "  ")))
end

local order = {}
for feature in pairs(peaks) do order[#order + 1] = feature end
table.sort(order, function(a, b) return peaks[a] > peaks[b] end)
print("strongest of the text: " .. table.concat(order, " ", 1, 5))

local missed, centred = x - sae:decode(features), x - x:mean(1)
local share = (missed:norm():item() / centred:norm():item()) ^ 2
print(("the features leave %.1f%% of the variance unexplained"):format(100 * share))

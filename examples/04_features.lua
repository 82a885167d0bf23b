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

--[[ prints:
It       fires 16  336:4.32  974:2.98  1307:0.80
 was     fires  6  1528:3.71  621:1.23  220:0.56
 rain    fires 12  104:3.23  1611:1.28  382:1.14
ing      fires  7  204:0.97  421:0.51  1960:0.36
.        fires 13  1800:1.90  1631:1.06  722:0.82
 The     fires  9  1220:4.45  943:3.97  511:1.34
 white   fires 28  797:5.39  259:2.35  15:1.72
 rabbit  fires  9  498:6.70  987:4.86  512:2.33
 was     fires 13  1916:2.38  220:2.12  128:1.66
 cold    fires 16  895:5.89  1677:3.09  1115:1.34
 and     fires 11  1147:3.55  927:1.75  1434:0.83
 wet     fires 15  502:6.00  1435:1.15  129:0.70
.        fires 12  1800:2.58  722:0.98  281:0.67
strongest of the text: 498 502 895 797 987
the features leave 6.3% of the variance unexplained
]]

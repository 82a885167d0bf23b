-- SPDX-License-Identifier: MIT
-- An experiment of one's own, with a plot: how likely does a feature make a word as it is turned up? Writes a page
-- that needs nothing but a browser.
--   moonscope examples/09_experiment.lua [experiment.html]
local ms = require "moonscope"
local model = assert(ms.load_model("examples/tiny", { precision = "exact" }))
local sae = assert(ms.load_sae("examples/tiny/Moonscope-Tiny-Llama-SAE-l3.pth", { model = model }))

local HUNGER = 458
local prompt = "Once upon a time there was a small red fox named Mia. It was a snowy day. Mia did not"
local word = model.tokenizer:encode(" eat")[1]

-- The experiment: the probability of the word for each strength of the edit.
local points = {}
for step = 0, 12 do
  local value = step / 2
  local edit = { sae = sae, feature = HUNGER, op = "add", value = value }
  local out = model:forward(prompt, { edits = { edit }, logits = "last" })
  local probabilities = out.logits:row(1):softmax()
  points[#points + 1] = { value = value, probability = probabilities:narrow(1, word + 1, 1):item() }
  print(("add %.1f  p = %.3f"):format(value, points[#points].probability))
end

-- The plot: a line and its axes, in 640 by 320.
local LEFT, TOP, WIDTH, HEIGHT = 60, 20, 560, 240
local last = points[#points].value

local function place(point)
  return LEFT + WIDTH * point.value / last, TOP + HEIGHT * (1 - point.probability)
end

local line, marks = {}, {}
for i, point in ipairs(points) do
  local x, y = place(point)
  line[i] = ("%.1f,%.1f"):format(x, y)
  marks[i] = ('<circle cx="%.1f" cy="%.1f" r="4"><title>add %.1f: %.3f</title></circle>')
    :format(x, y, point.value, point.probability)
end
for tick = 0, 4 do
  local _, y = place { value = 0, probability = tick / 4 }
  marks[#marks + 1] = ('<text x="50" y="%.1f" text-anchor="end">%.2f</text>'):format(y + 4, tick / 4)
  local value = last * tick / 4
  marks[#marks + 1] = ('<text x="%.1f" y="282" text-anchor="middle">%.1f</text>')
    :format(place { value = value, probability = 0 }, value)
end

local page = [[<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="color-scheme" content="light dark">
<title>Feature %d turned up</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%%; height: auto; fill: currentColor; font-size: 13px; }
path, polyline { fill: none; stroke: currentColor; }
polyline { stroke: #d97706; stroke-width: 2.5; } circle { fill: #d97706; }
</style>
<h1>Feature %d turned up</h1>
<p>The probability of <q> eat</q> after <q>%s</q>, by what is added to the feature.</p>
<svg viewBox="0 0 640 320" role="img" aria-label="Probability by the value that is added">
<path d="M60,20 V260 H620"/><text x="340" y="308" text-anchor="middle">added to the feature</text>
<polyline points="%s"/>
%s
</svg>
</html>
]]
local path = arg[1] or "experiment.html"
local file = assert(io.open(path, "w"))
file:write(page:format(HUNGER, HUNGER, prompt, table.concat(line, " "), table.concat(marks, "\n")))
file:close()
print("the plot: " .. path)

--[[ prints:
add 0.0  p = 0.473
add 0.5  p = 0.494
add 1.0  p = 0.518
add 1.5  p = 0.543
add 2.0  p = 0.572
add 2.5  p = 0.603
add 3.0  p = 0.637
add 3.5  p = 0.672
add 4.0  p = 0.709
add 4.5  p = 0.745
add 5.0  p = 0.781
add 5.5  p = 0.813
add 6.0  p = 0.842
the plot: experiment.html
]]

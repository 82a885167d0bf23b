-- SPDX-License-Identifier: MIT
-- Steering: features changed while the model writes. An edit belongs to one call; the model stays as it is.
local ms = require "moonscope"
local model = assert(ms.load_model("examples/tiny", { precision = "exact" }))
local sae = assert(ms.load_sae("examples/tiny/Moonscope-Tiny-Llama-SAE-l3.pth", { model = model }))

local HUNGER, RAIN = 458, 104
local prompt = "Once upon a time there was a small red fox named Mia."

local function write(title, ...)
  local reply = model:generate(prompt, { max_tokens = 30, edits = { ... } })
  print(title .. ":" .. reply.text)
  return reply
end

write "as it is"
write("add to a feature", { sae = sae, feature = HUNGER, op = "add", value = 3.85 })
write("set it, also where it is silent", { sae = sae, feature = RAIN, op = "set", value = 5 })
write("two at once", { sae = sae, feature = HUNGER, op = "add", value = 3.85 },
  { sae = sae, feature = RAIN, op = "add", value = 5.08 })
write("only in the prompt", { sae = sae, feature = RAIN, op = "add", value = 5.08, positions = "prompt" })

-- `when` is asked at each position, with the features that fire there.
local reply = write("only after the tenth token", { sae = sae, feature = HUNGER, op = "add", value = 3.85,
  when = function(_, step) return step > 10 end })
print(("that edit acted at %d positions"):format(reply.edits[1].positions))

--[[ prints:
as it is: It was a snowy day. Mia shook the cold snow from her ears. Mia did not sleep all night. She felt tired. Mia walked very slowly
add to a feature: It was a snowy day. Mia shook the cold snow from her ears. Mia did not eat all day. She felt hungry. Her stomach made a
set it, also where it is silent: It was a rainy day. Mia had a wet coat. Mia did not sleep all night. She felt tired. Mia walked very slowly. Then Mia
two at once: It was a rainy day. Mia had no food at all. She felt hungry. Her stomach made a loud noise. Then, a white owl,
only in the prompt: It was a snowy day. Mia wore a warm scarf in the snow. Mia did not sleep all night. She felt tired. Mia walked very slowly
only after the tenth token: It was a snowy day. Mia shook the cold snow from her ears. Mia did not eat all day. She felt hungry. Her stomach made a
that edit acted at 19 positions
]]

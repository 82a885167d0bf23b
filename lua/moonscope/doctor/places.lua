-- SPDX-License-Identifier: MIT
---The places at which an autoencoder is tried: where it is said to read, and the same of the other layers.
local places = require "moonscope.places"

local M = {}

---@class moonscope.doctor.Place
---@field reads string
---@field predicts string?  of a transcoder

---The residual stream has one place more than there are layers: what goes into layer 0. "model.layers.9.input" is
---the output of layer 8.
function M.stream(hook, n_layers)
  local list, claimed = { { reads = "model.layers.0.input" } }, 1
  for number = 0, n_layers - 1 do list[number + 2] = { reads = ("model.layers.%d"):format(number) } end
  if hook ~= "model.embed_tokens" then
    claimed = places.layer_of(hook) + (places.suffix_of(hook) == "" and 2 or 1)
  end
  list[claimed].reads = hook
  return list, claimed
end

---The same pair of places in every layer where there are both.
local function shifted_places(hook, output, n_layers)
  local layer, list, claimed = places.layer_of(hook), {}, 1
  local further = output and places.layer_of(output) - layer or 0
  for number = math.max(0, -further), math.min(n_layers, n_layers - further) - 1 do
    if number == layer then claimed = #list + 1 end
    list[#list + 1] = {
      reads = ("model.layers.%d%s"):format(number, places.suffix_of(hook)),
      predicts = output and ("model.layers.%d%s"):format(number + further, places.suffix_of(output)),
    }
  end
  return list, claimed
end

---All places of the hook's kind, from the first layer to the last, and the number of the hook among them.
---@param output string?  of a transcoder
---@return moonscope.doctor.Place[]
---@return integer
function M.of(hook, output, n_layers)
  if not output and places.is_stream(hook) then return M.stream(hook, n_layers) end
  if places.suffix_of(hook) and (not output or places.suffix_of(output)) then
    return shifted_places(hook, output, n_layers)
  end
  return { { reads = hook, predicts = output } }, 1
end

---The names of all places, each once.
function M.names(list)
  local names, seen = {}, {}
  for _, place in ipairs(list) do
    for _, name in ipairs { place.reads, place.predicts } do
      if not seen[name] then names[#names + 1] = name end
      seen[name] = true
    end
  end
  return names
end

return M

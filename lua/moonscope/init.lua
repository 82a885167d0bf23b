-- SPDX-License-Identifier: MIT
---`require "moonscope"`: the whole public surface.
local core = require "moonscope.core"

local M = {
  version = core.version,
  devices = core.devices, set_threads = core.set_threads,
  instruction_set = core.instruction_set, instruction_sets = core.instruction_sets,
}

for _, name in ipairs { "tensor", "checkpoint", "tokenizer", "model", "sae", "doctor", "hub" } do
  for key, value in pairs(require("moonscope." .. name)) do
    assert(M[key] == nil, key)
    M[key] = value
  end
end

return M

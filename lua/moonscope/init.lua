-- SPDX-License-Identifier: MIT
---What `require "moonscope"` gives: constructors of tensors, loading and saving.
local core = require "moonscope.core"

---@class moonscope: moonscope.tensor, moonscope.checkpoint, moonscope.tokenizer, moonscope.model, moonscope.sae, moonscope.doctor, moonscope.hub
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

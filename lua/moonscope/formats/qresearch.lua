-- SPDX-License-Identifier: MIT
---qresearch's ReLU autoencoders. They were trained on the INPUT of the layer in their name.
local linear_pair = require "moonscope.formats.linear_pair"

local M = { name = "qresearch", suffix = ".input", what = "ReLU, reads the input of its layer" }

M.matches = linear_pair.matches

---Nothing lies beside these files: SAE_CONFIGS knows them by name, or the caller says so.
function M.evidence() return false end

function M.describe(look)
  local source = linear_pair.describe(look)
  source.activation = look:activation "relu"
  return source
end

return M

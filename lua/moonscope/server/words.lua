-- SPDX-License-Identifier: MIT
---What loading says, in the client's words: the path that it named for the server's, and the fields of a request
---for the options of a command line.
local paths = require "moonscope.server.paths"

local M = {}

local FIELDS = {
  ["--format"] = "format", ["--activation"] = "activation", ["--input-scale"] = "input_scale",
  ["--context"] = "context", ["--device"] = "device", ["--sae-dtype"] = "dtype",
}

---@param path string  the server's
---@param name string  the client's name for it
---@return fun(message: string): string
function M.of(path, name)
  local renamed = paths.renamed(path, name)
  return function(message) return (renamed(message):gsub("%-%-%l[%l-]*", FIELDS)) end
end

return M

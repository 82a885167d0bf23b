-- SPDX-License-Identifier: MIT
---Text from outside on a terminal.
local json = require "moonscope.json"

local M = {}

---Well-formed UTF-8 without control characters (each becomes "?"): names in files and in arguments could
---otherwise move the cursor, or break a message's one line.
---@param text string
---@return string
function M.plain(text)
  return (json.text(text):gsub("%c", "?"):gsub("\xC2[\x80-\x9F]", "?"))
end

return M

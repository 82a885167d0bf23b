-- SPDX-License-Identifier: MIT
---Numbers on the command line, as argparse converts them: the number, or nil and what is wrong.
local M = {}

---A whole number from 0.
---@param text string
---@return integer?
---@return string?
function M.natural(text)
  local n = math.tointeger(tonumber(text))
  if n and n >= 0 then return n end
  return nil, ("'%s' is not a whole number from 0"):format(text)
end

---A whole number from 1.
---@param text string
---@return integer?
---@return string?
function M.positive(text)
  local n = M.natural(text)
  if n and n > 0 then return n end
  return nil, ("'%s' is not a whole number from 1"):format(text)
end

---@param text string
---@return number?
---@return string?
function M.number(text)
  local n = tonumber(text)
  if n then return n end
  return nil, ("'%s' is not a number"):format(text)
end

---@param text string
---@return number?
---@return string?
function M.above_zero(text)
  local n = M.number(text)
  if n and n > 0 and n < math.huge then return n end
  return nil, ("'%s' is not a number above 0"):format(text)
end

return M

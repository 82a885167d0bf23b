-- SPDX-License-Identifier: MIT
---Numbers: f32's range, and those on the command line, as argparse converts them: the number, or nil and what is
---wrong.
local M = {}

local SMALLEST_F32, LARGEST_F32 = 0x1p-126, 0x1.fffffep127

---Whether an f32 holds a number with all its digits: neither infinite, nor subnormal, nor not a number. 0 is not.
---@param n number
---@return boolean
function M.is_normal_f32(n)
  local size = math.abs(n)
  return size >= SMALLEST_F32 and size <= LARGEST_F32
end

---A number as text; NaN without its sign.
---@param n number
---@return string
function M.text(n) return n ~= n and "nan" or tostring(n) end

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

---A converter for the numbers that pass a test.
local function numbers_that(test, expected)
  return function(text)
    local n = tonumber(text)
    if n and test(n) then return n end
    return nil, ("'%s' is not %s"):format(text, expected)
  end
end

M.above_zero = numbers_that(function(n) return n > 0 and M.is_normal_f32(n) end, "a number above 0 in f32's range")
M.from_zero = numbers_that(function(n) return n >= 0 and n < math.huge end, "a number from 0")
M.share = numbers_that(function(n) return n >= 0 and n <= 1 end, "a number from 0 to 1")
M.positive_share = numbers_that(function(n) return n > 0 and n <= 1 end, "a number above 0, at most 1")

---A converter for whole numbers from low to high.
---@param low integer
---@param high integer
---@return fun(text: string): integer?, string?
function M.whole(low, high)
  return function(text)
    local n = math.tointeger(tonumber(text))
    if n and n >= low and n <= high then return n end
    return nil, ("'%s' is not a whole number from %d to %d"):format(text, low, high)
  end
end

return M

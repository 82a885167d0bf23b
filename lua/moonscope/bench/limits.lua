-- SPDX-License-Identifier: MIT
---What the CPU can do at best, measured when asked, on the threads that compute.
local core = require "moonscope.core"
local await = require("moonscope.job").await
local tensor = require "moonscope.tensor"

local Limits = {}
Limits.__index = Limits

local M = {}

---@param n_bytes integer  of memory to read: more than the caches hold, unless what is measured fits there too
function M.new(n_bytes)
  return setmetatable({ memory = tensor.ones { n_bytes // 4 } }, Limits)
end

---Bytes per second that can be read.
---@return number
function Limits:read() return await(core.read_rate(self.memory)) end

---Operations per second of the instruction set's products; a multiply-add is two.
---@param arithmetic "f32"|"bf16"
---@return number
local function multiply(arithmetic) return await(core.multiply_rate(arithmetic)) end

---The least time for work that reads so many bytes and makes so many operations, and what bounds it.
---@param work {bytes: number, f32: number?, bf16: number?}
---@return number seconds
---@return string of
function Limits:seconds(work)
  local reading, computing, of = work.bytes / self:read(), 0, nil
  for _, arithmetic in ipairs { "f32", "bf16" } do
    local operations = work[arithmetic] or 0
    if operations > 0 then
      computing = computing + operations / multiply(arithmetic)
      of = arithmetic .. " products"
    end
  end
  if computing > reading then return computing, of end
  return reading, "read bandwidth"
end

function Limits:close() self.memory:close() end

return M

-- SPDX-License-Identifier: MIT
---Results that are kept for the next one who asks the same; a bounded number, the oldest goes first.
local M = {}
M.__index = M

---@param limit integer  results
function M.new(limit)
  return setmetatable({ limit = limit, values = {}, keys = {}, hits = 0, misses = 0 }, M)
end

---@param key string
---@return any?  nil: not kept
function M:get(key)
  local value = self.values[key]
  if value == nil then
    self.misses = self.misses + 1
  else
    self.hits = self.hits + 1
  end
  return value
end

---@param key string
---@param value any
function M:put(key, value)
  if self.values[key] == nil then
    if #self.keys == self.limit then self.values[table.remove(self.keys, 1)] = nil end
    self.keys[#self.keys + 1] = key
  end
  self.values[key] = value
end

---Forgets the results; the counts stay.
function M:clear() self.values, self.keys = {}, {} end

---@return integer hits
---@return integer misses
---@return integer size  results that are kept
function M:counts() return self.hits, self.misses, #self.keys end

return M

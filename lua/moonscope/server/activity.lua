-- SPDX-License-Identifier: MIT
---What was measured of an SAE's features since it was loaded: how often each fired, how strongly, and on
---which tokens. Special tokens are left out. Bounded: a record for each feature that fired, with at most
---EXAMPLES tokens and 2 * AROUND + 1 ids around each, about 1.3 KB.
local loop = require "moonscope.loop"

local M = {}
M.__index = M

local EXAMPLES, AROUND = 5, 5
local TURN = 2048 -- activations that are counted before others get their turn

---@class moonscope.Example
---@field [1] number  activation
---@field [2] integer  token id
---@field [3] integer  position, from 0
---@field [4] string  the ids around it, packed

---@class moonscope.Record
---@field n integer  tokens at which it fired
---@field max number
---@field examples moonscope.Example[]  of different tokens, the strongest of each

local n_made = 0

function M.new()
  n_made = n_made + 1
  return setmetatable({ serial = n_made, version = 0, n_tokens = 0, records = {} }, M)
end

---Where an example goes: the place of the same token, a free one, or the weakest one's.
local function place_of(examples, id)
  local weakest = 1
  for i, example in ipairs(examples) do
    if example[2] == id then return i end
    if example[1] < examples[weakest][1] then weakest = i end
  end
  return #examples < EXAMPLES and #examples + 1 or weakest
end

local function packed(ids, number)
  local first, last = math.max(1, number - AROUND), math.min(#ids, number + AROUND)
  return string.pack(("<i4"):rep(last - first + 1), table.unpack(ids, first, last))
end

local function count(record, activation, ids, number, around)
  record.n = record.n + 1
  record.max = math.max(record.max, activation)
  local at = place_of(record.examples, ids[number])
  local held = record.examples[at]
  if held and held[1] >= activation then return end
  record.examples[at] = { activation, ids[number], number - 1, around }
end

---Counts a token; returns how many features fired.
local function add_row(self, ids, number, row)
  self.n_tokens, self.version = self.n_tokens + 1, self.version + 1
  local around = packed(ids, number)
  for _, feature in ipairs(row) do
    if feature.activation == feature.activation then -- one that is not a number is no measurement
      local record = self.records[feature.index]
      if not record then
        record = { n = 0, max = feature.activation, examples = {} }
        self.records[feature.index] = record
      end
      count(record, feature.activation, ids, number, around)
    end
  end
  return #row
end

---Adds the features of a text.
---@param ids integer[]
---@param features userdata  of each id
---@param tokenizer userdata
function M:add(ids, features, tokenizer)
  local left = TURN
  for number, id in ipairs(ids) do
    if not tokenizer:is_special(id) then left = left - add_row(self, ids, number, features:row(number)) - 1 end
    if left <= 0 then
      left = TURN
      loop.sleep(0)
    end
  end
end

---What is known of a feature; nothing was measured before the first token. One that is silent has 0.
---@param index integer
---@return {max: number, frequency: number, examples: moonscope.Example[]}?  strongest example first
function M:of(index)
  if self.n_tokens == 0 then return nil end
  local record = self.records[index]
  if not record then return { max = 0, frequency = 0, examples = {} } end
  local examples = table.move(record.examples, 1, #record.examples, 1, {})
  table.sort(examples, function(a, b)
    if a[1] ~= b[1] then return a[1] > b[1] end
    return a[2] < b[2]
  end)
  return { max = record.max, frequency = record.n / self.n_tokens, examples = examples }
end

---The ids around an example, and which of them it is.
---@param example moonscope.Example
---@return integer[]
---@return integer number
function M.context(example)
  local ids = { string.unpack(("<i4"):rep(#example[4] // 4), example[4]) }
  ids[#ids] = nil -- where unpack stopped
  return ids, math.min(example[3], AROUND) + 1
end

return M

-- SPDX-License-Identifier: MIT
---Figures beside limits: rounds in turns, medians, the lowest and the highest.
local uv = require "luv"

local M = {}

local LEAST_SECONDS = 0.05 -- a shorter call is repeated

---@param body function
---@return number seconds  of one call
function M.seconds(body)
  local n, start = 0, uv.hrtime()
  local elapsed
  repeat
    body()
    n, elapsed = n + 1, (uv.hrtime() - start) / 1e9
  until elapsed >= LEAST_SECONDS
  return elapsed / n
end

local function sorted(list)
  local copy = table.move(list, 1, #list, 1, {})
  table.sort(copy)
  return copy
end

---@param list number[]  not empty
---@return number
function M.median(list)
  return sorted(list)[(#list + 1) // 2]
end

local function quotients(list, others)
  local ratios = {}
  for i, x in ipairs(list) do ratios[i] = x / others[i] end
  return sorted(ratios)
end

---@class moonscope.bench.Line
---@field work string
---@field unit string
---@field figure number  the median, as are limit and peer
---@field lowest number
---@field highest number
---@field limit number
---@field limit_of string  what bounds the work
---@field ratio number  figure / limit
---@field ratio_lowest number  of a round
---@field ratio_highest number
---@field peer number?  the same work by somebody else
---@field peer_ratio number?  figure / peer
---@field rounds integer

---What some rounds come to.
---@param facts {work: string, unit: string, limit_of: string}
---@param figures number[]
---@param limits number[]
---@param peers number[]  empty: no peer
---@return moonscope.bench.Line
function M.line(facts, figures, limits, peers)
  local ordered, ratios = sorted(figures), quotients(figures, limits)
  local line = {
    work = facts.work, unit = facts.unit, limit_of = facts.limit_of, rounds = #figures,
    figure = M.median(figures), lowest = ordered[1], highest = ordered[#ordered],
    limit = M.median(limits), ratio_lowest = ratios[1], ratio_highest = ratios[#ratios],
  }
  line.ratio = line.figure / line.limit
  if #peers > 0 then
    line.peer = M.median(peers)
    line.peer_ratio = line.figure / line.peer
  end
  return line
end

---@class moonscope.bench.Case
---@field work string
---@field unit string
---@field figure fun(): number
---@field limit fun(): number, string  and what it is the limit of

---Rounds of limit, figure and peer in turns, after one that does not count.
---@param case moonscope.bench.Case
---@param n_rounds integer
---@param peer (fun(): number)?
---@return moonscope.bench.Line
function M.rounds(case, n_rounds, peer)
  local figures, limits, peers, of = {}, {}, {}, nil
  case.figure()
  if peer then peer() end
  for i = 1, n_rounds do
    collectgarbage()
    limits[i], of = case.limit()
    figures[i] = case.figure()
    peers[i] = peer and peer()
  end
  return M.line({ work = case.work, unit = case.unit, limit_of = of }, figures, limits, peers)
end

return M

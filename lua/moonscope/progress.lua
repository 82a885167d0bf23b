-- SPDX-License-Identifier: MIT
---A progress bar on stderr: bytes or tokens, rate, time left. Silent when stderr is no terminal.
local uv = require "luv"
local job = require "moonscope.job"

local M = {}

---Set by --quiet.
M.quiet = false

local WIDTH = 24
local REDRAW_NS = 100000000

---"2.1 GB"; a mere number of what is counted in another unit.
---@param n integer
---@param unit string?
---@return string
function M.amount(n, unit)
  if unit ~= "bytes" then return ("%d"):format(n) end
  for _, scale in ipairs { { 1e9, "GB" }, { 1e6, "MB" }, { 1e3, "kB" } } do
    if n >= scale[1] then return ("%.1f %s"):format(n / scale[1], scale[2]) end
  end
  return ("%d B"):format(n)
end

local function clock(seconds)
  return ("%d:%02d"):format(seconds // 60, seconds // 1 % 60)
end

---One line of text for work that has come so far in so many seconds.
---@param label string
---@param done integer
---@param total integer  0 while unknown
---@param unit string?
---@param seconds number
---@return string
function M.line(label, done, total, unit, seconds)
  local parts = { label }
  if total > 0 then
    local share = math.min(done / total, 1)
    local filled = math.floor(share * WIDTH)
    parts[#parts + 1] = ("[%s%s] %3d%%"):format(("#"):rep(filled), ("."):rep(WIDTH - filled), share * 100 // 1)
  end
  local name = unit and unit ~= "bytes" and " " .. unit or ""
  parts[#parts + 1] = M.amount(done, unit) .. (total > 0 and " of " .. M.amount(total, unit) or "") .. name
  local rate = seconds > 0 and done / seconds or 0
  if rate > 0 then
    parts[#parts + 1] = M.amount(rate // 1, unit) .. "/s"
    if total > done then parts[#parts + 1] = clock((total - done) / rate) .. " left" end
  end
  return table.concat(parts, "  ")
end

local Bar = {}
Bar.__index = Bar

---@param done integer
---@param total integer
---@param unit string?
function Bar:update(done, total, unit)
  local now = uv.hrtime()
  if not self.shown or now - self.drawn < REDRAW_NS then return end
  self.drawn = now
  io.stderr:write("\r\27[K", M.line(self.label, done, total, unit, (now - self.start) / 1e9))
end

---Takes the bar away.
function Bar:close()
  if self.shown then io.stderr:write "\r\27[K" end
  self.shown = false
end

Bar.__close = Bar.close

---A bar to be updated while work goes on; close it at the end (`local bar <close> = progress.bar(...)`).
---@param label string
function M.bar(label)
  local shown = not M.quiet and uv.guess_handle(2) == "tty"
  return setmetatable({ label = label, shown = shown, start = uv.hrtime(), drawn = 0 }, Bar)
end

---Calls fn(...) with a bar for the jobs that it awaits.
---@param label string
---@param fn function
function M.run(label, fn, ...)
  local bar <close> = M.bar(label)
  return job.watch(function(done, total, unit) bar:update(done, total, unit) end, fn, ...)
end

return M

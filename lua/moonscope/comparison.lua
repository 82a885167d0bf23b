-- SPDX-License-Identifier: MIT
---Two texts of a model side by side, and where they part.
local terminal = require "moonscope.terminal"

local M = {}

local BETWEEN = " | "
local NARROW = 50 -- columns below which the texts stand one below the other
local MARK = "\1" -- for SHOWN until a line is printed: no text holds it, as terminal.plain takes it out
local SHOWN = "»" -- stands before the first difference
local BOLD, RESET = "\27[1;33m", "\27[0m"

---The first place where two lists differ, or where one ends; nil where they are equal.
---@param a any[]
---@param b any[]
---@return integer?
function M.first_difference(a, b)
  for i = 1, math.max(#a, #b) do
    if a[i] ~= b[i] then return i end
  end
  return nil
end

---A text without control characters but for line feeds.
local function plain(text)
  local lines = {}
  for line in (text .. "\n"):gmatch "(.-)\n" do lines[#lines + 1] = terminal.plain(line) end
  return table.concat(lines, "\n")
end

---The text of some pieces in lines, with a mark where the piece at `first` begins.
local function wrapped(pieces, first, width)
  if not first then return terminal.wrap(plain(table.concat(pieces)), width) end
  local before = table.concat(pieces, "", 1, math.min(first - 1, #pieces))
  local space, after = table.concat(pieces, "", math.min(first, #pieces + 1)):match "^( *)(.*)$"
  return terminal.wrap(plain(before) .. space .. MARK .. plain(after), width)
end

---A line with its mark shown, and from there on in colour; `after` tells whether the mark is behind it.
local function painted(line, after, color)
  local at = line:find(MARK, 1, true)
  local shown = line:gsub(MARK, SHOWN)
  if not color or line == "" or not (at or after) then return shown, after or at ~= nil end
  at = at or 1
  return shown:sub(1, at - 1) .. BOLD .. shown:sub(at) .. RESET, true
end

---@return string[] lines
---@return integer[] widths  in columns
local function column(side, first, width, color)
  local lines, after = { side.title, ("-"):rep(math.min(width, #side.title)) }, false
  local widths = { #side.title, #lines[2] }
  for _, line in ipairs(wrapped(side.pieces, first, width)) do
    local n = #lines + 1
    widths[n] = terminal.width(line)
    lines[n], after = painted(line, after, color)
  end
  return lines, widths
end

local function quoted(piece) return piece and '"' .. terminal.plain(piece) .. '"' or "the end" end

---The lines to print. A side's pieces are the texts of its tokens, from its first one.
---@param original {title: string, pieces: string[]}
---@param edited {title: string, pieces: string[]}
---@param first integer?  the first token that differs
---@param columns integer  that there are
---@param color boolean
---@return string[]
function M.lines(original, edited, first, columns, color)
  local lines = {}
  local function add(line) lines[#lines + 1] = line end
  if columns < NARROW then
    for _, side in ipairs { original, edited } do
      for _, line in ipairs((column(side, first, math.max(columns, 2), color))) do add(line) end
      add ""
    end
  else
    local width = (columns - #BETWEEN) // 2
    local left, widths = column(original, first, width, color)
    local right = column(edited, first, width, color)
    for i = 1, math.max(#left, #right) do
      local text, beside = left[i] or "", right[i] or ""
      add((text .. (" "):rep(width - (widths[i] or 0)) .. BETWEEN .. beside):match "^(.-) *$")
    end
    add ""
  end
  if first then
    add(("first difference: token %d, %s became %s"):format(first - 1, quoted(original.pieces[first]),
      quoted(edited.pieces[first])))
  else
    add "no difference"
  end
  return lines
end

return M

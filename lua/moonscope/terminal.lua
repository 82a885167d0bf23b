-- SPDX-License-Identifier: MIT
---Text from outside on a terminal.
local json = require "moonscope.json"
local uv = require "luv"
local job = require "moonscope.job"

local M = {}

---Well-formed UTF-8 without control characters (each becomes "?"): names in files and in arguments could
---otherwise move the cursor, or break a message's one line.
---@param text string
---@return string
function M.plain(text)
  return (json.text(text):gsub("%c", "?"):gsub("\xC2[\x80-\x9F]", "?"))
end

---Columns of the terminal that stdout is; nil for a pipe or a file.
---@return integer?
function M.columns()
  if uv.guess_handle(1) ~= "tty" then return nil end
  local tty = uv.new_tty(1, false)
  if not tty then return nil end
  local columns = tty:get_winsize()
  tty:close()
  if not job.suspend then uv.run "nowait" end -- a handle that is not gone when Lua ends is luv's undoing
  return columns and columns > 0 and columns or nil
end

---Characters that take two columns, by Unicode's East Asian Width, and those that take none.
local WIDE = {
  { 0x1100, 0x115F }, { 0x2E80, 0x303E }, { 0x3041, 0xA4CF }, { 0xAC00, 0xD7A3 }, { 0xF900, 0xFAFF },
  { 0xFE30, 0xFE6F }, { 0xFF00, 0xFF60 }, { 0xFFE0, 0xFFE6 }, { 0x1F300, 0x1F64F }, { 0x1F680, 0x1F6FF },
  { 0x1F900, 0x1FAFF }, { 0x20000, 0x3FFFD },
}
local NONE = { { 0x0300, 0x036F }, { 0x1AB0, 0x1AFF }, { 0x200B, 0x200F }, { 0x20D0, 0x20FF }, { 0xFE00, 0xFE0F } }

local function within(ranges, code)
  for _, range in ipairs(ranges) do
    if code >= range[1] and code <= range[2] then return true end
  end
  return false
end

---Columns that a text takes.
---@param text string  UTF-8
---@return integer
function M.width(text)
  local width = 0
  for _, code in utf8.codes(text) do
    width = width + (within(WIDE, code) and 2 or within(NONE, code) and 0 or 1)
  end
  return width
end

---A word that is wider than a line in pieces that fit.
local function cut(word, width, add)
  local piece = ""
  for _, code in utf8.codes(word) do
    local character = utf8.char(code)
    if M.width(piece .. character) > width then
      add(piece)
      piece = ""
    end
    piece = piece .. character
  end
  return piece
end

---A text in lines of at most `width` columns, broken at spaces where there are some.
---@param text string  UTF-8
---@param width integer  from 2
---@return string[]
function M.wrap(text, width)
  local lines = {}
  local function add(line) lines[#lines + 1] = line end
  for paragraph in (text .. "\n"):gmatch "(.-)\n" do
    local line = ""
    for word, space in paragraph:gmatch "([^ ]*)( *)" do
      if M.width(line .. word) > width then
        if line ~= "" then add((line:gsub(" +$", ""))) end
        line = cut(word, width, add) .. space
      else
        line = line .. word .. space
      end
    end
    add((line:gsub(" +$", "")))
  end
  return lines
end

return M

-- SPDX-License-Identifier: MIT
---The bytes of a token as what they are: characters that can be seen, and names for the others.
local M = {}

---Characters without a shape of their own: controls, spaces other than U+0020, joiners, marks of direction, variation
---selectors, tags, private ones.
local INVISIBLE = {
  { 0x00, 0x1F }, { 0x7F, 0xA0 }, { 0xAD, 0xAD }, { 0x034F, 0x034F }, { 0x061C, 0x061C }, { 0x115F, 0x1160 },
  { 0x1680, 0x1680 }, { 0x17B4, 0x17B5 }, { 0x180B, 0x180F }, { 0x2000, 0x200F }, { 0x2028, 0x202F },
  { 0x205F, 0x206F }, { 0x2800, 0x2800 }, { 0x3000, 0x3000 }, { 0x3164, 0x3164 }, { 0xE000, 0xF8FF },
  { 0xFE00, 0xFE0F }, { 0xFEFF, 0xFEFF }, { 0xFFA0, 0xFFA0 }, { 0xFFF0, 0xFFFB }, { 0xE0000, 0xE0FFF },
  { 0xF0000, 0x10FFFF },
}
---Marks that would sit on the character before them.
local COMBINING = {
  { 0x0300, 0x036F }, { 0x0483, 0x0489 }, { 0x1AB0, 0x1AFF }, { 0x1DC0, 0x1DFF }, { 0x20D0, 0x20FF },
  { 0xFE20, 0xFE2F },
}

local function within(ranges, code)
  for _, range in ipairs(ranges) do
    if code <= range[2] then return code >= range[1] end
  end
  return false
end

local NAMES = { [10] = "⏎", [9] = "⇥", [13] = "␍" }

---@alias moonscope.VisibleKind
---|"text"   characters as they are
---|"space"  U+0020
---|"break"  a line feed, shown as ⏎
---|"name"   of a character that cannot be seen: ⇥, U+202E
---|"byte"   that is no part of well-formed UTF-8: 0xE2

---The parts of some bytes in order.
---@param bytes string
---@return {kind: moonscope.VisibleKind, text: string}[]
function M.parts(bytes)
  local parts, at = {}, 1
  local function add(kind, text)
    local last = parts[#parts]
    if kind == "text" and last and last.kind == "text" then
      last.text = last.text .. text
    else
      parts[#parts + 1] = { kind = kind, text = text }
    end
  end
  while at <= #bytes do
    if not utf8.len(bytes, at, at) then
      add("byte", ("0x%02X"):format(bytes:byte(at)))
      at = at + 1
    else
      local code = utf8.codepoint(bytes, at)
      local character = utf8.char(code)
      if code == 0x20 then
        add("space", " ")
      elseif within(INVISIBLE, code) then
        add(code == 10 and "break" or "name", NAMES[code] or ("U+%04X"):format(code))
      elseif at == 1 and within(COMBINING, code) then
        add("text", "◌" .. character)
      else
        add("text", character)
      end
      at = at + #character
    end
  end
  return parts
end

return M

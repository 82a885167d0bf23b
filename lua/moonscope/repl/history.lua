-- SPDX-License-Identifier: MIT
---What was typed at the prompt, over all sessions: $XDG_STATE_HOME/moonscope/history, one entry a line, in
---which \n stands for a line break and \\ for a backslash. Each entry is added at once, so sessions beside
---each other keep theirs. Only its owner may read it. Where it cannot be kept, nothing is said: a prompt
---without a memory is a prompt.
local uv = require "luv"

local M = {}

---Entries that a session begins with.
M.ENTRIES = 1000
local MAX_FILE, MAX_ENTRY = 1 << 20, 1 << 16 -- bytes; a larger file is cut to its last entries
local OWNER_ONLY, OWNER_FOLDER = tonumber("600", 8), tonumber("700", 8)

---Where it is, as the XDG base directory specification says; nil without a home.
---@return string?
function M.path()
  local state, home = os.getenv "XDG_STATE_HOME", os.getenv "HOME"
  if state and state:find "^/" then return state .. "/moonscope/history" end
  return home and home:find "^/" and home .. "/.local/state/moonscope/history" or nil
end

local function escape(text) return (text:gsub("\\", "\\\\"):gsub("\n", "\\n")) end

local function unescape(line)
  return (line:gsub("\\(.)", { n = "\n", ["\\"] = "\\" }))
end

---Opens it unless it is something else than a file: writing to a pipe might wait for ever, and what a link
---to /dev/null means is that nothing shall be kept.
local function open(path, flags)
  local stat = uv.fs_stat(path)
  if stat and stat.type ~= "file" then return nil end
  local file = uv.fs_open(path, flags, OWNER_ONLY)
  if file then uv.fs_fchmod(file, OWNER_ONLY) end
  return file
end

local function make_folder(path)
  local folder = path:match "^(.+)/"
  if not folder or uv.fs_stat(folder) then return end
  make_folder(folder)
  uv.fs_mkdir(folder, OWNER_FOLDER)
end

---The text of the file, or of a large one its end, from the start of a line.
local function tail(file)
  local size = uv.fs_fstat(file).size
  local text = uv.fs_read(file, MAX_FILE, math.max(0, size - MAX_FILE)) or ""
  return size > MAX_FILE and text:gsub("^[^\n]*\n", "") or text, size
end

---Leaves only these entries in the file.
local function rewrite(path, entries)
  local lines = {}
  for i, entry in ipairs(entries) do lines[i] = escape(entry) .. "\n" end
  local new = path .. ".new"
  local file = open(new, "w")
  if not file then return end
  local text = table.concat(lines)
  local complete = uv.fs_write(file, text) == #text
  uv.fs_close(file)
  if complete then uv.fs_rename(new, path) else uv.fs_unlink(new) end
end

---The last entries, oldest first; {} where there are none.
---@return string[]
function M.read()
  local path = M.path()
  local file = path and open(path, "r")
  if not file then return {} end
  local text, size = tail(file)
  uv.fs_close(file)
  local entries = {}
  for line in text:gmatch "([^\n]+)\n" do entries[#entries + 1] = unescape(line) end
  entries = table.move(entries, math.max(1, #entries - M.ENTRIES + 1), #entries, 1, {})
  if size > MAX_FILE then rewrite(path, entries) end
  return entries
end

local last

---Adds an entry, unless it is the last one again.
---@param text string
function M.append(text)
  local path = M.path()
  if not path or text == last or #text > MAX_ENTRY then return end
  last = text
  make_folder(path)
  local file = open(path, "a")
  if not file then return end
  uv.fs_write(file, escape(text) .. "\n")
  uv.fs_close(file)
end

return M

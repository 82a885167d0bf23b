-- SPDX-License-Identifier: MIT
---A text as a file that appears only when it is complete.
local uv = require "luv"

local M = {}

local function write_all(fd, text)
  local at = 0
  while at < #text do
    local n, message = uv.fs_write(fd, at > 0 and text:sub(at + 1) or text)
    if not n then return nil, message end
    at = at + n
  end
  return true
end

---Writes under a temporary name in the same folder, then renames: what was at `path` stays until then.
---@param path string
---@param text string
---@return true?
---@return string? message
function M.write(path, text)
  local fd, temporary = uv.fs_mkstemp(path .. ".XXXXXX")
  if not fd then return nil, ("%s: cannot be written: %s"):format(path, (temporary:gsub(": $", ""))) end
  local ok, message = write_all(fd, text)
  if ok then ok, message = uv.fs_fchmod(fd, tonumber("644", 8)) end
  if ok then ok, message = uv.fs_fsync(fd) end
  local closed, why = uv.fs_close(fd)
  if ok then ok, message = closed, why end
  if ok then ok, message = uv.fs_rename(temporary, path) end
  if ok then return true end
  uv.fs_unlink(temporary)
  return nil, ("%s: cannot be written: %s"):format(path, message)
end

return M

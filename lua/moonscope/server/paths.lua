-- SPDX-License-Identifier: MIT
---Which files a request may name: those below the --data folders, by their real path, links resolved.
---Relative paths are relative to the first folder.
local uv = require "luv"
local errors = require "moonscope.server.errors"
local json = require "moonscope.json"

local M = {}
M.__index = M

local MAX_PATH = 4096

---@param folders string[]  that exist
---@return table? paths
---@return string? message
---@return string? code
function M.new(folders)
  local roots = {}
  for i, folder in ipairs(folders) do
    local real, message = uv.fs_realpath(folder)
    if not real then return nil, ("--data %s: %s"):format(folder, message), "ENOENT" end
    if uv.fs_stat(real).type ~= "directory" then return nil, ("--data %s: not a folder"):format(folder), "EINVAL" end
    roots[i] = real
  end
  return setmetatable({ roots = roots }, M)
end

local function is_below(root, path)
  return path == root or path:sub(1, #root + 1) == (root == "/" and "/" or root .. "/")
end

local function below_any(self, path)
  for _, root in ipairs(self.roots) do
    if is_below(root, path) then return true end
  end
  return false
end

local function check_text(path, field)
  if path == "" then errors.refuse(400, "EINVAL", field .. " must not be empty", field) end
  if #path > MAX_PATH or path:find "[\0-\31\127]" then
    errors.refuse(400, "EINVAL", field .. ": not a path", field)
  end
end

local function absolute(self, path)
  return path:sub(1, 1) == "/" and path or self.roots[1] .. "/" .. path
end

---Outside and absent look alike: nobody learns what there is beyond the folders.
local function refuse_missing(path, field)
  errors.refuse(404, "ENOENT", ("%s: %s: not found below the data folders"):format(field, json.text(path)), field)
end

local function real(self, path, field)
  check_text(path, field)
  local found = uv.fs_realpath(absolute(self, path))
  if not found or not below_any(self, found) then refuse_missing(path, field) end
  return found, uv.fs_stat(found)
end

---The real path of a regular file. Throws 400 and 404.
---@param path string
---@param field string  for the message
---@return string
function M:file(path, field)
  local found, stat = real(self, path, field)
  if not stat or stat.type ~= "file" then
    errors.refuse(400, "EINVAL", ("%s: %s: not a regular file"):format(field, json.text(path)), field)
  end
  return found
end

---The real path of a folder.
---@param path string
---@param field string
---@return string
function M:folder(path, field)
  local found, stat = real(self, path, field)
  if not stat or stat.type ~= "directory" then
    errors.refuse(400, "EINVAL", ("%s: %s: not a folder"):format(field, json.text(path)), field)
  end
  return found
end

---The real path for a file that is to be written: its folder is there, below the first data folder.
---@param path string
---@param field string
---@return string
function M:output(path, field)
  check_text(path, field)
  local folder, name = absolute(self, path):match "^(.*)/([^/]+)$"
  local found = folder and uv.fs_realpath(folder)
  if not found or not is_below(self.roots[1], found) or name == "." or name == ".." then
    errors.refuse(404, "ENOENT", ("%s: %s: its folder is not below the first data folder")
      :format(field, json.text(path)), field)
  end
  return found .. "/" .. name
end

---The real path of a folder below the first data folder that is to be written to; its last part is made
---where it is missing. Throws 400 and 404.
---@param path string
---@param field string
---@return string
function M:output_folder(path, field)
  check_text(path, field)
  local found = uv.fs_realpath(absolute(self, path))
  if not found then
    found = self:output(path:gsub("(.)/+$", "%1"), field)
    local ok, message = uv.fs_mkdir(found, tonumber("777", 8))
    if not ok then errors.refuse(400, "EINVAL", ("%s: %s"):format(field, json.text(message)), field) end
  end
  if not is_below(self.roots[1], found) then refuse_missing(path, field) end
  if uv.fs_stat(found).type ~= "directory" then
    errors.refuse(400, "EINVAL", ("%s: %s: not a folder"):format(field, json.text(path)), field)
  end
  return found
end

return M

-- SPDX-License-Identifier: MIT
---Which files a request may name: those below the --data folders, by their real path, links resolved.
---Relative paths are relative to the first folder. Whatever is then opened by such a path is checked once
---more by the core, since links may change meanwhile (src/io/confine.h); there they may also lead into the
---Hub's cache, as those of its snapshots do.
local uv = require "luv"
local core = require "moonscope.core"
local errors = require "moonscope.server.errors"
local json = require "moonscope.json"
local resolve = require "moonscope.hub.resolve"
local settings = require "moonscope.hub.settings"

local M = {}
M.__index = M

local MAX_PATH = 4096

---The real path of the Hub's cache, which need not be there.
local function hub_cache()
  local hub = settings.read()
  return hub and (uv.fs_realpath(hub.cache) or hub.cache)
end

---From now on nothing below the folders leads out of them, until the paths are closed.
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
  local cache = hub_cache()
  local ok, message, code = core.confine(roots, { cache })
  if not ok then return nil, message, code end
  return setmetatable({ roots = roots, cache = cache }, M)
end

function M.close() core.confine({}, {}) end

local function replaced(text, from, to) return (text:gsub(from:gsub("%p", "%%%0"), (to:gsub("%%", "%%%%")))) end

---What is said of files, as the client may name them: relative to the first folder, or to the Hub's cache.
---@param text string
---@return string
function M:shown(text)
  for _, folder in ipairs { self.roots[1], self.cache } do
    if folder ~= "/" then text = replaced(text, folder .. "/", "") end
  end
  return text
end

---Turns the server's path into the client's name for it, in what is said of that file, those beside it and
---those in it.
---@param path string
---@param name string
---@return fun(text: string): string
function M.renamed(path, name)
  local folder, named = path:match "^.*/", name:match "^.*/" or ""
  return function(text) return replaced(replaced(text, path, name), folder, named) end
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

local function refuse_kind(path, field, what)
  errors.refuse(400, "EINVAL", ("%s: %s: not a %s"):format(field, json.text(path), what), field)
end

---The real path of what is there, of that type.
local function find(self, path, field, kind, what)
  check_text(path, field)
  local found = uv.fs_realpath(absolute(self, path))
  local stat = found and uv.fs_stat(found)
  if not stat or not below_any(self, found) then refuse_missing(path, field) end
  if stat.type ~= kind then refuse_kind(path, field, what) end
  return found
end

---What a path on this disk leads to: its real path where that is below the data folders, and its type.
---@param path string  absolute
---@return string? real
---@return string? kind  "file", "directory", ...
function M:reach(path)
  local found = uv.fs_realpath(path)
  local stat = found and below_any(self, found) and uv.fs_stat(found)
  if stat then return found, stat.type end
end

---The real path of a regular file. Throws 400 and 404.
---@param path string
---@param field string  for the message
---@return string
function M:file(path, field) return find(self, path, field, "file", "regular file") end

---The real path of a folder.
---@param path string
---@param field string
---@return string
function M:folder(path, field) return find(self, path, field, "directory", "folder") end

---The folder of a model below the data folders; nil where there is none but the name may be the Hub's. Throws 400
---and 404.
---@param name string
---@return string?
function M:model(name)
  local ok, found = pcall(M.folder, self, name, "model_name")
  if ok then return found end
  if not resolve.is_hub_name(name) or not errors.is_refusal(found) or found.status ~= 404 then error(found, 0) end
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
    local ok, message, code = core.make_folder(found)
    if code == "EEXIST" then refuse_kind(path, field, "folder") end -- a link that leads nowhere
    if not ok then errors.refuse_failure(("%s: %s"):format(field, message), code, field) end
  end
  if not is_below(self.roots[1], found) then refuse_missing(path, field) end
  local stat = uv.fs_stat(found)
  if not stat or stat.type ~= "directory" then refuse_kind(path, field, "folder") end
  return found
end

return M

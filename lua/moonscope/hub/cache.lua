-- SPDX-License-Identifier: MIT
---The cache on disk, the same as huggingface_hub's, so that both share one copy:
---
---  models--ns--name/blobs/HASH              the bytes; partial.c writes them
---  models--ns--name/snapshots/COMMIT/FILE   a symlink to ../../blobs/HASH
---  models--ns--name/refs/REVISION           the commit, 40 hex digits without a newline
---  models--ns--name/.no_exist/COMMIT/FILE   empty: the repository has no such file
---  .locks/models--ns--name/HASH.lock        whoever writes the blob holds it
local uv = require "luv"
local core = require "moonscope.core"
local loop = require "moonscope.loop"
local names = require "moonscope.hub.names"

local M = {}

local Cache = {}
Cache.__index = Cache

local LOCK_POLL_MS, LOCK_TELL_MS = 100, 10000
local TAG = "Signature: 8a477f597d28d172789f06886806bc55\n"
  .. "# This folder is a cache of the Hugging Face Hub; back-ups may leave it out.\n"

---@param settings moonscope.hub.Settings
function M.open(settings)
  return setmetatable({ root = settings.cache, symlinks = settings.symlinks }, Cache)
end

local function mode(octal) return tonumber(octal, 8) end

---What luv says, as text and code.
local function failure(message, name)
  return nil, message:gsub("^(%u+): (.-): (.*)$", "%3: %2 (%1)"), name == "ENOENT" and "ENOENT" or "EIO"
end

---A folder with those above it.
local function make_folders(path)
  if uv.fs_stat(path) then return true end
  local above = path:match "^(.+)/[^/]+$"
  if above then
    local ok, message, code = make_folders(above)
    if not ok then return nil, message, code end
  end
  local ok, message, name = uv.fs_mkdir(path, mode "777")
  if ok or name == "EEXIST" then return true end
  return failure(message, name)
end

local function parent(path) return path:match "^(.*)/" end

local counter = 0

---A name beside path that nothing else has.
local function temporary(path)
  counter = counter + 1
  return ("%s/.moonscope-%d-%d.tmp"):format(parent(path), uv.os_getpid(), counter)
end

---make(name) under a temporary name, then renamed to path.
local function appear(path, make)
  local ok, message, name = make_folders(parent(path))
  if not ok then return nil, message, name end
  local temp = temporary(path)
  uv.fs_unlink(temp)
  ok, message, name = make(temp)
  if ok then ok, message, name = uv.fs_rename(temp, path) end
  if ok then return true end
  uv.fs_unlink(temp)
  return failure(message, name)
end

local function write_text(path, text)
  return appear(path, function(temp)
    local fd, message, name = uv.fs_open(temp, "wx", mode "666")
    if not fd then return nil, message, name end
    local written
    written, message, name = uv.fs_write(fd, text)
    local synced = written == #text and uv.fs_fsync(fd)
    uv.fs_close(fd)
    return synced, message or "EIO: cannot be written: " .. temp, name
  end)
end

local function read_text(path, limit)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read(limit)
  file:close()
  return text
end

-- Places

function Cache:storage(repo) return self.root .. "/" .. repo.folder end

function Cache:blob(repo, hash) return ("%s/blobs/%s"):format(self:storage(repo), hash) end

function Cache:snapshot(repo, commit) return ("%s/snapshots/%s"):format(self:storage(repo), commit) end

function Cache:pointer(repo, commit, file) return self:snapshot(repo, commit) .. "/" .. file end

local function is_file(path)
  local stat = uv.fs_stat(path)
  return stat ~= nil and stat.type == "file", stat and stat.size
end

-- Looking up

---The commit that a revision meant when it was last heard of; nil where it never was.
function Cache:commit_of(repo, revision)
  if names.is_commit(revision) then return revision end
  local text = read_text(("%s/refs/%s"):format(self:storage(repo), revision), 64)
  local commit = text and text:match "^%s*(%x+)%s*$"
  return names.is_commit(commit) and commit or nil
end

---The path of a file that is there; nil where it is not.
---@return string? path
---@return string? commit
function Cache:find(repo, revision, file)
  local commit = self:commit_of(repo, revision)
  local path = commit and self:pointer(repo, commit, file)
  if path and is_file(path) then return path, commit end
end

local function add_files(list, folder, prefix)
  local scan = uv.fs_scandir(folder)
  for name, kind in uv.fs_scandir_next, scan do
    local path = folder .. "/" .. name
    local there, size = is_file(path)
    if kind == "directory" then
      add_files(list, path, prefix .. name .. "/")
    elseif there then
      list[#list + 1] = { path = prefix .. name, size = size }
    end
  end
end

---The files of a commit that are there; nil where there are none.
---@return {path: string, size: integer}[]?
function Cache:files(repo, commit)
  local list, folder = {}, self:snapshot(repo, commit)
  if not uv.fs_stat(folder) then return nil end
  add_files(list, folder, "")
  table.sort(list, function(a, b) return a.path < b.path end)
  return #list > 0 and list or nil
end

---The path of a file whose hash and size are known; nil where it is not there, or other bytes are.
function Cache:find_known(repo, commit, file, hash, size)
  local path = self:pointer(repo, commit, file)
  local there, its_size = is_file(path)
  if not there or its_size ~= size then return nil end
  local target = uv.fs_readlink(path)
  if target and target:match "[^/]*$" ~= hash then return nil end
  return path
end

---Whether a blob is there with so many bytes.
function Cache:has_blob(repo, hash, size)
  local there, its_size = is_file(self:blob(repo, hash))
  return there and its_size == size
end

-- Writing

---Makes the folders that a download needs.
function Cache:prepare(repo)
  for _, name in ipairs { "blobs", "refs", "snapshots" } do
    local ok, message, code = make_folders(self:storage(repo) .. "/" .. name)
    if not ok then return nil, message, code end
  end
  local tag = self.root .. "/CACHEDIR.TAG"
  if not uv.fs_stat(tag) then write_text(tag, TAG) end
  return true
end

---The lock of a blob, once nobody else has it. A file system that knows no locks gives nil: then the
---lock of the partial file, and the names of the others, keep two writers apart.
function Cache:lock(repo, hash)
  local path = ("%s/.locks/%s/%s.lock"):format(self.root, repo.folder, hash)
  make_folders(parent(path))
  local waited = 0
  while true do
    local lock = core.lock(path)
    if lock ~= false then return lock end
    loop.sleep(LOCK_POLL_MS)
    waited = waited + LOCK_POLL_MS
    if waited % LOCK_TELL_MS == 0 then
      core.log("warn", ("%s: waiting for another process that downloads the same file"):format(path))
    end
  end
end

---A copy of the blob where there are no symlinks: itself if nobody had it before, else a hard link or
---a copy.
local function put_copy(blob, fresh, temp)
  if fresh then return uv.fs_rename(blob, temp) end
  if uv.fs_link(blob, temp) then return true end
  return uv.fs_copyfile(blob, temp)
end

---Makes FILE of the snapshot mean the blob.
---@param fresh boolean  the blob was made for this file just now
---@return string? path
---@return string? message
---@return string? code
function Cache:link(repo, commit, file, hash, fresh)
  local path, blob = self:pointer(repo, commit, file), self:blob(repo, hash)
  local _, depth = file:gsub("/", "")
  local target = ("../"):rep(depth) .. "../../blobs/" .. hash
  if self.symlinks and uv.fs_readlink(path) == target then return path end
  local ok, message, code = appear(path, function(temp)
    if self.symlinks and uv.fs_symlink(target, temp) then return true end
    return put_copy(blob, fresh, temp)
  end)
  if not ok then return nil, message, code end
  return path
end

---Notes what a revision means. A cache that cannot be written works as well.
function Cache:set_commit(repo, revision, commit)
  if revision == commit or self:commit_of(repo, revision) == commit then return end
  local ok, message = write_text(("%s/refs/%s"):format(self:storage(repo), revision), commit)
  if not ok then core.log("debug", message) end
end

---Notes that a commit has no such file.
function Cache:set_missing(repo, commit, file)
  local path = ("%s/.no_exist/%s/%s"):format(self:storage(repo), commit, file)
  if not uv.fs_stat(path) then write_text(path, "") end
end

return M

-- SPDX-License-Identifier: MIT
---What lies in the cache: listing, checking, removing.
local uv = require "luv"
local core = require "moonscope.core"
local job = require "moonscope.job"
local cache = require "moonscope.hub.cache"
local names = require "moonscope.hub.names"

local M = {}

local check_blob = job.wrap(core.check_blob)

---Names in a folder, sorted; {} where there is none.
local function names_in(folder)
  local list, scan = {}, uv.fs_scandir(folder)
  while scan do
    local name = uv.fs_scandir_next(scan)
    if not name then break end
    list[#list + 1] = name
  end
  table.sort(list)
  return list
end

local function kind_of(path) return (uv.fs_lstat(path) or {}).type end

---The refs below a folder as { name = commit }, those in folders (refs/pr/1) too.
local function add_refs(refs, folder, prefix)
  for _, name in ipairs(names_in(folder)) do
    local path = folder .. "/" .. name
    if kind_of(path) == "directory" then
      add_refs(refs, path, prefix .. name .. "/")
    else
      local file = io.open(path, "rb")
      refs[prefix .. name] = file and file:read(64) or nil
      if file then file:close() end
    end
  end
  return refs
end

---@class moonscope.hub.Stored
---@field repo moonscope.hub.Repo
---@field path string
---@field bytes integer  on the disk
---@field blobs {path: string, hash: string, bytes: integer}[]
---@field copies {path: string, bytes: integer}[]  files of snapshots that are no links: named by no hash
---@field incomplete {path: string, bytes: integer}[]
---@field commits {commit: string, refs: string[], files: {path: string, size: integer}[]}[]

---Adds a file to a list, and its bytes unless they are there under another name (a hard link).
local function add(stored, list, path, stat, hash)
  local id = ("%d:%d"):format(stat.dev, stat.ino)
  if stored.seen[id] then return end
  stored.seen[id] = true
  list[#list + 1] = { path = path, hash = hash, bytes = stat.size }
  stored.bytes = stored.bytes + stat.size
end

---What lies in a snapshot itself, where blobs have no links (HF_HUB_DISABLE_SYMLINKS).
local function add_copies(stored, folder, files)
  if kind_of(folder) ~= "directory" then return end
  for _, file in ipairs(files) do
    local path = folder .. "/" .. file.path
    local stat = uv.fs_lstat(path)
    if stat and stat.type == "file" then add(stored, stored.copies, path, stat) end
  end
end

local function describe(a_cache, repo)
  local storage = a_cache:storage(repo)
  local stored = {
    repo = repo, path = storage, bytes = 0, blobs = {}, copies = {}, incomplete = {}, commits = {}, seen = {},
  }
  for _, name in ipairs(names_in(storage .. "/blobs")) do
    local path = storage .. "/blobs/" .. name
    local stat = uv.fs_lstat(path)
    if stat then add(stored, name:find "%.incomplete$" and stored.incomplete or stored.blobs, path, stat, name) end
  end
  local refs = add_refs({}, storage .. "/refs", "")
  for _, commit in ipairs(names_in(storage .. "/snapshots")) do
    local its_refs = {}
    for name, target in pairs(refs) do
      if target == commit then its_refs[#its_refs + 1] = name end
    end
    table.sort(its_refs)
    local files = a_cache:files(repo, commit) or {}
    table.insert(stored.commits, { commit = commit, refs = its_refs, files = files })
    add_copies(stored, ("%s/snapshots/%s"):format(storage, commit), files)
  end
  return stored
end

---What the cache has of these repositories, or of all.
---@param settings moonscope.hub.Settings
---@param repos moonscope.hub.Repo[]?
---@return moonscope.hub.Stored[]?
---@return string? message
---@return string? code
function M.list(settings, repos)
  local a_cache, list = cache.open(settings), {}
  if not repos then
    repos = {}
    for _, folder in ipairs(names_in(settings.cache)) do repos[#repos + 1] = names.repo_of_folder(folder) end
  end
  for _, repo in ipairs(repos) do
    if not uv.fs_stat(a_cache:storage(repo)) then
      return nil, ("%s: not in the cache (%s)"):format(repo.name, settings.cache), "ENOENT"
    end
    list[#list + 1] = describe(a_cache, repo)
  end
  return list
end

---Files of a snapshot whose blob is gone.
local function add_broken(faults, folder)
  for _, name in ipairs(names_in(folder)) do
    local path = folder .. "/" .. name
    if kind_of(path) == "directory" then
      add_broken(faults, path)
    elseif kind_of(path) == "link" and not uv.fs_stat(path) then
      faults[#faults + 1] = { path = path, message = path .. ": its blob is not there" }
    end
  end
end

---Hashes every blob again. The number of those that are right, and what is wrong. Copies have no name
---to compare with.
---@param stored moonscope.hub.Stored
---@param on_progress fun(bytes: integer)?  of this repository so far
---@return integer right
---@return {path: string, message: string}[] faults
function M.verify(stored, on_progress)
  local right, faults, before = 0, {}, 0
  for _, blob in ipairs(stored.blobs) do
    local function told(done) if on_progress then on_progress(before + done) end end
    local ok, message = job.watch(told, check_blob, blob.path)
    if ok then
      right = right + 1
    else
      faults[#faults + 1] = { path = blob.path, message = message }
    end
    before = before + blob.bytes
  end
  add_broken(faults, stored.path .. "/snapshots")
  return right, faults
end

-- Removing

---Removes a file, or a folder with all in it; links are removed, never followed. The bytes that are free
---now: of files that have no other name.
local function remove(path)
  local stat = uv.fs_lstat(path)
  if not stat then return 0 end
  local freed = 0
  local ok, message
  if stat.type ~= "directory" then
    ok, message = uv.fs_unlink(path)
    return ok and (stat.type == "file" and stat.nlink == 1 and stat.size or 0), message
  end
  for _, name in ipairs(names_in(path)) do
    local bytes
    bytes, message = remove(path .. "/" .. name)
    if not bytes then return nil, message end
    freed = freed + bytes
  end
  ok, message = uv.fs_rmdir(path)
  return ok and freed, message
end

---The locks of a repository's blobs; nil and a message where another process has one.
local function lock_all(settings, stored)
  local folder = ("%s/.locks/%s"):format(settings.cache, stored.repo.folder)
  local locks = {}
  local guard = setmetatable({}, { __close = function()
    for _, lock in ipairs(locks) do lock:close() end
  end })
  for _, name in ipairs(names_in(folder)) do
    local lock = core.lock(folder .. "/" .. name)
    if lock == false then
      guard.busy = stored.repo.name .. ": another process is downloading it"
      return guard
    end
    locks[#locks + 1] = lock
  end
  return guard
end

---Blobs that a snapshot other than `commit` uses, as a set of hashes.
local function used_without(stored, commit)
  local used = {}
  for _, snapshot in ipairs(stored.commits) do
    for _, file in ipairs(snapshot.commit ~= commit and snapshot.files or {}) do
      local target = uv.fs_readlink(("%s/snapshots/%s/%s"):format(stored.path, snapshot.commit, file.path))
      if target then used[target:match "[^/]*$"] = true end
    end
  end
  return used
end

local function paths_of_revision(stored, snapshot)
  local paths = { ("%s/snapshots/%s"):format(stored.path, snapshot.commit),
    ("%s/.no_exist/%s"):format(stored.path, snapshot.commit) }
  for _, ref in ipairs(snapshot.refs) do paths[#paths + 1] = ("%s/refs/%s"):format(stored.path, ref) end
  local used = used_without(stored, snapshot.commit)
  for _, blob in ipairs(stored.blobs) do
    if not used[blob.hash] then paths[#paths + 1] = blob.path end
  end
  return paths
end

---The snapshot of a revision.
---@param stored moonscope.hub.Stored
---@param revision string
---@return table? snapshot
---@return string? message
---@return string? code
function M.find(stored, revision)
  for _, snapshot in ipairs(stored.commits) do
    if snapshot.commit == revision then return snapshot end
    for _, ref in ipairs(snapshot.refs) do
      if ref == revision then return snapshot end
    end
  end
  return nil, ("%s: revision '%s' is not in the cache"):format(stored.repo.name, revision), "ENOENT"
end

---Removes a repository from the cache, or what only one revision of it uses. Of a folder that is a link
---only the link goes.
---@param settings moonscope.hub.Settings
---@param stored moonscope.hub.Stored
---@param revision string?
---@return integer? bytes  that are free now
---@return string? message
---@return string? code
function M.remove(settings, stored, revision)
  local guard <close> = lock_all(settings, stored)
  if guard.busy then return nil, guard.busy, "EACCES" end
  local paths = { stored.path, ("%s/.locks/%s"):format(settings.cache, stored.repo.folder) }
  if revision then
    local snapshot, message, code = M.find(stored, revision)
    if not snapshot then return nil, message, code end
    paths = paths_of_revision(stored, snapshot)
  end
  local freed = 0
  for _, path in ipairs(paths) do
    local bytes, message = remove(path)
    if not bytes then return nil, message, "EIO" end
    freed = freed + bytes
  end
  return freed
end

return M

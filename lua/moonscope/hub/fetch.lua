-- SPDX-License-Identifier: MIT
---One file of a repository: from the cache, else downloaded into it.
local core = require "moonscope.core"
local job = require "moonscope.job"
local loop = require "moonscope.loop"
local answers = require "moonscope.hub.answers"
local names = require "moonscope.hub.names"
local remote = require "moonscope.hub.remote"

local M = {}

local Partial = core.types.Partial
local resume, restart, publish = job.wrap(Partial._resume), job.wrap(Partial._restart), job.wrap(Partial._publish)

local ADVANCE = 1 << 20 -- bytes; a try that brought as many was no failure

local ELSEWHERE = " (HF_HUB_CACHE can name another folder for the cache)"

---What a download works with.
---@class moonscope.hub.Run
---@field settings moonscope.hub.Settings
---@field cache table
---@field client table
---@field tell fun(file: string, done: integer, size: integer)  progress

local function failed(message, code)
  return nil, { message = message, code = code, retry = code == "ENET" or code == "EHASH" }
end

local function telling(run, file, metadata)
  return function(done) run.tell(file, done, metadata.size) end
end

-- Bytes

---A signed URL that has expired: the hub is asked for another one, of the same file.
local function renew(run, repo, revision, file, metadata)
  local new, failure = remote.metadata(run.client, repo, revision, file)
  if not new then return nil, failure end
  if new.hash ~= metadata.hash or new.size ~= metadata.size then
    return failed(("%s: %s changed on the hub while it was downloaded: start again"):format(repo.name, file), "EHASH")
  end
  metadata.url = new.url
  return true
end

local EXPIRED = { [400] = true, [403] = true }

---Drops what is there, which does not fit; what went wrong stays the failure.
local function drop(partial, failure)
  local ok, message, code = restart(partial)
  if not ok then return failed(message, code) end
  return nil, failure
end

---What an answer without content means: true where another request may bring it at once.
local function handle_refusal(run, repo, revision, file, metadata, partial, answer)
  if answer.status == 416 or answer.status == 206 then
    local message = ("%s: the part asked for was refused (%d)"):format(answer.where, answer.status)
    return drop(partial, { message = message, code = "ENET", retry = true })
  end
  if EXPIRED[answer.status] and not metadata.renewed then
    metadata.renewed = true
    return renew(run, repo, revision, file, metadata)
  end
  return nil, answers.refusal(answer, remote.context(run.client, repo, revision, file))
end

---One try: true once all bytes are there, or a failure.
local function try(run, repo, revision, file, metadata, partial)
  metadata.renewed = false
  while partial:done() < metadata.size do
    local tell = telling(run, file, metadata)
    local answer, failure = job.watch(tell, run.client.get_file, run.client, metadata.url, partial)
    if not answer and failure.code == "EHASH" then return drop(partial, failure) end
    if not answer then return nil, failure end
    if not answer.stored then
      local again
      again, failure = handle_refusal(run, repo, revision, file, metadata, partial, answer)
      if not again then return nil, failure end
    elseif partial:done() < metadata.size then
      return failed(("%s: ended after %d of %d bytes"):format(answer.where, partial:done(), metadata.size), "ENET")
    end
  end
  local ok, message, code = publish(partial)
  if not ok then return failed(message, code) end
  return true
end

---Tries until the bytes are there, or one of a row of tries brought nothing.
local function try_often(run, ...)
  local partial = select(5, ...)
  local failures, mark = 0, partial:done()
  while true do
    local ok, failure = try(run, ...)
    if ok then return true end
    if partial:done() >= mark + ADVANCE then failures, mark = 0, partial:done() end
    failures = failures + 1
    if not failure.retry or failures >= run.client.TRIES then return nil, failure end
    run.client:pause(failures, failure)
  end
end

---Downloads a blob whose lock is held.
local function fetch_blob(run, repo, revision, file, metadata)
  local partial, message, code = core.partial(run.cache:blob(repo, metadata.hash), metadata.size)
  if not partial then return failed(message .. ELSEWHERE, code) end
  local guard <close> = partial
  local ok
  ok, message, code = job.watch(telling(run, file, metadata), resume, partial)
  if not ok then return failed(message, code) end
  return try_often(run, repo, revision, file, metadata, partial)
end

-- A file

---Downloads what the cache has not.
local function obtain(run, repo, revision, file, metadata)
  local cache = run.cache
  local ok, message, code = cache:prepare(repo)
  if not ok then return failed(message .. ELSEWHERE, code) end
  local guard <close> = cache:lock(repo, metadata.hash)
  local fresh = not cache:has_blob(repo, metadata.hash, metadata.size)
  if fresh then
    local failure
    ok, failure = fetch_blob(run, repo, revision, file, metadata)
    if not ok then return nil, failure end
  end
  local path
  path, message, code = cache:link(repo, metadata.commit, file, metadata.hash, fresh)
  if not path then return failed(message, code) end
  return path
end

---Whether the hub does not answer, or refuses: then what the cache has will do. Where it says that a
---file or revision is not there, it will not.
---@param failure moonscope.hub.Failure
function M.is_weak(failure)
  return failure.code == "ENET" or failure.code == "EACCES" or failure.kind == "repo"
end

local function fall_back(run, repo, revision, file, failure)
  local path, commit = run.cache:find(repo, revision, file)
  if not path or not M.is_weak(failure) then return nil, failure end
  core.log("warn", ("%s; using %s of commit %s from the cache"):format(failure.message, file, commit:sub(1, 12)))
  return path, commit
end

local function offline(run, repo, revision, file)
  local path, commit = run.cache:find(repo, revision, file)
  if path then return path, commit end
  return failed(("%s: %s of revision '%s' is not in the cache (%s), and %s forbids to download it"):format(repo.name,
    file, revision, run.cache:storage(repo), run.settings.offline), "ENOENT")
end

---The path of a file, downloaded where the cache has not got it.
---@param run moonscope.hub.Run
---@param repo moonscope.hub.Repo
---@param revision string
---@param file string
---@return string? path
---@return string|moonscope.hub.Failure commit  or what went wrong
function M.file(run, repo, revision, file)
  local cache = run.cache
  local cached, known = cache:find(repo, revision, file)
  if cached and names.is_commit(revision) then return cached, known end
  if run.settings.offline then return offline(run, repo, revision, file) end
  local metadata, failure = run.client:insist(cached and 1 or nil, function()
    return remote.metadata(run.client, repo, revision, file)
  end)
  if not metadata then
    if failure.missing_in then cache:set_missing(repo, failure.missing_in, file) end
    return fall_back(run, repo, revision, file, failure)
  end
  local path = cache:find_known(repo, metadata.commit, file, metadata.hash, metadata.size)
  if not path then
    path, failure = obtain(run, repo, revision, file, metadata)
    if not path then return nil, failure end
  end
  run.tell(file, metadata.size, metadata.size)
  cache:set_commit(repo, revision, metadata.commit)
  return path, metadata.commit
end

---Several files, some at a time. Paths in the order of the names.
---@param run moonscope.hub.Run
---@param n integer  at a time
---@return string[]? paths
---@return string|moonscope.hub.Failure commit  of the last one, or the first thing that went wrong
function M.files(run, n, repo, revision, files)
  local paths, next_index, commit, failure = {}, 1, nil, nil
  local function work()
    while next_index <= #files and not failure do
      local i = next_index
      next_index = i + 1
      local path, what = M.file(run, repo, revision, files[i])
      paths[i] = path
      if path then
        commit = what
      else
        failure = failure or what
        run.client:stop()
      end
    end
  end
  local workers = {}
  for i = 1, math.min(n, #files) do workers[i] = work end
  loop.all(workers)
  if failure then return nil, failure end
  return paths, commit
end

return M

-- SPDX-License-Identifier: MIT
---The files of a repository that moonscope needs: of a model its configuration, tokenizer and weights,
---of any other repository its safetensors and what describes them; never code, and no pickle beside
---safetensors.
local uv = require "luv"
local core = require "moonscope.core"
local json = require "moonscope.json"
local fetch = require "moonscope.hub.fetch"
local names = require "moonscope.hub.names"
local remote = require "moonscope.hub.remote"

local M = {}

local AT_ONCE = 4 -- files

---What a model's weights are called, the first that a repository has: safetensors, else PyTorch's pickles.
local FORMS = {
  { index = "model.safetensors.index.json", single = "model.safetensors" },
  { index = "pytorch_model.bin.index.json", single = "pytorch_model.bin" },
}
local TOKENIZER, TEMPLATE = "tokenizer.json", "tokenizer_config.json"

local function fail(message, code) return nil, { message = message, code = code } end

local function is_there(path)
  local stat = uv.fs_stat(path)
  return stat ~= nil and stat.type == "file"
end

-- Models

---What a model has besides its weights.
local function is_description(file, form)
  return file == "config.json" or file == "generation_config.json" or file == "special_tokens_map.json"
    or file == form.index or file:find "^tokenizer[^/]*$" ~= nil or file:find "^chat_template[^/]*$" ~= nil
end

---The files with weights, by the folder's index, else the one that needs none.
local function weights_of(folder, form)
  local path = folder .. "/" .. form.index
  if not is_there(path) then return { form.single } end
  local index, message, code = json.read(path)
  if index == nil then return fail(message, code) end
  local map = type(index) == "table" and index.weight_map
  if type(map) ~= "table" then return fail(path .. ": no weight_map", "EFORMAT") end
  local seen, list = {}, {}
  for _, file in pairs(map) do
    if type(file) ~= "string" or file:find "/" or not names.file(file) then
      return fail(("%s: weight_map: found '%s', expected the name of a file beside it"):format(path, tostring(file)),
        "EFORMAT")
    end
    if not seen[file] then list[#list + 1], seen[file] = file, true end
  end
  table.sort(list)
  return list
end

local function has_all(folder, files)
  for _, file in ipairs(files or {}) do
    if not is_there(folder .. "/" .. file) then return false end
  end
  return files ~= nil
end

---Whether a folder has all that a model needs.
local function is_whole(folder)
  if not is_there(folder .. "/config.json") then return false end
  for _, form in ipairs(FORMS) do
    if has_all(folder, weights_of(folder, form)) then return true end
  end
  return false
end

local function contains(list, name)
  for _, entry in ipairs(list) do
    if entry.path == name then return true end
  end
  return false
end

---The form of a model's weights; nil where the repository is none.
local function form_of(list)
  for _, form in ipairs(contains(list, "config.json") and FORMS or {}) do
    if contains(list, form.index) or contains(list, form.single) then return form end
  end
end

---Downloads a model's files at a commit: its folder, and their paths. The weights come last, so that a
---folder that has them is whole.
local function fetch_model(run, repo, commit, list, form)
  local descriptions = {}
  for _, entry in ipairs(list) do
    if is_description(entry.path, form) then descriptions[#descriptions + 1] = entry.path end
  end
  local paths, failure = fetch.files(run, AT_ONCE, repo, commit, descriptions)
  if not paths then return nil, failure end
  local folder = run.cache:snapshot(repo, commit)
  local weights, more
  weights, failure = weights_of(folder, form)
  if not weights then return nil, failure end
  more, failure = fetch.files(run, AT_ONCE, repo, commit, weights)
  if not more then return nil, failure end
  table.move(more, 1, #more, #paths + 1, paths)
  return folder, paths
end

-- What a repository has

local LISTED = 8

local function names_of(list)
  local shown = {}
  for i = 1, math.min(#list, LISTED) do shown[i] = list[i].path end
  return table.concat(shown, ", ") .. (#list > LISTED and ", ..." or "")
end

local function ask(run, repo, revision)
  local commit, list, failure
  commit, failure = revision, nil
  if not names.is_commit(revision) then commit, failure = remote.commit(run.client, repo, revision) end
  if not commit then return nil, failure end
  list, failure = remote.tree(run.client, repo, commit)
  if not list then return nil, failure end
  return commit, list
end

---The commit of a revision and its files: by the hub, else, offline or where it does not answer, those
---that are in the cache.
---@return string? commit
---@return {path: string, size: integer}[]|moonscope.hub.Failure
local function look_up(run, repo, revision)
  local known = run.cache:commit_of(repo, revision)
  local cached = known and run.cache:files(repo, known)
  if run.settings.offline then
    if cached then return known, cached end
    return fail(("%s: revision '%s' is not in the cache (%s), and %s forbids to download it"):format(repo.name,
      revision, run.cache:storage(repo), run.settings.offline), "ENOENT")
  end
  local commit, list = run.client:insist(cached and 1 or nil, function() return ask(run, repo, revision) end)
  if commit then return commit, list end
  if not cached or not fetch.is_weak(list) then return nil, list end
  core.log("warn", ("%s; using commit %s from the cache"):format(list.message, known:sub(1, 12)))
  return known, cached
end

---The folder of a model, downloaded where the cache has not got all of it.
---@param run moonscope.hub.Run
---@param repo moonscope.hub.Repo
---@param revision string
---@return string? folder
---@return moonscope.hub.Failure?
function M.model(run, repo, revision)
  local folder = names.is_commit(revision) and run.cache:snapshot(repo, revision)
  if folder and is_whole(folder) then return folder end
  local commit, list = look_up(run, repo, revision)
  if not commit then return nil, list end
  local form = form_of(list)
  if not form then
    return fail(("%s: expected config.json and %s, %s or an index, found: %s"):format(repo.name, FORMS[1].single,
      FORMS[2].single, names_of(list)), "EUNSUPPORTED")
  end
  local failure
  folder, failure = fetch_model(run, repo, commit, list, form)
  if not folder then return nil, failure end
  run.cache:set_commit(repo, revision, commit)
  return folder
end

---The folder of a model that is in the cache, whole; nothing is downloaded.
---@return string? folder
---@return moonscope.hub.Failure?
function M.cached_model(run, repo, revision)
  local commit = run.cache:commit_of(repo, revision)
  local folder = commit and run.cache:snapshot(repo, commit)
  if folder and is_whole(folder) then return folder end
  return fail(("%s: not in the cache (moonscope download %s)"):format(repo.name, repo.name), "ENOENT")
end

---The folder with a model's tokenizer, which needs none of its weights.
---@param run moonscope.hub.Run
---@param repo moonscope.hub.Repo
---@param revision string
---@return string? folder
---@return moonscope.hub.Failure?
function M.tokenizer(run, repo, revision)
  local commit, list = look_up(run, repo, revision)
  if not commit then return nil, list end
  if not contains(list, TOKENIZER) then
    return fail(("%s: expected %s, found: %s"):format(repo.name, TOKENIZER, names_of(list)), "EUNSUPPORTED")
  end
  local files = { TOKENIZER, contains(list, TEMPLATE) and TEMPLATE or nil }
  local paths, failure = fetch.files(run, AT_ONCE, repo, commit, files)
  if not paths then return nil, failure end
  run.cache:set_commit(repo, revision, commit)
  return run.cache:snapshot(repo, commit)
end

---Downloads safetensors and descriptions; their paths.
local function fetch_plain(run, repo, commit, list)
  local files, weights = {}, false
  for _, entry in ipairs(list) do
    local is_weight = entry.path:find "%.safetensors$" ~= nil
    if is_weight or entry.path:find "%.json$" or entry.path:find "%.ya?ml$" then files[#files + 1] = entry.path end
    weights = weights or is_weight
  end
  if weights then return fetch.files(run, AT_ONCE, repo, commit, files) end
  return fail(("%s: no safetensors here; name the files that you want, of: %s"):format(repo.name, names_of(list)),
    "EINVAL")
end

---What moonscope needs of a repository.
---@return string[]? paths
---@return moonscope.hub.Failure?
function M.all(run, repo, revision)
  local commit, list = look_up(run, repo, revision)
  if not commit then return nil, list end
  local paths, folder
  local form = form_of(list)
  if form then
    folder, paths = fetch_model(run, repo, commit, list, form)
    if not folder then return nil, paths end
  else
    local failure
    paths, failure = fetch_plain(run, repo, commit, list)
    if not paths then return nil, failure end
  end
  run.cache:set_commit(repo, revision, commit)
  return paths
end

-- The checkpoint of an autoencoder

local CHECKPOINTS = { safetensors = true, pth = true, pt = true, npz = true }
local NEIGHBOUR_MAX = 1 << 20 -- bytes

---Whether a file's name is that of a checkpoint.
---@param file string
---@return boolean
function M.is_checkpoint(file) return CHECKPOINTS[file:match "%.(%w+)$"] or false end

---The checkpoint, and what describes it in the same folder.
local function with_neighbours(list, file)
  local files, folder = { file }, file:match "^.*/" or ""
  for _, entry in ipairs(list) do
    local beside = (entry.path:match "^.*/" or "") == folder
    local describes = entry.path:find "%.json$" or entry.path:find "%.ya?ml$"
    if beside and describes and entry.size <= NEIGHBOUR_MAX then files[#files + 1] = entry.path end
  end
  return files
end

---The only checkpoint of a repository, with what describes it.
---@return string? path
---@return moonscope.hub.Failure?
function M.checkpoint(run, repo, revision)
  local commit, list = look_up(run, repo, revision)
  if not commit then return nil, list end
  local found = {}
  for _, entry in ipairs(list) do
    if M.is_checkpoint(entry.path) then found[#found + 1] = entry end
  end
  if #found ~= 1 then
    local what = #found == 0 and "no checkpoint among " .. names_of(list) or "several checkpoints: " .. names_of(found)
    return fail(("%s: %s; download the one that you want (moonscope download %s FILE) and give its path"):format(
      repo.name, what, repo.name), "EINVAL")
  end
  local paths, failure = fetch.files(run, AT_ONCE, repo, commit, with_neighbours(list, found[1].path))
  if not paths then return nil, failure end
  run.cache:set_commit(repo, revision, commit)
  return paths[1]
end

---Files by their names, of one commit.
---@return string[]? paths
---@return moonscope.hub.Failure?
function M.named(run, repo, revision, files)
  local first, commit = fetch.file(run, repo, revision, files[1])
  if not first then return nil, commit end
  local paths, failure = fetch.files(run, AT_ONCE, repo, commit, files)
  if not paths then return nil, failure end
  return paths
end

return M

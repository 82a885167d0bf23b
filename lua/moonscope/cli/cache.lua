-- SPDX-License-Identifier: MIT
local inventory = require "moonscope.hub.inventory"
local json = require "moonscope.json"
local names = require "moonscope.hub.names"
local plain = require("moonscope.terminal").plain
local progress = require "moonscope.progress"
local settings = require "moonscope.hub.settings"
local uv = require "luv"

local M = {
  summary = "List, check or remove what the cache of the Hugging Face Hub has.",
  options = { "json", "quiet", "log_level" },
}

function M.configure(parser)
  parser:argument("action", "ls: what is there; verify: hash every file again; rm: remove.")
    :choices { "ls", "verify", "rm" }
  parser:argument("repos", "NAMESPACE/NAME, with datasets/ in front of a data set's (ls and verify: default all); "
    .. "rm also NAME@REVISION, and removes what only that revision uses."):args "*"
end

local function print_json(value) require("moonscope.cli").print_json(value) end

local function list_repos(args, its_settings)
  local repos
  for i, name in ipairs(args.repos) do
    local repo, message = names.repo(name)
    if not repo then return nil, message end
    repos = repos or {}
    repos[i] = repo
  end
  return inventory.list(its_settings, repos)
end

local function as_data(stored)
  local commits = json.array()
  for i, snapshot in ipairs(stored.commits) do
    local files = json.array()
    for j, file in ipairs(snapshot.files) do
      files[j] = json.ordered { { "file", json.text(file.path) }, { "bytes", file.size } }
    end
    local refs = json.array(snapshot.refs)
    commits[i] = json.ordered { { "commit", snapshot.commit }, { "refs", refs }, { "files", files } }
  end
  return json.ordered {
    { "repo", stored.repo.name }, { "path", json.text(stored.path) }, { "bytes", stored.bytes },
    { "blobs", #stored.blobs }, { "incomplete", #stored.incomplete }, { "revisions", commits },
  }
end

local function ls(args, its_settings)
  local list, message = list_repos(args, its_settings)
  if not list then return nil, message end
  if args.json then
    local data = json.array()
    for i, stored in ipairs(list) do data[i] = as_data(stored) end
    return print_json { path = json.text(its_settings.cache), repos = data }
  end
  for _, stored in ipairs(list) do
    local unfinished = #stored.incomplete > 0 and (", %d incomplete"):format(#stored.incomplete) or ""
    print(("%s  %d bytes, %d blobs%s"):format(stored.repo.name, stored.bytes, #stored.blobs, unfinished))
    for _, snapshot in ipairs(stored.commits) do
      print(("  %s  %d files  %s"):format(plain(snapshot.commit), #snapshot.files,
        plain(table.concat(snapshot.refs, " "))))
    end
  end
end

local function verify_all(list)
  local bar <close> = progress.bar "verifying"
  local right, faults, unnamed, total, before = 0, {}, 0, 0, 0
  for _, stored in ipairs(list) do total = total + stored.bytes end
  for _, stored in ipairs(list) do
    local its_right, its_faults = inventory.verify(stored, function(done)
      bar:update(before + done, total, "bytes")
    end)
    right, unnamed, before = right + its_right, unnamed + #stored.copies, before + stored.bytes
    table.move(its_faults, 1, #its_faults, #faults + 1, faults)
  end
  return right, faults, unnamed
end

local function verify(args, its_settings)
  local list, message = list_repos(args, its_settings)
  if not list then return nil, message end
  local right, faults, unnamed = verify_all(list)
  if args.json then
    local data = json.array()
    for i, fault in ipairs(faults) do
      data[i] = { path = json.text(fault.path), message = json.text(fault.message) }
    end
    print_json { right = right, faults = data, unnamed = unnamed }
  else
    for _, fault in ipairs(faults) do print(plain(fault.message)) end
    print(("%d blobs are what their names say"):format(right))
  end
  if #faults > 0 then
    return nil, ("%d faults in the cache: remove those files, then download them again"):format(#faults)
  end
  if unnamed > 0 then
    return nil, ("%d files cannot be checked: they lie in snapshots under their own names, which tell no hash "
      .. "(HF_HUB_DISABLE_SYMLINKS)"):format(unnamed)
  end
end

---What "NAME" or "NAME@REV" means in the cache as it is now.
local function find(its_settings, name)
  local id, revision = names.split(name)
  local repo, list, snapshot, message
  repo, message = names.repo(id)
  if not repo then return nil, message end
  list, message = inventory.list(its_settings, { repo })
  if not list then return nil, message end
  if revision then
    snapshot, message = inventory.find(list[1], revision)
    if not snapshot then return nil, message end
  end
  return list[1], revision
end

local function rm(args, its_settings)
  local wanted, freed = {}, 0
  for _, name in ipairs(args.repos) do -- nothing goes before all of it is found
    local stored, message = find(its_settings, name)
    if not stored then return nil, message end
    if not wanted[name] then wanted[#wanted + 1], wanted[name] = name, true end
  end
  for _, name in ipairs(wanted) do
    local stored, revision = find(its_settings, name)
    if not stored then return nil, revision end
    local target = not revision and uv.fs_readlink(stored.path)
    local bytes, message = inventory.remove(its_settings, stored, revision)
    if not bytes then return nil, message end
    freed = freed + bytes
    if target and not args.json then
      print(plain(("%s: was a link, which is gone; what it led to stays: %s"):format(name, target)))
    end
  end
  if args.json then return print_json { freed = freed } end
  print(("%d bytes freed"):format(freed))
end

function M.check(args)
  if args.action == "rm" and #args.repos == 0 then return "rm: which repository?" end
end

local actions = { ls = ls, verify = verify, rm = rm }

function M.run(args)
  local its_settings, message = settings.read()
  if not its_settings then return nil, message end
  return actions[args.action](args, its_settings)
end

return M

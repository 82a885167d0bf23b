-- SPDX-License-Identifier: MIT
---Names of repositories, revisions and files, and what answers name: commits and hashes. Whatever
---comes from the network passes here before it becomes part of a path.
local plain = require("moonscope.terminal").plain

local M = {}

local function refuse(what, value, expected)
  return nil, ("%s: found '%s', expected %s"):format(what, plain(tostring(value)), expected), "EINVAL"
end

local MAX_REPO = 96

local function is_repo_id(text)
  if #text == 0 or #text > MAX_REPO or text:find "%-%-" or text:find "%.%." or text:find "%.git$" then return false end
  local _, slashes = text:gsub("/", "")
  if slashes > 1 then return false end
  for part in (text .. "/"):gmatch "([^/]*)/" do
    if not part:find "^[%w._-]+$" or part:find "^[-.]" or part:find "[-.]$" then return false end
  end
  return true
end

---@class moonscope.hub.Repo
---@field name string  as people write it: "ns/name", "datasets/ns/name"
---@field id string  "ns/name"
---@field api string  "models" or "datasets"
---@field folder string  of the cache: "models--ns--name"

---A repository by its name: NAME or NAMESPACE/NAME, a data set with datasets/ in front.
---@param text string
---@return moonscope.hub.Repo?
---@return string? message
---@return string? code  "EINVAL"
function M.repo(text)
  local id = text:match "^datasets/(.*)$"
  local api = id and "datasets" or "models"
  id = id or text
  if not is_repo_id(id) then
    return refuse("repository", text, "NAMESPACE/NAME of letters, digits, '.', '_' and '-', 96 at most")
  end
  return { name = text, id = id, api = api, folder = api .. "--" .. id:gsub("/", "--") }
end

---The repository of a folder of the cache; nil where it is none.
---@param folder string
---@return moonscope.hub.Repo?
function M.repo_of_folder(folder)
  local api, rest = folder:match "^(%l+)%-%-(.+)$"
  if api ~= "models" and api ~= "datasets" then return nil end
  local id = rest:gsub("%-%-", "/")
  return M.repo(api == "datasets" and "datasets/" .. id or id)
end

---"NAME@REV" as its two halves; no revision without an @.
---@param text string
---@return string name
---@return string? revision
function M.split(text)
  local name, revision = text:match "^([^@]*)@(.*)$"
  return name or text, revision
end

---A path that stays inside of the folder that it is put behind.
local function is_inside(path)
  if #path == 0 or #path > 1024 or path:find "[%c\\]" or path:find "^%a:" or not utf8.len(path) then return false end
  for part in (path .. "/"):gmatch "([^/]*)/" do
    if part == "" or part == "." or part == ".." or #part > 255 then return false end
  end
  return true
end

---@return string? file
---@return string? message
---@return string? code  "EINVAL"
function M.file(text)
  if is_inside(text) then return text end
  return refuse("file", text, "a path inside of the repository")
end

---@return string? revision  a branch, a tag, refs/pr/N or a commit
---@return string? message
---@return string? code  "EINVAL"
function M.revision(text)
  if is_inside(text) and not text:find "^%-" then return text end
  return refuse("revision", text, "a branch, a tag or a commit")
end

---@param text string?
---@return boolean
function M.is_commit(text) return text ~= nil and #text == 40 and not text:find "[^0-9a-f]" end

---An ETag of the Hub as the hash that it is: 40 or 64 hex digits; nil for any other.
---@param text string
---@return string?
function M.hash_of_etag(text)
  local hash = text:gsub("^W/", ""):match '^"?([^"]*)"?$'
  if hash and (#hash == 40 or #hash == 64) and not hash:find "[^0-9a-f]" then return hash end
end

local function escape(char) return ("%%%02X"):format(char:byte()) end

---Percent-encoded, the slash too unless it is kept.
---@param text string
---@param keep_slash? boolean
---@return string
function M.encode(text, keep_slash)
  return (text:gsub(keep_slash and "[^%w/._~-]" or "[^%w._~-]", escape))
end

return M

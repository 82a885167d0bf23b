-- SPDX-License-Identifier: MIT
---What the Hub tells: a file's hash, size and place; a revision's commit; a commit's files.
local core = require "moonscope.core"
local json = require "moonscope.json"
local answers = require "moonscope.hub.answers"
local names = require "moonscope.hub.names"
local plain = require("moonscope.terminal").plain

local M = {}

local MAX_PAGES = 100
local MAX_SIZE = 1 << 50 -- bytes

---What texts about a refusal need to know.
function M.context(client, repo, revision, file)
  local settings = client.settings
  return {
    repo = repo, revision = revision, file = file, page = client:page(repo), endpoint = settings.endpoint,
    token = settings.token and settings.token_source, token_path = settings.token_path,
  }
end

local function bad(message) return nil, { message = message, code = "EFORMAT" } end

local function refused(client, answer, repo, revision, file)
  return nil, answers.refusal(answer, M.context(client, repo, revision, file))
end

---A header that must be there and make sense.
local function need(answer, name, value)
  if value then return value end
  local found = answer.headers[name:lower()]
  return bad(("%s: found %s %s: not an answer of the hub? Check HF_ENDPOINT and the proxy"):format(answer.where,
    found and name or "no", found and "'" .. plain(found):sub(1, 100) .. "'" or name))
end

local function size_of(text)
  local size = text and #text <= 16 and text:find "^%d+$" and math.tointeger(tonumber(text))
  return size and size <= MAX_SIZE and size or nil
end

local function resolve_url(client, repo, revision, file)
  return client:page(repo) .. "/resolve/" .. names.encode(revision) .. "/" .. names.encode(file, true)
end

---@class moonscope.hub.Metadata
---@field commit string
---@field hash string
---@field size integer  bytes
---@field url table  where the file is to be had, as of core.url

local function read_metadata(answer, url, target)
  local headers = answer.headers
  local commit, hash, size, failure
  commit = headers["x-repo-commit"]
  commit, failure = need(answer, "X-Repo-Commit", names.is_commit(commit) and commit)
  if not commit then return nil, failure end
  local etag = headers["x-linked-etag"] and "X-Linked-Etag" or "ETag"
  hash, failure = need(answer, etag, headers[etag:lower()] and names.hash_of_etag(headers[etag:lower()]))
  if not hash then return nil, failure end
  local length = headers["x-linked-size"] and "X-Linked-Size" or "Content-Length"
  if length == "Content-Length" and target then length = "X-Linked-Size" end -- that length is the redirect's own
  size, failure = need(answer, length, size_of(headers[length:lower()]))
  if not size then return nil, failure end
  return { commit = commit, hash = hash, size = size, url = target or url }
end

---@return moonscope.hub.Metadata?
---@return moonscope.hub.Failure?
function M.metadata(client, repo, revision, file)
  local answer, url, target = client:head(resolve_url(client, repo, revision, file))
  if not answer then return nil, url end
  if not target and answer.status ~= 200 then return refused(client, answer, repo, revision, file) end
  local metadata, failure = read_metadata(answer, url, target)
  if not metadata then return nil, failure end
  if names.is_commit(revision) and metadata.commit ~= revision then
    return bad(("%s: found commit %s, expected %s"):format(answer.where, metadata.commit, revision))
  end
  return metadata
end

local function get_json(client, url, repo, revision)
  local answer, failure = client:get(url)
  if not answer then return nil, failure end
  if answer.status ~= 200 then return refused(client, answer, repo, revision) end
  local value, message = json.decode(answer.body)
  if type(value) ~= "table" then
    return bad(("%s: %s: not an answer of the hub? Check HF_ENDPOINT and the proxy"):format(answer.where,
      message or "no JSON object"))
  end
  return value, answer
end

---The commit that a revision means now.
---@return string? commit
---@return moonscope.hub.Failure?
function M.commit(client, repo, revision)
  local url = client:url("api", repo.api, repo.id, "revision", names.encode(revision))
  local value, answer = get_json(client, url, repo, revision)
  if not value then return nil, answer end
  if type(value.sha) ~= "string" or not names.is_commit(value.sha) then
    local found = plain(tostring(value.sha)):sub(1, 100)
    return bad(("%s: sha: found '%s', expected 40 hex digits"):format(answer.where, found))
  end
  return value.sha
end

---Adds the files of a page to list. A failure where one is no file of a repository.
local function add_files(list, page, where)
  for _, entry in ipairs(page) do
    if type(entry) ~= "table" or type(entry.path) ~= "string" then return bad(where .. ": an entry without a path") end
    if entry.type == "file" then
      local file, message = names.file(entry.path)
      local lfs = type(entry.lfs) == "table" and entry.lfs or entry
      if not file then return bad(("%s: %s"):format(where, message)) end
      if math.type(lfs.size) ~= "integer" or lfs.size < 0 or lfs.size > MAX_SIZE then
        return bad(("%s: %s: no size"):format(where, plain(file)))
      end
      list[#list + 1] = { path = file, size = lfs.size }
    end
  end
  return true
end

---The next page of a list, which must be at the same place.
local function next_page(answer, url)
  local link = (answer.headers.link or ""):match '<([^>]*)>%s*;%s*rel="next"'
  if not link then return nil end
  local from, to = core.url(url), core.url(link, url)
  if to and from.scheme == to.scheme and from.host == to.host and from.port == to.port then return to.text end
  return nil, ("%s: the next page is at another place: %s"):format(answer.where, plain(link):sub(1, 100))
end

---The files of a commit.
---@return {path: string, size: integer}[]?
---@return moonscope.hub.Failure?
function M.tree(client, repo, commit)
  local url = client:url("api", repo.api, repo.id, "tree", commit) .. "?recursive=true"
  local list = {}
  for _ = 1, MAX_PAGES do
    local page, answer = get_json(client, url, repo, commit)
    if not page then return nil, answer end
    local ok, failure = add_files(list, page, answer.where)
    if not ok then return nil, failure end
    local message
    url, message = next_page(answer, url)
    if message then return bad(message) end
    if not url then return list end
  end
  return bad(("%s: a list of more than %d pages"):format(repo.name, MAX_PAGES))
end

return M

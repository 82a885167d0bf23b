-- SPDX-License-Identifier: MIT
---What a refusal of the Hub means, in words that a user can act on.
local json = require "moonscope.json"
local names = require "moonscope.hub.names"
local plain = require("moonscope.terminal").plain

local M = {}

local MAX_WAIT = 300 -- seconds that a server may make us wait
local YEAR = 365 * 86400
local BAD_TOKEN = "Invalid credentials in Authorization header"
local DISABLED = "Access to this resource is disabled."

local RETRIED = { [408] = true, [429] = true, [500] = true, [502] = true, [503] = true, [504] = true }

---@class moonscope.hub.Failure
---@field message string
---@field code string
---@field retry boolean?  another try may help
---@field wait number?  seconds to wait before it
---@field kind string?  "revision", "file", "repo", "gated", "token", "disabled", "server"
---@field missing_in string?  the commit that has no such file

local function text_of(value)
  return type(value) == "string" and value ~= "" and plain(value):sub(1, 400) or nil
end

---The server's own words, from a header or the JSON of the body.
local function server_message(answer)
  local said = text_of(answer.headers["x-error-message"])
  if said then return said end
  local body = json.decode(answer.body)
  local error_field = type(body) == "table" and body.error
  return text_of(error_field) or type(error_field) == "table" and text_of(error_field.message) or nil
end

---Seconds that the server asks for, in either of its two manners.
local function wait_of(answer)
  local seconds = tonumber((answer.headers["retry-after"] or ""):match "^%d+$")
  return seconds or tonumber((answer.headers["ratelimit"] or ""):match "t=(%d+)")
end

local function wait_text(seconds)
  return seconds > YEAR and "more than a year" or ("%d seconds"):format(seconds)
end

local function not_found(what)
  return function(context)
    return ("%s: %s"):format(context.repo.name, what:format(plain(context.revision or ""), plain(context.file or "")))
  end
end

---kind -> the text, from what was asked and the server's words.
local texts = {
  revision = not_found "there is no revision '%s'",
  file = not_found "revision '%s' has no file '%s'",
  gated = function(context, said)
    if not context.token then
      return ("%s: the repository is gated, and nobody is logged in: accept its licence at %s, then set HF_TOKEN "
        .. "to an access token (or put it into %s)"):format(context.repo.name, context.page, context.token_path)
    end
    return ("%s: the repository is gated, and the token from %s has no access yet: ask for access at %s%s")
      :format(context.repo.name, context.token, context.page, said)
  end,
  repo = function(context)
    return ("%s: there is no such repository at %s, or it is private%s"):format(context.repo.name, context.endpoint,
      context.token and (" and the token from %s may not see it"):format(context.token)
        or ": to see a private one, set HF_TOKEN to an access token (or put it into " .. context.token_path .. ")")
  end,
  token = function(context)
    return ("%s: the hub does not know the token from %s: make a new one at %s/settings/tokens, or unset it")
      :format(context.repo.name, context.token or "HF_TOKEN", context.endpoint)
  end,
  disabled = function(context) return context.repo.name .. ": " .. DISABLED end,
  forbidden = function(context, said)
    return ("%s: access refused%s: a fine-grained token needs the scope to read this repository (%s/settings/tokens)")
      :format(context.repo.name, said, context.endpoint)
  end,
  server = function(context, said, answer)
    return ("%s: %s answered %d%s"):format(context.repo.name, answer.where, answer.status, said)
  end,
}

local codes = {
  revision = "ENOENT", file = "ENOENT", repo = "ENOENT",
  gated = "EACCES", token = "EACCES", disabled = "EACCES", forbidden = "EACCES", server = "ENET",
}

local function kind_of(answer, said)
  local error_code, status = answer.headers["x-error-code"], answer.status
  if answer.foreign then return "server" end
  if error_code == "RevisionNotFound" then return "revision" end
  if error_code == "EntryNotFound" then return "file" end
  if error_code == "GatedRepo" then return "gated" end
  if said == DISABLED then return "disabled" end
  if status == 401 and said == BAD_TOKEN then return "token" end
  if error_code == "RepoNotFound" or status == 401 and not error_code then return "repo" end
  if status == 403 then return "forbidden" end
  return "server"
end

---What an answer of 400 and above (or one that fits nothing) means.
---@param answer table  with status, headers, body, where
---@param context table  repo, revision, file, page, endpoint, token_path; token: where the token comes from
---@return moonscope.hub.Failure
function M.refusal(answer, context)
  local said = server_message(answer)
  local kind = kind_of(answer, said)
  local request_id = text_of(answer.headers["x-request-id"])
  local message = texts[kind](context, said and (": " .. said) or "", answer)
    .. (request_id and (" (request %s)"):format(request_id) or "")
  local commit = answer.headers["x-repo-commit"]
  local failure = {
    message = message, code = codes[kind], kind = kind,
    retry = kind == "server" and RETRIED[answer.status] or false,
    missing_in = kind == "file" and names.is_commit(commit) and commit or nil,
  }
  if failure.retry then failure.wait = wait_of(answer) end
  if failure.wait and failure.wait > MAX_WAIT then
    failure.retry = false
    failure.message = ("%s; it asks to come back in %s"):format(message, wait_text(failure.wait))
  end
  return failure
end

return M

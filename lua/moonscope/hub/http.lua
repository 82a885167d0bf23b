-- SPDX-License-Identifier: MIT
---Requests to the Hub: who gets the token, which redirect is followed, what is tried again.
local uv = require "luv"
local core = require "moonscope.core"
local job = require "moonscope.job"
local loop = require "moonscope.loop"

local M = {}

local Client = {}
Client.__index = Client

local TRIES = 5
Client.TRIES = TRIES

local HUB_HOSTS = { ["huggingface.co"] = true, ["hf.co"] = true }
local MAX_HOPS, MAX_FILE_HOPS = 10, 5
local SLICE_MS = 200
local WAITS = { 1, 2, 4, 8, 8 } -- before the next try, in units of the delay
local BODY_MAX = 64 << 20 -- of a JSON answer
local ERROR_MAX = 64 << 10 -- of what stands in the place of a file

---@param settings moonscope.hub.Settings
---@param delay number?  seconds: the unit in which waits between tries grow; 1 unless given
---@return table? client
---@return string? message
---@return string? code
function M.client(settings, delay)
  local endpoint, message = core.url(settings.endpoint)
  if not endpoint then return nil, ("HF_ENDPOINT: %s"):format(message), "EINVAL" end
  return setmetatable({ settings = settings, endpoint = endpoint, delay = delay or 1, running = {} }, Client)
end

---A failure of what a function of the core answers.
local function failed(message, code)
  return { message = message, code = code, retry = code == "ENET" or code == "EHASH" }
end

-- Where to

local function same_origin(a, b)
  return a.scheme == b.scheme and a.host:lower() == b.host:lower() and a.port == b.port
end

local function is_hub(url)
  return url.scheme == "https" and url.port == "443" and HUB_HOSTS[url.host:lower()] or false
end

---Metadata: the endpoint itself and the Hub may see the token.
local function trusts_metadata(client, url) return same_origin(url, client.endpoint) or is_hub(url) end

---Files: only the endpoint may.
local function trusts_file(client, url) return same_origin(url, client.endpoint) end

---Where a redirect leads; a failure where it may not be followed.
local function location_of(client, answer, from)
  local place = answer.headers.location
  if not place then return nil, failed(answer.where .. ": a redirect without a Location", "EFORMAT") end
  local url, message = core.url(place, from.text)
  if not url then
    return nil, failed(("%s: a redirect that cannot be followed: %s"):format(answer.where, message), "EFORMAT")
  end
  if url.scheme == "http" and client.endpoint.scheme ~= "http" then
    return nil, failed(("%s: a redirect to plain http at %s, refused"):format(answer.where, url.host), "EFORMAT")
  end
  return url
end

---Whether an answer tells all about a file by itself.
local function has_metadata(answer)
  local headers = answer.headers
  return headers["x-repo-commit"] and headers["x-linked-etag"] and headers["x-linked-size"] and true or false
end

---Whether a redirect stays with the Hub, so that the next answer counts instead. On the Hub's host but at
---another port may be the Hub or its store: the store where this answer tells all already.
local function stays(client, from, to, answer)
  if same_origin(to, from) or same_origin(to, client.endpoint) or is_hub(to) then return true end
  local host = to.host:lower()
  return (host == from.host:lower() or host == client.endpoint.host:lower()) and not has_metadata(answer)
end

local REDIRECTS = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }

-- One request

local USER_AGENT = ("User-Agent: moonscope/%s; lua/%s"):format(core.version, _VERSION:match "[%d.]+")

---Header lines as { name in lower case = value }; what occurs twice is joined, and fits nothing then.
local function parse_head(head)
  local headers = {}
  for line in head:gmatch "[^\r\n]+" do
    local name, value = line:match "^([^:%s]+):[ \t]*(.-)[ \t]*$"
    if name then
      name = name:lower()
      headers[name] = headers[name] and headers[name] .. ", " .. value or value
    end
  end
  return headers
end

local function without_query(text) return (text:gsub("[?#].*$", "")) end

---@param client table
---@param url table  as of core.url
---@param request table  head, trusts, partial, idle_ms
---@return table? answer  status, headers, body, stored, where
---@return moonscope.hub.Failure? failure
local function exchange(client, url, request)
  local settings = client.settings
  local headers = { USER_AGENT }
  if settings.token and request.trusts(client, url) then headers[2] = "Authorization: Bearer " .. settings.token end
  if client.stopped then return nil, failed("another file failed", "ECANCELED") end
  local raw = core.http {
    url = url.text, headers = headers, head = request.head, partial = request.partial,
    plain_http = client.endpoint.scheme == "http", ca_file = settings.ca_file, idle_ms = request.idle_ms,
    body_max = request.partial and ERROR_MAX or BODY_MAX,
  }
  client.running[raw] = true
  local answer, message, code = job.await(raw)
  client.running[raw] = nil
  local where = without_query(url.text)
  core.log("debug", ("%s %s: %s"):format(request.head and "HEAD" or "GET", where, answer and answer.status or message))
  if not answer then
    if code == "EACCES" then
      message = message .. ": if a proxy with a certificate of its own stands between, name that in SSL_CERT_FILE"
    end
    return nil, failed(message, code)
  end
  return {
    status = answer.status, headers = parse_head(answer.head), body = answer.body, stored = answer.stored,
    where = where, foreign = not same_origin(url, client.endpoint),
  }
end

---Follows redirects within the Hub. The last answer, its URL, and where it redirects to outside, if it does.
---@return table? answer
---@return table|moonscope.hub.Failure url  of the last request
---@return table? target
local function ask(client, text, request)
  local url, message = core.url(text)
  if not url then return nil, failed(("%s: %s"):format(text, message), "EINVAL") end
  for _ = 1, MAX_HOPS do
    local answer, failure = exchange(client, url, request)
    if not answer then return nil, failure end
    if not REDIRECTS[answer.status] then return answer, url end
    local target
    target, failure = location_of(client, answer, url)
    if not target then return nil, failure end
    if not stays(client, url, target, answer) then return answer, url, target end
    url = target
  end
  return nil, failed(("%s: more than %d redirects"):format(without_query(text), MAX_HOPS), "EFORMAT")
end

---HEAD of a file: redirects within the Hub are followed, one that leads elsewhere is the answer.
---@return table? answer
---@return table|moonscope.hub.Failure url
---@return table? target  where the file lies instead
function Client:head(text)
  return ask(self, text, { head = true, trusts = trusts_metadata, idle_ms = self.settings.head_ms })
end

---GET of what the Hub itself tells.
---@return table? answer
---@return table|moonscope.hub.Failure url
function Client:get(text)
  local answer, url, target = ask(self, text, { trusts = trusts_metadata, idle_ms = self.settings.head_ms })
  if target then
    return nil, failed(("%s: a redirect to %s, away from the hub"):format(answer.where, target.host), "EFORMAT")
  end
  return answer, url
end

---GET of a file into its partial.
---@return table? answer
---@return moonscope.hub.Failure? failure
function Client:get_file(url, partial)
  local request = { partial = partial, trusts = trusts_file, idle_ms = self.settings.idle_ms }
  local first = url
  for _ = 0, MAX_FILE_HOPS do
    local answer, failure = exchange(self, url, request)
    if not answer then return nil, failure end
    if not REDIRECTS[answer.status] then return answer end
    url, failure = location_of(self, answer, url)
    if not url then return nil, failure end
  end
  return nil, failed(("%s: more than %d redirects"):format(without_query(first.text), MAX_FILE_HOPS), "EFORMAT")
end

---A path at the endpoint as a URL: parts are encoded, the last keeps its slashes.
---@param ... string  "api", "models", ...
---@return string
function Client:url(...)
  return self.settings.endpoint .. "/" .. table.concat({ ... }, "/")
end

---Where the Hub shows a repository to people.
function Client:page(repo) return self:url(repo.api == "datasets" and "datasets/" .. repo.id or repo.id) end

-- Again and again

---Waits before the next try.
---@param n integer  the tries that failed
---@param failure moonscope.hub.Failure
function Client:pause(n, failure)
  local jitter = 0.75 + math.random() / 2
  local seconds = failure.wait and failure.wait + self.delay or self.delay * WAITS[math.min(n, #WAITS)] * jitter
  local unexpected = failure.code == "EHASH" or failure.wait -- wrong bytes, or a wait that the server names
  core.log(unexpected and "warn" or "info", ("%s; trying again in %.1f seconds"):format(failure.message, seconds))
  local wake = uv.now() + seconds * 1000
  while uv.now() < wake and not self.stopped do loop.sleep(math.min(wake - uv.now(), SLICE_MS)) end
end

---Ends what runs and waits, soon: its result is of no use any more.
function Client:stop()
  self.stopped = true
  for raw in pairs(self.running) do raw:cancel() end
end

---The results of fn, tried again while its failure says that this may help.
---@param tries integer?
---@param fn function  returns its results, or nil and a failure
function Client:insist(tries, fn)
  for n = 1, math.huge do
    local results = table.pack(fn())
    local failure = results[2]
    if results[1] ~= nil then return table.unpack(results, 1, results.n) end
    if not failure.retry or n >= (tries or TRIES) then return nil, failure end
    self:pause(n, failure)
  end
end

return M

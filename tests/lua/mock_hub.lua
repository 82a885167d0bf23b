-- SPDX-License-Identifier: MIT
---A Hub and a CDN on loopback for the specs: tests/hub/mock.mjs, and an environment that leads to it.
local uv = require "luv"
local fixtures = require "fixtures"
local json = require "moonscope.json"

local M = {}

local PATIENCE_MS = 60000
local number = 0

M.token = "hf_SecretOfTheTest123"
M.commit, M.older = ("0123456789abcdef"):rep(3):sub(1, 40), ("fedcba9876543210"):rep(3):sub(1, 40)

-- Whatever the machine has must not play a part.
local CLEARED = {
  "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE",
  "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_SYMLINKS", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_HUB_ETAG_TIMEOUT",
  "HF_HUB_DOWNLOAD_TIMEOUT", "SSL_CERT_FILE", "XDG_CACHE_HOME", "http_proxy", "https_proxy", "HTTP_PROXY",
  "HTTPS_PROXY", "all_proxy", "ALL_PROXY",
}

---Starts the servers; once for a spec file.
function M.start()
  M.folder = fixtures.folder()
  M.pipe = assert(io.popen(("exec node tests/hub/mock.mjs %s"):format(M.folder), "w"))
  local deadline = uv.hrtime() + PATIENCE_MS * 1e6
  while not uv.fs_stat(M.folder .. "/ports.json") do
    assert(uv.hrtime() < deadline, "the mock hub does not start")
    uv.sleep(10)
  end
  M.ports = assert(json.read(M.folder .. "/ports.json"))
  for _, name in ipairs(CLEARED) do uv.os_unsetenv(name) end
end

function M.stop()
  M.pipe:close()
  fixtures.remove(M.folder)
  M.reset {}
  uv.os_unsetenv "HF_HOME"
  uv.os_unsetenv "HF_ENDPOINT"
end

local changed = {}

---Sets environment variables until the next reset; a new home, with nothing in the cache.
function M.reset(variables)
  for _, name in ipairs(changed) do uv.os_unsetenv(name) end
  changed = {}
  if not uv.fs_stat(M.folder) then return end
  number = number + 1
  M.home = ("%s/home%d"):format(M.folder, number)
  assert(uv.fs_mkdir(M.home, tonumber("755", 8)))
  M.cache = M.home .. "/hub"
  uv.os_setenv("HF_HOME", M.home)
  uv.os_setenv("HF_ENDPOINT", "http://127.0.0.1:" .. M.ports.hub .. "/")
  M.set(variables)
  M.scenario {}
end

function M.set(variables)
  for name, value in pairs(variables) do
    changed[#changed + 1] = name
    uv.os_setenv(name, value)
  end
end

---A file for a repository: `size` bytes that are the same for the same seed.
---@return string path
function M.content(size, seed)
  local path = ("%s/content-%d-%d"):format(M.folder, size, seed or 0)
  if not uv.fs_stat(path) then
    local block = {}
    for i = 1, 4096 do block[i] = string.char((i * 31 + (i >> 5) * (seed or 0) + (seed or 0)) & 255) end
    local text = table.concat(block)
    local parts = {}
    for i = 1, size // #text + 1 do parts[i] = ("%08d"):format(i) .. text:sub(9) end
    fixtures.write(path, table.concat(parts):sub(1, size))
  end
  return path
end

---What the servers do from now on, and an empty log.
---@param scenario {repos: table?, rules: table?}
function M.scenario(scenario)
  number = number + 1
  scenario.id = number
  M.current = scenario
  fixtures.write(M.folder .. "/scenario.tmp", json.encode(scenario))
  assert(uv.fs_rename(M.folder .. "/scenario.tmp", M.folder .. "/scenario.json"))
  os.remove(M.folder .. "/log.jsonl")
end

---A repository with these files, each { size, lfs } or a path of content.
function M.repo(files, more)
  local repo = { commit = M.commit, refs = { main = M.commit }, files = {} }
  for name, file in pairs(files) do repo.files[name] = { from = file[1], lfs = file.lfs or false } end
  for key, value in pairs(more or {}) do repo[key] = value end
  return repo
end

---Requests so far, each with `sent` where the answer is over. filter: a pattern for "METHOD SERVER URL".
function M.requests(filter)
  local list, by_number = {}, {}
  local file = io.open(M.folder .. "/log.jsonl")
  if not file then return list end
  for line in file:lines() do
    local entry = assert(json.decode(line))
    if entry.method then
      by_number[entry.n] = entry
      entry.what = ("%s %s %s"):format(entry.method, entry.server, entry.url)
      if not filter or entry.what:find(filter) then list[#list + 1] = entry end
    elseif by_number[entry.n] then
      by_number[entry.n].sent, by_number[entry.n].status = entry.sent, entry.status
    end
  end
  file:close()
  return list
end

function M.log_text()
  local file = io.open(M.folder .. "/log.jsonl")
  if not file then return "" end
  local text = file:read "a"
  file:close()
  return text
end

return M

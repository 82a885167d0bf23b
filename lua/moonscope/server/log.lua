-- SPDX-License-Identifier: MIT
---The server's log on stderr: one JSON object a line, those of requests by the C half (src/host/log.h). Under
---systemd each has journald's priority in front. No query and no body is ever in it.
local json = require "moonscope.json"

local M = {}

local RANK = { error = 1, warn = 2, info = 3, debug = 4 }
local PRIORITY = { error = "<3>", warn = "<4>", info = "<6>", debug = "<7>" }

local limit = RANK.info
local journal = os.getenv "JOURNAL_STREAM" ~= nil

---@param level "error"|"warn"|"info"|"debug"  what is less important is dropped
function M.set_level(level)
  limit = RANK[level]
  for status in pairs(M.heads) do M.heads[status] = nil end
end

---@param level string
---@return boolean
function M.wants(level) return RANK[level] <= limit end

local function prefix_of(level) return journal and PRIORITY[level] or "" end

---How the line of a request that was answered with a status begins (exchange:log); false where nobody wants
---it.
---@type table<integer, string|false>
M.heads = setmetatable({}, { __index = function(heads, status)
  local level = (status < 500 or status == 501) and "info" or status == 503 and "warn" or "error"
  heads[status] = M.wants(level) and ('%s{"level":"%s"'):format(prefix_of(level), level)
  return heads[status]
end })

---Anything else: entries are { key, value } pairs. It is written at once, so a request's error stands before
---the request's own line.
---@param level "error"|"warn"|"info"|"debug"
---@param entries [string, any][]
function M.write(level, entries)
  if RANK[level] > limit then return end
  local line = { { "level", level } }
  for _, entry in ipairs(entries) do
    local value = entry[2]
    line[#line + 1] = { entry[1], type(value) == "string" and json.text(value) or value }
  end
  io.stderr:write(prefix_of(level) .. json.encode(json.ordered(line)) .. "\n")
end

return M

-- SPDX-License-Identifier: MIT
---The server's log on stderr: one JSON object a line, written together at the end of each turn of the
---loop. Under systemd each has journald's priority in front. No query and no body is ever in it.
local json = require "moonscope.json"

local M = {}

local RANK = { error = 1, warn = 2, info = 3, debug = 4 }
local PRIORITY = { error = "<3>", warn = "<4>", info = "<6>", debug = "<7>" }

local limit = RANK.info
local journal = os.getenv "JOURNAL_STREAM" ~= nil
local lines, n_lines = {}, 0

---@param level "error"|"warn"|"info"|"debug"  what is less important is dropped
function M.set_level(level) limit = RANK[level] end

---@param level string
---@return boolean
function M.wants(level) return RANK[level] <= limit end

local function add(level, line)
  n_lines = n_lines + 1
  lines[n_lines] = journal and PRIORITY[level] .. line or line
end

---One answered request.
---@param route string  as the table of routes names it, so nothing that a client made up
function M.request(route, status, ns, n_bytes, id)
  local level = (status < 500 or status == 501) and "info" or status == 503 and "warn" or "error"
  if RANK[level] > limit then return end
  local us = ns // 1000
  add(level, ('{"level":"%s","route":"%s","status":%d,"ms":%d.%03d,"bytes":%d,"id":"%s"}\n')
    :format(level, route, status, us // 1000, us % 1000, n_bytes, id))
end

---Anything else: entries are { key, value } pairs.
---@param level "error"|"warn"|"info"|"debug"
---@param entries [string, any][]
function M.write(level, entries)
  if RANK[level] > limit then return end
  local line = { { "level", level } }
  for _, entry in ipairs(entries) do
    local value = entry[2]
    line[#line + 1] = { entry[1], type(value) == "string" and json.text(value) or value }
  end
  add(level, json.encode(json.ordered(line)) .. "\n")
end

---Writes what has gathered.
function M.flush()
  if n_lines == 0 then return end
  io.stderr:write(table.concat(lines, "", 1, n_lines))
  lines, n_lines = {}, 0
end

return M

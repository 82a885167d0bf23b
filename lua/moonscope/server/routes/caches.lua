-- SPDX-License-Identifier: MIT
---What the server keeps: lists of features, and inferences without patches. The other two caches of the
---original do not exist, so they have never been asked.
local json = require "moonscope.json"

local NAMES = { "feature", "provenance", "inference", "analysis" }

local function stats(request)
  local entries = {}
  for _, name in ipairs(NAMES) do
    local kept = request.app.caches[name]
    local hits, misses, size = 0, 0, 0
    if kept then hits, misses, size = kept:counts() end
    local asked = hits + misses
    for key, value in pairs { hits = hits, misses = misses, size = size, hit_rate = asked > 0 and hits / asked or 0 } do
      entries[#entries + 1] = { ("%s_cache_%s"):format(name, key), value }
    end
  end
  table.sort(entries, function(a, b) return a[1] < b[1] end)
  return 200, json.ordered { { "success", true }, { "cache_stats", json.ordered(entries) } }
end

local function clear(request)
  for _, kept in pairs(request.app.caches) do kept:clear() end
  return 200, json.ordered { { "success", true }, { "message", "All caches cleared" } }
end

return {
  { "GET", "/cache/stats", stats, at_once = true },
  { "POST", "/cache/clear", clear },
}

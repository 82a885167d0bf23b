-- SPDX-License-Identifier: MIT
-- Loaded by busted before the specs: after each test it collects twice and fails if live tensors or
-- open handles changed.
local busted = require "busted"
local uv = require "luv"
local core = require "moonscope.core"

-- What the loop and the first child open once for the life of the process shall not count.
require("moonscope.loop").run(function() end)
require("process").run("true", {})

local function open_files()
  local n = 0
  for _ in uv.fs_scandir_next, assert(uv.fs_scandir "/proc/self/fd") do
    n = n + 1
  end
  return n
end

---Every counter of the core (storage_live, ...) and the open files, once no canceled job holds any.
local function count()
  collectgarbage()
  collectgarbage()
  while core.queue_length() > 0 do uv.sleep(1) end
  local counts = { ["open files"] = open_files() }
  for name, counter in pairs(core) do
    if name:find "_live$" then counts[name] = counter() end
  end
  return counts
end

local before

busted.subscribe({ "test", "start" }, function()
  before = count()
  return nil, true
end)

busted.subscribe({ "test", "end" }, function(element)
  for name, n in pairs(count()) do
    if n ~= before[name] then
      error(("%s: %s: %d before the test, %d after it"):format(element.name, name, before[name], n), 0)
    end
  end
  return nil, true
end)

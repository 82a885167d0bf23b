-- SPDX-License-Identifier: MIT
-- Loaded by busted before the specs: after each test, and after each file of them, it collects twice and
-- fails if the number of live tensors, mapped files, tokenizers, jobs, handles of luv or open files changed.
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

local function handles()
  local n = 0
  uv.walk(function() n = n + 1 end)
  return n
end

---Every counter of the core (storage_live, ...) and the open files, once no canceled job holds any.
local function count()
  collectgarbage()
  collectgarbage()
  while core.queue_length() > 0 do uv.sleep(1) end
  uv.run "nowait" -- lets the handles go that are closed
  local counts = { ["open files"] = open_files(), ["luv handles"] = handles() }
  for name, counter in pairs(core) do
    if name:find "_live$" then counts[name] = counter() end
  end
  return counts
end

local function check(name, before)
  for what, n in pairs(count()) do
    if n ~= before[what] then
      error(("%s: %s: %d before, %d after it"):format(name, what, before[what], n), 0)
    end
  end
end

for _, what in ipairs { "file", "test" } do
  local before
  busted.subscribe({ what, "start" }, function()
    before = count()
    return nil, true
  end)
  busted.subscribe({ what, "end" }, function(element)
    check(element.name, before)
    return nil, true
  end)
end

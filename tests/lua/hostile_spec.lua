-- SPDX-License-Identifier: MIT
-- Every file of the catalogue in hostile.lua, opened and read by one process. P1 P6 P7 P8, E1 to E3
local fixtures = require "fixtures"
local hostile = require "hostile"
local json = require "moonscope.json"
local process = require "process"
local uv = require "luv"

local SANITIZED = (os.getenv "MOONSCOPE_PRELOAD" or "") ~= ""
local MOST_MS, MOST_KB = 10000, 512 * 1024

describe("the catalogue of hostile files", function()
  local folder, files, input, canary

  setup(function()
    folder = fixtures.folder()
    canary = folder .. "/canary"
    assert(uv.fs_mkdir(folder .. "/files", 448))
    files = hostile.write(folder .. "/files", canary)
    local lines = {}
    for i, file in ipairs(files) do lines[i] = file.path .. "\n" end
    input = table.concat(lines)
  end)
  teardown(function() fixtures.remove(folder) end)

  local function check(result)
    assert.same({ 0, 0 }, { result.code, result.signal }, result.err)
    local n, counts = 0, { reject = 0, accept = 0, either = 0 }
    for line in result.out:gmatch "[^\n]+" do
      n = n + 1
      local file, found = files[n], assert(json.decode(line))
      local what = ("%s: %s, but %s"):format(file.path, file.verdict, line)
      counts[file.verdict] = counts[file.verdict] + 1
      assert.truthy(file.verdict == "either" or found.ok == (file.verdict == "accept"), what)
      assert.truthy(found.ms < MOST_MS, what)
      if not found.ok then -- one line that names the file and a reason
        assert.truthy(found.message:find(file.path, 1, true), what)
        assert.truthy(#found.message > #file.path + 10 and not found.message:find "[%c]", what)
      end
    end
    assert.equal(#files, n)
    return counts
  end

  it("is refused or read as it must be, in time and memory", function()
    local result = process.moonscope({ "tests/lua/hostile_open.lua" }, { stdin = input })
    local lines, peak_kb = result.out:match "^(.*\n)(%d+)\n$"
    result.out = lines
    local counts = check(result)
    print(("%d files: %d refused, %d read, %d either; %d KB at most"):format(#files, counts.reject, counts.accept,
      counts.either, peak_kb))
    assert.truthy(SANITIZED or tonumber(peak_kb) < MOST_KB, peak_kb) -- under a sanitizer it is the sanitizer's
    assert.truthy(#files >= 1500, #files)
    assert.truthy(counts.reject >= 1000 and counts.accept >= 80, json.encode(counts))
    assert.is_nil((uv.fs_stat(canary)))
  end)

  it("makes no program run and no other file be opened", function()
    local log = folder .. "/strace"
    local traced = process.run("strace", { "-f", "-qq", "-e",
      "trace=execve,execveat,open,openat,openat2,connect,socket", "-o", log,
      process.program, "tests/lua/hostile_open.lua" }, { stdin = input, env = { ASAN_OPTIONS = "detect_leaks=0" } })
    traced.out = traced.out:match "^(.*\n)%d+\n$"
    check(traced)
    assert.is_nil((uv.fs_stat(canary)))
    local execs, begun, own = 0, false, folder .. "/files/"
    -- Of libraries, glibc's malloc among them; and how much memory is free.
    local system = {
      "^/proc/self/", "^/proc/sys/vm/overcommit_memory$", "^/proc/meminfo$", "^/sys/", "^/usr/lib/ssl/", "^/etc/ssl/",
      "^/dev/urandom$", "%.lua$", "%.so",
    }
    local function allowed(path)
      if path:find(own, 1, true) == 1 or path:find("examples/tiny/", 1, true) then return true end
      for _, pattern in ipairs(system) do
        if path:find(pattern) then return true end
      end
    end
    for line in fixtures.read(log):gmatch "[^\n]+" do
      if line:find "exec" then execs = execs + 1 end
      assert.is_nil(line:find("socket(", 1, true), line)
      local path = line:match 'open[%w]*%(?.-"([^"]*)"'
      begun = begun or (path or ""):find(own, 1, true) ~= nil
      if begun and path and not line:find "ENOENT" then
        assert.truthy(allowed(path), line)
        local writes = line:find("O_WRONLY", 1, true) or line:find("O_RDWR", 1, true)
        assert.truthy(not writes or path:find "^/proc/self/task/%d+/comm$", line) -- a thread's own name
      end
    end
    assert.truthy(begun)
    assert.equal(1, execs) -- the program itself
  end)
end)

-- SPDX-License-Identifier: MIT
-- The whole program while calls fail, the disk is full, or it is killed: a conversion leaves the old file or all
-- of the new one, and nothing beside it once it ran again. P9 P10 P12 P13 P14
local fixtures = require "fixtures"
local process = require "process"
local uv = require "luv"

local FALLIBLE = os.getenv "MOONSCOPE_FALLIBLE" or "build/release/bin/moonscope_fallible"
local SANITIZED = (os.getenv "MOONSCOPE_PRELOAD" or "") ~= ""
local SAMPLE = SANITIZED and 12 or 60 -- points of a sweep: each is a process

local folder, output, whole

local function convert_arguments()
  return { "convert", "tests/fixtures/npz/dtypes_deflated.npz", "-o", output, "--quiet" }
end

local function files()
  local list = {}
  for name in uv.fs_scandir_next, assert(uv.fs_scandir(folder)) do list[#list + 1] = name end
  table.sort(list)
  return list
end

local function content()
  return uv.fs_stat(output) and fixtures.read(output)
end

---What a conversion left, whatever happened to it: "old" or all of the new file.
local function check_output(what, result)
  local now = content()
  assert.truthy(now == "old" or now == whole, what)
  if result.signal == 0 and result.code == 0 then assert.equal(whole, now, what) end
end

---A failure is told; no file is left beside the output.
local function check_failure(what, result)
  assert.equal(0, result.signal, what .. ": " .. result.err)
  check_output(what, result)
  assert.same({ "log", "out.safetensors" }, files(), what)
  if result.code ~= 0 then assert.truthy(#result.err > 0, what) end
end

---About n numbers from 1 to last, both ends among them.
local function sample(last, n)
  local list, step = {}, math.max(1, last / n)
  for i = 0, math.min(n, last) - 1 do list[#list + 1] = 1 + math.floor(i * step) end
  list[#list + 1] = last
  return list
end

local function fallible(setting)
  fixtures.write(output, "old")
  fixtures.write(folder .. "/log", "")
  return process.run(FALLIBLE, convert_arguments(), {
    env = { MOONSCOPE_FAIL = setting, MOONSCOPE_FAIL_LOG = folder .. "/log" },
  })
end

local function count_calls(site)
  assert.equal(0, fallible("0,once" .. site).code)
  return math.tointeger(tonumber(fixtures.read(folder .. "/log")))
end

describe("a conversion", function()
  before_each(function()
    folder = fixtures.folder()
    output = folder .. "/out.safetensors"
    local result = process.moonscope(convert_arguments())
    assert.same({ 0, "" }, { result.code, result.err })
    whole = fixtures.read(output)
  end)
  after_each(function() fixtures.remove(folder) end)

  it("survives that any call fails, once or for ever", function()
    for _, mode in ipairs { "once", "forever" } do
      for _, site in ipairs { "malloc", "open", "write", "fsync", "close", "rename", "mmap", "fstat", "lua" } do
        local n, failed = count_calls("," .. site), 0
        assert.truthy(n > 0, site)
        for _, at in ipairs(sample(n, SAMPLE)) do
          local setting = ("%d,%s,%s"):format(at, mode, site)
          local result = fallible(setting)
          check_failure(setting, result)
          if result.code ~= 0 then failed = failed + 1 end
        end
        assert.truthy(failed > 0 or site == "lua" or site == "close", site)
      end
    end
  end)

  it("goes on after short writes and interrupted calls", function()
    for _, mode in ipairs { "short", "again" } do
      local result = fallible("1," .. mode)
      assert.same({ 0, "" }, { result.code, result.err })
      assert.equal(whole, content())
    end
  end)
end)

-- strace stops the program at a system call and lets it fail, or kills it there.

---A run with `inject` at call number `at` of `call`; strace's exit is the program's.
local function strace(call, at, inject)
  fixtures.write(output, "old")
  local arguments = { "-f", "-qq", "-e", "trace=" .. call, "-o", folder .. "/log", "-e",
    ("inject=%s:%s:when=%d"):format(call, inject, at), process.program, table.unpack(convert_arguments()) }
  return process.run("strace", arguments, { env = { ASAN_OPTIONS = "detect_leaks=0" } })
end

---How often the program makes this call.
local function count_system_calls(call)
  process.run("strace", { "-f", "-y", "-qq", "-e", "trace=" .. call, "-o", folder .. "/log", process.program,
    table.unpack(convert_arguments()) }, { env = { ASAN_OPTIONS = "detect_leaks=0" } })
  local _, n = fixtures.read(folder .. "/log"):gsub("[^\n]*%f[%w]" .. call .. "%(", "")
  return n
end

---The number of the first of these calls that concerns the file that is being written (strace -y shows paths).
local function first_call(call)
  local n = 0
  for line in fixtures.read(folder .. "/log"):gmatch "[^\n]+" do
    if line:find(call .. "(", 1, true) then n = n + 1 end
    if line:find(folder .. "/.moonscope-", 1, true) then return n end
  end
  return 1
end

describe("the program under strace", function()
  before_each(function()
    folder = fixtures.folder()
    output = folder .. "/out.safetensors"
    assert.equal(0, process.moonscope(convert_arguments()).code)
    whole = fixtures.read(output)
  end)
  after_each(function() fixtures.remove(folder) end)

  it("leaves the old file or the new one when it is killed, and no litter after it ran again", function()
    local kills = 0
    for _, call in ipairs { "openat", "pwrite64", "fsync", "rename", "close", "munmap", "exit_group" } do
      local n = count_system_calls(call)
      local points = sample(math.max(n, 1), SAMPLE // 6)
      points[#points + 1] = first_call(call)
      for _, at in ipairs(points) do
        local result = strace(call, at, "signal=KILL")
        check_output(call .. " " .. at, result)
        if result.code ~= 0 or result.signal ~= 0 then kills = kills + 1 end
      end
      local again = process.moonscope(convert_arguments())
      assert.same({ 0, "" }, { again.code, again.err })
      assert.equal(whole, content())
      assert.same({ "log", "out.safetensors" }, files(), call)
    end
    assert.truthy(kills >= 8, kills)
  end)

  it("tells every error of the disk, and leaves nothing", function()
    for _, case in ipairs {
      { "pwrite64", "ENOSPC", "No space left on device" }, { "pwrite64", "EIO", "Input/output error" },
      { "pwrite64", "EDQUOT", "Disk quota exceeded" }, { "fsync", "EIO", "Input/output error" },
      { "fsync", "ENOSPC", "No space left on device" }, { "rename", "EROFS", "Read-only file system" },
      { "rename", "ENOSPC", "No space left on device" }, { "openat", "EROFS", "Read-only file system" },
      { "openat", "EMFILE", "Too many open files" }, { "openat", "EINTR", nil },
    } do
      local call, error, text = table.unpack(case)
      count_system_calls(call)
      local result = strace(call, first_call(call), "error=" .. error)
      check_failure(call .. " " .. error, result)
      if text then
        assert.equal(1, result.code, call .. " " .. error)
        assert.equal(("moonscope: %s: %s\n"):format(output, text), result.err)
      end
    end
  end)
end)

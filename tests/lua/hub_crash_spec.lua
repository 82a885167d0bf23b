-- SPDX-License-Identifier: MIT
-- Downloads that are killed, that meet each other, a full disk or a slow system: P9, P10, P11, P12, P14, P35.
local uv = require "luv"
local core = require "moonscope.core"
local fixtures = require "fixtures"
local job = require "moonscope.job"
local mock = require "mock_hub"
local ms = require "moonscope"
local process = require "process"

local MIB = 1 << 20
local SHORT_IO = os.getenv "MOONSCOPE_SHORT_IO" or "build/release/lib/libshort_io.so"
local NO_LEAKS = { ASAN_OPTIONS = "detect_leaks=0" } -- LeakSanitizer and strace exclude each other

setup(mock.start)
teardown(mock.stop)
before_each(function() mock.reset {} end)

local function scenario(size, rules)
  mock.scenario { repos = { ["a/b"] = mock.repo { ["big.bin"] = { mock.content(size), lfs = true } } }, rules = rules }
end

local function storage() return mock.cache .. "/models--a--b" end

local function sha256(path) return process.run("sha256sum", { path }).out:match "^%x+" end

local names_in = fixtures.names

---Whatever has its final name is whole: blobs, the file of the snapshot, the ref.
local function assert_nothing_torn(hash)
  for _, name in ipairs(names_in(storage() .. "/blobs")) do
    if not name:find "%.incomplete$" then
      assert.equal(hash, name)
      assert.equal(hash, sha256(storage() .. "/blobs/" .. name))
    end
  end
  for _, commit in ipairs(names_in(storage() .. "/snapshots")) do
    local pointer = ("%s/snapshots/%s/big.bin"):format(storage(), commit)
    if uv.fs_lstat(pointer) then assert.equal(hash, sha256(pointer)) end
  end
  for _, ref in ipairs(names_in(storage() .. "/refs")) do
    if not ref:find "%.tmp$" then assert.equal(mock.commit, fixtures.read(storage() .. "/refs/" .. ref)) end
  end
end

---Bytes that the CDN sent, once it knows that all clients are gone.
local function bytes_sent()
  local deadline = uv.hrtime() + 20e9
  while true do
    local sum, open = 0, 0
    for _, request in ipairs(mock.requests "^GET cdn") do
      sum, open = sum + (request.sent or 0), open + (request.sent and 0 or 1)
    end
    if open == 0 then return sum end
    assert(uv.hrtime() < deadline, "the CDN still sends")
    uv.sleep(5)
  end
end

---Starts a download of the program; the child and a function that waits for its end.
local function start()
  local child, code
  child = assert(uv.spawn(process.program, { args = { "download", "a/b", "big.bin" } }, function(its_code)
    code = its_code
    child:close()
  end))
  return child, function()
    while not code do uv.run "once" end
    return code
  end
end

---Downloads under strace, which does `what` at system calls of that name.
local function traced(call, what, ...)
  local words = { "-f", "-qq", "-o", "/dev/null", "-e", "trace=" .. call, "-e", "inject=" .. call .. what, ... }
  table.move({ process.program, "download", "a/b", "big.bin" }, 1, 4, #words + 1, words)
  return process.run("strace", words, { env = NO_LEAKS })
end

local function partial_size(hash)
  local stat = uv.fs_stat(("%s/blobs/%s.moonscope.incomplete"):format(storage(), hash))
  return stat and stat.size or 0
end

describe("a download that is killed", function()
  it("ten times is finished with less than 1 MiB fetched again per kill", function() -- P10
    local size, kills = 24 * MIB, 10
    scenario(size, { { on = "GET cdn", pace = 8192 } })
    local hash = sha256(mock.content(size))
    for i = 1, kills do
      local child, wait = start()
      while partial_size(hash) < i * 2 * MIB do uv.sleep(1) end
      child:kill "sigkill"
      wait()
      assert_nothing_torn(hash)
    end
    local _, wait = start()
    assert.equal(0, wait())
    assert_nothing_torn(hash)
    assert.equal(kills + 1, #mock.requests "^GET cdn")
    local again = bytes_sent() - size
    assert.is_true(again < kills * MIB, ("%d bytes more"):format(again))
    assert.same({ hash }, names_in(storage() .. "/blobs"))
  end)

  ---System calls between whose start and end a kill is tried: what creates, writes, syncs and names.
  local CALLS = { "openat", "flock", "pwrite64", "fsync", "rename", "symlink", "mkdir", "write", "close", "fstat",
    "socket", "connect", "recvfrom", "clone3" }

  it("at any system call leaves nothing torn, and is resumed", function() -- P9, P10
    local size = 3 * MIB
    scenario(size)
    local hash, killed = sha256(mock.content(size)), 0
    for _, call in ipairs(CALLS) do
      for when = 1, 400 do
        -- The first ones of every kind, then fewer and fewer.
        if when <= 2 or when == 4 or when == 9 or when == 30 or when == 150 or when == 400 then
          local result = traced(call, ":signal=KILL:when=" .. when)
          if result.signal ~= 9 and result.code == 0 then break end -- there are no more of it
          killed = killed + 1
          assert_nothing_torn(hash)
          if killed % 3 == 0 then
            assert.equal(0, process.moonscope({ "download", "a/b", "big.bin" }).code)
            assert_nothing_torn(hash)
            assert.same({ hash }, names_in(storage() .. "/blobs"))
            fixtures.remove(mock.cache)
          end
        end
      end
      fixtures.remove(mock.cache)
    end
    assert.is_true(killed >= 30, "kills: " .. killed)
  end)

  it("was synced before it got its name", function() -- P11
    scenario(MIB)
    local trace = mock.home .. "/trace"
    local result = process.run("strace", { "-f", "-qq", "-y", "-o", trace, "-e",
      "trace=pwrite64,fsync,rename,symlink,openat", process.program, "download", "a/b", "big.bin" }, { env = NO_LEAKS })
    assert.equal(0, result.code)
    local at = 1
    local text = fixtures.read(trace)
    for _, step in ipairs {
      "pwrite64%(%d+<[^>]*%.moonscope%.incomplete>", "fsync%(%d+<[^>]*%.moonscope%.incomplete>",
      "rename%(\"[^\"]*%.incomplete\"", "fsync%(%d+<[^>]*/blobs>", "symlink%(",
      "rename%(\"[^\"]*%.tmp\", \"[^\"]*/snapshots/", "fsync%(%d+<[^>]*/refs/",
      "rename%(\"[^\"]*%.tmp\", \"[^\"]*/refs/main\"",
    } do
      local _, last = text:find(step, at)
      assert.truthy(last, step)
      at = last
    end
  end)
end)

describe("six processes at once", function() -- P35
  it("make one blob, and fetch each byte less than twice", function()
    local size = 8 * MIB
    scenario(size, { { on = "GET cdn", pace = 16384 } })
    local waits = {}
    for i = 1, 6 do
      local _, wait = start()
      waits[i] = wait
    end
    for i = 1, 6 do assert.equal(0, waits[i]()) end
    local hash = sha256(mock.content(size))
    assert.same({ hash }, names_in(storage() .. "/blobs"))
    assert_nothing_torn(hash)
    local sent = bytes_sent()
    assert.is_true(sent < 2 * size, ("%d bytes"):format(sent))
  end)

  it("hold the lock that has the name, also where one removes its file", function()
    scenario(MIB)
    local path = ("%s/.locks/models--a--b/%s.lock"):format(mock.cache, sha256(mock.content(MIB)))
    local removed
    local watch = uv.new_timer() -- the file is opened, but half a second goes by until it is locked
    watch:start(1, 1, function() removed = removed or uv.fs_unlink(path) end)
    watch:unref()
    local result = traced("flock", ":delay_enter=500000:when=1")
    watch:close()
    assert.equal(0, result.code, result.err)
    assert.is_true(removed)
    assert.truthy(uv.fs_stat(path))
  end)

  it("do so too where locks mean nothing: the second writes beside the first", function()
    scenario(MIB)
    local blob = storage() .. "/blobs/" .. sha256(mock.content(MIB))
    assert.equal(0, process.run("mkdir", { "-p", storage() .. "/blobs" }).code)
    local first <close> = assert(core.partial(blob, MIB))
    local second <close> = assert(core.partial(blob, MIB))
    local found = names_in(storage() .. "/blobs")
    assert.equal(2, #found)
    for _, name in ipairs(found) do
      assert.truthy(name:find "%.moonscope%.incomplete$" or name:find "%.%x%x%x%x%x%x%x%x%.incomplete$", name)
    end
    second:close()
    assert.equal(1, #names_in(storage() .. "/blobs"))
    assert.equal(0, first:done())
    assert(ms.download("a/b", { files = { "big.bin" } })) -- while the first still has its file
  end)
end)

describe("a partial", function()
  it("refuses what it cannot be", function()
    for _, case in ipairs {
      { "x/y", 1, "EINVAL", "x/y: not the name of a blob" }, { ("AB"):rep(20), 1, "EINVAL", "not the name of a blob" },
      { mock.home .. "/" .. ("ab"):rep(20), -1, "EINVAL", "a size of -1 bytes" },
      { mock.home .. "/none/" .. ("ab"):rep(20), 1, "ENOENT", "No such file or directory" },
    } do
      local partial, message, code = core.partial(case[1], case[2])
      assert.same({ nil, case[3] }, { partial, code })
      assert.truthy(message:find(case[4], 1, true), message)
    end
    local closed = assert(core.partial(mock.home .. "/" .. ("ab"):rep(20), 1))
    closed:close()
    closed:close()
    assert.error_matches(function() closed:done() end, "partial: closed")
    local path = mock.home .. "/" .. ("cd"):rep(20)
    assert(uv.fs_mkdir(path .. ".moonscope.incomplete", 448))
    assert.is_nil(core.partial(path, 1))
    local fifo = mock.home .. "/fifo"
    assert.equal(0, process.run("mkfifo", { fifo }).code)
    local lock, message, code = core.lock(fifo)
    assert.same({ nil, fifo .. ": not a regular file", "EINVAL" }, { lock, message, code })
    local checked
    checked, message, code = job.await(core.check_blob(fifo))
    assert.same({ nil, fifo .. ": not a regular file", "EINVAL" }, { checked, message, code })
  end)
end)

describe("a disk", function() -- P12
  ---Runs the program with a small tmpfs as the cache; nil where nothing can be mounted.
  local function on_tmpfs(size, script)
    local result = process.run("unshare", { "-m", "sh", "-c", ("mkdir -p %s && mount -t tmpfs -o size=%s none %s && %s")
      :format(mock.cache, size, mock.cache, script) })
    if result.err:find "^unshare: " or result.err:find "mount: " then return nil end
    return result
  end

  local DOWNLOAD = ("%s download a/b big.bin"):format(process.program)

  it("without room is heard of before anything is fetched", function()
    scenario(3 * MIB)
    local result = on_tmpfs("4m", DOWNLOAD)
    if not result then return pending "no mount here" end
    assert.equal(1, result.code)
    assert.truthy(result.err:find("^moonscope: [^\n]*: the disk has %d+ bytes free, expected 70254592 "
      .. "%(64 MiB of them to spare%)\n$"), result.err)
    assert.equal(0, #mock.requests "^GET")
  end)

  it("that fills up on the way is an error of one line; what is there is resumed", function()
    scenario(3 * MIB, { { on = "GET cdn", pace = 256 } })
    local script = ([[
      (while [ "$(stat -c %s CACHE/models--a--b/blobs/*.incomplete 2>/dev/null || echo 0)" -lt 500000 ]
      do sleep 0.01
      done
      dd if=/dev/zero of=CACHE/filler bs=1M 2>/dev/null) &
      DOWNLOAD; code=$?; wait; rm CACHE/filler
      ls CACHE/models--a--b/blobs; echo $code; DOWNLOAD]]):gsub("CACHE", mock.cache):gsub("DOWNLOAD", DOWNLOAD)
    local result = on_tmpfs("68m", script)
    if not result then return pending "no mount here" end
    assert.truthy(result.err:find "^moonscope: [^\n]*%.incomplete: No space left on device\n$", result.err)
    assert.truthy(result.out:find "^%x+%.moonscope%.incomplete\n1\n/[^\n]*/big.bin\n$", result.out)
    local requests = mock.requests "^GET cdn"
    assert.truthy(requests[#requests].headers.range)
  end)

  it("that fails at any write is an error of one line, never a wrong file", function()
    scenario(MIB)
    local hash = sha256(mock.content(MIB))
    for _, case in ipairs {
      { "pwrite64", "ENOSPC", 3 }, { "pwrite64", "EIO", 1 }, { "pwrite64", "EDQUOT", 20 }, { "fsync", "EIO", 1 },
      { "fsync", "EIO", 2 }, { "rename", "EROFS", 1 }, { "flock", "ENOLCK", 1 }, { "mkdir", "EROFS", 1 },
    } do
      local call, errno, when = table.unpack(case)
      local result = traced(call, (":error=%s:when=%d"):format(errno, when))
      local what = ("%s %s %d: %s"):format(call, errno, when, result.err)
      if errno == "ENOLCK" then
        assert.equal(0, result.code, what) -- a file system without locks
      else
        assert.equal(1, result.code, what)
        assert.truthy(result.err:find "^moonscope: [^\n]+\n$", what)
      end
      assert_nothing_torn(hash)
      fixtures.remove(mock.cache)
    end
  end)

  ---Leaves the first half of the file as a killed download would.
  local function leave_half(hash)
    assert.equal(0, process.run("mkdir", { "-p", storage() .. "/blobs" }).code)
    local path = ("%s/blobs/%s.moonscope.incomplete"):format(storage(), hash)
    fixtures.write(path, fixtures.read(mock.content(MIB)):sub(1, MIB // 2))
    return path
  end

  local function assert_downloaded(result, hash, what)
    assert.same({ 0, "" }, { result.code, result.err }, what)
    assert.equal(hash, sha256(result.out:match "^[^\n]+"))
    fixtures.remove(mock.cache)
  end

  it("and a system that interrupts are the same to it", function() -- P14
    scenario(MIB)
    local hash = sha256(mock.content(MIB))
    for _, call in ipairs { "pwrite64", "pread64", "flock", "fsync", "openat" } do
      local path = leave_half(hash)
      assert_downloaded(traced(call, ":error=EINTR:when=1+7", "-P", path), hash, call)
    end
    for _, call in ipairs { "recvfrom", "poll" } do
      assert_downloaded(traced(call, ":error=EINTR:when=1+7"), hash, call)
    end
  end)

  it("that moves few bytes at a time does too", function() -- P14
    scenario(MIB)
    local hash = sha256(mock.content(MIB))
    leave_half(hash)
    local preload = ((os.getenv "MOONSCOPE_PRELOAD" or "") .. " " .. SHORT_IO):gsub("^ ", "")
    assert_downloaded(process.moonscope({ "download", "a/b", "big.bin" }, { env = { LD_PRELOAD = preload } }), hash)
    assert.equal("bytes=524288-", mock.requests("^GET cdn")[1].headers.range)
  end)
end)

-- SPDX-License-Identifier: MIT
local uv = require "luv"
local ms = require "moonscope"
local core = require "moonscope.core"
local job = require "moonscope.job"
local loop = require "moonscope.loop"

local function milliseconds(fn)
  local start = uv.hrtime()
  fn()
  return (uv.hrtime() - start) / 1e6
end

---n jobs, each of some hundredths of a second.
local function line_of(n)
  local a, jobs = ms.zeros { 700, 700 }, {}
  for i = 1, n do jobs[i] = core.types.Tensor._matmul(a, a) end
  return jobs
end

describe("loop.run", function()
  it("passes arguments in and results out, nil among them", function()
    assert.same(table.pack(1, nil, "x", nil), table.pack(loop.run(function(...) return ... end, 1, nil, "x", nil)))
  end)

  it("returns when every task is over", function()
    local order = {}
    loop.run(function()
      for i = 3, 1, -1 do
        loop.spawn(function(text)
          loop.sleep(20 * i)
          order[#order + 1] = text
        end, "after " .. 20 * i)
      end
      order[#order + 1] = "first"
    end)
    assert.same({ "first", "after 20", "after 40", "after 60" }, order)
  end)

  it("refuses to wait for what never comes", function()
    assert.error_matches(function() loop.run(coroutine.yield) end, "a task yielded by itself")
    for _, ms_ in ipairs { -1, 0 / 0, "x" } do
      assert.error_matches(function() loop.run(loop.sleep, ms_) end, "expected milliseconds from 0")
    end
    loop.run(loop.sleep, 1.5)
  end)

  it("awaits a job that ended while a task waited for another", function()
    local first, last = table.unpack(line_of(2))
    local ended
    loop.run(function()
      job.await(last)
      ended = first:done()
      job.await(first)
    end)
    assert.is_true(ended)
  end)

  it("lets others run while a task awaits a job", function()
    local ticks, product = 0, nil
    loop.run(function()
      local done = false
      loop.spawn(function()
        while not done do
          loop.sleep(1)
          ticks = ticks + 1
        end
      end)
      local a = ms.zeros { 1000, 1000 }
      product = a:matmul(a)
      done = true
    end)
    assert.same({ 1000, 1000 }, product:shape())
    assert.is_true(ticks > 2)
  end)

  it("throws the first error of a task as it is, and cancels what the others wait for", function()
    local closed, jobs
    local reason = { "reason" }
    local took = milliseconds(function()
      local ok, message = pcall(loop.run, function()
        jobs = line_of(200)
        loop.spawn(function()
          local guard <close> = setmetatable({}, { __close = function() closed = true end })
          job.await(jobs[200])
        end)
        loop.spawn(loop.sleep, 600000)
        loop.sleep(5)
        error(reason)
      end)
      assert.is_false(ok)
      assert.equal(reason, message)
    end)
    assert.is_true(took < 3000)
    assert.is_true(closed)
    assert.equal("moonscope.Job (closed)", tostring(jobs[200]))
    assert.equal("again", loop.run(function() return "again" end))
  end)

  it("watches the progress of a job that a task awaits", function()
    local calls = 0
    loop.run(function()
      repeat
        job.watch(function() calls = calls + 1 end, job.await, line_of(10)[10])
      until calls > 0
    end)
  end)

  it("throws the error of a progress callback", function()
    assert.error_matches(function()
      loop.run(function()
        job.watch(function() error("no bar", 0) end, job.await, line_of(200)[200])
      end)
    end, "^no bar$")
  end)

  it("hears jobs while tasks sleep for nothing but turns", function()
    local n_turns, over = 0, false
    loop.run(function()
      for _ = 1, 2 do
        loop.spawn(function()
          while not over do
            n_turns = n_turns + 1
            loop.sleep(0)
          end
        end)
      end
      local t = ms.randn { 200, 200 }
      for _ = 1, 20 do t:matmul(t) end
      over = true
    end)
    assert.is_true(n_turns > 2, n_turns)
  end)

  it("does not run inside itself; sleep and spawn need it", function()
    assert.error_matches(function() loop.run(function() loop.run(print) end) end, "the loop runs already")
    assert.error_matches(function() loop.sleep(1) end, "loop.sleep: called outside of a task")
    assert.error_matches(function() loop.spawn(print) end, "loop.spawn: the loop does not run")
  end)

  it("waits for several tasks that run beside each other", function()
    local order = {}
    loop.run(function()
      loop.all {}
      loop.all { function() end }
      loop.all {
        function()
          loop.sleep(30)
          order[#order + 1] = "slow"
        end,
        function()
          loop.all { function() loop.sleep(1) end }
          order[#order + 1] = "quick"
        end,
      }
      order[#order + 1] = "all"
    end)
    assert.same({ "quick", "slow", "all" }, order)
    assert.error_matches(function() loop.all {} end, "loop.all: called outside of a task")
    assert.error_matches(function()
      loop.run(loop.all, { function() loop.sleep(600000) end, function() error("broken", 0) end })
    end, "^broken$")
  end)

  it("makes a task of the caller, unless it is one", function()
    assert.is_false(loop.is_task())
    local own, inner = loop.within(function(...)
      local task = coroutine.running()
      return loop.is_task(), loop.within(function(...) return { coroutine.running() == task, ... } end, ...)
    end, 1, 2)
    assert.is_true(own)
    assert.same({ true, 1, 2 }, inner)
  end)

  it("tells an attempted task's error to who asked, and lets the others go on", function()
    local told, went_on
    loop.run(function()
      loop.attempt(function(message, task) told = { message, coroutine.status(task) } end, error, "broken", 0)
      loop.sleep(1)
      went_on = true
    end)
    assert.same({ { "broken", "dead" }, true }, { told, went_on })
  end)

  it("lets a parked task go on when it is woken, and leaves others as they are", function()
    local order = {}
    loop.run(function()
      local task = loop.spawn(function()
        loop.park()
        order[#order + 1] = "woken"
      end)
      order[#order + 1] = coroutine.status(task)
      loop.wake(coroutine.running())
      loop.wake(task)
      order[#order + 1] = coroutine.status(task)
      loop.sleep(20)
      order[#order + 1] = coroutine.status(task)
    end)
    assert.same({ "suspended", "suspended", "woken", "dead" }, order)
    assert.error_matches(loop.park, "called outside of a task")
  end)

  it("throws in a canceled task where it waits, and wherever it waits again", function()
    local reasons = {}
    loop.run(function()
      local task = loop.attempt(function(message) reasons[#reasons + 1] = message end, function()
        reasons[1] = select(2, pcall(loop.sleep, 600000))
        loop.park()
      end)
      loop.cancel(task, "enough")
    end)
    assert.same({ "enough", "enough" }, reasons)
  end)

  it("ends by the error of a guarded callback of luv", function()
    assert.error_matches(function()
      loop.run(function()
        local timer = uv.new_timer()
        timer:start(0, 0, loop.guarded(function()
          timer:close()
          error("in a callback", 0)
        end))
        loop.sleep(600000)
      end)
    end, "^in a callback$")
  end)

  it("stays awake while a matrix job computes: a 10 ms tick is late by less than 200 ms", function()
    local worst = 0 -- the figure itself comes from tests/bench/lua_thread_awake.lua; this is ten times wider
    loop.run(function()
      local done = false
      loop.spawn(function()
        while not done do
          worst = math.max(worst, milliseconds(function() loop.sleep(10) end))
        end
      end)
      local a = ms.zeros { 1000, 1000 }
      for _ = 1, 5 do a:matmul(a) end
      done = true
    end)
    assert.is_true(worst > 0 and worst < 200)
  end)
end)

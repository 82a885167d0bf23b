-- SPDX-License-Identifier: MIT
local ms = require "moonscope"
local core = require "moonscope.core"
local job = require "moonscope.job"

---n jobs, each of a few thousandths of a second at least.
local function line_of(n)
  local a, jobs = ms.zeros { 700, 700 }, {}
  for i = 1, n do jobs[i] = core.types.Tensor._matmul(a, a) end
  return jobs
end

describe("job.await", function()
  it("passes what is no job through", function()
    assert.same(table.pack(nil, "message", "ECODE"), table.pack(job.await(nil, "message", "ECODE")))
    assert.equal(io.stdout, job.await(io.stdout))
    assert.equal(1, select("#", job.await(nil)))
  end)

  it("gives the results of a job, once", function()
    local a = ms.tensor { { 1, 2 }, { 3, 4 } }
    local product = core.types.Tensor._matmul(a, a)
    assert.is_true(job.is_job(product))
    assert.same({ { 7, 10 }, { 15, 22 } }, job.await(product):totable())
    assert.error_matches(function() job.await(product) end, "^job: closed, or its result was already taken$")
    assert.equal("moonscope.Job (closed)", tostring(product))
  end)

  it("wraps a raw function", function()
    local wrapped = job.wrap(function(...) return ... end)
    assert.same({ 1, nil, 3 }, { wrapped(1, nil, 3) })
  end)
end)

describe("a job", function()
  it("refuses its result before it is done", function()
    local jobs = line_of(2)
    assert.error_matches(function() jobs[2]:result() end, "^job: matmul is not done yet$")
    assert.equal("moonscope.Job (matmul, queued)", tostring(jobs[2]))
    assert.is_false(jobs[2]:done())
    assert.is_false(jobs[2]:wait(0))
    job.await(jobs[2])
    assert.is_true(jobs[1]:done())
  end)

  it("is canceled while it waits in line", function()
    local jobs = line_of(3)
    jobs[2]:cancel()
    jobs[2]:cancel()
    assert.is_true(jobs[2]:done())
    assert.same({ nil, "canceled", "ECANCELED" }, { job.await(jobs[2]) })
    assert.truthy(job.await(jobs[3]))
  end)

  it("is canceled when it is closed or collected", function()
    local jobs = line_of(20)
    assert.is_true(core.queue_length() > 15)
    jobs[20]:close()
    jobs[20]:close()
    assert.error_matches(function() jobs[20]:done() end, "closed")
    local first = jobs[1]
    jobs = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    assert.is_true(core.queue_length() <= 2) -- `first`, and one that was already running
    job.await(first)
  end)

  it("keeps its operands alive", function()
    local product = core.types.Tensor._matmul(ms.zeros { 800, 800 }, ms.zeros { 800, 800 })
    collectgarbage()
    collectgarbage()
    assert.equal(0, job.await(product):sum():totable())
  end)

  it("tells its progress ten times a second", function()
    local calls = {}
    local function watcher(...) calls[#calls + 1] = table.pack(...) end
    repeat
      job.watch(watcher, job.await, line_of(60)[60])
    until #calls > 0
    assert.same({ "integer", "integer" }, { math.type(calls[1][1]), math.type(calls[1][2]) })
    local n = #calls
    job.await(line_of(10)[10]) -- not watched any more
    assert.equal(n, #calls)
  end)

  it("refuses other types and a time that is none", function()
    assert.error_matches(function() core.types.Job.done(io.stdout) end, "moonscope.Job expected, got FILE")
    local jobs = line_of(1)
    assert.error_matches(function() jobs[1]:wait(-1) end, "milliseconds expected")
    jobs[1]:close()
  end)
end)

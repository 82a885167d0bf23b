-- SPDX-License-Identifier: MIT
---How prefill and decode grow with the context: one long prompt in pieces, a few tokens after each, on one
---thread and on all; beside what the operations and the bytes of that context take at least.
local uv = require "luv"
local core = require "moonscope.core"
local measure = require "moonscope.bench.measure"
local shapes = require "moonscope.bench.shapes"

local function seconds_of(body)
  local start = uv.hrtime()
  body()
  return (uv.hrtime() - start) / 1e9
end

---Tokens per second of a prompt of `context` tokens and of a token after it, appended to `rows`.
local function walk(bench, rows)
  local s, limits = bench.shape, bench.limits
  local session <close> = bench:model():session()
  session:step(1) -- the weights are mapped before anything counts
  session:rewind(1)
  local elapsed, done = 0, 0
  for i, context in ipairs(s.contexts) do
    local ids = bench:prompt(context - done)
    elapsed = elapsed + seconds_of(function() session:prefill(ids, { logits = false }) end)
    done = context
    local step = measure.seconds(function()
      session:step(1)
      session:rewind(1)
    end)
    local row, work = rows[i], shapes.prompt_work(s, context, bench.precision)
    local reads = shapes.weight_bytes(s) + shapes.kv_bytes(s, context + 1, bench.precision)
    local least
    least, row.prefill.limit_of = limits:seconds(work)
    table.insert(row.prefill.figures, context / elapsed)
    table.insert(row.prefill.limits, context / least)
    table.insert(row.decode.figures, 1 / step)
    table.insert(row.decode.limits, limits:read() / reads)
  end
end

local function new_rows(bench, n_threads)
  local rows = {}
  for i, context in ipairs(bench.shape.contexts) do
    local prefill = ("prefill up to %d tokens, %s, threads: %d"):format(context, bench.precision, n_threads)
    rows[i] = {
      prefill = { work = prefill, figures = {}, limits = {} },
      decode = { work = ("decode after %d tokens, threads: %d"):format(context, n_threads), limit_of = "read bandwidth",
        figures = {}, limits = {} },
    }
  end
  return rows
end

local function report(bench, rows)
  for _, kind in ipairs { "prefill", "decode" } do
    for _, row in ipairs(rows) do
      local r = row[kind]
      bench:report(measure.line({ work = r.work, unit = "tokens/s", limit_of = r.limit_of }, r.figures, r.limits, {}))
    end
  end
end

return function(bench)
  local all_threads = core.threads()
  local restore <close> = setmetatable({}, { __close = function() core.set_threads(all_threads) end })
  for _, n_threads in ipairs(all_threads > 1 and { 1, all_threads } or { 1 }) do
    core.set_threads(n_threads)
    local rows = new_rows(bench, n_threads)
    for _ = 1, bench.n_rounds do walk(bench, rows) end
    report(bench, rows)
  end
end

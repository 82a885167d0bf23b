-- SPDX-License-Identifier: MIT
---How prefill and decode grow with the context: one long prompt in pieces, a few tokens after each.
local uv = require "luv"
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

return function(bench)
  local rows = {}
  for i, context in ipairs(bench.shape.contexts) do
    rows[i] = {
      prefill = { work = ("prefill up to %d tokens, %s"):format(context, bench.precision), figures = {}, limits = {} },
      decode = { work = ("decode after %d tokens"):format(context), limit_of = "read bandwidth", figures = {},
        limits = {} },
    }
  end
  for _ = 1, bench.n_rounds do walk(bench, rows) end
  for _, kind in ipairs { "prefill", "decode" } do
    for _, row in ipairs(rows) do
      local r = row[kind]
      bench:report(measure.line({ work = r.work, unit = "tokens/s", limit_of = r.limit_of }, r.figures, r.limits, {}))
    end
  end
end

-- SPDX-License-Identifier: MIT
---Prefill: tokens per second of a prompt.
local measure = require "moonscope.bench.measure"
local shapes = require "moonscope.bench.shapes"

return function(bench)
  local s, model = bench.shape, bench:model()
  for _, n in ipairs(s.prompts) do
    local session <close> = model:session()
    local ids = bench:prompt(n)
    bench:measure {
      work = ("prefill of %d tokens, %s"):format(n, bench.precision), unit = "tokens/s",
      figure = function()
        return n / measure.seconds(function()
          session:prefill(ids)
          session:rewind(n)
        end)
      end,
      limit = function()
        local seconds, of = bench.limits:seconds(shapes.prompt_work(s, n, bench.precision))
        return n / seconds, of
      end,
    }
  end
end

-- SPDX-License-Identifier: MIT
---Decode: tokens per second of one sequence, of several at once, and with features changed.
local measure = require "moonscope.bench.measure"
local shapes = require "moonscope.bench.shapes"

local CONTEXT = 16
local BATCHES = { 4, 16 }

local function sequences(bench, n)
  local list, ids = {}, {}
  for i = 1, n do
    list[i] = bench:model():session()
    list[i]:prefill(bench:prompt(CONTEXT), { logits = false })
    ids[i] = i
  end
  return list, ids
end

---n sequences, each a token further; `more` bytes are read beside weights, keys and values.
local function case(bench, work, n, opts, more)
  local s, model = bench.shape, bench:model()
  local list, ids = sequences(bench, n)
  bench:measure {
    work = work, unit = "tokens/s",
    figure = function()
      return n / measure.seconds(function()
        model:step(list, ids, opts)
        for _, session in ipairs(list) do session:rewind(1) end
      end)
    end,
    limit = function()
      local seconds, of = bench.limits:seconds {
        bytes = shapes.weight_bytes(s) + n * shapes.kv_bytes(s, CONTEXT + 1, bench.precision) + more,
        f32 = shapes.product_operations(s, n, n),
      }
      return n / seconds, of
    end,
  }
  for _, session in ipairs(list) do session:close() end
end

return function(bench)
  local s = bench.shape
  case(bench, "decode", 1, nil, 0)
  for _, n in ipairs(BATCHES) do case(bench, ("decode, %d sequences at once"):format(n), n, nil, 0) end
  local sae <close> = bench:sae_beside_model()
  local edit = { sae = sae, feature = 0, op = "set", value = 0.5, positions = "generated" }
  case(bench, ("decode, %d features at one layer, one set"):format(s.d_sae), 1, { edits = { edit } },
    2 * s.d_model * s.d_sae)
end

-- SPDX-License-Identifier: MIT
---A sparse autoencoder by itself: encode of a step and of blocks in f32 and bf16, and what comes after it.
local measure = require "moonscope.bench.measure"
local job = require "moonscope.job"
local tensor = require "moonscope.tensor"

local BLOCKS = { 16, 256 }
local STEP_SEED = 5 -- of a token on which 64 features fire; of the tiny shape 3
local SIZES = { f32 = 4, bf16 = 2 }

---@param encode fun(): userdata  features
local function encode_case(bench, work, n, dtype, arithmetic, encode)
  local s = bench.shape
  local weights = s.d_model * s.d_sae
  bench:measure {
    work = work, unit = "tokens/s",
    figure = function()
      return n / measure.seconds(function() encode():close() end)
    end,
    limit = function()
      local seconds, of = bench.limits:seconds { bytes = SIZES[dtype] * weights, [arithmetic] = 2 * n * weights }
      return n / seconds, of
    end,
  }
end

---Decode, error term and one feature changed, of one token; the limit is a share of what the encode takes.
local function rest_case(bench, sae, x, encode, dtype)
  local features <close> = encode()
  local feature = features:row(1)[1].index
  bench:measure {
    work = ("sae %s, decode + error term + edit of a token"):format(dtype), unit = "us",
    figure = function()
      return 1e6 * measure.seconds(function()
        local decoded <close> = sae:decode(features)
        local rest <close> = x - decoded
        local direction <close> = sae:direction(feature)
        local change <close> = direction * 0.5
        local edited <close> = decoded + change
        edited:add_(rest)
      end)
    end,
    limit = function()
      return 1e6 * measure.seconds(function() encode():close() end), "its encode"
    end,
  }
end

local function cases(bench, dtype)
  local s = bench.shape
  local sae <close> = bench:sae(dtype)
  local x <close> = tensor.randn({ 1, s.d_model }, { seed = STEP_SEED })
  local function encode_step() return job.demand(sae._encode, sae, x, true) end -- a step's activations are f32
  encode_case(bench, ("sae %s, encode of a step"):format(dtype), 1, dtype, "f32", encode_step)
  for _, n in ipairs(BLOCKS) do
    local rows <close> = tensor.randn({ n, s.d_model }, { seed = 3 })
    local arithmetic = bench.precision == "exact" and "f32" or dtype
    encode_case(bench, ("sae %s, encode of %d tokens"):format(dtype, n), n, dtype, arithmetic, function()
      return job.demand(sae._encode, sae, rows, arithmetic == "f32")
    end)
  end
  rest_case(bench, sae, x, encode_step, dtype)
end

return function(bench)
  for _, dtype in ipairs { "f32", "bf16" } do cases(bench, dtype) end
end

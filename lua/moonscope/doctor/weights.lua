-- SPDX-License-Identifier: MIT
---What an autoencoder's weights look like: norms, cosines, numbers that are none.
local M = {}

local BLOCK = 1024 -- rows of a matrix at a time

---Calls fn(first, block of rows) for all of a matrix.
local function each_block(matrix, fn)
  for first = 1, matrix:size(1), BLOCK do
    local block <close> = matrix:narrow(1, first, math.min(BLOCK, matrix:size(1) - first + 1))
    fn(first, block)
  end
end

local function append(list, t)
  local values = t:totable()
  table.move(values, 1, #values, #list + 1, list)
end

local function row_norms(matrix)
  local norms = {}
  each_block(matrix, function(_, block)
    local part <close> = block:norm(2)
    append(norms, part)
  end)
  return norms
end

---The scalar products of the rows of two matrices.
local function row_products(a, b)
  local products = {}
  each_block(a, function(first, block)
    local other <close> = b:narrow(1, first, block:size(1))
    local product <close> = block * other
    local sums <close> = product:sum(2)
    append(products, sums)
  end)
  return products
end

local function is_number(x) return x == x end
local function is_finite(x) return is_number(x) and math.abs(x) < math.huge end

---Where a list of numbers, one per feature, is not sound: {name, rows, first}, or nil.
local function broken_of(name, values, is_sound)
  local rows, first = 0, nil
  for i, value in ipairs(values) do
    if not is_sound(value) then
      rows, first = rows + 1, first or i - 1
    end
  end
  return rows > 0 and { name = name, rows = rows, first = first } or nil
end

---The mean cosine of a feature's two rows, those of zeros left out; NaN where all are.
local function mean_cosine(products, a, b)
  local sum, n = 0, 0
  for i, product in ipairs(products) do
    if a[i] > 0 and b[i] > 0 then
      sum, n = sum + product / (a[i] * b[i]), n + 1
    end
  end
  return sum / n
end

---firing: at how many tokens each feature fires
local function norms_summary(norms, firing)
  local sum, zero, zero_firing, min, max = 0, 0, 0, math.huge, 0
  for i, norm in ipairs(norms) do
    sum, min, max = sum + norm, math.min(min, norm), math.max(max, norm)
    if norm == 0 then
      zero = zero + 1
      if firing[i] > 0 then zero_firing = zero_firing + 1 end
    end
  end
  return { mean = sum / #norms, min = min, max = max, zero = zero, zero_firing = zero_firing }
end

---Where the parts with one number or row per feature are broken. A threshold may be infinite: the feature is off.
local function broken_parts(sae, encoder, decoder)
  local broken = {}
  local function check(name, is_sound)
    local part <close> = sae:_part(name)
    if part then broken[#broken + 1] = broken_of(name, part:totable(), is_sound) end
  end
  broken[#broken + 1] = broken_of("w_enc", encoder, is_finite)
  broken[#broken + 1] = broken_of("w_dec", decoder, is_finite)
  check("b_enc", is_finite)
  check("threshold", is_number)
  check("gain", is_finite)
  check("offset", is_finite)
  return broken
end

---Whether a part that belongs to no feature is there and has a number that is not finite.
local function is_broken(sae, name)
  local part <close> = sae:_part(name)
  if not part then return false end
  local norm <close> = part:norm()
  return not is_finite(norm:item())
end

function M.of(sae, firing, tied)
  local w_enc <close> = sae:_part "w_enc"
  local w_dec <close> = sae:_part "w_dec"
  local encoder, decoder = row_norms(w_enc), row_norms(w_dec)
  return {
    broken = broken_parts(sae, encoder, decoder), tied = tied,
    b_dec_broken = is_broken(sae, "b_dec"), skip_broken = is_broken(sae, "skip"),
    decoder_norms = norms_summary(decoder, firing),
    cosine = mean_cosine(row_products(w_enc, w_dec), encoder, decoder),
  }
end

return M

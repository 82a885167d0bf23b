-- SPDX-License-Identifier: MIT
---Plain arithmetic on nested tables, in doubles, for the formulas of the SAE formats as their own code
---has them. Matrices are lists of rows; x is multiplied from the right: x [n][a] W [a][b].
local M = {}

---The transpose.
function M.t(w)
  local out = {}
  for j = 1, #w[1] do
    out[j] = {}
    for i = 1, #w do out[j][i] = w[i][j] end
  end
  return out
end

function M.matmul(x, w)
  local out = {}
  for n, row in ipairs(x) do
    out[n] = {}
    for j = 1, #w[1] do
      local sum = 0
      for i, value in ipairs(row) do sum = sum + value * w[i][j] end
      out[n][j] = sum
    end
  end
  return out
end

---fn(element, column, row) of each element.
function M.map(x, fn)
  local out = {}
  for n, row in ipairs(x) do
    out[n] = {}
    for j, value in ipairs(row) do out[n][j] = fn(value, j, n) end
  end
  return out
end

---x + sign * b, a row b added to each row.
function M.add(x, b, sign)
  return M.map(x, function(value, j) return value + (sign or 1) * b[j] end)
end

function M.sum(x, y)
  return M.map(x, function(value, j, n) return value + y[n][j] end)
end

function M.scale(x, factor)
  return M.map(x, function(value) return value * factor end)
end

function M.relu(x)
  return M.map(x, function(value) return math.max(value, 0) end)
end

---x where x > threshold (a number, or one per column), else 0; never below 0.
function M.jumprelu(x, threshold)
  return M.map(x, function(value, j)
    local limit = type(threshold) == "table" and threshold[j] or threshold
    return value > limit and math.max(value, 0) or 0
  end)
end

---ReLU, then the k largest of each row.
function M.topk(x, k)
  local out = M.relu(x)
  for n, row in ipairs(out) do
    local sorted = table.move(row, 1, #row, 1, {})
    table.sort(sorted, function(a, b) return a > b end)
    for j, value in ipairs(row) do
      if value < sorted[k] then out[n][j] = 0 end
    end
  end
  return out
end

---1[pi + gate_bias > 0] relu(exp(r_mag) pi + mag_bias), pi = x W
function M.gated(pi, gate_bias, mag_bias, r_mag)
  return M.map(pi, function(value, j)
    return value + gate_bias[j] > 0 and math.max(math.exp(r_mag[j]) * value + mag_bias[j], 0) or 0
  end)
end

---The norm of each row.
function M.norms(w)
  local out = {}
  for i, row in ipairs(w) do
    local sum = 0
    for _, value in ipairs(row) do sum = sum + value * value end
    out[i] = sum ^ 0.5
  end
  return out
end

---The mean of a row, and its standard deviation over n - 1.
function M.moments(row)
  local mean, squares = 0, 0
  for _, value in ipairs(row) do mean = mean + value / #row end
  for _, value in ipairs(row) do squares = squares + (value - mean) ^ 2 end
  return mean, (squares / (#row - 1)) ^ 0.5
end

return M

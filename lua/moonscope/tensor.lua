-- SPDX-License-Identifier: MIT
---Tensors: constructors, and the methods whose work is done on the compute thread. Dims and positions
---count from 1; what topk and argmax find are features or token ids, which count from 0.
---
---Float tensors of any dtype take part in arithmetic; it is done in f32 and the result is f32.
local core = require "moonscope.core"
local job = require "moonscope.job"
local opts = require "moonscope.options"

---@class moonscope.tensor
local M = {}

---@class moonscope.Tensor
local Tensor = core.types.Tensor
local metatable = core.metatables.Tensor

---@alias moonscope.Dtype
---|"f64"|"f32"|"f16"|"bf16"|"f8_e4m3"|"f8_e5m2"
---|"i64"|"i32"|"i16"|"i8"|"u64"|"u32"|"u16"|"u8"|"bool"
---@alias moonscope.Shape integer[]

local function awaited(raw)
  return function(...) return job.demand(raw, ...) end
end

local function is_tensor(x)
  return type(x) == "userdata" and getmetatable(x) == metatable
end

local function check_tensor(op, x)
  if not is_tensor(x) then error(("%s: found a %s, expected a moonscope.Tensor"):format(op, type(x)), 0) end
end

---The shape as a table, and the options: f{2, 3}, f({2, 3}, {dtype = "f16"}), f(2, 3), f(2, 3, {dtype = "f16"}).
local function shape_and_options(first, ...)
  if type(first) == "table" then return first, ... end
  local shape = { first, ... }
  local options = type(shape[#shape]) == "table" and table.remove(shape) or nil
  return shape, options
end

-- Constructors

local MAKE, DRAW = opts.names("dtype", "device"), opts.names("seed", "dtype", "device")

local full, rand, randn = awaited(core._full), awaited(core._rand), awaited(core._randn)
local from_table, from_string, cat = awaited(core._from_table), awaited(core._from_string), awaited(core._cat)

local function constant(op, value, shape, options)
  options = opts.check(op, options, MAKE)
  return full(value, shape, options.dtype, options.device)
end

---A tensor of the numbers (or booleans) in `values`: one number, or tables nested as deep as the rank.
---@param values number|boolean|table
---@param options? {dtype: moonscope.Dtype?, device: string?}  f32 on the CPU
---@return moonscope.Tensor
function M.tensor(values, options)
  options = opts.check("tensor", options, MAKE)
  return from_table(values, options.dtype, options.device)
end

---Zeros in a shape: zeros{2, 3}, zeros(2, 3), zeros({2, 3}, {dtype = "f16"}).
---@param ... any  a shape (a table, or numbers), then options {dtype=, device=}
---@return moonscope.Tensor
function M.zeros(...) return constant("zeros", 0, shape_and_options(...)) end

---Ones in a shape, otherwise as zeros.
---@param ... any  a shape (a table, or numbers), then options {dtype=, device=}
---@return moonscope.Tensor
function M.ones(...) return constant("ones", 1, shape_and_options(...)) end

---A shape filled with one number.
---@param shape moonscope.Shape
---@param value number
---@param options? {dtype: moonscope.Dtype?, device: string?}
---@return moonscope.Tensor
function M.full(shape, value, options) return constant("full", value, shape, options) end

local unseeded = 0x6d6f6f6e00000000

local function random(op, make, shape, options)
  options = opts.check(op, options, DRAW)
  local seed = options.seed
  if seed == nil then
    seed, unseeded = unseeded, unseeded + 1
  end
  return make(seed, shape, options.dtype, options.device)
end

---Normally distributed numbers. Element i depends on the seed and i alone, and is the same on every
---machine (splitmix64, ratio of uniforms). Without a seed, the n-th call of a program has its own.
---@param ... any  a shape (a table, or numbers), then options {seed=, dtype=, device=}
---@return moonscope.Tensor
function M.randn(...) return random("randn", randn, shape_and_options(...)) end

---Numbers in [0, 1), otherwise as randn.
---@param ... any  a shape (a table, or numbers), then options {seed=, dtype=, device=}
---@return moonscope.Tensor
function M.rand(...) return random("rand", rand, shape_and_options(...)) end

---arange(n): 0 .. n - 1. arange(from, to, step): from, from + step, ... below `to` (above it for a
---negative step).
---@param ... any  the numbers, then options
---@return moonscope.Tensor
function M.arange(...)
  local bounds, options = shape_and_options(...)
  local from, to, step = bounds[1], bounds[2], bounds[3] or 1
  if not to then from, to = 0, from end
  if not (math.type(from) and math.type(to) and math.type(step)) then
    error("arange: expected arange(n) or arange(from, to, step) with numbers", 0)
  end
  if step == 0 then error("arange: the step is 0", 0) end
  local values, i = {}, 0
  while (step > 0 and from + i * step < to) or (step < 0 and from + i * step > to) do
    i = i + 1
    values[i] = from + (i - 1) * step
  end
  return M.tensor(values, options)
end

---A tensor over raw little-endian elements, row-major, as t:to_string() gives them.
---@param bytes string
---@param dtype moonscope.Dtype
---@param shape moonscope.Shape
---@param options? {device: string?}
---@return moonscope.Tensor
function M.from_string(bytes, dtype, shape, options)
  options = opts.check("from_string", options, opts.names("device"))
  return from_string(bytes, shape, dtype, options.device)
end

---The tensors one after another along a dim; they share dtype, device and the other dims.
---@param tensors moonscope.Tensor[]
---@param dim? integer  1 unless given
---@return moonscope.Tensor
function M.cat(tensors, dim) return cat(tensors, dim or 1) end

-- Methods. close, shape, size, numel, dtype, device and the views narrow(dim, start, length),
-- select(dim, index), row(index), transpose(dim, dim) and t() are the core's own.

for _, name in ipairs { "neg", "abs", "exp", "log", "sqrt", "relu", "maximum", "sum", "max", "argmax", "softmax",
  "topk", "matmul", "clone", "totable", "to_string", "equal" } do
  Tensor[name] = awaited(Tensor["_" .. name])
end

local to, reshape, allclose = awaited(Tensor._to), awaited(Tensor._reshape), awaited(Tensor._allclose)
local sum_of_squares = awaited(Tensor._sum_of_squares)
local fill_, copy_ = awaited(Tensor._fill_), awaited(Tensor._copy_)

metatable.__add, metatable.__sub = awaited(Tensor._add), awaited(Tensor._sub)
metatable.__mul, metatable.__div = awaited(Tensor._mul), awaited(Tensor._div)
metatable.__unm = function(t) return t:neg() end

---Row-major in this dtype and on this device; shares the storage where it is so already.
---@param options {dtype: moonscope.Dtype?, device: string?}
---@return moonscope.Tensor
function Tensor:to(options)
  options = opts.check("to", options, MAKE)
  return to(self, options.dtype, options.device)
end

---Row-major; shares the storage where it is so already.
---@return moonscope.Tensor
function Tensor:contiguous() return to(self) end

---The same elements in another shape; one dim may be -1. Shares the storage of a row-major tensor.
---@param ... any  a shape: a table, or numbers
---@return moonscope.Tensor
function Tensor:reshape(...) return reshape(self, (shape_and_options(...))) end

---The one element of the tensor as a number.
---@return number|integer|boolean
function Tensor:item()
  if self:numel() ~= 1 then error(("item: the tensor has %d elements, expected 1"):format(self:numel()), 0) end
  return self:reshape {}:totable()
end

---The mean of all elements (rank 0), or along a dim, which goes away.
---@param dim? integer
---@return moonscope.Tensor
function Tensor:mean(dim)
  local sum <close> = self:sum(dim)
  return sum / (dim and self:size(dim) or self:numel())
end

---The Euclidean norm, of the whole tensor or along a dim.
---@param dim? integer
---@return moonscope.Tensor
function Tensor:norm(dim)
  local squares <close> = sum_of_squares(self, dim)
  return squares:sqrt()
end

---The scalar product of two vectors.
---@param u moonscope.Tensor
---@return moonscope.Tensor  rank 0
function Tensor:dot(u)
  check_tensor("dot", u)
  if #self:shape() ~= 1 or #u:shape() ~= 1 then
    error(("dot: ranks are %d and %d, expected two vectors"):format(#self:shape(), #u:shape()), 0)
  end
  return self:matmul(u)
end

---The cosine of the angle between rows (the last dim); the other dims broadcast. NaN for a row of zeros.
---@param u moonscope.Tensor
---@return moonscope.Tensor
function Tensor:cosine(u)
  check_tensor("cosine", u)
  local product <close> = self * u
  local dots <close> = product:sum(#product:shape())
  local self_norms <close> = self:norm(#self:shape())
  local u_norms <close> = u:norm(#u:shape())
  local norms <close> = self_norms * u_norms
  return dots / norms
end

---Whether |self - u| <= atol + rtol |u| everywhere. NaN is close to nothing.
---@param u moonscope.Tensor
---@param options? {atol: number?, rtol: number?}  1e-8 and 1e-5
---@return boolean
function Tensor:allclose(u, options)
  options = opts.check("allclose", options, opts.names("atol", "rtol"))
  return allclose(self, u, options.atol or 1e-8, options.rtol or 1e-5)
end

---Sets each element to a number.
---@param value number
---@return moonscope.Tensor self
function Tensor:fill_(value)
  fill_(self, value)
  return self
end

---Takes over the numbers of another tensor.
---@param t moonscope.Tensor  of this shape, any dtype, any device
---@return moonscope.Tensor self
function Tensor:copy_(t)
  copy_(self, t)
  return self
end

---Adds to each element.
---@param t moonscope.Tensor|number  broadcast to this shape
---@return moonscope.Tensor self
function Tensor:add_(t)
  local sum <close> = self + t
  return self:copy_(sum)
end

-- How a tensor looks: "f32 [2, 3] cpu", then its elements, or where there are many the corners.

local EDGE = 3 -- rows and columns shown at each end
local DECIMALS, DIGITS = 4, 7 -- shown at most; f32 has no more digits

local function each_float(values, visit)
  if type(values) == "table" then
    for _, inner in ipairs(values) do each_float(inner, visit) end
  elseif math.type(values) == "float" and values - values == 0 then
    visit(values)
  end
end

---The digits behind the point that `text` needs: "1.2500" needs 2.
local function decimals_in(text) return #(text:match "%.(%d-)0*$" or "") end

---How the floats among the values are written so that their points stand below each other: with as many
---decimals as one of them needs, or where that would hide their digits, with an exponent.
local function number_format(values)
  local largest, whole = 0, true
  each_float(values, function(x)
    largest = math.max(largest, math.abs(x))
    whole = whole and x % 1 == 0
  end)
  if whole and largest < 1e9 then return "%.0f" end
  if largest >= 1e6 or largest < 1e-2 then return "%.4e" end
  local most, needed = math.min(DECIMALS, DIGITS - #("%.0f"):format(largest)), 0
  local format = ("%%.%df"):format(most)
  each_float(values, function(x) needed = math.max(needed, decimals_in(format:format(x))) end)
  return ("%%.%df"):format(needed)
end

local function format_element(x, format)
  if math.type(x) ~= "float" then return tostring(x) end
  if x ~= x then return "nan" end
  local text = format:format(x)
  return x ~= 0 and tonumber(text) == 0 and ("%.1e"):format(x) or text -- never a 0 that is none
end

---The first and last elements along every dim, and after how many of them something is left out.
local function corners(t)
  local gaps, rank = {}, #t:shape()
  for dim = 1, rank do
    local n, edge = t:size(dim), dim > rank - 2 and EDGE or 1
    if n > 2 * edge + 1 then
      t = M.cat({ t:narrow(dim, 1, edge), t:narrow(dim, n - edge + 1, edge) }, dim)
      gaps[dim] = edge
    end
  end
  return t:totable(), gaps
end

local function widest(values, format, width)
  if type(values) ~= "table" then return math.max(width, #format_element(values, format)) end
  for _, v in ipairs(values) do width = widest(v, format, width) end
  return width
end

---The values as texts of one width, in tables as before.
local function aligned(values, format, width)
  if type(values) == "table" then
    local texts = {}
    for i, inner in ipairs(values) do texts[i] = aligned(inner, format, width) end
    return texts
  end
  local text = format_element(values, format)
  return (" "):rep(width - #text) .. text
end

local function format_row(values, gap)
  local cells = {}
  for i, x in ipairs(values) do
    cells[#cells + 1] = x
    if i == gap then cells[#cells + 1] = "..." end
  end
  return "  " .. table.concat(cells, "  ")
end

local function format_level(lines, values, gaps, dim, rank, size, at)
  if dim >= rank then
    lines[#lines + 1] = dim == rank and format_row(values, gaps[dim]) or "  " .. values
    return
  end
  for i, inner in ipairs(values) do
    local index = gaps[dim] and i > gaps[dim] and size[dim] - #values + i or i
    if dim <= rank - 2 then
      local place = at .. index .. ", "
      if dim == rank - 2 then lines[#lines + 1] = "  [" .. place .. ":, :]" end
      format_level(lines, inner, gaps, dim + 1, rank, size, place)
    else
      format_level(lines, inner, gaps, dim + 1, rank, size, at)
    end
    if i == gaps[dim] then lines[#lines + 1] = "  ..." end
  end
end

function metatable.__tostring(t)
  if t:_closed() then return "moonscope.Tensor (closed)" end
  local shape = t:shape()
  local lines = { ("%s [%s] %s"):format(t:dtype(), table.concat(shape, ", "), t:device()) }
  if t:numel() == 0 then return lines[1] end
  local values, gaps = corners(t)
  local format = number_format(values)
  format_level(lines, aligned(values, format, widest(values, format, 0)), gaps, 1, #shape, shape, "")
  return table.concat(lines, "\n")
end

---Whether a value is a tensor.
---@param x any
---@return boolean
M.is_tensor = is_tensor

return M

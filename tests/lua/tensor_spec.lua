-- SPDX-License-Identifier: MIT
local core = require "moonscope.core"
local ms = require "moonscope"

local t23 = function() return ms.tensor { { 1, 2, 3 }, { 4, 5, 6 } } end

---t as shape and values, and with the dtype where it is not f32.
local function assert_tensor(expected, t, dtype)
  assert.same(expected, t:totable())
  assert.equal(dtype or "f32", t:dtype())
end

local function assert_throws(message, fn)
  local ok, found = pcall(fn)
  assert.is_false(ok)
  assert.equal(message, found)
end

describe("a tensor is made", function()
  it("from numbers and nested tables", function()
    assert.same({}, ms.tensor(3.5):shape())
    assert.same({ 2, 3 }, t23():shape())
    assert.same({ 2, 0 }, ms.tensor { {}, {} }:shape())
    assert_tensor({ 1, 0 }, ms.tensor({ true, false }, { dtype = "u8" }), "u8")
    assert_tensor({ math.maxinteger, -1 }, ms.tensor({ math.maxinteger, -1 }, { dtype = "i64" }), "i64")
    assert_tensor({ true, false }, ms.tensor({ 2, 0 }, { dtype = "bool" }), "bool")
  end)

  it("with a shape as a table or as numbers", function()
    assert.same({ 1, 128 }, ms.zeros { 1, 128 }:shape())
    assert.same({ 1, 128 }, ms.zeros(1, 128):shape())
    assert_tensor({ { 1, 1 } }, ms.ones(1, 2, { dtype = "f16" }), "f16")
    assert_tensor({ 7, 7 }, ms.full({ 2 }, 7, { dtype = "i32" }), "i32")
    assert.same({}, ms.zeros {}:shape())
  end)

  it("as a range", function()
    assert_tensor({ 0, 1, 2 }, ms.arange(3))
    assert_tensor({ 5, 3, 1 }, ms.arange(5, 0, -2, { dtype = "i64" }), "i64")
    assert_tensor({ 0.5, 0.75 }, ms.arange(0.5, 1, 0.25))
    assert_tensor({}, ms.arange(0))
  end)

  it("from raw bytes and back", function()
    local bytes = string.pack("<ffff", 1, -2, 0.5, 3)
    local t = ms.from_string(bytes, "f32", { 2, 2 })
    assert_tensor({ { 1, -2 }, { 0.5, 3 } }, t)
    assert.equal(bytes, t:to_string())
    assert.equal(string.pack("<ffff", 1, 0.5, -2, 3), t:t():to_string())
    assert.equal("", ms.zeros(0):to_string())
  end)

  it("by joining others", function()
    assert_tensor({ { 1, 2, 3, 1, 2, 3 }, { 4, 5, 6, 4, 5, 6 } }, ms.cat({ t23(), t23() }, 2))
    assert_tensor({ { 1, 2, 3 }, { 4, 5, 6 }, { 1, 2, 3 } }, ms.cat { t23(), t23():narrow(1, 1, 1) })
    assert_tensor({ { 1, 3 }, { 4, 6 } }, ms.cat({ t23():narrow(2, 1, 1), t23():narrow(2, 3, 1) }, 2))
  end)

  it("by chance, the same for a seed on every machine", function()
    local t = ms.randn({ 1000, 100 }, { seed = 1 })
    assert.is_true(math.abs(t:mean():item()) < 0.01)
    assert.is_true(math.abs((t * t):mean():item() - 1) < 0.02)
    assert.is_true(t:equal(ms.randn(1000, 100, { seed = 1 })))
    assert.is_false(t:equal(ms.randn(1000, 100, { seed = 2 })))
    assert.is_false(ms.randn(4):equal(ms.randn(4)))
    assert.is_true(t:reshape(-1):narrow(1, 1, 10):equal(ms.randn(10, { seed = 1 })))
    -- what the same steps give in Python
    assert_tensor({ 0.59214848279953, -0.3720606863498688, 1.3599588871002197 }, ms.randn(3, { seed = 1 }))
    local u = ms.rand(10000, { seed = 1 })
    assert.is_true(u:max():item() < 1 and (-u):max():item() <= 0)
    assert.is_true(math.abs(u:mean():item() - 0.5) < 0.01)
  end)

  it("or refused", function()
    local ragged = "tensor: dim 2 has tables of different lengths or depths"
    assert_throws(ragged, function() ms.tensor { { 1, 2 }, { 3 } } end)
    assert_throws(ragged, function() ms.tensor { { 1 }, 2 } end)
    assert_throws("tensor: an element is a string, expected a number", function() ms.tensor { "1" } end)
    assert_throws("tensor: an element is nothing, expected a number", function() ms.tensor() end)
    assert_throws('tensor: dtype "f33" is unknown', function() ms.tensor(1, { dtype = "f33" }) end)
    assert_throws('device "mars" is unknown, expected auto, cpu or cuda',
      function() ms.tensor(1, { device = "mars" }) end)
    assert_throws("from_string: found 5 bytes, expected 8 for f32 [2]",
      function() ms.from_string("12345", "f32", { 2 }) end)
    assert_throws("full: a dim of the shape is -1", function() ms.zeros(-1) end)
    assert_throws("full: a dim of the shape is 1.5, expected a whole number", function() ms.zeros { 1.5 } end)
    assert_throws("full: the shape has 9 dims, at most 8 are possible",
      function() ms.zeros(1, 1, 1, 1, 1, 1, 1, 1, 1) end)
    assert_throws("cat: [3] does not fit [2, 3] along dim 1", function() ms.cat { t23(), t23():row(1) } end)
    assert_throws("cat: found i64 beside f32", function() ms.cat { t23(), ms.arange(3, { dtype = "i64" }) } end)
    assert_throws("cat: found an empty table, expected a table of tensors", function() ms.cat {} end)
    assert_throws("arange: the step is 0", function() ms.arange(1, 2, 0) end)
    assert.error_matches(function() ms.zeros({ 1 }, { dytpe = "f16" }) end,
      "zeros: unknown option dytpe, expected device, dtype")
  end)
end)

describe("a view", function()
  it("shares the storage", function()
    local t = t23()
    t:narrow(2, 2, 2):fill_(0)
    t:row(2):copy_(ms.tensor { 7, 8, 9 })
    assert_tensor({ { 1, 0, 0 }, { 7, 8, 9 } }, t)
    collectgarbage()
    assert.equal(1, (core.storage_live()))
    t:t():select(1, 3):add_(1)
    t:reshape(3, 2):row(1):add_(ms.tensor(10))
    assert_tensor({ { 11, 10, 1 }, { 7, 8, 10 } }, t)
  end)

  it("outlives the tensor that it is of", function()
    local t = t23()
    local row = t:row(2)
    t:close()
    assert_tensor({ 4, 5, 6 }, row)
  end)

  it("counts dims and positions from 1", function()
    local t = ms.arange(24):reshape(2, 3, 4)
    assert.same({ 2, 3, 4 }, t:shape())
    assert.equal(4, t:size(3))
    assert.equal(2, #t)
    assert_tensor({ 3, 7, 11 }, t:select(1, 1):select(2, 4))
    assert.same({ 4, 3, 2 }, t:transpose(1, 3):shape())
    assert_tensor({ { 0, 4, 8 }, { 1, 5, 9 } }, t:row(1):t():narrow(1, 1, 2))
    assert_tensor({ 0, 4, 8, 1 }, t:row(1):t():reshape(-1):narrow(1, 1, 4))
    assert.same({ 0, 4 }, ms.zeros(0, 4):t():t():shape())
    assert_throws("select: index 0 is not in dim 1, which has 2", function() t:select(1, 0) end)
    assert_throws("row: index 3 is not in dim 1, which has 2", function() t:row(3) end)
    assert_throws("narrow: 2 elements from 4 are not in dim 3, which has 4", function() t:narrow(3, 4, 2) end)
    assert_throws("size: dim is 4, the tensor has 3 (the first is 1)", function() t:size(4) end)
    assert_throws("t: the tensor has rank 3, expected 2", function() t:t() end)
    assert_throws("reshape: [2, 3, 4] does not fit [5, -1]", function() t:reshape(5, -1) end)
  end)
end)

describe("arithmetic", function()
  it("takes numbers on either side, and broadcasts", function()
    local t = t23()
    assert_tensor({ { 2, 3, 4 }, { 5, 6, 7 } }, t + 1)
    assert_tensor({ { 1, 0, -1 }, { -2, -3, -4 } }, 2 - t)
    assert_tensor({ { 1, 1, 1 }, { 4, 2.5, 2 } }, t / ms.tensor { 1, 2, 3 })
    assert_tensor({ { 1, 2, 3 }, { 8, 10, 12 } }, t * ms.tensor { { 1 }, { 2 } })
    assert_tensor({ { 3, 4 }, { 4, 5 } }, ms.tensor { { 1 }, { 2 } } + ms.tensor { 2, 3 })
    assert_tensor({ { -1, -2, -3 }, { -4, -5, -6 } }, -t)
    assert_tensor({ { 3, 3, 3 }, { 4, 5, 6 } }, t:maximum(3))
    assert_tensor({}, ms.zeros(0) + 1)
    assert_tensor(3, ms.tensor(1) + 2)
  end)

  it("reads every float dtype and gives f32", function()
    for _, dtype in ipairs { "f64", "f16", "bf16", "f8_e4m3", "f8_e5m2" } do
      assert_tensor({ 3, 4 }, ms.tensor({ 1, 2 }, { dtype = dtype }) + ms.tensor { 2, 2 })
    end
    assert_throws('add: the tensor is i64, expected floats (t:to{dtype = "f32"} makes them)',
      function() return ms.arange(3, { dtype = "i64" }) + 1 end)
  end)

  it("knows the usual functions", function()
    assert_tensor({ 0, 2 }, ms.tensor { -1, 2 }:relu())
    assert_tensor({ 1, 2 }, ms.tensor { -1, 2 }:abs())
    assert_tensor({ 3, 4 }, ms.tensor { 9, 16 }:sqrt())
    assert.is_true(ms.tensor { 1, 2 }:exp():log():allclose(ms.tensor { 1, 2 }))
  end)

  it("reduces the whole or along a dim", function()
    local t = t23()
    assert.equal(21, t:sum():item())
    assert_tensor({ 5, 7, 9 }, t:sum(1))
    assert_tensor({ 6, 15 }, t:sum(2))
    assert_tensor({ 2, 5 }, t:mean(2))
    assert_tensor({ 4, 5, 6 }, t:max(1))
    assert.equal(5, ms.tensor { 3, 4 }:norm():item())
    assert_tensor({ 5, 13 }, ms.tensor { { 3, 4 }, { 5, 12 } }:norm(2))
    assert_tensor({ 0, 0 }, ms.zeros(2, 0):sum(2))
    assert_throws("max: a is [1, 0], expected at least one column", function() ms.zeros(0):max() end)
    assert.equal(2 ^ 24 + 2 ^ 20, ms.ones(2 ^ 24 + 2 ^ 20):sum():item()) -- f32 sums stand still at 2^24
  end)

  it("finds features, which count from 0", function()
    local t = ms.tensor { { 1, 7, 7, 2 }, { 9, 0, 3, 4 } }
    assert_tensor({ 1, 0 }, t:argmax(2), "i64")
    assert.equal(4, t:argmax():item())
    local values, indices = t:topk(2)
    assert_tensor({ { 7, 7 }, { 9, 4 } }, values)
    assert_tensor({ { 1, 2 }, { 0, 3 } }, indices, "i64")
    assert_throws("topk: k is 5, expected 0 to 4, the size of the last dim", function() t:topk(5) end)
  end)

  it("softmax, cosine and dot", function()
    assert.is_true(t23():softmax():sum(2):allclose(ms.ones(2)))
    assert.is_true(ms.tensor { { 1, 0 }, { 1, 1 } }:cosine(ms.tensor { 0, 2 }):allclose(ms.tensor { 0, 0.5 ^ 0.5 }))
    assert.equal(32, ms.tensor { 1, 2, 3 }:dot(ms.tensor { 4, 5, 6 }):item())
    assert_throws("dot: ranks are 2 and 2, expected two vectors", function() t23():dot(t23()) end)
    assert_throws("cosine: found a number, expected a moonscope.Tensor", function() t23():cosine(2) end)
  end)

  it("multiplies matrices and vectors of any strides", function()
    local t = t23()
    assert_tensor({ { 14, 32 }, { 32, 77 } }, t:matmul(t:t()))
    assert_tensor({ 14, 32 }, t:matmul(ms.tensor { 1, 2, 3 }))
    assert_tensor({ 9, 12, 15 }, ms.tensor { 1, 2 }:matmul(t))
    assert_tensor({ { 17, 22, 27 }, { 22, 29, 36 }, { 27, 36, 45 } }, t:t():matmul(t))
    assert_tensor({ { 14, 32 }, { 32, 77 } }, t:matmul(t:to { dtype = "bf16" }:t()))
    assert_tensor({ { 0, 0 } }, ms.zeros(1, 0):matmul(ms.zeros(0, 2)))
    assert_throws("matmul: [2, 3] does not fit [2, 3]: K is 3 and 2", function() t:matmul(t) end)
    assert_throws("matmul: found [2, 3] and [], expected matrices or vectors", function() t:matmul(ms.tensor(1)) end)
  end)

  it("refuses shapes and things that do not fit", function()
    assert_throws("add: [2, 3] does not fit [2]", function() return t23() + ms.ones(2) end)
    assert_throws("mul: found nothing, expected a moonscope.Tensor", function() return t23() * nil end)
    assert_throws("sub: found a string, expected a moonscope.Tensor", function() return t23() - "1" end)
    assert_throws("sum: dim is 3, the tensor has 2 (the first is 1)", function() t23():sum(3) end)
    assert_throws("sum: dim is a string, expected a whole number", function() t23():sum("x") end)
  end)
end)

describe("comparison", function()
  it("by bits", function()
    assert.is_true(t23():equal(t23():clone()))
    assert.is_true(t23():t():equal(ms.tensor { { 1, 4 }, { 2, 5 }, { 3, 6 } }))
    assert.is_false(t23():equal(t23():to { dtype = "f64" }))
    assert.is_false(t23():equal(t23():reshape(3, 2)))
    assert.is_false(ms.zeros(1):equal(-ms.zeros(1)))
    assert.is_true(ms.tensor(0 / 0):equal(ms.tensor(0 / 0)))
    assert.is_false(t23() == t23())
  end)

  it("by tolerance, which NaN never passes", function()
    assert.is_true(ms.tensor(1):allclose(ms.tensor(1.0001), { rtol = 1e-3 }))
    assert.is_false(ms.tensor(1):allclose(ms.tensor(1.0001)))
    assert.is_false(ms.tensor(0 / 0):allclose(ms.tensor(0 / 0)))
    assert.is_true(ms.tensor(1 / 0):allclose(ms.tensor(1 / 0)))
    assert_throws("allclose: [2, 3] does not fit [2]", function() t23():allclose(ms.ones(2)) end)
  end)
end)

describe("a change in place", function()
  it("returns self and keeps the dtype", function()
    local t = ms.zeros({ 2, 2 }, { dtype = "bf16" })
    assert.equal(t, t:fill_(3):add_(ms.tensor { 1, 2 }))
    assert_tensor({ { 4, 5 }, { 4, 5 } }, t, "bf16")
    assert_throws("copy: source [2] does not fit destination [2, 2]", function() t:copy_(ms.ones(2)) end)
  end)

  it("may read what it writes", function()
    local n = 1 << 20 -- several pieces of a copy, which threads share
    local t = ms.rand(n)
    local before = t:narrow(1, 1, n - 1):clone()
    assert.is_true(t:narrow(1, 2, n - 1):copy_(t:narrow(1, 1, n - 1)):equal(before))
  end)
end)

describe("dtypes", function()
  it("convert into each other", function()
    for _, dtype in ipairs { "f64", "f32", "f16", "bf16", "f8_e4m3", "f8_e5m2", "i64", "i32", "i16", "i8", "u64", "u32",
      "u16", "u8" } do
      assert_tensor({ 0, 1, 2 }, ms.arange(3):to { dtype = dtype }, dtype)
    end
    assert_tensor({ -128, 127, 2, 0 }, ms.tensor { -1000, 1000, 2.9, 0 / 0 }:to { dtype = "i8" }, "i8")
    assert.equal(2 ^ 64, ms.tensor({ -1 }, { dtype = "f32" }):add_(2 ^ 64):to { dtype = "u64" }:item())
  end)

  it("share where nothing changes", function()
    local t = t23()
    t:to { dtype = "f32", device = "cpu" }:contiguous():fill_(1)
    assert.equal(6, t:sum():item())
    t:clone():fill_(5)
    assert.equal(6, t:sum():item())
  end)
end)

describe("a closed tensor", function()
  it("throws whatever is asked of it, and closes twice", function()
    local t, u = t23(), t23()
    t:close()
    t:close()
    assert_throws("add: the tensor is closed", function() return t + 1 end)
    assert_throws("matmul: the tensor is closed", function() u:matmul(t) end)
    for _, method in ipairs { "shape", "dtype", "sum", "totable", "t", "exp", "clone", "to_string" } do
      assert.error_matches(function() t[method](t) end, "the tensor is closed")
    end
    assert.equal("moonscope.Tensor (closed)", tostring(t))
  end)

  it("is one that goes out of scope", function()
    local kept
    do
      local t <close> = t23()
      kept = t
    end
    assert.equal("moonscope.Tensor (closed)", tostring(kept))
    assert.equal(0, (core.storage_live()))
  end)

  it("lets a running job finish", function()
    local t = ms.ones(300, 300)
    local running = t:_matmul(t)
    t:close()
    assert.equal(300, require("moonscope.job").await(running):max():item())
  end)
end)

describe("memory", function()
  it("that nobody holds is collected before it grows by gigabytes", function()
    collectgarbage "stop"
    local most = 0
    for _ = 1, 100 do
      ms.zeros(1 << 20) -- 4 MB
      most = math.max(most, select(2, core.storage_live()))
    end
    collectgarbage "restart"
    assert.is_true(most <= 72 << 20, most)
  end)

  it("that is not there is an error, after one try to collect some", function()
    local collected = 0
    setmetatable({}, { __gc = function() collected = collected + 1 end })
    assert_throws("cpu: no memory for a tensor of 140737488355328 bytes", function() ms.zeros(1 << 45) end)
    assert.equal(1, collected)
  end)
end)

describe("tostring", function()
  it("hides no number: very large and very small ones have an exponent", function()
    assert.equal("f32 [2] cpu\n  1.5000e+00  2.5000e+07", tostring(ms.tensor { 1.5, 2.5e7 }))
    assert.equal("f32 [2] cpu\n  2.5000e-04  0.0000e+00", tostring(ms.tensor { 2.5e-4, 0 }))
    assert.equal("f64 [3] cpu\n       1.5       0.0  -1.0e-09",
      tostring(ms.tensor({ 1.5, 0, -1e-9 }, { dtype = "f64" })))
    assert.equal("f32 [2] cpu\n  12345.75      0.12", tostring(ms.tensor { 12345.75, 0.123 }))
  end)

  it("shows small tensors whole", function()
    assert.equal("f32 [] cpu\n  3.5", tostring(ms.tensor(3.5)))
    assert.equal("i32 [3] cpu\n   1   2  -3", tostring(ms.tensor({ 1, 2, -3 }, { dtype = "i32" })))
    assert.equal("f32 [2, 2] cpu\n   0.3333  -1.0000\n      nan      inf",
      tostring(ms.tensor { { 1 / 3, -1 }, { 0 / 0, 1 / 0 } }))
    assert.equal("f32 [3] cpu\n    0.50   -1.25  100.00", tostring(ms.tensor { 0.5, -1.25, 100 }))
    assert.equal("f32 [2] cpu\n       -7  2000000", tostring(ms.tensor { -7, 2000000 }))
    assert.equal("bool [2] cpu\n   true  false", tostring(ms.tensor({ 1, 0 }, { dtype = "bool" })))
    assert.equal("f32 [2, 0] cpu", tostring(ms.zeros(2, 0)))
  end)

  it("shows the corners of large ones", function()
    assert.equal("f32 [10] cpu\n  0  1  2  ...  7  8  9", tostring(ms.arange(10)))
    assert.equal(table.concat({ "f32 [4, 1, 2] cpu", "  [1, :, :]", "  0  1", "  ...", "  [4, :, :]", "  6  7" }, "\n"),
      tostring(ms.arange(8):reshape(4, 1, 2)))
    assert.equal("f32 [9, 1] cpu\n  0\n  1\n  2\n  ...\n  6\n  7\n  8", tostring(ms.arange(9):reshape(9, 1)))
  end)
end)

it("counts elements, tells tensors from other values, and changes signs", function()
  assert.equal(6, ms.zeros(2, 3):numel())
  assert.equal(1, ms.tensor(5):numel())
  assert.same({ true, false, false }, { ms.is_tensor(ms.zeros(1)), ms.is_tensor {}, ms.is_tensor(io.stdout) })
  assert.same({ -1, 2.5 }, ms.tensor { 1, -2.5 }:neg():totable())
end)

describe("the CPU", function()
  it("has instruction sets, best first, and gives the same answers with all", function()
    local sets, used = ms.instruction_sets(), ms.instruction_set()
    assert.equal(sets[1], used)
    assert.equal("reference", sets[#sets])
    local a, b = ms.randn(5, 70, { seed = 1 }), ms.randn(70, 9, { seed = 2 })
    local want = a:matmul(b)
    for _, name in ipairs(sets) do
      assert.equal(name, ms.instruction_set(name))
      assert.is_true(want:allclose(a:matmul(b), { atol = 1e-5 }))
    end
    assert.equal(used, ms.instruction_set(used))
    assert_throws(('instruction set: this CPU has no "mmx"; its best is %s'):format(used),
      function() ms.instruction_set "mmx" end)
  end)

  it("is a device, with threads", function()
    assert.equal("cpu", ms.devices()[1])
    local n = core.threads()
    ms.set_threads(n + 1)
    assert.equal(n + 1, core.threads())
    ms.set_threads(n)
    assert_throws("set_threads: found 0, expected 1 to 1024", function() ms.set_threads(0) end)
  end)
end)

-- SPDX-License-Identifier: MIT
-- Tensors: making them, arithmetic, views that share storage, and looking at them.
local ms = require "moonscope"

local a = ms.tensor { { 1, 2, 3 }, { 4, 5, 6 } } -- f32 on the CPU unless {dtype = ..., device = ...} says otherwise
print(a)
print("its second row, doubled, plus one: " .. tostring((a * 2 + 1):row(2)))
print("times its transpose: " .. tostring(a:matmul(a:t())))
print(("sum of all: %g; mean of each column: %s"):format(a:sum():item(), a:mean(1)))

local corner = a:narrow(1, 1, 1):narrow(2, 1, 2) -- row 1, columns 1 and 2: a view
corner:fill_(0)
print("after its corner was filled: " .. tostring(a))

local scores = ms.tensor { 0.1, 2, -1, 3 }
local values, indices = scores:topk(2) -- what is found counts from 0, like token ids and features
print(("the largest: %s\nat: %s"):format(values, indices))
print(("softmax gives the last one %.3f"):format(scores:softmax():totable()[4]))
print(("and bf16 keeps of 1/3: %.6f"):format(ms.tensor({ 1 / 3 }, { dtype = "bf16" }):item()))
print("a large one shows its corners: " .. tostring(ms.arange(10000):reshape(100, 100)))

--[[ prints:
f32 [2, 3] cpu
  1  2  3
  4  5  6
its second row, doubled, plus one: f32 [3] cpu
   9  11  13
times its transpose: f32 [2, 2] cpu
  14  32
  32  77
sum of all: 21; mean of each column: f32 [3] cpu
  2.5  3.5  4.5
after its corner was filled: f32 [2, 3] cpu
  0  0  3
  4  5  6
the largest: f32 [2] cpu
  3  2
at: i64 [2] cpu
  3  1
softmax gives the last one 0.694
and bf16 keeps of 1/3: 0.333984
a large one shows its corners: f32 [100, 100] cpu
     0     1     2  ...    97    98    99
   100   101   102  ...   197   198   199
   200   201   202  ...   297   298   299
  ...
  9700  9701  9702  ...  9797  9798  9799
  9800  9801  9802  ...  9897  9898  9899
  9900  9901  9902  ...  9997  9998  9999
]]

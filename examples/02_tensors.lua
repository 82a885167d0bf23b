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

-- SPDX-License-Identifier: MIT
-- Reading a checkpoint: what is in it, one tensor of it, and a file of one's own. Only headers are read until a
-- tensor is asked for, and nothing in a file is ever executed.
local ms = require "moonscope"

local file = assert(ms.open "examples/tiny/Moonscope-Tiny-Llama-SAE-l3.pth") -- .pth .pt .npz .npy .safetensors
print("format", file:format())
for _, name in ipairs(file:names()) do
  local info = file:info(name)
  print(("%-22s %s [%s]"):format(name, info.dtype, table.concat(info.shape, ", ")))
end

local decoder = file:tensor "decoder_linear.weight" -- [d_model][d_sae]: a column is a feature's direction
local red, white = decoder:select(2, 1174), decoder:select(2, 797) -- both views of the mapped file
print(("norm of column 1174: %.3f"):format(red:norm():item()))
print(("cosine with 797: %.3f"):format(red:cosine(white):item()))

local path = os.tmpname()
assert(ms.save(path, { red = red:to { dtype = "f32" } }, { metadata = { feature = "1174" } }))
local saved = assert(ms.open(path))
print("saved", saved:format(), saved:tensor("red"):dtype(), "of feature " .. saved:metadata().feature)
saved:close()
file:close()
os.remove(path)

local missing, message = ms.open "examples/tiny/nothing.pth" -- failures are values, so `assert` turns them into errors
print(missing, message)

--[[ prints:
format	pth
decoder_linear.bias    bf16 [128]
decoder_linear.weight  bf16 [128, 2048]
encoder_linear.bias    bf16 [2048]
encoder_linear.weight  bf16 [2048, 128]
norm of column 1174: 1.000
cosine with 797: 0.186
saved	safetensors	f32	of feature 1174
nil	examples/tiny/nothing.pth: No such file or directory
]]

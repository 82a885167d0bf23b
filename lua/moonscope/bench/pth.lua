-- SPDX-License-Identifier: MIT
---A PyTorch file of float tensors, as torch.save lays out Goodfire's autoencoders, with random numbers.
local tensor = require "moonscope.tensor"

local M = {}

local N_DRAWN, ALIGNMENT = 1 << 20, 64

local function text(s) return "X" .. ("<s4"):pack(s) end
local function int(n) return "J" .. ("<i4"):pack(n) end

local function count(shape)
  local n = 1
  for _, dim in ipairs(shape) do n = n * dim end
  return n
end

---An OrderedDict of tensors, each over a storage of its own.
local function pickle(tensors)
  local parts = { "\x80\2ccollections\nOrderedDict\n)R(" }
  for i, t in ipairs(tensors) do
    local dims, strides, stride = "", "", 1
    for k = #t.shape, 1, -1 do
      dims, strides, stride = int(t.shape[k]) .. dims, int(stride) .. strides, stride * t.shape[k]
    end
    parts[#parts + 1] = table.concat {
      text(t.name), "ctorch._utils\n_rebuild_tensor_v2\n((", text "storage", "ctorch\nFloatStorage\n",
      text(tostring(i - 1)), text "cpu", int(count(t.shape)), "tQ", int(0), "(", dims, "t(", strides,
      "t\x89ccollections\nOrderedDict\n)RtR",
    }
  end
  return table.concat(parts) .. "u."
end

---Stored entries whose data begin at multiples of 64; checksums are left 0, which nobody compares.
local function header(name, size, offset)
  local padding = -(offset + 30 + #name + 4) % ALIGNMENT
  return "PK\3\4" .. ("<I2I2I2I2I2I4I4I4I2I2"):pack(20, 0, 0, 0, 33, 0, size, size, #name, padding + 4) .. name
    .. "FB" .. ("<s2"):pack(("Z"):rep(padding))
end

local function directory_entry(name, size, offset)
  return "PK\1\2" .. ("<I2I2I2I2I2I2I4I4I4I2I2I2I2I2I4I4"):pack(20, 20, 0, 0, 0, 33, 0, size, size, #name, 0, 0, 0, 0,
    0, offset) .. name
end

local function write_numbers(file, n, block)
  for first = 0, n - 1, N_DRAWN do assert(file:write(block:sub(1, 4 * math.min(N_DRAWN, n - first)))) end
end

---@param path string
---@param tensors {name: string, shape: integer[]}[]  below 4 GiB in all
function M.write(path, tensors)
  local file <close> = assert(io.open(path, "wb"))
  local block, directory = tensor.rand({ N_DRAWN }, { seed = 1 }):to_string(), {}
  local function begin(name, size)
    local offset = file:seek()
    directory[#directory + 1] = directory_entry(name, size, offset)
    assert(file:write(header(name, size, offset)))
  end
  local description = pickle(tensors)
  begin("archive/data.pkl", #description)
  assert(file:write(description))
  for i, t in ipairs(tensors) do
    local n = count(t.shape)
    begin(("archive/data/%d"):format(i - 1), 4 * n)
    write_numbers(file, n, block)
  end
  begin("archive/version", 2)
  assert(file:write "3\n")
  local start, records = file:seek(), table.concat(directory)
  assert(file:write(records, "PK\5\6", ("<I2I2I2I2I4I4I2"):pack(0, 0, #directory, #directory, #records, start, 0)))
end

---A published autoencoder: an encoder, and a decoder that lies across.
---@param path string
---@param d_model integer
---@param d_sae integer
function M.sae(path, d_model, d_sae)
  M.write(path, {
    { name = "encoder_linear.weight", shape = { d_sae, d_model } },
    { name = "encoder_linear.bias", shape = { d_sae } },
    { name = "decoder_linear.weight", shape = { d_model, d_sae } },
    { name = "decoder_linear.bias", shape = { d_model } },
  })
end

return M

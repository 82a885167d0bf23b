-- SPDX-License-Identifier: MIT
---A .pth above 4 GiB, so that sizes and offsets stand in zip64 fields, as torch.save lays out Goodfire's SAE for
---Llama 3.3 70B: [65536, 8192] and [8192, 65536] in f32. The file is a hole with a few numbers in it. It is
---inspected and converted, and the numbers must be where they belong.
---
---  build/release/bin/moonscope tests/bench/zip64.lua [DTYPE]     of the output; f32 unless given
---
---Took 16 s (f32) and 59 s (f8_e4m3, converted on one core) beside other work on two cores. It warns that the
---sha256 is not the published file's. Needs as much disk in $TMPDIR (default /tmp) as the output has: 4.3 GB in f32, 1.1 GB in f8_e4m3.
local json = require "moonscope.json"
local ms = require "moonscope"

local dtype = arg[1] or "f32"
local D_MODEL, D_SAE = 8192, 65536
local NAME = "Llama-3.3-70B-Instruct-SAE-l50"
local folder = os.tmpname()
os.remove(folder)
folder = (os.getenv "TMPDIR" or "/tmp") .. "/" .. folder:match "[^/]+$"
assert(os.execute("mkdir " .. folder))
local _ <close> = setmetatable({}, { __close = function() os.execute("rm -r " .. folder) end })

local function u(n, size) return ("<I" .. size):pack(n) end

local tensors = {
  { "encoder_linear.weight", { D_SAE, D_MODEL } }, { "encoder_linear.bias", { D_SAE } },
  { "decoder_linear.weight", { D_MODEL, D_SAE } }, { "decoder_linear.bias", { D_MODEL } },
}

local function text(s) return "X" .. ("<s4"):pack(s) end
local function int(n) return "\x8a\8" .. u(n, 8) end

local function count(shape)
  local n = 1
  for _, dim in ipairs(shape) do n = n * dim end
  return n
end

local function pickle()
  local parts = { "\x80\2ccollections\nOrderedDict\n)R(" }
  for i, t in ipairs(tensors) do
    local name, shape = t[1], t[2]
    local dims, strides, stride = "", "", 1
    for k = #shape, 1, -1 do
      dims, strides, stride = int(shape[k]) .. dims, int(stride) .. strides, stride * shape[k]
    end
    parts[#parts + 1] = text(name) .. "ctorch._utils\n_rebuild_tensor_v2\n((" .. text "storage"
      .. "ctorch\nFloatStorage\n" .. text(tostring(i - 1)) .. text "cpu" .. int(count(shape)) .. "tQ"
      .. int(0) .. "(" .. dims .. "t(" .. strides
      .. "t\x89ccollections\nOrderedDict\n)RtR"
  end
  parts[#parts + 1] = "u."
  return table.concat(parts)
end

---Writes the zip file: sizes and offsets of all entries in zip64 fields, storages as holes that end in their number.
local function write(path)
  local file <close> = assert(io.open(path, "wb"))
  local directory, entries = {}, { { "a/data.pkl", pickle() } }
  for i, t in ipairs(tensors) do entries[i + 1] = { "a/data/" .. (i - 1), nil, 4 * count(t[2]), i } end
  for _, entry in ipairs(entries) do
    local name, data, size = entry[1], entry[2], entry[3] or #entry[2]
    local offset = file:seek()
    file:write("PK\3\4", u(45, 2), ("\0"):rep(12), u(0xffffffff, 4), u(0xffffffff, 4), u(#name, 2), u(20, 2), name,
      u(1, 2), u(16, 2), u(size, 8), u(size, 8))
    if data then
      file:write(data)
    else
      file:write(("<f"):pack(entry[4]))
      file:seek("cur", size - 8)
      file:write(("<f"):pack(-entry[4]))
    end
    directory[#directory + 1] = "PK\1\2" .. u(45, 2) .. u(45, 2) .. ("\0"):rep(12) .. u(0xffffffff, 4)
      .. u(0xffffffff, 4) .. u(#name, 2) .. u(28, 2) .. ("\0"):rep(10) .. u(0xffffffff, 4) .. name
      .. u(1, 2) .. u(24, 2) .. u(size, 8) .. u(size, 8) .. u(offset, 8)
  end
  local start, records = file:seek(), table.concat(directory)
  file:write(records, "PK\6\6", u(44, 8), u(45, 2), u(45, 2), u(0, 4), u(0, 4), u(#entries, 8), u(#entries, 8),
    u(#records, 8), u(start, 8), "PK\6\7", u(0, 4), u(start + #records, 8), u(1, 4), "PK\5\6", u(0, 4),
    u(0xffff, 2), u(0xffff, 2), u(0xffffffff, 4), u(0xffffffff, 4), u(0, 2))
  return file:seek()
end

local function run(command)
  local pipe = assert(io.popen(command))
  local out = pipe:read "a"
  assert(pipe:close(), command)
  return assert(json.decode(out))
end

local path = ("%s/%s.pt"):format(folder, NAME)
local size = write(path)
assert(size > 1 << 32)
local program = require("luv").exepath()
local listed = run(("%s inspect --json %s"):format(program, path))
assert(#listed.tensors == 4 and listed.tensors[2].nbytes == 4 * D_MODEL * D_SAE)
local result = run(("%s convert --json --quiet --dtype %s -o %s %s"):format(program, dtype, folder, path))

local file <close> = assert(ms.open(result.safetensors))
for i, t in ipairs(tensors) do
  local whole <close> = file:tensor(t[1])
  local flat <close> = whole:reshape(-1)
  for place, expected in pairs { [1] = i, [count(t[2])] = -i, [count(t[2]) // 2] = 0 } do
    local one <close> = flat:narrow(1, place, 1)
    local number <close> = one:to { dtype = "f32" }
    assert(number:totable()[1] == expected, t[1])
  end
end
print(("%d bytes inspected and converted to %d bytes of %s"):format(size, result.bytes, dtype))

-- SPDX-License-Identifier: MIT
local checkpoint = require "moonscope.checkpoint"
local convert = require "moonscope.convert"
local json = require "moonscope.json"
local progress = require "moonscope.progress"
local plain = require("moonscope.terminal").plain

local M = {
  summary = "List the tensors and metadata of a checkpoint without loading it.",
  options = { "json", "quiet", "log_level" },
}

function M.configure(parser)
  parser:argument("file", "A .safetensors, .pth, .pt, .npz or .npy file, or the folder of a model.")
  parser:flag("--hash", "The sha256 of each tensor's elements (row-major, little endian).")
end

local function print_json(file, hashes)
  local tensors = {}
  for i, name in ipairs(file:names()) do
    local info = file:info(name)
    local fields = {
      { "name", name }, { "dtype", info.dtype }, { "shape", json.array(info.shape) }, { "nbytes", info.nbytes },
    }
    if hashes then fields[#fields + 1] = { "sha256", hashes[name] } end
    tensors[i] = json.ordered(fields)
  end
  require("moonscope.cli").print_json(json.ordered {
    { "format", file:format() }, { "tensors", json.array(tensors) }, { "metadata", file:metadata() },
  })
end

---Text from a file, fit for a terminal.
local function print_table(file, hashes)
  local width, total, names = 0, 0, file:names()
  for _, name in ipairs(names) do width = math.max(width, utf8.len(plain(name))) end
  for _, name in ipairs(names) do
    local info = file:info(name)
    local shown = plain(name)
    total = total + info.nbytes
    print(("%s%s  %-7s  %-16s  %12d%s"):format(shown, (" "):rep(width - utf8.len(shown)), info.dtype,
      "[" .. table.concat(info.shape, ", ") .. "]", info.nbytes, hashes and "  " .. hashes[name] or ""))
  end
  print(("%s: %d tensors, %d bytes"):format(file:format(), #names, total))
  local metadata, keys = file:metadata(), {}
  for key in pairs(metadata) do keys[#keys + 1] = key end
  table.sort(keys)
  for _, key in ipairs(keys) do print(("  %s = %s"):format(plain(key), plain(metadata[key]))) end
end

local function hash_all(file)
  local bar <close> = progress.bar "hashing"
  return convert.hashes(file, function(done, total) bar:update(done, total, "bytes") end)
end

function M.run(args)
  local file, message = checkpoint.open(args.file)
  if not file then return nil, message end
  local guard <close> = file
  local hashes
  if args.hash then
    hashes, message = hash_all(file)
    if not hashes then return nil, message end
  end
  if args.json then
    print_json(file, hashes)
  else
    print_table(file, hashes)
  end
end

return M

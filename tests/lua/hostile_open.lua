-- SPDX-License-Identifier: MIT
---Run by hostile_spec.lua: opens each path of stdin and reads all of it, and prints a line for each,
---{"ok":bool,"ms":n,"message":text}; last the largest size in memory, in KB.
local convert = require "moonscope.convert"
local json = require "moonscope.json"
local ms = require "moonscope"
local uv = require "luv"

local function read_checkpoint(path)
  local file, message = ms.open(path)
  if not file then return nil, message end
  local guard <close> = file
  return convert.hashes(file)
end

local function read_tokenizer(path)
  local tokenizer, message = ms.load_tokenizer(path)
  if not tokenizer then return nil, message end
  local guard <close> = tokenizer
  tokenizer:encode(("a"):rep(2000) .. " it's 12345 \xff\n <|begin_of_text|>")
  return true
end

---The config of the small model, in a folder of its own.
local function read_config(path)
  local folder = path .. ".folder"
  assert(uv.fs_mkdir(folder, 448))
  assert(uv.fs_link(path, folder .. "/config.json"))
  for _, name in ipairs { "model.safetensors", "tokenizer.json" } do
    assert(uv.fs_symlink(uv.cwd() .. "/examples/tiny/" .. name, folder .. "/" .. name))
  end
  local model, message = ms.load_model(folder)
  if model then model:close() end
  for _, name in ipairs { "config.json", "model.safetensors", "tokenizer.json" } do
    assert(uv.fs_unlink(folder .. "/" .. name))
  end
  assert(uv.fs_rmdir(folder))
  return model and true, message
end

local function read(path)
  if path:find "%.tokenizer%.json$" then return read_tokenizer(path) end
  if path:find "%.config%.json$" then return read_config(path) end
  return read_checkpoint(path)
end

for path in io.lines() do
  local start = uv.hrtime()
  local called, ok, message = pcall(read, path)
  if not called then ok, message = nil, ok end
  print(json.encode { ok = ok and true or false, ms = (uv.hrtime() - start) // 1000000, message = message or "" })
end
print(uv.getrusage().maxrss)

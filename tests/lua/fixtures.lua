-- SPDX-License-Identifier: MIT
---What several specs load.
local json = require "moonscope.json"
local ms = require "moonscope"
local uv = require "luv"

local M = {}

M.model_path = "examples/tiny"
M.sae_path = "examples/tiny/Moonscope-Tiny-Llama-SAE-l3.pth"

function M.read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

function M.write(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  file:close()
end

---An empty folder of its own for a test.
function M.folder()
  local path = os.tmpname()
  os.remove(path)
  assert(os.execute("mkdir " .. path))
  return path
end

function M.remove(path)
  assert(os.execute("rm -rf " .. path))
end

---Names in a folder, sorted; {} where there is none.
function M.names(folder)
  local list, scan = {}, uv.fs_scandir(folder)
  while scan do
    local name = uv.fs_scandir_next(scan)
    if not name then break end
    list[#list + 1] = name
  end
  table.sort(list)
  return list
end

M.golden = assert(json.decode(M.read "tests/fixtures/tiny/golden/golden.json"))

---A copy of examples/tiny with some files changed: name -> text, or false to leave it out.
function M.tiny_copy(changes)
  local folder = M.folder()
  assert(os.execute(("cp %s/*.json %s/model.safetensors %s"):format(M.model_path, M.model_path, folder)))
  for name, text in pairs(changes) do
    if text then
      M.write(folder .. "/" .. name, text)
    else
      os.remove(folder .. "/" .. name)
    end
  end
  return folder
end

---config.json of the tiny model with a text replaced.
function M.config(from, to)
  local text, n = M.read(M.model_path .. "/config.json"):gsub(from, to)
  assert(n == 1, from)
  return text
end

---A model of the tiny one's vocabulary, warm: its work space is there, so that a test that uses it leaves nothing
---new behind.
function M.load_model_at(path, opts)
  local model = assert(ms.load_model(path, opts))
  model:forward { 1275 }
  return model
end

function M.load_model(opts) return M.load_model_at(M.model_path, opts) end

function M.load(opts)
  local model = M.load_model(opts)
  local sae = assert(ms.load_sae(M.sae_path, { model = model }))
  return model, sae
end

return M

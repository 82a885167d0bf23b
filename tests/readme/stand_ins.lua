-- SPDX-License-Identifier: MIT
-- moonscope tests/lua/stand_ins.lua FOLDER: files under the names of those that the README downloads, made of the
-- small model and its autoencoder, and scenario.json, by which tests/hub/mock.mjs serves them.
local json = require "moonscope.json"
local ms = require "moonscope"

local TINY, N_LAYERS = "examples/tiny/", 20 -- the autoencoder reads layer 19
local MODEL, SAE = "meta-llama/Llama-3.1-8B-Instruct", "Goodfire/Llama-3.1-8B-Instruct-SAE-l19"
local SAE_FILE = "Llama-3.1-8B-Instruct-SAE-l19.pth"
local OTHER_FILES = { "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json" }
local COMMIT = ("0123456789abcdef"):rep(3):sub(1, 40)

local folder = assert(arg[1], "stand_ins.lua: a folder expected")

local function read(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read "a"
end

local function write(name, text)
  local file <close> = assert(io.open(folder .. "/" .. name, "wb"))
  assert(file:write(text))
end

---The small model with its layers over and over again.
local function write_model()
  local config = assert(json.decode(read(TINY .. "config.json")))
  local file <close> = assert(ms.open(TINY .. "model.safetensors"))
  local tensors = {}
  for _, name in ipairs(file:names()) do
    local t = file:tensor(name)
    local before, layer, after = name:match "^(model%.layers%.)(%d+)(.*)$"
    if not layer then tensors[name] = t end
    for i = tonumber(layer) or N_LAYERS, N_LAYERS - 1, config.num_hidden_layers do tensors[before .. i .. after] = t end
  end
  assert(ms.save(folder .. "/model.safetensors", tensors))
  config.num_hidden_layers = N_LAYERS
  write("config.json", json.encode(config))
  for _, name in ipairs(OTHER_FILES) do write(name, read(TINY .. name)) end
end

local function repository(names)
  local files = {}
  for _, name in ipairs(names) do
    files[name] = { from = folder .. "/" .. name, lfs = name:find "%.json$" == nil }
  end
  return { commit = COMMIT, refs = { main = COMMIT }, files = files }
end

write_model()
write(SAE_FILE, read(TINY .. "Moonscope-Tiny-Llama-SAE-l3.pth"))
write("scenario.json", json.encode {
  id = 1, repos = {
    [MODEL] = repository { "config.json", "model.safetensors", table.unpack(OTHER_FILES) },
    [SAE] = repository { SAE_FILE },
  },
})

-- SPDX-License-Identifier: MIT
---GET /catalog: what can be loaded. Models and SAE files below the data folders, models in the Hub's cache,
---the SAEs that are known by name.
local uv = require "luv"
local inventory = require "moonscope.hub.inventory"
local json = require "moonscope.json"
local loop = require "moonscope.loop"
local places = require "moonscope.places"
local sae_configs = require "moonscope.sae_configs"
local settings = require "moonscope.hub.settings"

local MAX_DEPTH, MAX_SEEN, MAX_SHOWN = 8, 20000, 500
local TURN = 500 -- entries that are looked at before others get their turn
local MODEL_FILE = "config.json"
local SAE_ENDINGS = { "%.pth$", "%.pt$", "%.npz$", "%.safetensors$" }
-- A model's own weights are no SAE.
local WEIGHTS = {
  "^model%.safetensors$", "^model%-%d+%-of%-%d+%.safetensors$", "^pytorch_model.*%.bin$", "^consolidated",
}

local function matches(name, patterns)
  for _, pattern in ipairs(patterns) do
    if name:find(pattern) then return true end
  end
  return false
end

---As a request may name it again.
local function shown(root, path, is_first) return is_first and path:sub(#root + 2) or path end

local function layer_of(name)
  for _, config in pairs(sae_configs.SAE_CONFIGS) do
    if config.filename == name then return places.layer_of(config.layer) end
  end
  return math.tointeger(tonumber(name:match "^sae_layer_(%d+)%.safetensors$"))
end

local function add_file(found, path, name, as)
  if not matches(name, SAE_ENDINGS) or matches(name, WEIGHTS) then return end
  found.saes[#found.saes + 1] = json.ordered {
    { "path", json.text(as) }, { "bytes", (uv.fs_stat(path) or {}).size }, { "layer_idx", layer_of(name) },
  }
end

local function add_model(found, as)
  found.models[#found.models + 1] = json.ordered { { "model_name", json.text(as) }, { "source", "folder" } }
end

---Names in a folder, sorted, but for hidden ones.
local function names_in(folder)
  local scan, names = uv.fs_scandir(folder), {}
  while scan do
    local name = uv.fs_scandir_next(scan)
    if not name then break end
    if name:sub(1, 1) ~= "." then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

---Walks a folder. A link counts as what it leads to where that lies below the data folders too, as it does when
---a request names it. No folder is walked twice, so links in a circle do no harm.
local function walk(found, folder, depth, name_of)
  for _, name in ipairs(names_in(folder)) do
    local path = folder .. "/" .. name
    local real, kind = found.paths:reach(path)
    found.seen = found.seen + 1
    if found.seen % TURN == 0 then loop.sleep(0) end
    if found.seen > MAX_SEEN or #found.models + #found.saes >= MAX_SHOWN then
      found.truncated = true
      return
    elseif kind == "directory" and depth < MAX_DEPTH and not found.walked[real] then
      found.walked[real] = true
      walk(found, path, depth + 1, name_of)
    elseif name == MODEL_FILE and uv.fs_stat(path) and uv.fs_stat(folder .. "/tokenizer.json") then
      add_model(found, name_of(folder))
    elseif kind == "file" then
      add_file(found, path, name, name_of(path))
    end
  end
end

---Models of the Hub's cache that have a configuration.
local function add_cached(found)
  for _, stored in ipairs(inventory.list(settings.read()) or {}) do
    for _, commit in ipairs(stored.commits) do
      for _, file in ipairs(commit.files) do
        if file.path == MODEL_FILE and #commit.refs > 0 then
          found.models[#found.models + 1] = json.ordered {
            { "model_name", json.text(stored.repo.name) }, { "source", "cache" },
          }
        end
      end
    end
  end
end

local function published()
  local names, list = {}, json.array {}
  for name in pairs(sae_configs.SAE_CONFIGS) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do
    local config = sae_configs.SAE_CONFIGS[name]
    list[i] = json.ordered {
      { "sae_name", name }, { "repo_id", config.repo_id }, { "layer_idx", places.layer_of(config.layer) },
      { "d_model", config.d_model }, { "expansion_factor", config.expansion_factor },
    }
  end
  return list
end

local function catalog(request)
  local found = {
    paths = request.paths, models = json.array {}, saes = json.array {}, walked = {}, seen = 0, truncated = false,
  }
  for i, root in ipairs(request.paths.roots) do
    found.walked[root] = true
    walk(found, root, 1, function(path)
      return path == root and "." or shown(root, path, i == 1)
    end)
  end
  add_cached(found)
  return 200, json.ordered {
    { "models", found.models }, { "saes", found.saes }, { "published", published() },
    { "truncated", found.truncated },
  }
end

return { { "GET", "/catalog", catalog } }

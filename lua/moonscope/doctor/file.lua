-- SPDX-License-Identifier: MIT
---Whether an autoencoder's file is the one that was published, or was converted from it.
local checkpoint = require "moonscope.checkpoint"
local core = require "moonscope.core"
local job = require "moonscope.job"
local json = require "moonscope.json"
local resolve = require "moonscope.hub.resolve"
local sae_configs = require "moonscope.sae_configs"

local M = {}

local BLOCK = 32 << 20 -- bytes that are hashed at a time

---sha256 of a file; nil for one of several files.
local function sha256_of(file, on_progress)
  local size = file:size()
  if not size then return nil end
  local digest <close> = assert(core.digest())
  for first = 0, size - 1, BLOCK do
    local n = math.min(BLOCK, size - first)
    local ok, message, code = job.await(digest:_add_file(file, first, n))
    if not ok then return nil, message, code end
    on_progress(first + n, size, "bytes")
  end
  return digest:text()
end

local function sorted(list)
  local copy = table.move(list, 1, #list, 1, {})
  table.sort(copy)
  return table.concat(copy, ", ")
end

---How to get a known file anew; one in the cache is in the way.
local function refetch(path, entry)
  if not entry.repo_id then return "fetch the file again" end
  local cached = resolve.origin(path) and ("moonscope cache rm %s, then "):format(entry.repo_id) or ""
  return ("fetch the file again: %smoonscope download %s %s"):format(cached, entry.repo_id, entry.filename)
end

---What a published file is, item by item, compared with what SAE_CONFIGS knows of it. Returns what it knows.
local function compare_published(path, file, entry, sha256, differ)
  local remedy, compared = refetch(path, entry), {}
  local function expect(what, found, expected)
    if not expected then return end
    compared[#compared + 1] = what
    if found ~= expected then differ(what, tostring(found), tostring(expected), remedy) end
  end
  local names, bytes, dtypes = file:names(), 0, {}
  for _, name in ipairs(names) do
    local info = file:info(name)
    bytes, dtypes[info.dtype] = bytes + info.nbytes, true
  end
  local found = {}
  for dtype in pairs(dtypes) do found[#found + 1] = dtype end
  expect("tensors", sorted(names), entry.keys and sorted(entry.keys))
  expect("dtype", sorted(found), entry.dtype)
  expect("bytes of the tensors", bytes, sae_configs.payload_bytes(entry))
  expect("bytes of the file", file:size(), entry.size_bytes)
  expect("sha256", sha256, entry.sha256)
  return compared
end

---The metadata of a converted file, {} without.
local function metadata_of(path)
  local meta_path = path:gsub("%.safetensors$", "_metadata.json")
  local metadata = meta_path ~= path and json.read(meta_path)
  return type(metadata) == "table" and metadata or {}
end

local function compare_converted(metadata, entry, name, sha256, differ)
  if type(metadata.sha256) == "string" and metadata.sha256 ~= sha256 then
    differ("sha256", tostring(sha256), metadata.sha256 .. " by its metadata", "convert the SAE again")
  end
  local source = metadata.source_sha256
  if entry and entry.sha256 and type(source) == "string" and source ~= entry.sha256 then
    differ("sha256 of the file it was converted from", source, entry.sha256,
      ("fetch that file again and convert it: moonscope convert %s"):format(name))
  end
end

---{known: the published file's name or nil, sha256, compared: what is known of it, differences}
function M.of(path, on_progress)
  local file, message, code = checkpoint.open(path)
  if not file then return nil, message, code end
  local guard <close> = file
  local sha256
  sha256, message, code = sha256_of(file, on_progress)
  if message then return nil, message, code end
  local differences = {}
  local function differ(what, found, expected, remedy)
    differences[#differences + 1] = { what = what, found = found, expected = expected, remedy = remedy }
  end
  local entry, name = sae_configs.of_file(path)
  local compared = {}
  if entry then
    compared = compare_published(path, file, entry, sha256, differ)
  else
    local metadata = metadata_of(path)
    if type(metadata.source_file) == "string" then entry, name = sae_configs.of_file(metadata.source_file) end
    compare_converted(metadata, entry, name, sha256, differ)
  end
  return { known = name, entry = entry, sha256 = sha256, compared = compared, differences = differences }
end

return M

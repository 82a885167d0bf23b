-- SPDX-License-Identifier: MIT
---Conversion to safetensors, block by block: memory stays flat whatever the size, and the output
---appears only when it is complete. Between two blocks other work gets its turn.
local checkpoint = require "moonscope.checkpoint"
local core = require "moonscope.core"
local job = require "moonscope.job"
local json = require "moonscope.json"
local loader = require "moonscope.loader"
local options = require "moonscope.options"
local places = require "moonscope.places"
local resolve = require "moonscope.hub.resolve"
local sae_configs = require "moonscope.sae_configs"

---@class moonscope.convert
local M = {}

local BLOCK = 32 << 20 -- bytes

local FLOAT_SIZES = { f64 = 8, f32 = 4, f16 = 2, bf16 = 2, f8_e4m3 = 1, f8_e5m2 = 1 }

local add_file = job.wrap(core.types.Digest._add_file)
local add_tensor = job.wrap(core.types.Digest._add_tensor)

---How to convert, and what the file of an autoencoder leaves open (sae).
---@class moonscope.convert.Options
---@field dtype? string  what float tensors become; as they are without it
---@field on_progress? fun(done: integer, total: integer)  bytes
---@field output? string  (sae) folder, "." unless given
---@field layer? integer|string  (sae) where neither the file nor SAE_CONFIGS tell
---@field format? string  (sae) where the tensors fit several
---@field activation? string  (sae) where the file does not say: "topk", "batchtopk:64"
---@field input_scale? number  (sae) where the file does not say

local function check_dtype(dtype)
  if dtype == nil or FLOAT_SIZES[dtype] then return true end
  return nil, ("dtype: found %s, expected f64, f32, f16, bf16, f8_e4m3 or f8_e5m2"):format(tostring(dtype)), "EDTYPE"
end

-- Blocks

---How many bytes a block of a tensor has: whole elements, and no more than BLOCK after conversion.
local function block_of(info, dtype)
  local from = FLOAT_SIZES[info.dtype]
  if from and dtype then return BLOCK // math.max(from, FLOAT_SIZES[dtype]) * from end
  return BLOCK -- a multiple of every element size
end

---Calls step(first, size) for each block of `total` bytes until one fails.
local function each_block(total, block, progress, step)
  for first = 0, total - 1, block do
    local size = math.min(block, total - first)
    local ok, message, code = step(first, size)
    if not ok then return nil, message, code end
    progress(size)
  end
  return true
end

---A function that counts bytes up to total for on_progress.
local function counter(total, on_progress)
  local done = 0
  return function(size)
    done = done + size
    if on_progress then on_progress(done, total) end
  end
end

-- Plans: what each tensor of the output is made of, {name, dtype, shape, nbytes} with a `source` name in the
-- file or, where it is computed, a `tensor`.

local function plan_of(file, name, source, dtype)
  local info = file:info(source)
  local converted = FLOAT_SIZES[info.dtype] and dtype or nil
  return {
    name = name, dtype = converted or info.dtype, shape = info.shape, nbytes = info.nbytes,
    source = source, info = info, converted = converted,
  }
end

---The bytes of a file, to be hashed in pieces beside other work: take(size) -> first, size of the next one.
local function hashing(file)
  local done, total = 0, file:size()
  return {
    digest = assert(core.digest()),
    take = function(size)
      local first = done
      done = math.min(done + size, total)
      return first, done - first
    end,
  }
end

---A computed or transposed tensor, in blocks of rows.
local function write_tensor(writer, plan, progress)
  local n_rows = plan.shape[1] or 1
  local row_size = n_rows > 0 and plan.nbytes // n_rows or 0
  local step = math.max(1, row_size > 0 and BLOCK // row_size or n_rows)
  for first = 1, n_rows, step do
    local n = math.min(step, n_rows - first + 1)
    local rows <close> = plan.tensor:narrow(1, first, n)
    local ok, message, code = writer:write(rows, plan.dtype)
    if not ok then return nil, message, code end
    progress(n * row_size)
  end
  return true
end

---hasher: the source file's, or nil
local function write_plan(writer, file, plan, hasher, progress)
  if plan.tensor then return write_tensor(writer, plan, progress) end
  local block = block_of(plan.info, plan.converted)
  return each_block(plan.info.nbytes, block, progress, function(first, size)
    if not hasher then return writer:copy(file, plan.source, first, size, plan.converted) end
    return writer:copy(file, plan.source, first, size, plan.converted, hasher.digest, hasher.take(size))
  end)
end

local function total_of(plans)
  local total = 0
  for _, plan in ipairs(plans) do total = total + plan.nbytes end
  return total
end

---What is wrong with the tensor itself names it: a number that its new dtype has not.
local function in_tensor(file, plan, message, code)
  return code == "ERANGE" and ("%s: %s: %s"):format(file:path(), plan.source or plan.name, message) or message
end

---Writes and seals; the sha256.
local function write_all(writer, file, plans, hasher, progress)
  for _, i in ipairs(writer:order()) do
    local ok, message, code = write_plan(writer, file, plans[i], hasher, progress)
    if not ok then return nil, in_tensor(file, plans[i], message, code), code end
  end
  return writer:seal()
end

-- A checkpoint as it is

local function copy_all(file, output, opts)
  local plans = {}
  for i, name in ipairs(file:names()) do plans[i] = plan_of(file, name, name, opts.dtype) end
  local writer, message, code = core.writer(output, plans, file:metadata())
  if not writer then return nil, message, code end
  local guard <close> = writer
  local sha256, ok
  sha256, message, code = write_all(writer, file, plans, nil, counter(total_of(plans), opts.on_progress))
  if not sha256 then return nil, message, code end
  ok, message, code = writer:publish()
  if not ok then return nil, message, code end
  return { safetensors = output, tensors = #plans, bytes = writer:size(), sha256 = sha256 }
end

local checkpoint_options = options.names("dtype", "on_progress")

---Every tensor of a checkpoint, nothing interpreted; its metadata come along.
---@param path string
---@param output string  a .safetensors file
---@param opts? moonscope.convert.Options
---@return {safetensors: string, tensors: integer, bytes: integer, sha256: string}?
---@return string? message
---@return string? code
function M.checkpoint(path, output, opts)
  opts = options.check("convert", opts, checkpoint_options)
  local ok, file, message, code
  ok, message, code = check_dtype(opts.dtype)
  if not ok then return nil, message, code end
  file, message, code = checkpoint.open(path)
  if not file then return nil, message, code end
  local guard <close> = file
  return copy_all(file, output, opts)
end

-- A sparse autoencoder

---The layer: the list's, else the file's own, else the caller's; two that differ are refused.
local function layer_of(source, entry, layer)
  local given, message, code
  if layer ~= nil then
    given, message, code = sae_configs.parse_layer(layer)
    if not given then return nil, message, code end
  end
  local known, by = entry and entry.layer, "SAE_CONFIGS"
  local own = source.own_layer and ("model.layers.%d"):format(source.own_layer)
  if known and own and known ~= own then
    return nil, ("%s: reads %s by SAE_CONFIGS, but %s by its config"):format(source.path, known, own), "EINVAL"
  end
  if not known and own then known, by = own, "its config" end
  if known and given and known ~= given then
    return nil, ("%s: reads %s by %s, but --layer says %s"):format(source.path, known, by, given), "EINVAL"
  end
  if known or given then return known or given end
  return nil, ("%s: not a file of SAE_CONFIGS, so its layer is unknown: give --layer N"):format(source.path), "EINVAL"
end

---Canonical parts under Goodfire's names, in the orientation of nn.Linear.
local NAMES = {
  w_enc = "encoder_linear.weight", b_enc = "encoder_linear.bias",
  w_dec = "decoder_linear.weight", b_dec = "decoder_linear.bias",
  threshold = "threshold", gate_bias = "gate_bias", mag_bias = "mag_bias", r_mag = "r_mag", skip = "skip.weight",
}

---A stored tensor goes bit by bit, unless it lies the other way round or is made of others.
local function plan_part(source, key, part, dtype)
  local name, transposed = NAMES[key], not part.transposed == (key == "w_dec")
  if not part.map and not transposed then return plan_of(source.file, name, part[1], dtype) end
  local t = loader.tensor(source.file, part)
  if key == "w_dec" then t = t:t() end
  local info = source.file:info(part[1])
  local kept = part.dtype or info.dtype
  local target = FLOAT_SIZES[kept] and dtype or kept
  return { name = name, dtype = target, shape = t:shape(), nbytes = t:numel() * FLOAT_SIZES[target], tensor = t }
end

local function plans_of(source, dtype)
  local plans = {}
  for key, part in pairs(source.tensors) do plans[#plans + 1] = plan_part(source, key, part, dtype) end
  table.sort(plans, function(a, b) return a.name < b.name end)
  return plans
end

---sha256 of the file itself, once what is left of it is hashed too.
local function finish(hasher, file)
  local first, size = hasher.take(file:size())
  local ok, message, code = each_block(size, BLOCK, function() end, function(offset, n)
    return add_file(hasher.digest, file, first + offset, n)
  end)
  if not ok then return nil, message, code end
  return hasher.digest:text()
end

---What the formula has beyond the four tensors of a ReLU autoencoder; left out where it has not.
local EXTRAS = {
  "k", "threshold", "subtract_b_dec", "input_scale", "output_scale", "decoder_norm", "normalisation", "output",
}

---The metadata file: the same keys in the same order for every SAE, null where nothing is known.
local function metadata_text(facts)
  local source = facts.source
  local fields = {
    { "layer_idx", places.layer_of(facts.layer) },
    { "layer", facts.layer },
    { "input_dim", source.d_model },
    { "latent_dim", source.d_sae },
    { "expansion_factor", facts.expansion_factor },
    { "tied_weights", source.tensors.w_dec == nil },
    { "activation_fn", source.activation },
    { "dtype", facts.dtype },
    { "source", facts.entry and facts.entry.repo_id or facts.repo },
    { "source_revision", facts.commit },
    { "source_file", source.path:match "[^/]*$" },
    { "source_sha256", facts.source_sha256 },
    { "sha256", facts.sha256 },
    { "hook", source.hook },
  }
  for _, name in ipairs(EXTRAS) do
    if source[name] then fields[#fields + 1] = { name, source[name] } end
  end
  fields[#fields + 1] = { "format_version", 1 }
  fields[#fields + 1] = { "created_by", "moonscope " .. core.version }
  return json.encode(json.ordered(fields), { indent = 2 }) .. "\n"
end

---What the tensors say, checked against the entry.
local function check_entry(source, entry)
  if not source.file:size() then return nil, source.path .. ": in several files, expected one", "EUNSUPPORTED" end
  if entry and entry.d_model ~= source.d_model then
    return nil, ("%s: d_model: found %d, expected %d"):format(source.path, source.d_model, entry.d_model), "ESHAPE"
  end
  if entry and entry.expansion_factor * source.d_model ~= source.d_sae then
    return nil, ("%s: d_sae: found %d, expected %s times d_model %d"):format(source.path, source.d_sae,
      entry.expansion_factor, source.d_model), "ESHAPE"
  end
  return true
end

local function join(folder, name)
  if folder == "." then return name end
  return (folder:gsub("/+$", "")) .. "/" .. name
end

---Makes the folder that was asked for; where that fails, opening the file in it says why.
local function make_folder(folder)
  local uv = require "luv"
  if not uv.fs_stat(folder) then core.make_folder(folder:match "^(.-)/*$") end
end

---Writes both files from an open one; they appear together.
local function write_sae(facts, opts)
  local file = facts.source.file
  local stem = join(opts.output or ".", ("sae_layer_%d"):format(places.layer_of(facts.layer)))
  local safetensors, metadata = stem .. ".safetensors", stem .. "_metadata.json"
  local plans = plans_of(facts.source, opts.dtype)
  if opts.output then make_folder(opts.output) end
  local writer, message, code = core.writer(safetensors, plans, {})
  if not writer then return nil, message, code end
  local guard <close> = writer
  local hasher = hashing(file)
  facts.sha256, message, code = write_all(writer, file, plans, hasher, counter(total_of(plans), opts.on_progress))
  if not facts.sha256 then return nil, message, code end
  facts.source_sha256, message, code = finish(hasher, file)
  if not facts.source_sha256 then return nil, message, code end
  for _, plan in ipairs(plans) do
    if plan.name == NAMES.w_enc then facts.dtype = plan.dtype end
  end
  local ok
  ok, message, code = writer:publish(metadata, metadata_text(facts))
  if not ok then return nil, message, code end
  return {
    safetensors = safetensors, metadata = metadata, tensors = #plans, bytes = writer:size(), sha256 = facts.sha256,
  }
end

local function warning_of(path, entry, sha256)
  if not entry or not entry.sha256 or entry.sha256 == sha256 then return nil end
  return ("%s: sha256 is %s, expected %s: not the file that SAE_CONFIGS knows"):format(path, sha256, entry.sha256)
end

local function convert_sae(source, entry, opts)
  local ok, layer, result, message, code
  ok, message, code = check_entry(source, entry)
  if not ok then return nil, message, code end
  layer, message, code = layer_of(source, entry, opts.layer)
  if not layer then return nil, message, code end
  local ratio = source.d_sae / source.d_model
  local facts = { source = source, entry = entry, layer = layer, expansion_factor = math.tointeger(ratio) or ratio }
  facts.repo, facts.commit = resolve.origin(source.path)
  result, message, code = write_sae(facts, opts)
  if not result then return nil, message, code end
  result.warning = warning_of(source.path, entry, facts.source_sha256)
  return result
end

local sae_options = options.names("dtype", "on_progress", "output", "layer", "format", "activation", "input_scale")

---A sparse autoencoder of any known format into sae_layer_<L>.safetensors and sae_layer_<L>_metadata.json.
---Tensors are copied as they are, under Goodfire's names and in Goodfire's orientation; what else the
---formula has (a scale, a norm) stands in the metadata and is applied when the pair is loaded.
---@param name_or_path string  a path, a name of SAE_CONFIGS (its file in the working directory, else from the
---  Hub), or "ns/name" of the Hub
---@param opts? moonscope.convert.Options
---@return {safetensors: string, metadata: string, tensors: integer, bytes: integer, sha256: string,
---  warning: string?}?
---@return string? message
---@return string? code
function M.sae(name_or_path, opts)
  opts = options.check("convert", opts, sae_options)
  local ok, source, message, code
  ok, message = sae_configs.check(sae_configs.SAE_CONFIGS)
  if not ok then return nil, message, "EINVAL" end
  ok, message, code = check_dtype(opts.dtype)
  if not ok then return nil, message, code end
  local path, entry
  path, message, code = resolve.sae(name_or_path, { on_progress = opts.on_progress })
  if not path then return nil, message, code end
  entry = sae_configs.SAE_CONFIGS[name_or_path] or sae_configs.of_file(path)
  source, message, code = loader.open(path, {
    format = opts.format, activation = opts.activation, input_scale = opts.input_scale, layer = opts.layer,
    entry = entry,
  })
  if not source then return nil, message, code end
  local guard <close> = source.file
  return convert_sae(source, entry, opts)
end

-- Hashes

---sha256 of each tensor's elements, row-major and little endian, as { name = hex }: equal on both sides
---of a conversion.
---@param file moonscope.Checkpoint
---@param on_progress? fun(done: integer, total: integer)  bytes
---@return table<string, string>?
---@return string? message
---@return string? code
function M.hashes(file, on_progress)
  local infos, hashes = {}, {}
  for _, name in ipairs(file:names()) do infos[#infos + 1] = { name = name, nbytes = file:info(name).nbytes } end
  local progress = counter(total_of(infos), on_progress)
  for _, info in ipairs(infos) do
    local digest <close> = assert(core.digest())
    local ok, message, code = each_block(info.nbytes, BLOCK, progress, function(first, size)
      return add_tensor(digest, file, info.name, first, size)
    end)
    if not ok then return nil, message, code end
    hashes[info.name] = digest:text()
  end
  return hashes
end

return M

-- SPDX-License-Identifier: MIT
---Conversion to safetensors, block by block: memory stays flat whatever the size, and the output
---appears only when it is complete. Between two blocks other work gets its turn.
local checkpoint = require "moonscope.checkpoint"
local core = require "moonscope.core"
require "moonscope.tensor" -- the sum of two biases
local job = require "moonscope.job"
local json = require "moonscope.json"
local options = require "moonscope.options"
local resolve = require "moonscope.hub.resolve"
local sae_configs = require "moonscope.sae_configs"
local sae_format = require "moonscope.sae_format"

local M = {}

local BLOCK = 32 << 20 -- bytes

local FLOAT_SIZES = { f64 = 8, f32 = 4, f16 = 2, bf16 = 2, f8_e4m3 = 1, f8_e5m2 = 1 }

local add_file = job.wrap(core.types.Digest._add_file)
local add_tensor = job.wrap(core.types.Digest._add_tensor)

---@class moonscope.convert.Options
---@field dtype? string  what float tensors become; as they are without it
---@field on_progress? fun(done: integer, total: integer)  bytes
---@field output? string  (sae) folder, "." unless given
---@field layer? integer|string  (sae) where the file is not one of SAE_CONFIGS

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

---hasher: the source file's, or nil
local function write_plan(writer, file, plan, hasher, progress)
  if plan.tensor then
    local ok, message, code = writer:write(plan.tensor)
    if ok then progress(plan.nbytes) end
    return ok, message, code
  end
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

---Writes and seals; the sha256.
local function write_all(writer, file, plans, hasher, progress)
  for _, i in ipairs(writer:order()) do
    local ok, message, code = write_plan(writer, file, plans[i], hasher, progress)
    if not ok then return nil, message, code end
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

local function layer_of(path, entry, layer)
  local given, message, code
  if layer ~= nil then
    given, message, code = sae_configs.parse_layer(layer)
    if not given then return nil, message, code end
  end
  local known = entry and entry.layer
  if known and given and known ~= given then
    return nil, ("%s: reads %s by SAE_CONFIGS, but --layer says %s"):format(path, known, given), "EINVAL"
  end
  if known or given then return known or given end
  return nil, ("%s: not a file of SAE_CONFIGS, so its layer is unknown: give --layer N"):format(path), "EINVAL"
end

---The names of Goodfire's files are kept; the workbench's get them.
local sources = {
  goodfire = {
    ["encoder_linear.weight"] = "encoder_linear.weight", ["encoder_linear.bias"] = "encoder_linear.bias",
    ["decoder_linear.weight"] = "decoder_linear.weight", ["decoder_linear.bias"] = "decoder_linear.bias",
  },
  workbench = {
    ["encoder_linear.weight"] = "encoder.weight", ["encoder_linear.bias"] = "encoder.bias",
    ["decoder_linear.weight"] = "decoder.weight", ["decoder_linear.bias"] = "decoder_bias",
  },
}

---An untied workbench decoder adds two biases: one tensor, in the dtype of the first.
local function add_biases(plan, file)
  local bias <close> = file:tensor "decoder_bias"
  local more <close> = file:tensor "decoder.bias"
  local sum <close> = bias + more
  plan.tensor = sum:to { dtype = plan.dtype }
end

local function plans_of(file, format, dtype)
  local plans = {}
  for name, source in pairs(sources[format.name]) do
    if file:info(source) then plans[#plans + 1] = plan_of(file, name, source, dtype) end
  end
  table.sort(plans, function(a, b) return a.name < b.name end)
  if format.name == "workbench" and not format.tied then add_biases(plans[1], file) end
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

---The metadata file: the same keys in the same order for every SAE, null where nothing is known.
local function metadata_text(facts)
  return json.encode(json.ordered {
    { "layer_idx", math.tointeger(facts.layer:match "%d+$") },
    { "layer", facts.layer },
    { "input_dim", facts.format.d_model },
    { "latent_dim", facts.format.d_sae },
    { "expansion_factor", facts.expansion_factor },
    { "tied_weights", facts.format.tied },
    { "activation_fn", "relu" },
    { "dtype", facts.dtype },
    { "source", facts.entry and facts.entry.repo_id or facts.repo },
    { "source_revision", facts.commit },
    { "source_file", facts.path:match "[^/]*$" },
    { "source_sha256", facts.source_sha256 },
    { "sha256", facts.sha256 },
    { "hook", facts.layer },
    { "format_version", 1 },
    { "created_by", "moonscope " .. core.version },
  }, { indent = 2 }) .. "\n"
end

---What the tensors say, checked against the entry.
local function measure(file, path, entry)
  local format, message, code = sae_format.recognise(file)
  if not format then return nil, path .. ": " .. message, code end
  if not file:size() then return nil, path .. ": in several files, expected one", "EUNSUPPORTED" end
  if entry and entry.d_model ~= format.d_model then
    return nil, ("%s: d_model: found %d, expected %d"):format(path, format.d_model, entry.d_model), "ESHAPE"
  end
  if entry and entry.expansion_factor * format.d_model ~= format.d_sae then
    return nil, ("%s: d_sae: found %d, expected %s times d_model %d"):format(path, format.d_sae,
      entry.expansion_factor, format.d_model), "ESHAPE"
  end
  return format
end

local function join(folder, name)
  if folder == "." then return name end
  return (folder:gsub("/+$", "")) .. "/" .. name
end

---Makes the folder that was asked for; where that fails, opening the file in it says why.
local function make_folder(folder)
  local uv = require "luv"
  if not uv.fs_stat(folder) then uv.fs_mkdir(folder, tonumber("777", 8)) end
end

---Writes both files from an open one; they appear together.
local function write_sae(file, facts, opts)
  local stem = join(opts.output or ".", ("sae_layer_%s"):format(facts.layer:match "%d+$"))
  local safetensors, metadata = stem .. ".safetensors", stem .. "_metadata.json"
  local plans = plans_of(file, facts.format, opts.dtype)
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
    if plan.name == "encoder_linear.weight" then facts.dtype = plan.dtype end
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

local function convert_sae(file, path, entry, opts)
  local format, layer, result, message, code
  format, message, code = measure(file, path, entry)
  if not format then return nil, message, code end
  layer, message, code = layer_of(path, entry, opts.layer)
  if not layer then return nil, message, code end
  local ratio = format.d_sae / format.d_model
  local facts = {
    path = path, entry = entry, format = format, layer = layer, expansion_factor = math.tointeger(ratio) or ratio,
  }
  facts.repo, facts.commit = resolve.origin(path)
  result, message, code = write_sae(file, facts, opts)
  if not result then return nil, message, code end
  result.warning = warning_of(path, entry, facts.source_sha256)
  return result
end

local sae_options = options.names("dtype", "on_progress", "output", "layer")

---A sparse autoencoder into sae_layer_<L>.safetensors and sae_layer_<L>_metadata.json. Tensors are
---copied as they are, under Goodfire's names.
---@param name_or_path string  a path, a name of SAE_CONFIGS (its file in the working directory, else from the
---  Hub), or "ns/name" of the Hub
---@param opts? moonscope.convert.Options
---@return {safetensors: string, metadata: string, tensors: integer, bytes: integer, sha256: string,
---  warning: string?}?
---@return string? message
---@return string? code
function M.sae(name_or_path, opts)
  opts = options.check("convert", opts, sae_options)
  local ok, file, message, code
  ok, message = sae_configs.check(sae_configs.SAE_CONFIGS)
  if not ok then return nil, message, "EINVAL" end
  ok, message, code = check_dtype(opts.dtype)
  if not ok then return nil, message, code end
  local path
  path, message, code = resolve.sae(name_or_path, { on_progress = opts.on_progress })
  if not path then return nil, message, code end
  file, message, code = checkpoint.open(path)
  if not file then return nil, message, code end
  local guard <close> = file
  return convert_sae(file, path, sae_configs.SAE_CONFIGS[name_or_path] or sae_configs.of_file(path), opts)
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

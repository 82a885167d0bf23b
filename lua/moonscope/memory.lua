-- SPDX-License-Identifier: MIT
---What models and autoencoders take of a device's memory, known before anything is loaded.
local core = require "moonscope.core"
local job = require "moonscope.job"

local M = {}

local SIZES = { f32 = 4, f16 = 2, bf16 = 2 }

---Bytes free on a device, and all that it has.
---@param device string  "cpu", "cuda:0", "auto"
---@return integer? free
---@return integer|string total  or what is wrong
---@return string? code
function M.of_device(device) return job.insist(core.memory, device) end

---The same of the machine, without waiting for the compute thread: what the control groups leave counts.
---@return integer? free
---@return integer|string total  or what is wrong
---@return string? code
function M.of_host() return core.host_memory() end

---A model's config and needs; nothing is loaded.
---@param folder string
---@param opts {device: string?, precision: string?, context: integer?}
---@return table? plan  config as model.config, and context, parameters, dtype, kv_dtype, device, weights_bytes,
---  mapped_bytes (of these: stay in the file), token_bytes (keys and values of one token), context_bytes,
---  allocated_bytes, free_bytes, total_bytes
---@return string? message
---@return string? code
function M.of_model(folder, opts)
  return job.insist(core.plan_llama, folder, opts.device or "auto", opts.precision or "fast", opts.context or 0)
end

---Whether the core takes a stored matrix as it lies in the file.
local function stays(file, part, dtype)
  return not part.map and not part.transposed and file:info(part[1]).dtype == dtype
end

---Bytes of an autoencoder's matrices, and how many of them are allocated. Its vectors are small.
---@param source moonscope.Source
---@param device string
---@param dtype string
---@return integer weights_bytes
---@return integer allocated_bytes
function M.of_sae(source, device, dtype)
  local all, allocated = 0, 0
  for _, name in ipairs { "w_enc", "w_dec" } do
    local part = source.tensors[name]
    local bytes = part and source.d_sae * source.d_model * SIZES[dtype] or 0
    all = all + bytes
    if part and not (device == "cpu" and stays(source.file, part, dtype)) then allocated = allocated + bytes end
  end
  return all, allocated
end

---What is known of an autoencoder's file beside a model; nothing of it is loaded.
---@param path string
---@param open {format: string?, activation: string?, input_scale: number?, layer: integer|string|nil}
---@param device string
---@param model_dtype string  which it follows
---@param dtype string?  that is asked for instead: "f32", ..., "file"
---@return table? sae  path, format, activation, d_sae, d_model, layer, hook, tied, file_dtype, dtype, weights_bytes,
---  allocated_bytes
---@return string? message
---@return string? code
function M.of_sae_file(path, open, device, model_dtype, dtype)
  local source, message, code = require("moonscope.loader").open(path, open)
  if not source then return nil, message, code end
  local guard <close> = source.file
  local file_dtype = source.file:info(source.tensors.w_enc[1]).dtype
  local sae = {
    path = path, format = source.format, activation = source.activation, d_sae = source.d_sae, d_model = source.d_model,
    layer = source.layer, hook = source.hook, file_dtype = file_dtype, tied = source.tensors.w_dec == nil,
  }
  sae.dtype = dtype == "file" and file_dtype or dtype or model_dtype
  sae.weights_bytes, sae.allocated_bytes = M.of_sae(source, device, sae.dtype)
  return sae
end

---"16.00 GiB"
---@param bytes integer
---@return string
function M.text(bytes)
  if bytes < 1 << 20 then return ("%.1f KiB"):format(bytes / (1 << 10)) end
  if bytes < 1 << 30 then return ("%.1f MiB"):format(bytes / (1 << 20)) end
  return ("%.2f GiB"):format(bytes / (1 << 30))
end

---nil, message, code where a device has no room for an autoencoder.
---@param source moonscope.Source
---@param device string
---@param dtype string
---@return true?
---@return string? message
---@return string? code
function M.check_sae(source, device, dtype)
  if not SIZES[dtype] then return true end -- the core refuses it
  local _, needed = M.of_sae(source, device, dtype)
  local free, message, code = M.of_device(device)
  if not free then return nil, message, code end
  if needed <= free then return true end
  local remedy = dtype == "f32" and "load it in bf16 (--sae-dtype bf16), or free some" or "free some"
  local text = "%s: the SAE needs %s in %s, %s are free: %s"
  return nil, text:format(device, M.text(needed), dtype, M.text(free), remedy), "ENOMEM"
end

return M

-- SPDX-License-Identifier: MIT
---Files of named tensors: `ms.open` reads their headers, `ms.save` writes safetensors.
local core = require "moonscope.core"
local job = require "moonscope.job"
local options = require "moonscope.options"

---@class moonscope.checkpoint
local M = {}

---@class moonscope.Checkpoint
local Checkpoint = core.types.Checkpoint
local Writer = core.types.Writer

---Opens .safetensors, .pth, .pt, .bin, .npz or .npy by its content, or a folder with model.safetensors,
---pytorch_model.bin or an index of either. Only headers are read.
---@param path string
---@return moonscope.Checkpoint?
---@return string? message
---@return string? code
M.open = core.open

-- path, format, size, names, info, metadata and close are the core's own.

---A tensor over the bytes of the file, which stay mapped as long as it lives.
---@param name string
---@return moonscope.Tensor
function Checkpoint:tensor(name)
  return job.await(self:_tensor(name))
end

Writer.write = job.wrap(Writer._write)
Writer.copy = job.wrap(Writer._copy)
Writer.seal = job.wrap(Writer._seal)
Writer.publish = job.wrap(Writer._publish)

local save_options = options.names "metadata"

local function sorted_names(tensors)
  local names = {}
  for name in pairs(tensors) do
    if type(name) ~= "string" then
      error(("save: a name is a %s, expected text"):format(type(name)), 3)
    end
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

---Writes tensors into a safetensors file, which appears at `path` only when it is complete.
---@param path string
---@param tensors table<string, moonscope.Tensor>
---@param opts? {metadata: table<string, string>}
---@return true?
---@return string? message
---@return string? code
function M.save(path, tensors, opts)
  opts = options.check("save", opts, save_options)
  local names, plans = sorted_names(tensors), {}
  for i, name in ipairs(names) do
    plans[i] = { name = name, dtype = tensors[name]:dtype(), shape = tensors[name]:shape() }
  end
  local writer, message, code = core.writer(path, plans, opts.metadata or {})
  if not writer then return nil, message, code end
  local guard <close> = writer
  for _, i in ipairs(writer:order()) do
    local ok
    ok, message, code = writer:write(tensors[names[i]])
    if not ok then return nil, message, code end
  end
  local sha256
  sha256, message, code = writer:seal()
  if not sha256 then return nil, message, code end
  return writer:publish()
end

return M

-- SPDX-License-Identifier: MIT
---Loading a Llama with its tokenizer.
local uv = require "luv"
local core = require "moonscope.core"
local job = require "moonscope.job"
local options = require "moonscope.options"
local tokenizer = require "moonscope.tokenizer"

require "moonscope.forward"
require "moonscope.generate"

---@class moonscope.model
local M = {}

local OPTIONS = options.names("device", "precision", "context")

---The job that loads the tokenizer of a folder, and what gives its result; nil where there is none.
local function begin_tokenizer(path)
  if uv.fs_lstat(path .. "/tokenizer.json") then return tokenizer._begin(path) end
end

local function close(object)
  if object then object:close() end
end

---Loads a folder with config.json, safetensors and (unless only ids are used) tokenizer.json, or a model
---of the Hub, downloaded on first use. Weights stay in their dtype, in place in the mapped file.
---@param name string  a folder, "ns/name" or "ns/name@revision"
---@param opts {device: "auto"|"cpu"|nil, precision: "fast"|"exact"|nil, context: integer?}?
---@return moonscope.Llama? model  with .config, .tokenizer (nil without a tokenizer.json), .path
---@return string? message
---@return string? code
function M.load_model(name, opts)
  opts = options.check("load_model", opts, OPTIONS)
  options.check_text("load_model", "path", name)
  local path, model, message, code
  path, message, code = require("moonscope.hub.resolve").model(name)
  if not path then return nil, message, code end
  local beside <close>, read_tokenizer = begin_tokenizer(path)
  model, message, code =
    job.insist(core.load_llama, path, opts.device or "auto", opts.precision or "fast", opts.context or 0)
  if not model then
    if beside then close(read_tokenizer()) end
    return nil, message, code
  end
  local fields = core.fields(model)
  fields.path, fields.config = path, model:_config()
  if beside then
    fields.tokenizer, message, code = read_tokenizer()
    if not fields.tokenizer then
      model:close()
      return nil, message, code
    end
  end
  return model
end

return M

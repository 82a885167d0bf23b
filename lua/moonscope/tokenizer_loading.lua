-- SPDX-License-Identifier: MIT
---How a tokenizer is read: by itself, or beside a model's weights.
local core = require "moonscope.core"
local await = require("moonscope.job").await
local json = require "moonscope.json"

local M = {}

---The chat template of a tokenizer_config.json; nil without the file or the template.
---@return string? template
---@return string? message  the file is there but broken
---@return string? code
local function read_template(path)
  local config, message, code = json.read(path)
  if not config and code == "ENOENT" then return nil end
  if not config then return nil, message, code end
  local template = type(config) == "table" and config.chat_template
  if type(template) == "table" then -- several, by name
    for _, named in ipairs(template) do
      if named.name == "default" then template = named.template end
    end
  end
  return type(template) == "string" and template or nil
end

---A tokenizer with its chat template.
---@param folder string
---@param tokenizer moonscope.Tokenizer?  of a job, with its message and code
function M.with_template(folder, tokenizer, message, code)
  if not tokenizer then return nil, message, code end
  local fields = core.fields(tokenizer)
  fields.chat_template, message, code = read_template(folder .. "/tokenizer_config.json")
  if message then
    tokenizer:close()
    return nil, message, code
  end
  return tokenizer
end

---Begins to load the tokenizer.json in a folder: what the function that it returns gives once called, as
---load_tokenizer does. Beside it other work goes on.
---@param folder string
---@return userdata job  to be closed
---@return fun(): moonscope.Tokenizer?, string?, string?
function M.begin(folder)
  local job = core.load_tokenizer(folder .. "/tokenizer.json")
  return job, function() return M.with_template(folder, await(job)) end
end

return M

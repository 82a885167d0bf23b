-- SPDX-License-Identifier: MIT
---Downloads from the Hugging Face Hub, into the cache that huggingface_hub uses too.
local options = require "moonscope.options"

---@class moonscope.hub
local M = {}

local OPTIONS = options.names("files", "on_progress", "retry_delay", "revision")

local function check_files(files)
  if type(files) ~= "table" then error("download: files: expected a list of names", 3) end
  for _, file in ipairs(files) do options.check_text("download", "files", file) end
end

---Repository, revision and files by their names; nil, message, code where one cannot be.
local function parse(name, opts)
  local names = require "moonscope.hub.names"
  local id, its_revision = names.split(name)
  local repo, message, code = names.repo(id)
  if not repo then return nil, message, code end
  local revision
  revision, message, code = names.revision(opts.revision or its_revision or "main")
  if not revision then return nil, message, code end
  for _, file in ipairs(opts.files or {}) do
    local ok
    ok, message, code = names.file(file)
    if not ok then return nil, message, code end
  end
  return { repo = repo, revision = revision }
end

---Downloads files of a repository, or without `files` what moonscope needs of it: of a model the
---configuration, tokenizer and safetensors. What the cache has already is not fetched again.
---@param name string  "ns/name", "datasets/ns/name", "ns/name@revision"
---@param opts {files: string[]?, revision: string?, retry_delay: number?, on_progress: fun(done: integer, total: integer)?}?
---@return string[]? paths  in the cache, in the order of `files`
---@return string? message
---@return string? code  "ENOENT", "EACCES", "ENET", "EHASH", "EIO", ...
function M.download(name, opts)
  opts = options.check("download", opts, OPTIONS)
  options.check_text("download", "name", name)
  if opts.files ~= nil then check_files(opts.files) end
  local delay = opts.retry_delay
  if delay ~= nil and not (math.type(delay) and delay >= 0) then
    error(("download: retry_delay: found %s, expected seconds from 0"):format(tostring(delay)), 2)
  end
  local asked, message, code = parse(name, opts)
  if not asked then return nil, message, code end
  local run, snapshot = require "moonscope.hub.run", require "moonscope.hub.snapshot"
  if opts.files and #opts.files > 0 then
    return run.with(opts, snapshot.named, asked.repo, asked.revision, opts.files)
  end
  return run.with(opts, snapshot.all, asked.repo, asked.revision)
end

return M

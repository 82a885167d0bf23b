-- SPDX-License-Identifier: MIT
local json = require "moonscope.json"
local progress = require "moonscope.progress"

local M = {
  summary = "Download from the Hugging Face Hub into its cache.",
  options = { "json", "quiet", "log_level" },
}

function M.configure(parser)
  parser:argument("repo", "NAMESPACE/NAME, with datasets/ in front of a data set's and @REVISION behind "
    .. "(default: main).")
  parser:argument("files", "Files of it (default: of a model its configuration, tokenizer and safetensors; of what "
    .. "else has safetensors these and what describes them)."):args "*"
end

---Each name once.
local function unique(list)
  local kept, seen = {}, {}
  for _, name in ipairs(list) do
    if not seen[name] then kept[#kept + 1], seen[name] = name, true end
  end
  return kept
end

function M.run(args)
  local ms = require "moonscope"
  local paths, message = progress.run("downloading", ms.download, args.repo, { files = unique(args.files) })
  if not paths then return nil, message end
  if args.json then
    local files = json.array()
    for i, path in ipairs(paths) do files[i] = json.text(path) end
    return require("moonscope.cli").print_json { files = files }
  end
  for _, path in ipairs(paths) do print(path) end
end

return M

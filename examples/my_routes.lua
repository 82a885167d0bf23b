-- SPDX-License-Identifier: MIT
-- A route of one's own:  moonscope serve --data examples --routes examples/my_routes.lua
-- POST /compare {"text": "...", "feature": 458, "value": 3.85} writes on with and without a feature turned up.
local json = require "moonscope.json"
local edits = require "moonscope.server.edits"

local function compare(request)
  local args, use = request.args, request.workbench:enter()
  local changed = edits.resolve(use, { { feature = args.feature, op = "add", value = args.value, keep_error = true } })
  local options = { max_tokens = args.max_tokens }
  local plain = use.model:generate(args.text, options).text
  options.edits = changed
  return 200, { plain = json.text(plain), changed = json.text(use.model:generate(args.text, options).text) }
end

return {
  { "POST", "/compare", compare, fields = {
    { "text", "text", required = true, max_length = 10000 },
    { "feature", "integer", required = true, min = 0, max = 1 << 20 },
    { "value", "number", default = 4, min = -1000, max = 1000 },
    { "max_tokens", "integer", default = 32, min = 1, max = 400 },
  } },
}

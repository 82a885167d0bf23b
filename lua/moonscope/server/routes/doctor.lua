-- SPDX-License-Identifier: MIT
---POST /doctor: whether a loaded SAE fits the model, measured on a text.
local ms = require "moonscope"
local report = require "moonscope.doctor.report"
local actions = require "moonscope.server.actions"
local errors = require "moonscope.server.errors"
local saes = require "moonscope.server.saes"

local MAX_TEXT, MAX_TOKENS = 1 << 20, 8192

local function examine(job, request, layer)
  local bench, text = request.workbench, request.args.text
  local guard <close> = setmetatable({}, { __close = function() bench:leave(coroutine.running()) end })
  local use = bench:enter()
  local found = errors.check(ms.doctor(use.model, use:sae(layer).sae, {
    text = text, tokens = MAX_TOKENS, on_progress = function(done, total) job:report(done, total, "tokens") end,
  }))
  found.model, found.sae = request.paths:shown(found.model), request.paths:shown(found.sae)
  return report.json(found)
end

local function doctor(request)
  local args, bench = request.args, request.workbench
  bench:check_free()
  local layer = saes.entry(bench, args.layer_idx).layer
  local job = request.jobs:start("doctor", ("layer %d"):format(layer), function(job)
    return examine(job, request, layer)
  end)
  return actions.answer(job, args.wait)
end

return {
  { "POST", "/doctor", doctor, fields = {
    { "layer_idx", "integer", null = true, min = 0, max = saes.MAX_LAYER, also = { "layer" } },
    { "text", "text", null = true, max_length = MAX_TEXT },
    { "wait", "boolean", default = true },
  } },
}

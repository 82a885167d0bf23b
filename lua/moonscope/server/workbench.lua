-- SPDX-License-Identifier: MIT
---What the server works with: one model, and an SAE for each layer. An answer keeps what it began with.
---Loading and unloading a model first ends the answers that run; meanwhile nobody else gets in.
local loop = require "moonscope.loop"
local ms = require "moonscope"
local activity = require "moonscope.server.activity"
local errors = require "moonscope.server.errors"

local M = {}
M.__index = M

local RETRY_SECONDS = 1

---@param options {max_answers: integer, device: string?, precision: string?, context: integer?, sae_dtype: string?}
---@param on_status fun(workbench: table)?  called when model or status change
function M.new(options, on_status)
  return setmetatable({
    options = options, status = "idle", saes = {}, answers = {}, n_answers = 0,
    on_status = on_status or function() end,
  }, M)
end

local function set_status(self, status, error_text)
  self.status, self.error = status, error_text
  self:on_status()
end

---Throws 503 while a model is loaded.
function M:check_free()
  if self.status == "loading" then
    errors.refuse(503, "ELOADING", "A model is being loaded; try again soon", nil, { retry_after = RETRY_SECONDS })
  end
end

---An SAE is closed once it is replaced and no answer uses it.
local function release(entry)
  if entry.retired and entry.users == 0 then entry.sae:close() end
end

local function retire(entry)
  entry.retired = true
  release(entry)
end

---What an answer works with. It ends with its task: whoever runs the task calls `leave`.
---@class moonscope.Use
---@field model userdata
---@field model_name string
---@field private held table[]
local Use = {}
Use.__index = Use

---The SAE of a layer: { sae =, layer =, path = }. Throws 404.
---@param layer integer
---@return table
function Use:sae(layer)
  local entry = self.workbench.saes[layer]
  if not entry then
    errors.refuse(404, "ENOENT", ("No SAE loaded for layer %d: POST /load-sae first"):format(layer), "layer_idx")
  end
  if not self.held[entry] then
    self.held[entry] = true
    entry.users = entry.users + 1
  end
  return entry
end

---Lets the current task use the model until it ends. Throws 503 while one is loaded, 400 without one,
---429 when too many answers run.
---@return moonscope.Use
function M:enter()
  local task = coroutine.running()
  local use = self.answers[task]
  if use then return use end
  self:check_free()
  if not self.model then
    errors.refuse(400, "ENOMODEL", "No model loaded: POST /load-model first")
  elseif self.n_answers >= self.options.max_answers then
    errors.refuse(429, "EBUSY", ("%d answers run already; try again soon"):format(self.n_answers), nil,
      { retry_after = RETRY_SECONDS })
  end
  use = setmetatable({ workbench = self, model = self.model, model_name = self.model_name, held = {} }, Use)
  self.answers[task] = use
  self.n_answers = self.n_answers + 1
  return use
end

---The task is over, or no longer uses the model.
---@param task thread
function M:leave(task)
  local use = self.answers[task]
  if not use then return end
  self.answers[task] = nil
  self.n_answers = self.n_answers - 1
  for entry in pairs(use.held) do
    entry.users = entry.users - 1
    release(entry)
  end
  if self.n_answers == 0 and self.emptied then loop.wake(self.emptied) end
end

---Ends every answer but the current task's with an error, and waits until all are over.
local function empty(self, detail)
  local me = coroutine.running()
  local reason = errors.new { status = 503, code = "EMODEL", detail = detail, retry_after = RETRY_SECONDS }
  for task in pairs(self.answers) do loop.cancel(task, reason) end
  self.emptied = me
  while self.n_answers > 0 do loop.park() end
  self.emptied = nil
end

local function free(self)
  for layer, entry in pairs(self.saes) do
    self.saes[layer] = nil
    retire(entry)
  end
  if self.model then self.model:close() end
  self.model, self.model_name = nil, nil
  collectgarbage()
end

---Nobody else gets in until this is closed: what was begun is then done, or was cancelled.
local function alone(self)
  self:check_free()
  self.status = "loading"
  return setmetatable({}, { __close = function()
    if self.status ~= "loading" then return end
    set_status(self, self.model and "ready" or "error", not self.model and "loading was cancelled" or nil)
  end })
end

---How a model is loaded: as asked for, else as the server was started.
---@param wanted {device: string?, precision: string?, context: integer?}
---@return {device: string?, precision: string?, context: integer?}
function M:model_options(wanted)
  local options = self.options
  return {
    device = wanted.device or options.device, precision = wanted.precision or options.precision,
    context = wanted.context or options.context,
  }
end

---Frees the model that is there, then loads another. Throws a refusal; there is none then.
---@param name string  as the client calls it
---@param path string  its folder
---@param wanted {device: string?, precision: string?, context: integer?, words: (fun(message: string): string)?}?  in
---  place of what the server was started with; what loading says, as the client shall read it
function M:load_model(name, path, wanted)
  local guard <close> = alone(self)
  set_status(self, "loading")
  empty(self, ("The answer ended: the model %s is being loaded"):format(name))
  free(self)
  wanted = wanted or {}
  local model, message, code = ms.load_model(path, self:model_options(wanted))
  if not model then
    message = wanted.words and wanted.words(message) or message
    set_status(self, "error", message)
    errors.refuse_failure(message, code, "model_name")
  end
  self.model, self.model_name, self.loaded_at = model, name, os.time()
  set_status(self, "ready")
end

---Takes down how fast an answer was.
---@param timings table  of model:generate
function M:note_speed(timings)
  local function rate(n, seconds) return n > 0 and seconds > 0 and n / seconds or nil end
  local before = self.speed or { prompt_tokens = 0, generated_tokens = 0 }
  self.speed = {
    prompt_tokens = before.prompt_tokens + timings.prompt_tokens,
    generated_tokens = before.generated_tokens + timings.generated_tokens,
    prompt_per_second = rate(timings.prompt_tokens, timings.prompt_seconds),
    generated_per_second = rate(timings.generated_tokens, timings.generated_seconds) or before.generated_per_second,
  }
end

---Frees the model and its SAEs. Returns whether there was one.
---@return boolean
function M:unload_model()
  local guard <close> = alone(self)
  local loaded = self.model ~= nil
  empty(self, "The answer ended: the model was unloaded")
  free(self)
  set_status(self, "idle")
  return loaded
end

---@class moonscope.SaeOptions
---@field layer integer?  refused where the file says another, unless force
---@field place string|nil  where it reads, whatever the file says: "3", "model.layers.3"
---@field dtype string?
---@field format string?  this and the next two: what a file may leave open
---@field activation string?
---@field input_scale number?
---@field force boolean?
---@field words (fun(message: string): string)?  what loading says, as the client shall read it

---ms.load_sae with what was asked for; throws a refusal that blames `field`.
local function load_sae(self, model, path, options, layer, field)
  local sae, message, code = ms.load_sae(path, {
    model = model, layer = layer, dtype = options.dtype or self.options.sae_dtype, format = options.format,
    activation = options.activation, input_scale = options.input_scale,
  })
  if sae then return sae end
  errors.refuse_failure(options.words and options.words(message) or message, code, field)
end

---Loads an SAE beside the model; the same layer replaces. Throws a refusal.
---@param path string
---@param options moonscope.SaeOptions
---@return table entry  { sae =, layer =, path =, activity =, labels = }
function M:load_sae(path, options)
  local use = self:enter()
  local guard <close> = setmetatable({}, { __close = function() self:leave(coroutine.running()) end })
  local sae = load_sae(self, use.model, path, options, options.place, "sae_path")
  local undo <close> = setmetatable({}, { __close = function(_, failure)
    if failure and sae then sae:close() end
  end })
  local layer = options.layer
  if sae.layer and layer and layer ~= sae.layer and not options.force then
    errors.refuse(400, "EINVAL", ('layer_idx is %d, but the SAE was trained on layer %d; "force": true overrides')
      :format(layer, sae.layer), "layer_idx")
  end
  if layer and layer ~= sae.layer then
    sae:close()
    sae = load_sae(self, use.model, path, options, layer, "layer_idx")
  end
  if not sae.layer then
    errors.refuse(400, "EINVAL", "layer_idx: the SAE's layer is unknown; name the layer that it was trained on",
      "layer_idx")
  end
  local entry = { sae = sae, layer = sae.layer, path = path, users = 0, activity = activity.new(), labels = {} }
  local before = self.saes[entry.layer]
  self.saes[entry.layer] = entry
  if before then retire(before) end
  self:on_status()
  return entry
end

---Frees the SAE of a layer. Throws 404.
---@param layer integer
function M:unload_sae(layer)
  local entry = self.saes[layer]
  if not entry then errors.refuse(404, "ENOENT", ("No SAE loaded for layer %d"):format(layer), "layer_idx") end
  self.saes[layer] = nil
  retire(entry)
  self:on_status()
end

---The SAEs, lowest layer first.
---@return table[]
function M:list_saes()
  local list = {}
  for _, entry in pairs(self.saes) do list[#list + 1] = entry end
  table.sort(list, function(a, b) return a.layer < b.layer end)
  return list
end

---Closes everything; the loop may be over.
function M:close() free(self) end

return M

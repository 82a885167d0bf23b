-- SPDX-License-Identifier: MIT
---Forward passes: model:forward, session:prefill, session:step, model:step. A pass is one job unless
---an edit's `when` asks Lua on the way.
local core = require "moonscope.core"
local job = require "moonscope.job"
local options = require "moonscope.options"
local edits = require "moonscope.edits"
local tensor = require "moonscope.tensor"

---@class moonscope.Llama
local Llama = core.types.Llama
---@class moonscope.Session
local Session = core.types.Session

---Tokens of a prefill that are one job, so that others get their turn: about 50 ms on an H100, and enough
---of them to keep it busy.
local CHUNK, CHUNK_ON_GPU = 256, 1024

local FORWARD = options.names("capture", "logits", "edits", "chunk")
local STEP = options.names("capture", "logits", "edits")

local LOGITS = { last = "last", all = "all", [false] = "none" }

local function logits_of(who, opts)
  local value = opts.logits
  if value == nil then value = "last" end
  local which = LOGITS[value]
  if not which then
    error(('%s: logits: found %s, expected "last", "all" or false'):format(who, tostring(value)), 3)
  end
  return which
end

---Runs a pass up to a depth with its edits; where an edit asks, Lua decides on its way.
local function run_pass(pass, model, plan, rows, depth, finish)
  for _, group in ipairs(plan.edits.groups) do
    if group.depth <= depth then
      local features
      local reads = plan.number_of[group.reads]
      if group.asks then
        job.await(pass:_run(group.depth))
        features = job.await(pass:_encode(group.sae, reads))
      end
      local mask = plan.edits:mask(group, rows, model, features)
      if features then features:close() end
      pass:add_edit(group.depth, group.sae, group.features, group.steps, mask, group.keep_error, reads)
    end
  end
  return job.await(pass:_run(depth, finish))
end

---The captures that were asked for.
local function captures_of(pass, plan)
  local captures = {}
  for path, value in pairs(pass:captures()) do
    if plan.asked[path] then
      captures[path] = value
    else
      value:close()
    end
  end
  return captures
end

local function rows_of(session, ids, phase)
  local rows, before = {}, session:length()
  for i, id in ipairs(ids) do
    local step = phase == "prompt" and 0 or session.n_generated + i
    rows[i] = { position = before + i, id = id, phase = phase, step = step }
  end
  return rows
end

local function prefill_chunk(session, ids, plan, depth, logits)
  local model = session.model
  local rows = rows_of(session, ids, "prompt")
  local pass <close> = core.pass({ session }, { ids }, "prefill", plan.capture)
  local out = run_pass(pass, model, plan, rows, depth, logits)
  return out, captures_of(pass, plan)
end

local function join(parts)
  if #parts == 1 then return parts[1] end
  return tensor.cat(parts, 1)
end

---Before anything is computed: a prompt of many chunks would fail at the last one only.
local function check_room(session, ids)
  local context, used = session:context(), session:length()
  if #ids > context - used then
    error(("context: %d tokens do not fit into %d%s; shorten the prompt, or load the model with a larger context "
      .. "(at most %d)"):format(#ids, context, used > 0 and (", of which %d are taken"):format(used) or "",
      session.model.config.n_ctx), 0)
  end
end

---@param depth integer  layers to run
local function prefill(session, ids, plan, depth, which, chunk)
  check_room(session, ids)
  local logits, captured = {}, {}
  for path in pairs(plan.asked) do captured[path] = {} end
  for first = 1, #ids, chunk do
    local part = table.move(ids, first, math.min(first + chunk - 1, #ids), 1, {})
    local last = first + chunk > #ids
    local wanted = (which == "all" or last) and which or "none"
    local got, captures = prefill_chunk(session, part, plan, depth, wanted)
    logits[#logits + 1] = got
    for path, value in pairs(captures) do table.insert(captured[path], value) end
  end
  local out = { captures = {}, edits = plan.edits:report() }
  if #logits > 0 then out.logits = join(logits) end
  for path, parts in pairs(captured) do out.captures[path] = join(parts) end
  core.fields(session).n_generated = 0
  return out
end

local function chunk_of(who, opts, session)
  local chunk = opts.chunk or session.chunk
  if math.type(chunk) ~= "integer" or chunk < 1 then
    error(("%s: chunk: found %s, expected a whole number from 1"):format(who, tostring(chunk)), 3)
  end
  return chunk
end

local function check_ids(who, ids)
  if type(ids) ~= "table" or #ids == 0 then
    error(who .. ": expected a list of at least one token id", 3)
  end
  for i = 1, #ids do
    if math.type(ids[i]) ~= "integer" then
      error(("token id at position %d: found %s, expected a whole number"):format(i, tostring(ids[i])), 3)
    end
  end
end

---What is captured: what was asked for, and what the edits read on the way.
local function plan_of(model, opts)
  local plan = { capture = {}, asked = {}, number_of = {}, edits = edits.compile(opts.edits, model) }
  local function capture(path)
    plan.capture[#plan.capture + 1] = path
    plan.number_of[path] = #plan.capture
  end
  for _, path in ipairs(opts.capture or {}) do
    capture(path)
    plan.asked[path] = true
  end
  for _, group in ipairs(plan.edits.groups) do
    if group.reads and not plan.number_of[group.reads] then capture(group.reads) end
  end
  return plan
end

---A new sequence: a KV cache of model:context() positions.
---@return moonscope.Session session
function Llama:session()
  local session = self:_session()
  local fields = core.fields(session)
  fields.model, fields.n_generated = self, 0
  fields.chunk = self:device() == "cpu" and CHUNK or CHUNK_ON_GPU
  return session
end

---Feeds prompt tokens; the prefill arithmetic, also for one token.
---@param ids integer[]
---@param opts {capture: string[]?, edits: moonscope.Edit[]?, logits: "last"|"all"|false|nil, chunk: integer?}?
---@return {logits: moonscope.Tensor?, captures: table<string, moonscope.Tensor>, edits: table}
function Session:prefill(ids, opts)
  opts = options.check("prefill", opts, FORWARD)
  check_ids("prefill", ids)
  local model = self.model
  local which, chunk = logits_of("prefill", opts), chunk_of("prefill", opts, self)
  return prefill(self, ids, plan_of(model, opts), model.config.n_layers, which, chunk)
end

---Where the last capture is filled: the layers after it need not run.
local function last_depth(model, plan)
  local depth = 0
  for _, path in ipairs(plan.capture) do depth = math.max(depth, core.capture_depth(model, path)) end
  return depth
end

---One pass over a text (one BOS goes in front) or token ids, without a cache that stays.
---@param prompt string|integer[]
---@param opts {capture: string[]?, edits: moonscope.Edit[]?, logits: "last"|"all"|false|nil, chunk: integer?}?  logits = false stops after the last capture
---@return {ids: integer[], logits: moonscope.Tensor?, captures: table<string, moonscope.Tensor>, edits: table}
function Llama:forward(prompt, opts)
  opts = options.check("forward", opts, FORWARD)
  local ids = self:ids_of(prompt)
  check_ids("forward", ids)
  local plan, which = plan_of(self, opts), logits_of("forward", opts)
  local depth = self.config.n_layers
  if which == "none" then depth = math.min(depth, last_depth(self, plan)) end
  local session <close> = self:session()
  local out = prefill(session, ids, plan, depth, which, chunk_of("forward", opts, session))
  out.ids = ids
  return out
end

---The outcome of one token of a batch.
local function row_of(out, number)
  local row = { captures = {} }
  if out.logits then row.logits = out.logits:narrow(1, number, 1) end
  for path, value in pairs(out.captures) do row.captures[path] = value:narrow(1, number, 1) end
  return row
end

---What directions in the residual stream add to the logits, each times the weight of model.norm and then the
---unembedding: which tokens a feature's direction speaks for, and against. The division by the stream's length,
---which depends on the text, is left out, so the numbers are right up to one factor.
---@param x moonscope.Tensor  [n][d_model], f32
---@return moonscope.Tensor  [n][n_vocab]
function Llama:unembed(x) return job.demand(self._unembed, self, x) end

---One token for each of several sessions; each gets the bits that it has alone.
---@param sessions moonscope.Session[]
---@param ids integer[]
---@param opts {capture: string[]?, edits: moonscope.Edit[]?, logits: "last"|false|nil}?
---@return {logits: moonscope.Tensor?, captures: table<string, moonscope.Tensor>}[]
function Llama:step(sessions, ids, opts)
  opts = options.check("step", opts, STEP)
  check_ids("step", ids)
  if type(sessions) ~= "table" or #sessions ~= #ids then
    error("step: expected as many sessions as token ids", 2)
  end
  local plan, lists, rows = plan_of(self, opts), {}, {}
  for i, session in ipairs(sessions) do
    lists[i] = { ids[i] }
    rows[i] = rows_of(session, lists[i], "generated")[1]
  end
  local pass <close> = core.pass(sessions, lists, "decode", plan.capture)
  local out = { logits = run_pass(pass, self, plan, rows, self.config.n_layers, logits_of("step", opts)) }
  out.captures = captures_of(pass, plan)
  local outs = {}
  for i, session in ipairs(sessions) do
    local fields = core.fields(session)
    fields.n_generated = fields.n_generated + 1
    outs[i] = row_of(out, i)
  end
  return outs
end

---Feeds one generated token; the decode arithmetic.
---@param id integer
---@param opts {capture: string[]?, edits: moonscope.Edit[]?, logits: "last"|false|nil}?
---@return {logits: moonscope.Tensor?, captures: table<string, moonscope.Tensor>}
function Session:step(id, opts)
  return self.model:step({ self }, { id }, opts)[1]
end

local rewind = Session.rewind

---Forgets the last n tokens.
---@param n integer
---@return moonscope.Session self
function Session:rewind(n)
  rewind(self, n)
  local fields = core.fields(self)
  fields.n_generated = math.max(0, fields.n_generated - n)
  return self
end

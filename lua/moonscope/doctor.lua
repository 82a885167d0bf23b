-- SPDX-License-Identifier: MIT
---Does this autoencoder belong to this layer of this model, with this activation? Measures it on a text (doctor/ has
---the parts); what the numbers mean is in diagnosis.lua.
local core = require "moonscope.core"
local diagnosis = require "moonscope.diagnosis"
local file_check = require "moonscope.doctor.file"
local fit = require "moonscope.fit"
local options = require "moonscope.options"
local places = require "moonscope.doctor.places"
local readings = require "moonscope.doctor.readings"
local tensor = require "moonscope.tensor"
local weights = require "moonscope.doctor.weights"

---@class moonscope.doctor
local M = {}

local WINDOW = 512      -- tokens that the model reads at once, behind a BOS of their own
local TOKENS = 8192     -- of a text, unless told otherwise
local SAMPLE = 256      -- tokens on which other conventions and dtypes are tried
local SCAN = 256        -- tokens that are read at all places at once
local LEAST = 16        -- tokens that say anything at all

-- The text

local function texts_of(text)
  if text == nil then return require "moonscope.sample_text" end
  local texts = type(text) == "table" and text or { text }
  for _, one in ipairs(texts) do options.check_text("doctor", "text", one) end
  return texts
end

---Lists of token ids, each with one BOS, none longer than a window; `limit` tokens in all, BOS not counted.
local function windows_of(model, texts, limit)
  local size = math.min(WINDOW, model:context() - 1)
  local windows, total = {}, 0
  for _, text in ipairs(texts) do
    local ids = model:ids_of(text)
    local bos = model.tokenizer:is_special(ids[1] or 0) and table.remove(ids, 1) or nil
    for first = 1, #ids, size do
      local n = math.min(size, #ids - first + 1, limit - total)
      if n <= 0 then return windows, total end
      windows[#windows + 1] = table.move(ids, first, first + n - 1, bos and 2 or 1, { bos })
      total = total + n
    end
  end
  return windows, total
end

-- Rows of a window

---x without the rows of special tokens, and those rows. Either may be nil.
local function split(model, ids, x)
  local kept, special, first = {}, {}, 1
  for number = 1, #ids + 1 do
    local ends = number > #ids or model.tokenizer:is_special(ids[number])
    if ends and number > first then kept[#kept + 1] = x:narrow(1, first, number - first) end
    if ends and number <= #ids then special[#special + 1] = x:narrow(1, number, 1) end
    if ends then first = number + 1 end
  end
  local function join(parts) return #parts > 0 and tensor.cat(parts, 1) or nil end
  return join(kept), join(special)
end

---The streams of a window at some places, special tokens apart: rows[name], special[name].
local function capture(model, ids, list)
  local out = model:forward(ids, { capture = places.names(list), logits = false })
  local rows, special = {}, {}
  for name, x in pairs(out.captures) do
    local matrix <close> = x:reshape(x:size(1), -1)
    rows[name], special[name] = split(model, ids, matrix)
    x:close()
  end
  return rows, special
end

---Adds what a window has of a place, or nothing.
local function add_place(a_fit, place, rows)
  if rows[place.reads] then a_fit:add(rows[place.reads], rows[place.predicts]) end
end

local function close_all(rows)
  for _, x in pairs(rows) do x:close() end
end

-- The stream

---Up to SAMPLE rows of the windows at the hook, and of a transcoder what they are to be decoded to.
local Sample = {}
Sample.__index = Sample

local function new_sample() return setmetatable({ n = 0, xs = {}, ys = {} }, Sample) end

function Sample:add(x, y)
  local n = math.min(x and x:size(1) or 0, SAMPLE - self.n)
  if n == 0 then return end
  self.n = self.n + n
  self.xs[#self.xs + 1] = x:narrow(1, 1, n)
  if y then self.ys[#self.ys + 1] = y:narrow(1, 1, n) end
end

function Sample:join()
  local function joined(parts) return #parts > 0 and tensor.cat(parts, 1) or nil end
  return { x = joined(self.xs), y = joined(self.ys) }
end

---Reads all windows at the claimed place and its neighbours. Special tokens are left out, and measured apart.
---@param list moonscope.doctor.Place[]
local function read_text(model, sae, windows, list, claimed, on_progress)
  local first = math.max(1, claimed - 1)
  local near = table.move(list, first, math.min(#list, claimed + 1), 1, {})
  local hook, sample = list[claimed], new_sample()
  local counts = tensor.zeros({ sae.d_sae }, { device = sae:device() })
  local fits, special, done = {}, fit.new(readings.plain(sae), sae.output ~= nil), 0
  for i, place in ipairs(near) do
    fits[i] = fit.new(readings.plain(sae), sae.output ~= nil, place == hook and counts or nil)
  end
  for _, ids in ipairs(windows) do
    local rows, left_out = capture(model, ids, near)
    for i, place in ipairs(near) do add_place(fits[i], place, rows) end
    add_place(special, hook, left_out)
    sample:add(rows[hook.reads], rows[hook.predicts])
    close_all(rows)
    close_all(left_out)
    done = done + #ids
    on_progress(done, nil, "tokens")
  end
  return {
    near = near, fits = fits, found = fits[claimed - first + 1], counts = counts, special = special,
    sample = sample:join(),
  }
end

local function place_row(place, claimed, f)
  return {
    place = place.reads, predicts = place.predicts, claimed = place == claimed, fvu = f:fvu(), l0 = f:l0(),
    mean_norm = f.stream:mean_norm(), tokens = f:n(), broken = f.stream.n_broken,
  }
end

---FVU and L0 at every place, on the beginning of the text: a neighbour may be better by little where the right
---layer is far away.
local function scan_places(model, sae, windows, list, claimed)
  local fits, result, left = {}, {}, SCAN
  for i in ipairs(list) do fits[i] = fit.new(readings.plain(sae), sae.output ~= nil) end
  for _, ids in ipairs(windows) do
    local n = math.min(#ids, left)
    if n == 0 then break end
    left = left - n
    local rows, left_out = capture(model, table.move(ids, 1, n, 1, {}), list)
    for i, place in ipairs(list) do add_place(fits[i], place, rows) end
    close_all(rows)
    close_all(left_out)
  end
  for i, place in ipairs(list) do result[i] = place_row(place, list[claimed], fits[i]) end
  return result
end

local function best_place(rows)
  local best = rows[1]
  for _, row in ipairs(rows) do
    if row.fvu < best.fvu or best.fvu ~= best.fvu then best = row end
  end
  return best.place
end

---Where the SAE is said to read; where nobody says, the place that it fits best.
local function hook_of(model, sae, windows)
  if sae.hook then return sae.hook end
  return best_place(scan_places(model, sae, windows, places.stream("model.layers.0.input", model.config.n_layers)))
end

---The special tokens beside the others: their share of the sum of ||x||^2, and ||x - xhat|| / ||x||.
local function special_of(special, others)
  if special:n() == 0 then return { tokens = 0 } end
  local squares = special.stream.square_sum
  return {
    tokens = special:n(), mean_norm = special.stream:mean_norm(), l0 = special:l0(),
    share = squares / (squares + others.stream.square_sum), relative_error = special:relative_error(),
  }
end

local function dead_of(firing)
  local features = 0
  for _, n in ipairs(firing) do
    if n == 0 then features = features + 1 end
  end
  return { features = features, share = features / #firing }
end

local function check_arguments(model, sae, opts)
  if type(model) ~= "userdata" or not model.config then error("doctor: model: expected a loaded model", 3) end
  if type(sae) ~= "userdata" or not sae.d_sae then error("doctor: sae: expected a loaded SAE", 3) end
  if not model.tokenizer then
    error(("doctor: %s/tokenizer.json is missing, so a text has no token ids"):format(model.path), 0)
  end
  local tokens = opts.tokens or TOKENS
  if math.type(tokens) ~= "integer" or tokens < LEAST then
    error(("doctor: tokens: found %s, expected a whole number from %d"):format(tostring(tokens), LEAST), 3)
  end
  return tokens
end

local function is_tied(sae)
  local w_enc <close> = sae:_part "w_enc"
  local w_dec <close> = sae:_part "w_dec"
  return w_enc:equal(w_dec)
end

---Whether the model can be read where the SAE reads, and where it predicts.
local function check_places(model, sae)
  if sae.output and (sae.output == "" or not sae.hook) then
    return nil, ("%s: a transcoder, and nobody says where it %s%s"):format(sae.path,
      sae.hook and "writes" or "reads", sae.hook and "" or ": give layer = N (--layer N)"), "EINVAL"
  end
  for _, name in ipairs { sae.hook, sae.output } do
    local ok, message = pcall(core.capture_depth, model, name)
    if not ok then return nil, ("%s: %s"):format(sae.path, message), "EUNSUPPORTED" end
  end
  return true
end

---The measurements, not yet judged.
local function examine(model, sae, windows, on_progress)
  local hook = hook_of(model, sae, windows)
  local list, claimed = places.of(hook, sae.output, model.config.n_layers)
  local text = read_text(model, sae, windows, list, claimed, on_progress)
  local found, firing, tied = text.found, text.counts:totable(), is_tied(sae)
  if found:n() < LEAST then
    return nil, ("text: found %d tokens that are not special, expected at least %d"):format(found:n(), LEAST), "EINVAL"
  end
  local report = {
    places = {}, tokens = found:n(), special = special_of(text.special, found), dead = dead_of(firing),
    weights = weights.of(sae, firing, tied), sample_tokens = text.sample.x:size(1),
    conventions = readings.conventions(sae, text.sample, found.stream:mean_norm(), tied),
  }
  for i, place in ipairs(text.near) do report.places[i] = place_row(place, list[claimed], text.fits[i]) end
  local message, code
  report.dtypes, message, code = readings.dtypes(model, sae, text.sample)
  if not report.dtypes then return nil, message, code end
  report.scan = scan_places(model, sae, windows, list, claimed)
  return report
end

local OPTIONS = options.names("text", "tokens", "on_progress")

---What the doctor reads.
---@class moonscope.doctor.Options
---@field text? string|string[]  each is read behind a BOS of its own; a short built-in text unless given
---@field tokens? integer  of it, at most; 8192 unless given
---@field on_progress? fun(done: integer, total: integer, unit: string)  "tokens", then "bytes" of the file

---The verdict on an autoencoder beside a model: right layer, right model, right activation, whole file?
---@param model moonscope.Llama
---@param sae moonscope.Sae  loaded with {model = model}
---@param opts? moonscope.doctor.Options
---@return table? report  .verdict "ok", "warning" or "wrong"; .findings {level, about, message, remedy}; the
---measurements: .places {place, predicts, claimed, fvu, l0, mean_norm, tokens}, .scan (the same of all places, on a
---sample), .conventions {name, fvu, l0}, .dtypes {dtype, fvu, l0}, .weights, .dead, .special, .file
---@return string? message
---@return string? code
function M.doctor(model, sae, opts)
  opts = options.check("doctor", opts, OPTIONS)
  local limit = check_arguments(model, sae, opts)
  local windows, total = windows_of(model, texts_of(opts.text), limit)
  local notify = opts.on_progress or function() end
  local ok, report, file, message, code
  ok, message, code = check_places(model, sae)
  if not ok then return nil, message, code end
  report, message, code = examine(model, sae, windows, function(done) notify(done, total + #windows, "tokens") end)
  if not report then return nil, message, code end
  file, message, code = file_check.of(sae.path, notify)
  if not file then return nil, message, code end
  report.published_l0 = file.entry and file.entry.l0
  report.file = {
    known = file.known, sha256 = file.sha256, compared = file.compared, differences = file.differences,
  }
  report.model, report.sae, report.input_scale = model.path, sae.path, sae.options.input_scale
  for _, name in ipairs { "hook", "output", "layer", "format", "unit", "activation", "d_sae", "d_model" } do
    report[name] = sae[name]
  end
  report.findings, report.verdict = diagnosis.of(report)
  return report
end

return M

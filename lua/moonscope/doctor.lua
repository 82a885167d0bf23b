-- SPDX-License-Identifier: MIT
---Does this autoencoder belong to this layer of this model, with this activation? Measures it on a text; what the
---numbers mean is in diagnosis.lua.
local core = require "moonscope.core"
local job = require "moonscope.job"
local checkpoint = require "moonscope.checkpoint"
local diagnosis = require "moonscope.diagnosis"
local fit = require "moonscope.fit"
local json = require "moonscope.json"
local options = require "moonscope.options"
local sae_configs = require "moonscope.sae_configs"
local sae_module = require "moonscope.sae"
local tensor = require "moonscope.tensor"

local M = {}

local WINDOW = 512      -- tokens that the model reads at once, behind a BOS of their own
local TOKENS = 8192     -- of a text, unless told otherwise
local SAMPLE = 256      -- tokens on which other conventions and dtypes are tried
local SCAN = 256        -- tokens that are read at all places at once
local LEAST = 16        -- tokens that say anything at all
local BLOCK = 1024      -- rows of a weight matrix at a time
local FILE_BLOCK = 32 << 20

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

-- Places

---All places of the hook's kind, from the first layer to the last, and the number of the hook among them. The
---residual stream has one more than there are layers: what goes into layer 0.
local function places_of(hook, n_layers)
  local layer, kind = hook:match "^model%.layers%.(%d+)(.*)$"
  layer = math.tointeger(tonumber(layer))
  if not layer then return { hook }, 1 end
  local places = {}
  local is_stream = kind == "" or kind == ".input"
  if is_stream then places[1] = "model.layers.0.input" end
  for number = 0, n_layers - 1 do
    places[#places + 1] = ("model.layers.%d%s"):format(number, is_stream and "" or kind)
  end
  local claimed = layer + (kind == "" and 2 or 1)
  places[claimed] = hook -- "model.layers.9.input" is the output of layer 8
  return places, claimed
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

---The streams of a window at some places, special tokens apart: rows[place], special[place].
local function capture(model, ids, places)
  local out = model:forward(ids, { capture = places, logits = false })
  local rows, special = {}, {}
  for place, x in pairs(out.captures) do
    local matrix <close> = x:reshape(x:size(1), -1)
    rows[place], special[place] = split(model, ids, matrix)
    x:close()
  end
  return rows, special
end

-- Readers: an autoencoder, or one that is read in another way

local function plain(sae)
  return function(x)
    local features = sae:encode(x)
    return features, sae:decode(features)
  end
end

local function shifted(sae, offset)
  return function(x)
    local moved <close> = x + offset
    local features = sae:encode(moved)
    return features, sae:decode(features)
  end
end

local function scaled(sae, factor)
  return function(x)
    local larger <close> = x * factor
    local features = sae:encode(larger)
    local xhat <close> = sae:decode(features)
    return features, xhat / factor
  end
end

---Another autoencoder of the same tensors; they are shared. Its activation is a ReLU.
local function recombined(sae, w_enc, w_dec)
  local other = assert(job.insist(core.sae, {
    w_enc = w_enc, b_enc = sae:_part "b_enc", w_dec = w_dec, b_dec = sae:_part "b_dec", activation = "relu",
    subtract_b_dec = sae.subtract_b_dec, device = sae:device(), dtype = sae:dtype(),
  }))
  core.fields(other).exact = sae.exact
  return other
end

local function decoded_by(sae, other)
  return function(x)
    local features = sae:encode(x)
    return features, other:decode(features)
  end
end

local function measured(read, x)
  local f = fit.new(read)
  f:add(x)
  return { fvu = f:fvu(), l0 = f:l0() }
end

local SUBTRACT = 'convert it, and write "subtract_b_dec": %s into its metadata file'

---How else the SAE could be meant, measured on sample rows: the first is as it was loaded.
local function conventions_of(sae, x, mean_norm, tied)
  local rows = {}
  local function try(name, read, remedy)
    local row = measured(read, x)
    row.name, row.remedy = name, remedy
    rows[#rows + 1] = row
  end
  try("as it was loaded", plain(sae))
  local b_dec <close> = sae:_part "b_dec"
  local offset <close> = sae.subtract_b_dec and b_dec * 1 or -b_dec
  if sae.subtract_b_dec then
    try("without subtracting b_dec from its input", shifted(sae, offset), SUBTRACT:format "false")
  else
    try("with b_dec subtracted from its input", shifted(sae, offset), SUBTRACT:format "true")
  end
  local factor = math.sqrt(sae.d_model) / mean_norm -- "expected_average_only_in" of SAELens
  try("with its input scaled to a mean norm of sqrt(d_model)", scaled(sae, factor),
    ('convert it in its own format, or write "input_scale": %.6g and "output_scale": %.6g into its metadata file')
      :format(factor, 1 / factor))
  if not tied then
    local w_enc <close> = sae:_part "w_enc"
    local w_dec <close> = sae:_part "w_dec"
    local by_encoder <close> = recombined(sae, w_enc, w_enc)
    try("decoded by the encoder's own rows", decoded_by(sae, by_encoder), "the decoder is transposed, in another "
      .. "order, or not meant to be there (tied weights): fetch and convert the SAE again, in its own format")
    if sae.activation == "relu" then
      local swapped <close> = recombined(sae, w_dec, w_enc)
      try("with encoder and decoder exchanged", plain(swapped), "the two matrices have each other's names: convert "
        .. "the SAE again, in its own format")
    end
  end
  return rows
end

-- dtypes

---The same file in the other dtype that matters: f32 where the model's is narrower.
local function other_dtype(model, sae)
  if model:dtype() == "f32" then return nil end
  return sae:dtype() == "f32" and model:dtype() or "f32"
end

local function dtypes_of(model, sae, x)
  local rows = { measured(plain(sae), x) }
  rows[1].dtype = sae:dtype()
  local dtype = other_dtype(model, sae)
  if not dtype then return rows end
  local opts = { model = model, dtype = dtype }
  for name, value in pairs(sae.options) do
    if name ~= "dtype" then opts[name] = value end
  end
  local other, message, code = sae_module.load_sae(sae.path, opts)
  if not other then return nil, message, code end
  local guard <close> = other
  rows[2] = measured(plain(other), x)
  rows[2].dtype = dtype
  return rows
end

-- Weights

---Calls fn(first, block of rows) for all of a matrix.
local function each_block(matrix, fn)
  for first = 1, matrix:size(1), BLOCK do
    local block <close> = matrix:narrow(1, first, math.min(BLOCK, matrix:size(1) - first + 1))
    fn(first, block)
  end
end

local function append(list, t)
  local values = t:totable()
  table.move(values, 1, #values, #list + 1, list)
end

local function row_norms(matrix)
  local norms = {}
  each_block(matrix, function(_, block)
    local part <close> = block:norm(2)
    append(norms, part)
  end)
  return norms
end

---The scalar products of the rows of two matrices.
local function row_products(a, b)
  local products = {}
  each_block(a, function(first, block)
    local other <close> = b:narrow(1, first, block:size(1))
    local product <close> = block * other
    local sums <close> = product:sum(2)
    append(products, sums)
  end)
  return products
end

local function is_finite(x) return x == x and math.abs(x) < math.huge end

---Where a list of numbers, one per feature, is not finite: {name, rows, first}, or nil.
local function broken_of(name, values)
  local rows, first = 0, nil
  for i, value in ipairs(values) do
    if not is_finite(value) then
      rows, first = rows + 1, first or i - 1
    end
  end
  return rows > 0 and { name = name, rows = rows, first = first } or nil
end

---The mean cosine of a feature's two rows, those of zeros left out; NaN where all are.
local function mean_cosine(products, a, b)
  local sum, n = 0, 0
  for i, product in ipairs(products) do
    if a[i] > 0 and b[i] > 0 then
      sum, n = sum + product / (a[i] * b[i]), n + 1
    end
  end
  return sum / n
end

---firing: at how many tokens each feature fires
local function norms_summary(norms, firing)
  local sum, zero, zero_firing, min, max = 0, 0, 0, math.huge, 0
  for i, norm in ipairs(norms) do
    sum, min, max = sum + norm, math.min(min, norm), math.max(max, norm)
    if norm == 0 then
      zero = zero + 1
      if firing[i] > 0 then zero_firing = zero_firing + 1 end
    end
  end
  return { mean = sum / #norms, min = min, max = max, zero = zero, zero_firing = zero_firing }
end

local function weights_of(sae, firing, tied)
  local w_enc <close> = sae:_part "w_enc"
  local w_dec <close> = sae:_part "w_dec"
  local b_enc <close> = sae:_part "b_enc"
  local b_dec <close> = sae:_part "b_dec"
  local encoder, decoder = row_norms(w_enc), row_norms(w_dec)
  local bias <close> = b_dec:norm()
  local broken = {}
  broken[#broken + 1] = broken_of("w_enc", encoder)
  broken[#broken + 1] = broken_of("b_enc", b_enc:totable())
  broken[#broken + 1] = broken_of("w_dec", decoder)
  return {
    broken = broken, b_dec_broken = not is_finite(bias:item()), tied = tied,
    decoder_norms = norms_summary(decoder, firing),
    cosine = mean_cosine(row_products(w_enc, w_dec), encoder, decoder),
  }
end

-- The file

---sha256 of a file; nil for one of several files.
local function sha256_of(file, on_progress)
  local size = file:size()
  if not size then return nil end
  local digest <close> = assert(core.digest())
  for first = 0, size - 1, FILE_BLOCK do
    local n = math.min(FILE_BLOCK, size - first)
    local ok, message, code = job.await(digest:_add_file(file, first, n))
    if not ok then return nil, message, code end
    on_progress(first + n, size, "bytes")
  end
  return digest:text()
end

local function sorted(list)
  local copy = table.move(list, 1, #list, 1, {})
  table.sort(copy)
  return table.concat(copy, ", ")
end

---What a published file is, item by item, compared with what SAE_CONFIGS knows of it.
local function compare_published(file, entry, sha256, differ)
  local url = sae_configs.url(entry)
  local remedy = "fetch the file again" .. (url and ": " .. url or "")
  local function expect(what, found, expected)
    if expected and found ~= expected then differ(what, tostring(found), tostring(expected), remedy) end
  end
  local names, bytes, dtypes = file:names(), 0, {}
  for _, name in ipairs(names) do
    local info = file:info(name)
    bytes, dtypes[info.dtype] = bytes + info.nbytes, true
  end
  local found = {}
  for dtype in pairs(dtypes) do found[#found + 1] = dtype end
  expect("tensors", sorted(names), entry.keys and sorted(entry.keys))
  expect("dtype", sorted(found), entry.dtype)
  expect("bytes of the tensors", bytes, sae_configs.payload_bytes(entry))
  expect("bytes of the file", file:size(), entry.size_bytes)
  expect("sha256", sha256, entry.sha256)
end

---The metadata of a converted file, {} without.
local function metadata_of(path)
  local meta_path = path:gsub("%.safetensors$", "_metadata.json")
  local metadata = meta_path ~= path and json.read(meta_path)
  return type(metadata) == "table" and metadata or {}
end

local function compare_converted(metadata, entry, sha256, differ)
  if type(metadata.sha256) == "string" and metadata.sha256 ~= sha256 then
    differ("sha256", tostring(sha256), metadata.sha256 .. " by its metadata", "convert the SAE again")
  end
  local source = metadata.source_sha256
  if entry and entry.sha256 and type(source) == "string" and source ~= entry.sha256 then
    differ("sha256 of the file it was converted from", source, entry.sha256,
      ("fetch that file again and convert it: %s"):format(sae_configs.url(entry) or entry.filename))
  end
end

---{known: the published file's name or nil, sha256, differences}
local function file_of(path, on_progress)
  local file, message, code = checkpoint.open(path)
  if not file then return nil, message, code end
  local guard <close> = file
  local sha256
  sha256, message, code = sha256_of(file, on_progress)
  if message then return nil, message, code end
  local differences = {}
  local function differ(what, found, expected, remedy)
    differences[#differences + 1] = { what = what, found = found, expected = expected, remedy = remedy }
  end
  local entry, name = sae_configs.of_file(path)
  if entry then
    compare_published(file, entry, sha256, differ)
  else
    local metadata = metadata_of(path)
    if type(metadata.source_file) == "string" then entry, name = sae_configs.of_file(metadata.source_file) end
    compare_converted(metadata, entry, sha256, differ)
  end
  return { known = name, entry = entry, sha256 = sha256, differences = differences }
end

-- The stream

---Reads all windows at the claimed place and its neighbours. Special tokens are left out, and measured apart.
local function read_text(model, sae, windows, places, claimed, on_progress)
  local near = {}
  for i = math.max(1, claimed - 1), math.min(#places, claimed + 1) do near[#near + 1] = places[i] end
  local hook, sample, n_sample = places[claimed], {}, 0
  local counts = tensor.zeros({ sae.d_sae }, { device = sae:device() })
  local fits, special, done = {}, fit.new(plain(sae)), 0
  for _, place in ipairs(near) do fits[place] = fit.new(plain(sae), place == hook and counts or nil) end
  for _, ids in ipairs(windows) do
    local rows, left_out = capture(model, ids, near)
    for place, x in pairs(rows) do
      fits[place]:add(x)
      if place == hook and n_sample < SAMPLE then
        sample[#sample + 1] = x:narrow(1, 1, math.min(x:size(1), SAMPLE - n_sample))
        n_sample = n_sample + sample[#sample]:size(1)
      end
      if place ~= hook then x:close() end
    end
    if left_out[hook] then special:add(left_out[hook]) end
    done = done + #ids
    on_progress(done, nil, "tokens")
  end
  return {
    near = near, fits = fits, counts = counts, special = special,
    sample = #sample > 0 and tensor.cat(sample, 1) or nil,
  }
end

local function place_row(place, claimed, f)
  return {
    place = place, claimed = place == claimed, fvu = f:fvu(), l0 = f:l0(), mean_norm = f.stream:mean_norm(),
    tokens = f:n(), broken = f.stream.n_broken,
  }
end

---FVU and L0 at every place, on the beginning of the text: a neighbour may be better by little where the right
---layer is far away.
local function scan_places(model, sae, windows, places, claimed)
  local fits, rows, left = {}, {}, SCAN
  for _, place in ipairs(places) do fits[place] = fit.new(plain(sae)) end
  for _, ids in ipairs(windows) do
    local n = math.min(#ids, left)
    if n == 0 then break end
    left = left - n
    for place, x in pairs((capture(model, table.move(ids, 1, n, 1, {}), places))) do
      fits[place]:add(x)
      x:close()
    end
  end
  for i, place in ipairs(places) do rows[i] = place_row(place, claimed, fits[place]) end
  return rows
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
  return best_place(scan_places(model, sae, windows, (places_of("model.layers.0", model.config.n_layers))))
end

---The special tokens beside the others: their share of the sum of ||x||^2, and ||x - xhat|| / ||x||.
local function special_of(special, others)
  if special:n() == 0 then return { tokens = 0 } end
  local squares = special.stream.square_sum
  return {
    tokens = special:n(), mean_norm = special.stream:mean_norm(), l0 = special:l0(),
    share = squares / (squares + others.stream.square_sum), relative_error = math.sqrt(special.error / squares),
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

---The measurements, not yet judged.
local function examine(model, sae, windows, on_progress)
  local hook = hook_of(model, sae, windows)
  local places, claimed = places_of(hook, model.config.n_layers)
  local text = read_text(model, sae, windows, places, claimed, on_progress)
  local found, firing, tied = text.fits[hook], text.counts:totable(), is_tied(sae)
  if found:n() < LEAST then
    return nil, ("text: found %d tokens that are not special, expected at least %d"):format(found:n(), LEAST), "EINVAL"
  end
  local report = {
    places = {}, tokens = found:n(), special = special_of(text.special, found), dead = dead_of(firing),
    weights = weights_of(sae, firing, tied), sample_tokens = text.sample:size(1),
    conventions = conventions_of(sae, text.sample, found.stream:mean_norm(), tied),
  }
  for i, place in ipairs(text.near) do report.places[i] = place_row(place, hook, text.fits[place]) end
  local message, code
  report.dtypes, message, code = dtypes_of(model, sae, text.sample)
  if not report.dtypes then return nil, message, code end
  report.scan = scan_places(model, sae, windows, places, hook)
  return report
end

local OPTIONS = options.names("text", "tokens", "on_progress")

---@class moonscope.doctor.Options
---@field text? string|string[]  each is read behind a BOS of its own; a short built-in text unless given
---@field tokens? integer  of it, at most; 8192 unless given
---@field on_progress? fun(done: integer, total: integer, unit: string)  "tokens", then "bytes" of the file

---The verdict on an autoencoder beside a model: right layer, right model, right activation, whole file?
---@param model userdata
---@param sae userdata  loaded with {model = model}
---@param opts? moonscope.doctor.Options
---@return table? report  .verdict "ok", "warning" or "wrong"; .findings {level, about, message, remedy}; the
---measurements: .places {place, claimed, fvu, l0, mean_norm, tokens}, .scan (the same of all places, on a sample),
---.conventions {name, fvu, l0}, .dtypes {dtype, fvu, l0}, .weights, .dead, .special, .file
---@return string? message
---@return string? code
function M.doctor(model, sae, opts)
  opts = options.check("doctor", opts, OPTIONS)
  local limit = check_arguments(model, sae, opts)
  local windows, total = windows_of(model, texts_of(opts.text), limit)
  local notify = opts.on_progress or function() end
  local report, file, message, code
  report, message, code = examine(model, sae, windows, function(done) notify(done, total + #windows, "tokens") end)
  if not report then return nil, message, code end
  file, message, code = file_of(sae.path, notify)
  if not file then return nil, message, code end
  report.published_l0 = file.entry and file.entry.l0
  report.file = { known = file.known, sha256 = file.sha256, differences = file.differences }
  report.model, report.sae, report.hook, report.layer = model.path, sae.path, sae.hook, sae.layer
  report.activation, report.d_sae, report.d_model = sae.activation, sae.d_sae, sae.d_model
  report.findings, report.verdict = diagnosis.of(report)
  return report
end

return M

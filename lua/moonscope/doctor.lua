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
local places = require "moonscope.places"
local resolve = require "moonscope.hub.resolve"
local sae_configs = require "moonscope.sae_configs"
local sae_module = require "moonscope.sae"
local tensor = require "moonscope.tensor"

---@class moonscope.doctor
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

---@class moonscope.doctor.Place
---@field reads string
---@field predicts string?  of a transcoder

---The residual stream has one place more than there are layers: what goes into layer 0. "model.layers.9.input" is
---the output of layer 8.
local function stream_places(hook, n_layers)
  local list, claimed = { { reads = "model.layers.0.input" } }, 1
  for number = 0, n_layers - 1 do list[number + 2] = { reads = ("model.layers.%d"):format(number) } end
  if hook ~= "model.embed_tokens" then
    claimed = places.layer_of(hook) + (places.suffix_of(hook) == "" and 2 or 1)
  end
  list[claimed].reads = hook
  return list, claimed
end

---The same pair of places in every layer where there are both.
local function shifted_places(hook, output, n_layers)
  local layer, list, claimed = places.layer_of(hook), {}, 1
  local further = output and places.layer_of(output) - layer or 0
  for number = math.max(0, -further), math.min(n_layers, n_layers - further) - 1 do
    if number == layer then claimed = #list + 1 end
    list[#list + 1] = {
      reads = ("model.layers.%d%s"):format(number, places.suffix_of(hook)),
      predicts = output and ("model.layers.%d%s"):format(number + further, places.suffix_of(output)),
    }
  end
  return list, claimed
end

---All places of the hook's kind, from the first layer to the last, and the number of the hook among them.
---@param output string?  of a transcoder
---@return moonscope.doctor.Place[]
---@return integer
local function places_of(hook, output, n_layers)
  if not output and places.is_stream(hook) then return stream_places(hook, n_layers) end
  if places.suffix_of(hook) and (not output or places.suffix_of(output)) then
    return shifted_places(hook, output, n_layers)
  end
  return { { reads = hook, predicts = output } }, 1
end

---The names of all places, each once.
local function names_of(list)
  local names, seen = {}, {}
  for _, place in ipairs(list) do
    for _, name in ipairs { place.reads, place.predicts } do
      if not seen[name] then names[#names + 1] = name end
      seen[name] = true
    end
  end
  return names
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
  local out = model:forward(ids, { capture = names_of(list), logits = false })
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

---sample: {x, y}, y of a transcoder: what it is to predict
local function measured(read, sample)
  local f = fit.new(read, sample.y ~= nil)
  f:add(sample.x, sample.y)
  return { fvu = f:fvu(), l0 = f:l0() }
end

local SUBTRACT = 'convert it, and write "subtract_b_dec": %s into its metadata file'

local function try_centre(sae, try)
  if sae.subtract_b_dec then
    local centre <close> = sae:_part "centre"
    return try("without subtracting b_dec from its input", shifted(sae, centre), SUBTRACT:format "false")
  end
  local b_dec <close> = sae:_part "b_dec"
  local offset <close> = -b_dec
  try("with b_dec subtracted from its input", shifted(sae, offset), SUBTRACT:format "true")
end

local function try_scale(sae, mean_norm, try)
  local factor = math.sqrt(sae.d_model) / mean_norm -- "expected_average_only_in" of SAELens
  try("with its input scaled to a mean norm of sqrt(d_model)", scaled(sae, factor),
    ('convert it in its own format, or write "input_scale": %.6g and "output_scale": %.6g into its metadata file')
      :format(factor, 1 / factor))
end

local function try_matrices(sae, try)
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

---Formats whose files leave the convention to whoever reads them. What another one's config says is not doubted.
local OPEN = options.names("goodfire", "workbench", "qresearch")

---How else the SAE could be meant, measured on sample rows: the first is as it was loaded.
local function conventions_of(sae, sample, mean_norm, tied)
  local rows = {}
  local function try(name, read, remedy)
    local row = measured(read, sample)
    row.name, row.remedy = name, remedy
    rows[#rows + 1] = row
  end
  try("as it was loaded", plain(sae))
  -- the rows of a transcoder's matrices have nothing in common, and a normalised input has no scale
  if not OPEN[sae.format] or sae.output or sae.unit ~= "raw" then return rows end
  try_centre(sae, try)
  if not sae.input_scale then try_scale(sae, mean_norm, try) end
  if not tied then try_matrices(sae, try) end
  return rows
end

-- dtypes

---The same file in the other dtype that matters: f32 where the model's is narrower.
local function other_dtype(model, sae)
  if model:dtype() == "f32" then return nil end
  return sae:dtype() == "f32" and model:dtype() or "f32"
end

local function dtypes_of(model, sae, sample)
  local rows = { measured(plain(sae), sample) }
  rows[1].dtype = sae:dtype()
  local dtype = other_dtype(model, sae)
  if not dtype then return rows end
  local opts = {}
  for name, value in pairs(sae.options) do opts[name] = value end
  opts.model, opts.dtype = model, dtype
  local other, message, code = sae_module.load_sae(sae.path, opts)
  if not other then return nil, message, code end
  local guard <close> = other
  rows[2] = measured(plain(other), sample)
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

local function is_number(x) return x == x end
local function is_finite(x) return is_number(x) and math.abs(x) < math.huge end

---Where a list of numbers, one per feature, is not sound: {name, rows, first}, or nil.
local function broken_of(name, values, is_sound)
  local rows, first = 0, nil
  for i, value in ipairs(values) do
    if not is_sound(value) then
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

---Where the parts with one number or row per feature are broken. A threshold may be infinite: the feature is off.
local function broken_parts(sae, encoder, decoder)
  local broken = {}
  local function check(name, is_sound)
    local part <close> = sae:_part(name)
    if part then broken[#broken + 1] = broken_of(name, part:totable(), is_sound) end
  end
  broken[#broken + 1] = broken_of("w_enc", encoder, is_finite)
  broken[#broken + 1] = broken_of("w_dec", decoder, is_finite)
  check("b_enc", is_finite)
  check("threshold", is_number)
  check("gain", is_finite)
  check("offset", is_finite)
  return broken
end

---Whether a part that belongs to no feature is there and has a number that is not finite.
local function is_broken(sae, name)
  local part <close> = sae:_part(name)
  if not part then return false end
  local norm <close> = part:norm()
  return not is_finite(norm:item())
end

local function weights_of(sae, firing, tied)
  local w_enc <close> = sae:_part "w_enc"
  local w_dec <close> = sae:_part "w_dec"
  local encoder, decoder = row_norms(w_enc), row_norms(w_dec)
  return {
    broken = broken_parts(sae, encoder, decoder), tied = tied,
    b_dec_broken = is_broken(sae, "b_dec"), skip_broken = is_broken(sae, "skip"),
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

---How to get a known file anew; one in the cache is in the way.
local function refetch(path, entry)
  if not entry.repo_id then return "fetch the file again" end
  local cached = resolve.origin(path) and ("moonscope cache rm %s, then "):format(entry.repo_id) or ""
  return ("fetch the file again: %smoonscope download %s %s"):format(cached, entry.repo_id, entry.filename)
end

---What a published file is, item by item, compared with what SAE_CONFIGS knows of it. Returns what it knows.
local function compare_published(path, file, entry, sha256, differ)
  local remedy, compared = refetch(path, entry), {}
  local function expect(what, found, expected)
    if not expected then return end
    compared[#compared + 1] = what
    if found ~= expected then differ(what, tostring(found), tostring(expected), remedy) end
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
  return compared
end

---The metadata of a converted file, {} without.
local function metadata_of(path)
  local meta_path = path:gsub("%.safetensors$", "_metadata.json")
  local metadata = meta_path ~= path and json.read(meta_path)
  return type(metadata) == "table" and metadata or {}
end

local function compare_converted(metadata, entry, name, sha256, differ)
  if type(metadata.sha256) == "string" and metadata.sha256 ~= sha256 then
    differ("sha256", tostring(sha256), metadata.sha256 .. " by its metadata", "convert the SAE again")
  end
  local source = metadata.source_sha256
  if entry and entry.sha256 and type(source) == "string" and source ~= entry.sha256 then
    differ("sha256 of the file it was converted from", source, entry.sha256,
      ("fetch that file again and convert it: moonscope convert %s"):format(name))
  end
end

---{known: the published file's name or nil, sha256, compared: what is known of it, differences}
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
  local compared = {}
  if entry then
    compared = compare_published(path, file, entry, sha256, differ)
  else
    local metadata = metadata_of(path)
    if type(metadata.source_file) == "string" then entry, name = sae_configs.of_file(metadata.source_file) end
    compare_converted(metadata, entry, name, sha256, differ)
  end
  return { known = name, entry = entry, sha256 = sha256, compared = compared, differences = differences }
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
  local fits, special, done = {}, fit.new(plain(sae), sae.output ~= nil), 0
  for i, place in ipairs(near) do
    fits[i] = fit.new(plain(sae), sae.output ~= nil, place == hook and counts or nil)
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
  for i in ipairs(list) do fits[i] = fit.new(plain(sae), sae.output ~= nil) end
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
  return best_place(scan_places(model, sae, windows, stream_places("model.layers.0.input", model.config.n_layers)))
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
  local list, claimed = places_of(hook, sae.output, model.config.n_layers)
  local text = read_text(model, sae, windows, list, claimed, on_progress)
  local found, firing, tied = text.found, text.counts:totable(), is_tied(sae)
  if found:n() < LEAST then
    return nil, ("text: found %d tokens that are not special, expected at least %d"):format(found:n(), LEAST), "EINVAL"
  end
  local report = {
    places = {}, tokens = found:n(), special = special_of(text.special, found), dead = dead_of(firing),
    weights = weights_of(sae, firing, tied), sample_tokens = text.sample.x:size(1),
    conventions = conventions_of(sae, text.sample, found.stream:mean_norm(), tied),
  }
  for i, place in ipairs(text.near) do report.places[i] = place_row(place, list[claimed], text.fits[i]) end
  local message, code
  report.dtypes, message, code = dtypes_of(model, sae, text.sample)
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
  file, message, code = file_of(sae.path, notify)
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

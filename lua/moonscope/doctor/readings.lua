-- SPDX-License-Identifier: MIT
---Other ways to read an autoencoder, each measured on some rows: conventions that its file leaves open, and dtypes.
---A reader is a function of x that gives features and what they stand for.
local core = require "moonscope.core"
local fit = require "moonscope.fit"
local job = require "moonscope.job"
local options = require "moonscope.options"
local sae_module = require "moonscope.sae"

local M = {}

function M.plain(sae)
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
    try("with encoder and decoder exchanged", M.plain(swapped), "the two matrices have each other's names: convert "
      .. "the SAE again, in its own format")
  end
end

---Formats whose files leave the convention to whoever reads them. What another one's config says is not doubted.
local OPEN = options.names("goodfire", "workbench", "qresearch")

---How else the SAE could be meant, measured on sample rows: the first is as it was loaded.
function M.conventions(sae, sample, mean_norm, tied)
  local rows = {}
  local function try(name, read, remedy)
    local row = measured(read, sample)
    row.name, row.remedy = name, remedy
    rows[#rows + 1] = row
  end
  try("as it was loaded", M.plain(sae))
  -- the rows of a transcoder's matrices have nothing in common, and a normalised input has no scale
  if not OPEN[sae.format] or sae.output or sae.unit ~= "raw" then return rows end
  try_centre(sae, try)
  if not sae.input_scale then try_scale(sae, mean_norm, try) end
  if not tied then try_matrices(sae, try) end
  return rows
end

---The same file in the other dtype that matters: f32 where the model's is narrower.
local function other_dtype(model, sae)
  if model:dtype() == "f32" then return nil end
  return sae:dtype() == "f32" and model:dtype() or "f32"
end

function M.dtypes(model, sae, sample)
  local rows = { measured(M.plain(sae), sample) }
  rows[1].dtype = sae:dtype()
  local dtype = other_dtype(model, sae)
  if not dtype then return rows end
  local opts = {}
  for name, value in pairs(sae.options) do opts[name] = value end
  opts.model, opts.dtype = model, dtype
  local other, message, code = sae_module.load_sae(sae.path, opts)
  if not other then return nil, message, code end
  local guard <close> = other
  rows[2] = measured(M.plain(other), sample)
  rows[2].dtype = dtype
  return rows
end

return M

-- SPDX-License-Identifier: MIT
---Routes of the original whose work moonscope cannot do yet: their fields are checked, then 501 says what is
---missing. Nothing is changed and nothing invented.
local errors = require "moonscope.server.errors"
local saes = require "moonscope.server.saes"

local function lacks(what)
  return function() errors.refuse(501, "EUNSUPPORTED", what) end
end

local no_training = lacks "Training: there is no training of autoencoders yet"

local function provenance(request)
  request.workbench:check_free()
  saes.feature(request.workbench, request.args.id)
  errors.refuse(501, "EUNSUPPORTED",
    "Provenance: there is no analysis of how features of different layers depend on each other yet")
end

local TRAIN = {
  { "layer_idx", "integer", required = true, min = 0, max = saes.MAX_LAYER },
  { "activation_data_path", "text", required = true, max_length = 4096 },
  { "latent_dim", "integer", default = 16384, min = 1, max = 1 << 24 },
  { "sparsity_coef", "number", default = 1e-3, min = 0, max = 1e6 },
  { "learning_rate", "number", default = 1e-3, min = 1e-12, max = 10 },
  { "max_epochs", "integer", default = 100, min = 1, max = 1000000 },
  { "tied_weights", "boolean", default = true },
  { "activation_fn", "text", default = "relu", choices = { "relu", "gelu" } },
  { "output_dir", "text", null = true, max_length = 4096 },
  { "max_samples", "integer", null = true, min = 1, max = 1 << 53 },
  { "batch_size", "integer", default = 512, min = 1, max = 1 << 20 },
  { "num_workers", "integer", default = 8, min = 0, max = 1024 },
}

local JOB_ID = { "job_id", "text", required = true, max_length = 64 }

return {
  { "GET", "/feature/{id}/provenance", provenance, fields = {
    { "id", "text", required = true, in_path = true, max_length = 64 },
    { "upstream_layers", "integer", default = 2, min = 0, max = saes.MAX_LAYER },
    { "downstream_layers", "integer", default = 1, min = 0, max = saes.MAX_LAYER },
  } },
  { "POST", "/sae/train", no_training, fields = TRAIN },
  { "POST", "/sae/train-fast", no_training, fields = TRAIN },
  { "GET", "/sae/training/jobs", no_training },
  { "GET", "/sae/training/status/{job_id}", no_training, fields = { JOB_ID } },
  { "DELETE", "/sae/training/{job_id}", no_training, fields = { JOB_ID } },
  { "POST", "/sae/load-trained", no_training, fields = { JOB_ID } },
}

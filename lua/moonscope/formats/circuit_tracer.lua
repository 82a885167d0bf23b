-- SPDX-License-Identifier: MIT
---circuit-tracer's ReLU transcoders, layer_N.safetensors: they read the stream between attention and
---MLP and predict the MLP's output, as does the skip connection. A config.yaml beside them names the
---places; another pair of them is refused.
local core = require "moonscope.core"

local M = { name = "circuit_tracer", suffix = ".post_attention", output_suffix = ".mlp", what = "a ReLU transcoder" }

local YAML = "config.yaml"
local MAX_YAML = 1 << 20 -- bytes
local PLACES = { feature_input_hook = "hook_resid_mid", feature_output_hook = "mlp.hook_out" }

function M.matches(look)
  return look:has("W_enc", "W_dec", "b_enc", "b_dec")
    and not (look:has "threshold" or look:has "k" or look:has "scaling_factor")
end

---The two top-level lines of the config that matter here; nil without the file.
local function hooks(look)
  local text, message, code = core.read_file(look.folder .. "/" .. YAML, MAX_YAML)
  if code == "ENOENT" or code == "EINVAL" then return nil end -- what is no file is none
  if not text then error({ whole = message, code = code }, 0) end
  local found = {}
  for key, value in ("\n" .. text):gmatch "\n([%w_]+):%s*[\"']?([%w_.]+)" do found[key] = value end
  return found
end

function M.evidence(look)
  local found = hooks(look)
  return found ~= nil and found.feature_input_hook ~= nil
end

---b_enc and b_dec tell which side of a matrix is which; a square one is as the tool stores it.
local function oriented(look, name, rows, columns)
  local a, b = look:matrix(name, "two dims")
  if a == columns and b == rows and rows ~= columns then return { name, transposed = true } end
  look:expect(name, { rows, columns })
  return { name }
end

local function length(look, name)
  local info = look.file:info(name)
  look:expect(name, { info.shape[1] or 0 })
  return info.shape[1]
end

function M.describe(look)
  local d_sae, d_model = length(look, "b_enc"), length(look, "b_dec")
  for key, value in pairs(hooks(look) or {}) do
    if PLACES[key] and value ~= PLACES[key] then
      look:refuse("EUNSUPPORTED", "%s: %s: found %s, expected %s", YAML, key, value, PLACES[key])
    end
  end
  local w_dec = oriented(look, "W_dec", d_model, d_sae) -- stored [d_model, d_sae]
  w_dec.transposed = not w_dec.transposed or nil
  local source = {
    d_sae = d_sae, d_model = d_model, activation = look:activation "relu",
    tensors = {
      w_enc = oriented(look, "W_enc", d_sae, d_model), b_enc = { "b_enc" }, w_dec = w_dec, b_dec = { "b_dec" },
    },
  }
  if look:has "W_skip" then
    look:expect("W_skip", { d_model, d_model })
    source.tensors.skip = { "W_skip" }
  end
  local layer = look.name:match "^layer_(%d+)%."
  if layer then
    source.hook = look:place(layer, M.suffix, "its name")
    source.output = look:place(layer, M.output_suffix, "its name")
  end
  return source
end

return M

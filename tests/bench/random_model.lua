-- SPDX-License-Identifier: MIT
-- A model of a published shape with random bf16 weights, one shard per layer:
--   moonscope tests/bench/random_model.lua 1b|8b FOLDER
local ms = require "moonscope"
local json = require "moonscope.json"

local shapes = {
  ["1b"] = { layers = 16, d_model = 2048, d_ff = 8192, heads = 32, kv_heads = 8, d_head = 64, tied = true },
  ["8b"] = { layers = 32, d_model = 4096, d_ff = 14336, heads = 32, kv_heads = 8, d_head = 128, tied = false },
}
local N_VOCAB = 128256

local name, folder = ...
local s = shapes[name]
if not s or not folder then error("usage: moonscope random_model.lua 1b|8b FOLDER", 0) end
assert(os.execute("mkdir -p '" .. folder .. "'"))

local weight_map, seed = {}, 0

local function save(file, tensors)
  assert(ms.save(folder .. "/" .. file, tensors))
  for key in pairs(tensors) do weight_map[key] = file end
  collectgarbage()
end

local BLOCK = 1 << 22 -- elements that are drawn; a larger matrix repeats them, which times the same

---A matrix that keeps the size of what it is given: uniform, centred, of variance 1 / columns.
local function matrix(rows, columns)
  seed = seed + 1
  local n = math.min(rows, BLOCK // columns)
  local drawn = (ms.rand({ n, columns }, { seed = seed }) - 0.5) * math.sqrt(12 / columns)
  local blocks = {}
  for i = 1, (rows + n - 1) // n do blocks[i] = drawn:to { dtype = "bf16" } end
  return ms.cat(blocks, 1):narrow(1, 1, rows)
end

local function ones() return ms.ones({ s.d_model }, { dtype = "bf16" }) end

-- Every layer has the same weights.
local q, kv = s.heads * s.d_head, s.kv_heads * s.d_head
local layer_weights = {
  ["input_layernorm"] = ones(), ["post_attention_layernorm"] = ones(),
  ["self_attn.q_proj"] = matrix(q, s.d_model), ["self_attn.k_proj"] = matrix(kv, s.d_model),
  ["self_attn.v_proj"] = matrix(kv, s.d_model), ["self_attn.o_proj"] = matrix(s.d_model, q),
  ["mlp.gate_proj"] = matrix(s.d_ff, s.d_model), ["mlp.up_proj"] = matrix(s.d_ff, s.d_model),
  ["mlp.down_proj"] = matrix(s.d_model, s.d_ff),
}
for layer = 0, s.layers - 1 do
  local tensors = {}
  for key, weight in pairs(layer_weights) do tensors[("model.layers.%d.%s.weight"):format(layer, key)] = weight end
  save(("layer-%02d.safetensors"):format(layer), tensors)
end
save("embeddings.safetensors", {
  ["model.embed_tokens.weight"] = matrix(N_VOCAB, s.d_model), ["model.norm.weight"] = ones(),
})
if not s.tied then save("head.safetensors", { ["lm_head.weight"] = matrix(N_VOCAB, s.d_model) }) end

local function write(file, value)
  local f = assert(io.open(folder .. "/" .. file, "wb"))
  assert(f:write(json.encode(value)))
  assert(f:close())
end

write("model.safetensors.index.json", { weight_map = weight_map })
write("config.json", {
  architectures = { "LlamaForCausalLM" }, model_type = "llama", vocab_size = N_VOCAB, hidden_size = s.d_model,
  intermediate_size = s.d_ff, num_hidden_layers = s.layers, num_attention_heads = s.heads,
  num_key_value_heads = s.kv_heads, head_dim = s.d_head, max_position_embeddings = 131072, rms_norm_eps = 1e-5,
  rope_theta = 500000, tie_word_embeddings = s.tied, bos_token_id = 128000, eos_token_id = 128009,
  rope_scaling = { rope_type = "llama3", factor = s.tied and 32 or 8, low_freq_factor = 1, high_freq_factor = 4,
    original_max_position_embeddings = 8192 },
})

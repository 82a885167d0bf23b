-- SPDX-License-Identifier: MIT
---Models and autoencoders of a shape with random weights, written as published ones are.
local uv = require "luv"
local checkpoint = require "moonscope.checkpoint"
local json = require "moonscope.json"
local tensor = require "moonscope.tensor"
local tokenizer = require "moonscope.bench.tokenizer"

local M = {}

local N_DRAWN = 1 << 22 -- elements that are drawn; a larger matrix repeats them, which takes the same time

---A matrix that keeps the size of what it multiplies: uniform, centred, of variance 1 / columns.
local function matrix(rows, columns, dtype, seed)
  local n = math.min(rows, math.max(1, N_DRAWN // columns))
  local drawn = (tensor.rand({ n, columns }, { seed = seed }) - 0.5) * math.sqrt(12 / columns)
  local block, blocks = drawn:to { dtype = dtype }, {}
  for i = 1, (rows + n - 1) // n do blocks[i] = block end
  return tensor.cat(blocks, 1):narrow(1, 1, rows)
end

local function write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(text))
end

local function config(s)
  return {
    architectures = { "LlamaForCausalLM" }, model_type = "llama", vocab_size = s.n_vocab, hidden_size = s.d_model,
    intermediate_size = s.d_ff, num_hidden_layers = s.n_layers, num_attention_heads = s.n_heads,
    num_key_value_heads = s.n_kv_heads, head_dim = s.d_head, max_position_embeddings = 131072, rms_norm_eps = 1e-5,
    rope_theta = 500000, tie_word_embeddings = s.tied, bos_token_id = s.n_vocab - 256, eos_token_id = s.n_vocab - 247,
    rope_scaling = { rope_type = "llama3", factor = s.tied and 32 or 8, low_freq_factor = 1, high_freq_factor = 4,
      original_max_position_embeddings = 8192 },
  }
end

---A model in bf16, one shard per layer. Every layer has the same weights, in memory of its own.
---@param folder string  made here
---@param s moonscope.bench.Shape
function M.model(folder, s)
  assert(uv.fs_mkdir(folder, tonumber("700", 8)))
  local weight_map, seed = {}, 0
  local function save(file, tensors)
    assert(checkpoint.save(folder .. "/" .. file, tensors))
    for key in pairs(tensors) do weight_map[key] = file end
    collectgarbage()
  end
  local function weights(rows, columns)
    seed = seed + 1
    return matrix(rows, columns, "bf16", seed)
  end
  local function ones() return tensor.ones({ s.d_model }, { dtype = "bf16" }) end

  local q, kv = s.n_heads * s.d_head, s.n_kv_heads * s.d_head
  local layer_weights = {
    ["input_layernorm"] = ones(), ["post_attention_layernorm"] = ones(),
    ["self_attn.q_proj"] = weights(q, s.d_model), ["self_attn.k_proj"] = weights(kv, s.d_model),
    ["self_attn.v_proj"] = weights(kv, s.d_model), ["self_attn.o_proj"] = weights(s.d_model, q),
    ["mlp.gate_proj"] = weights(s.d_ff, s.d_model), ["mlp.up_proj"] = weights(s.d_ff, s.d_model),
    ["mlp.down_proj"] = weights(s.d_model, s.d_ff),
  }
  for layer = 0, s.n_layers - 1 do
    local tensors = {}
    for key, weight in pairs(layer_weights) do tensors[("model.layers.%d.%s.weight"):format(layer, key)] = weight end
    save(("layer-%02d.safetensors"):format(layer), tensors)
  end
  save("embeddings.safetensors", {
    ["model.embed_tokens.weight"] = weights(s.n_vocab, s.d_model), ["model.norm.weight"] = ones(),
  })
  if not s.tied then save("head.safetensors", { ["lm_head.weight"] = weights(s.n_vocab, s.d_model) }) end
  write(folder .. "/model.safetensors.index.json", json.encode { weight_map = weight_map })
  write(folder .. "/config.json", json.encode(config(s)))
  write(folder .. "/tokenizer.json", tokenizer.text(s.n_vocab))
end

---A tied ReLU autoencoder of which about one feature in 700 fires.
---@param path string  of a .safetensors file
---@param d_model integer
---@param d_sae integer
---@param dtype string
---@param deviation number  of an element of the stream that it reads
function M.sae(path, d_model, d_sae, dtype, deviation)
  assert(checkpoint.save(path, {
    ["encoder_linear.weight"] = matrix(d_sae, d_model, dtype, 1),
    ["encoder_linear.bias"] = tensor.full({ d_sae }, -3 * deviation, { dtype = dtype }), -- deviations of a feature
    ["decoder_linear.bias"] = tensor.zeros({ d_model }, { dtype = dtype }),
  }))
  collectgarbage()
end

return M

-- SPDX-License-Identifier: MIT
---Published shapes of a Llama and of an SAE beside it, and what work in them costs at least.
local M = {}

---@class moonscope.bench.Shape
---@field n_layers integer
---@field d_model integer
---@field d_ff integer
---@field n_heads integer
---@field n_kv_heads integer
---@field d_head integer
---@field n_vocab integer  256 of them special tokens
---@field tied boolean
---@field d_sae integer
---@field prompts integer[]  tokens of the prompts that are measured
---@field contexts integer[]  tokens at which growth is measured

---@type table<string, moonscope.bench.Shape>
M.shapes = {
  tiny = {
    n_layers = 4, d_model = 128, d_ff = 384, n_heads = 8, n_kv_heads = 2, d_head = 16, n_vocab = 4096, tied = true,
    d_sae = 2048, prompts = { 16, 64 }, contexts = { 32, 128 },
  },
  ["1b"] = { -- Llama 3.2 1B
    n_layers = 16, d_model = 2048, d_ff = 8192, n_heads = 32, n_kv_heads = 8, d_head = 64, n_vocab = 128256,
    tied = true, d_sae = 32768, prompts = { 128, 512 }, contexts = { 128, 512, 2048, 8192 },
  },
  ["8b"] = { -- Llama 3.1 8B
    n_layers = 32, d_model = 4096, d_ff = 14336, n_heads = 32, n_kv_heads = 8, d_head = 128, n_vocab = 128256,
    tied = false, d_sae = 65536, prompts = { 128, 512 }, contexts = { 128, 512, 2048, 8192 },
  },
}

---A shape with another number of layers.
---@param name string
---@param n_layers integer?  its own
---@return moonscope.bench.Shape
function M.shape(name, n_layers)
  local copy = {}
  for key, value in pairs(M.shapes[name]) do copy[key] = value end
  copy.n_layers = n_layers or copy.n_layers
  return copy
end

local WEIGHT_BYTES = 2 -- bf16

---Weights of one layer's products.
local function layer_weights(s)
  local q, kv = s.n_heads * s.d_head, s.n_kv_heads * s.d_head
  return s.d_model * (2 * q + 2 * kv + 3 * s.d_ff)
end

---Bytes of the model's file.
---@param s moonscope.bench.Shape
---@return integer
function M.model_bytes(s)
  return WEIGHT_BYTES * (s.n_layers * layer_weights(s) + s.d_model * s.n_vocab * (s.tied and 1 or 2))
end

---Bytes of weights that a pass reads: all but the embeddings, of which it takes rows.
---@param s moonscope.bench.Shape
---@return integer
function M.weight_bytes(s)
  return WEIGHT_BYTES * (s.n_layers * layer_weights(s) + s.d_model * s.n_vocab)
end

---Bytes of keys and values of one sequence after `context` tokens.
---@param s moonscope.bench.Shape
---@param context integer
---@param precision string
---@return integer
function M.kv_bytes(s, context, precision)
  return 2 * s.n_layers * s.n_kv_heads * s.d_head * context * (precision == "exact" and 4 or WEIGHT_BYTES)
end

---Operations (a multiply-add is two) of the products of n tokens, with the logits of n_logits of them.
---@param s moonscope.bench.Shape
---@param n integer
---@param n_logits integer
---@return integer
function M.product_operations(s, n, n_logits)
  return 2 * (s.n_layers * layer_weights(s) * n + s.d_model * s.n_vocab * n_logits)
end

---What a prompt of n tokens costs at least: the weights read once, products in the precision's arithmetic
---with the logits of the last token, causal attention in f32.
---@param s moonscope.bench.Shape
---@param n integer
---@param precision string
---@return {bytes: integer, f32: integer, bf16: integer}
function M.prompt_work(s, n, precision)
  local products, attention = M.product_operations(s, n, 1), 2 * s.n_layers * n * (n + 1) * s.n_heads * s.d_head
  local exact = precision == "exact"
  return {
    bytes = M.weight_bytes(s) + M.kv_bytes(s, n, precision),
    f32 = attention + (exact and products or 0), bf16 = exact and 0 or products,
  }
end

return M

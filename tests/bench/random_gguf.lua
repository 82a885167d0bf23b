-- SPDX-License-Identifier: MIT
---A model in llama.cpp's format with random bf16 weights: write(path, shape), a moonscope.bench.Shape.
local ms = require "moonscope"

local F32, BF16, ALIGNMENT = 0, 30, 32
local N_DRAWN = 1 << 22

local function text(s) return ("<s8"):pack(s) end

---Keys and values; a value is { type's number, format, value }.
local function header(s, n_tensors)
  local function u32(n) return { 4, "<I4", n } end
  local function f32(x) return { 6, "<f", x } end
  local function string(t) return { 8, "<s8", t } end
  local pairs_ = {
    { "general.architecture", string "llama" }, { "llama.context_length", u32(131072) },
    { "llama.embedding_length", u32(s.d_model) }, { "llama.block_count", u32(s.n_layers) },
    { "llama.feed_forward_length", u32(s.d_ff) }, { "llama.attention.head_count", u32(s.n_heads) },
    { "llama.attention.head_count_kv", u32(s.n_kv_heads) }, { "llama.rope.dimension_count", u32(s.d_head) },
    { "llama.attention.layer_norm_rms_epsilon", f32(1e-5) }, { "llama.rope.freq_base", f32(500000) },
    { "llama.vocab_size", u32(s.n_vocab) }, { "tokenizer.ggml.model", string "no_vocab" },
  }
  local parts = { "GGUF", ("<I4I8I8"):pack(3, n_tensors, #pairs_) }
  for _, pair in ipairs(pairs_) do
    local value = pair[2]
    parts[#parts + 1] = text(pair[1]) .. ("<I4"):pack(value[1]) .. value[2]:pack(value[3])
  end
  return table.concat(parts)
end

---{ name, rows, columns } of the matrices, { name, nil, columns } of the vectors.
local function tensors_of(s)
  local q, kv = s.n_heads * s.d_head, s.n_kv_heads * s.d_head
  local list = { { "token_embd", s.n_vocab, s.d_model }, { "output_norm", nil, s.d_model } }
  if not s.tied then list[#list + 1] = { "output", s.n_vocab, s.d_model } end
  for layer = 0, s.n_layers - 1 do
    for _, t in ipairs {
      { "attn_norm", nil, s.d_model }, { "attn_q", q, s.d_model }, { "attn_k", kv, s.d_model },
      { "attn_v", kv, s.d_model }, { "attn_output", s.d_model, q }, { "ffn_norm", nil, s.d_model },
      { "ffn_gate", s.d_ff, s.d_model }, { "ffn_up", s.d_ff, s.d_model }, { "ffn_down", s.d_model, s.d_ff },
    } do
      list[#list + 1] = { ("blk.%d.%s"):format(layer, t[1]), t[2], t[3] }
    end
  end
  return list
end

local function size_of(t) return t[2] and 2 * t[2] * t[3] or 4 * t[3] end

local function write_data(file, t)
  local dtype = t[2] and "bf16" or "f32"
  local columns = t[3]
  local n = t[2] and math.min(t[2], N_DRAWN // columns) or 1
  local drawn = t[2] and (ms.rand({ n, columns }, { seed = 1 }) - 0.5) * math.sqrt(12 / columns)
    or ms.ones { 1, columns }
  local block, left = drawn:to({ dtype = dtype }):to_string(), size_of(t)
  while left > 0 do
    assert(file:write(block:sub(1, left)))
    left = left - #block
  end
end

return function(path, s)
  local list = tensors_of(s)
  local parts, offset = { header(s, #list) }, 0
  for _, t in ipairs(list) do
    local dims = t[2] and ("<I4I8I8"):pack(2, t[3], t[2]) or ("<I4I8"):pack(1, t[3])
    parts[#parts + 1] = text(t[1] .. ".weight") .. dims .. ("<I4I8"):pack(t[2] and BF16 or F32, offset)
    offset = offset + (size_of(t) + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
  end
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(table.concat(parts)))
  for _, t in ipairs(list) do
    assert(file:write(("\0"):rep(-file:seek() % ALIGNMENT)))
    write_data(file, t)
    collectgarbage()
  end
end

// SPDX-License-Identifier: MIT
/* What config.json and generation_config.json say of a model that is a Llama in its forward pass:
 * Llama itself, Mistral, Qwen 2 and Qwen 3. */
#ifndef MOON_LLAMA_CONFIG_H
#define MOON_LLAMA_CONFIG_H

#include "moon.h"

typedef enum moon_rope_scaling {
  MOON_ROPE_PLAIN,
  MOON_ROPE_LINEAR,
  MOON_ROPE_LLAMA3
} moon_rope_scaling;

#define MOON_MAX_EOS    16
#define MOON_MAX_LAYERS 4096

typedef struct moon_llama_config {
  int64_t n_vocab, d_model, d_ff, n_layers, n_heads, n_kv_heads, d_head;
  int64_t n_ctx; /* max_position_embeddings */
  float norm_eps;
  double rope_theta;
  moon_rope_scaling rope_scaling;
  double rope_factor, rope_low, rope_high, rope_original; /* llama3: all four; linear: the factor */
  bool tied, mlp_bias;
  bool qkv_bias, o_bias;
  bool qk_norm;   /* queries and keys are normed, head by head, before they are rotated */
  int64_t window; /* the last keys that the layers of `windowed` attend to, 0: there is none */
  bool windowed[MOON_MAX_LAYERS];
  int32_t bos;               /* -1: none */
  int32_t eos[MOON_MAX_EOS]; /* of generation_config.json where there is one, else of config.json */
  int n_eos;
} moon_llama_config;

/* Reads folder/config.json and, where present, folder/generation_config.json. MOON_ENOENT,
 * MOON_EFORMAT (a field that is missing, of another type or out of range), MOON_EUNSUPPORTED
 * (another architecture, activation or RoPE scaling, experts). */
moon_status moon_llama_config_load(moon_llama_config *out, const char *folder, moon_err *err);

/* The same from memory; generation may be NULL. */
moon_status moon_llama_config_parse(moon_llama_config *out, const char *config, size_t config_size,
                                    const char *generation, size_t generation_size, moon_err *err);

/* Inverse frequencies of RoPE, [d_head / 2], after scaling. Formula: transformers'
 * modeling_rope_utils (llama3: high frequencies kept, low ones divided by the factor, a linear ramp
 * between). */
void moon_llama_inverse_frequencies(const moon_llama_config *config, double *out);

#endif

// SPDX-License-Identifier: MIT
/* A Llama's weights on a device, in the dtype of their file, with its RoPE tables and work space.
 */
#ifndef MOON_LLAMA_WEIGHTS_H
#define MOON_LLAMA_WEIGHTS_H

#include "llama/config.h"
#include "tensor/ops.h"

/* A linear map: w [n_out][n_in] as in the file; bias [n_out], or empty (storage NULL). */
typedef struct moon_linear {
  moon_tensor w, bias;
} moon_linear;

typedef struct moon_layer {
  moon_tensor input_norm, post_norm; /* [d_model] */
  moon_tensor q_norm, k_norm;        /* [d_head]; empty where the model has none */
  moon_linear q, k, v, o;     /* n_heads * d_head, n_kv_heads * d_head (k, v) by d_model; o back */
  moon_linear gate, up, down; /* d_ff by d_model (gate, up); down back */
} moon_layer;

/* Rows that one layer needs beside the residual stream; grown to the largest pass, used by one job
 * at a time. */
typedef struct moon_workspace {
  int64_t n_rows;
  moon_tensor h;        /* [n_rows][d_model] */
  moon_tensor q, heads; /* [n_rows][n_heads][d_head] */
  moon_tensor k, v;     /* [n_rows][n_kv_heads][d_head] */
  moon_tensor gate, up; /* [n_rows][d_ff] */
} moon_workspace;

typedef enum moon_precision { MOON_FAST, MOON_EXACT } moon_precision;

typedef struct moon_llama {
  atomic_int refs;
  moon_llama_config config;
  moon_device *device;
  moon_precision precision;
  moon_dtype dtype;     /* of the embeddings: what an SAE beside the model follows */
  int64_t n_ctx;        /* positions that a session can hold */
  moon_tensor embed;    /* [n_vocab][d_model] */
  moon_layer *layers;   /* [n_layers] */
  moon_tensor norm;     /* [d_model] */
  moon_linear head;     /* [n_vocab][d_model]; the embeddings where tied */
  moon_tensor cos, sin; /* [n_ctx][d_head / 2] f32 */
  moon_workspace work;
} moon_llama;

/* Loads folder (config.json and safetensors), weights in place from the mapping on the CPU. n_ctx
 * 0: min(the model's, 8192). Owned by the caller: one reference. MOON_ENOENT, MOON_EFORMAT,
 * MOON_EUNSUPPORTED, MOON_ESHAPE (names the tensor and both shapes), MOON_EDTYPE (not f32, f16 or
 * bf16), MOON_ERANGE (n_ctx above the model's), MOON_ENOMEM (what it needs is compared with the
 * device's free memory before anything is loaded: plan.h). */
moon_status moon_llama_load(moon_llama **out, const char *folder, moon_device *device,
                            moon_precision precision, int64_t n_ctx, moon_err *err);
/* The positions of a session where n_ctx were asked for, 0: as above. MOON_ERANGE. */
moon_status moon_llama_context(int64_t *out, const moon_llama_config *config, int64_t n_ctx,
                               moon_err *err);
moon_llama *moon_llama_retain(moon_llama *model);
void moon_llama_release(moon_llama *model); /* NULL is fine */

/* Room for n_rows in the work space. */
moon_status moon_llama_reserve(moon_llama *model, int64_t n_rows, moon_err *err);

#endif

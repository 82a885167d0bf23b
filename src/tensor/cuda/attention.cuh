// SPDX-License-Identifier: MIT
/* What the two ways of attention share (attention.cu, attention_bf16.cu). */
#ifndef MOON_TENSOR_CUDA_ATTENTION_CUH
#define MOON_TENSOR_CUDA_ATTENTION_CUH

#include "tensor/cuda/kernel.cuh"

struct attention_call {
  float *out;        /* [n_tok][n_heads][d_head] */
  const float *q;    /* the same */
  const void *k, *v; /* [n_kv_heads][n_ctx][d_head] */
  const int32_t *positions;
  float *parts; /* f32, few rows: [n_tok][n_heads][n_runs][d_head + 2]: weighted v, top, sum */
  float scale;
  int window; /* the last keys that a query sees of those up to its position */
  int64_t n_tok, n_heads, n_kv_heads, n_ctx, n_runs;
  int group, d_head, padded; /* padded: d_head up to a multiple of 4, zeros behind it */
};

/* A query with so many keys up to its position (0: it is not there) sees those from here on. */
__device__ __forceinline__ int first_seen(const attention_call &c, int n_keys) {
  return n_keys > c.window ? n_keys - c.window : 0;
}

__device__ __forceinline__ bool sees(const attention_call &c, int n_keys, int key) {
  return key < n_keys && key >= n_keys - c.window;
}

/* Place of a kv head's query among [n_tok][n_heads]; -1: not there. The queries of a kv head are
 * numbered [row][head of its group]. */
__device__ __forceinline__ int64_t place_of_query(const attention_call &c, int64_t kv_head,
                                                  int64_t query) {
  int64_t t = query / c.group;
  return t < c.n_tok ? t * c.n_heads + kv_head * c.group + query % c.group : -1;
}

/* attention_bf16.cu: whether it takes the call, whose cache is bf16; never by the number of rows.
 */
bool fits_tensor_cores(const attention_call *c);
moon_status attend_on_tensor_cores(cuda_device *d, const attention_call *c, moon_err *err);

#endif

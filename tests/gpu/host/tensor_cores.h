// SPDX-License-Identifier: MIT
/* What src/tensor/cuda/tensor_cores.cuh has in PTX, with the same layout of every fragment. */
#ifndef HOST_TENSOR_CORES_H
#define HOST_TENSOR_CORES_H

#include <math.h>

static inline float host_bf16(uint32_t pair, int which) {
  uint32_t bits = which ? pair & 0xffff0000u : pair << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* A device has one NaN. */
static inline float host_nan(float value) {
  const uint32_t bits = 0x7fffffff;
  if (isnan(value))
    memcpy(&value, &bits, sizeof value);
  return value;
}

struct host_fragments {
  uint32_t a[4], b[2];
};

static inline void multiply_add(float *c, const uint32_t *a, const uint32_t *b) {
  host_fragments mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const uint64_t *all = host_exchange((uint64_t)(uintptr_t)&mine);
  unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4 * 2;
  for (unsigned k = 0; k < 16; k += 2) {
    unsigned of = k % 8 / 2, upper = k / 8; /* the lane of the four, and the word, that has k */
    const uint32_t *left = ((const host_fragments *)all[g * 4 + of])->a + 2 * upper;
    const uint32_t rows[] = {left[0], left[1]};
    const uint32_t columns[] = {((const host_fragments *)all[t * 4 + of])->b[upper],
                                ((const host_fragments *)all[t * 4 + 4 + of])->b[upper]};
    for (int which = 0; which < 2; which++)
      for (int i = 0; i < 4; i++) /* the product is exact */
        c[i] += host_bf16(rows[i / 2], which) * host_bf16(columns[i % 2], which);
  }
  for (int i = 0; i < 4; i++)
    c[i] = host_nan(c[i]);
  __syncwarp(); /* all have read mine */
}

static inline uint16_t host_matrix_element(const uint64_t *rows, int matrix, unsigned row,
                                           unsigned column) {
  return ((const uint16_t *)rows[(unsigned)matrix * 8 + row])[column];
}

static inline void load_matrices(uint32_t *out, const void *row) {
  const uint64_t *rows = host_exchange((uint64_t)(uintptr_t)row);
  unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4 * 2;
  for (int i = 0; i < 4; i++)
    out[i] = host_matrix_element(rows, i, g, t) | (uint32_t)host_matrix_element(rows, i, g, t + 1)
                                                      << 16;
}

static inline void load_transposed(uint32_t *out, const void *row) {
  const uint64_t *rows = host_exchange((uint64_t)(uintptr_t)row);
  unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4 * 2;
  for (int i = 0; i < 4; i++)
    out[i] = host_matrix_element(rows, i, t, g) | (uint32_t)host_matrix_element(rows, i, t + 1, g)
                                                      << 16;
}

static inline uint32_t host_round(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return isnan(value) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static inline uint32_t round_pair(float lower, float upper) {
  return host_round(lower) | host_round(upper) << 16;
}

static inline float power_of_2(float x) {
  float y = exp2f(x);
  return y < 0x1p-126f ? 0 : y;
}

#endif

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
  float *c;
  const uint32_t *a, *b;
};

/* For all lanes of a warp. */
static inline void host_multiply(const uint64_t *warp) {
  float a[16][16], b[16][8], c[16][8];
  for (unsigned lane = 0; lane < 32; lane++) {
    const host_fragments *f = (const host_fragments *)warp[lane];
    unsigned g = lane / 4, t = lane % 4 * 2;
    for (unsigned i = 0; i < 8; i++)
      a[g + i / 2 % 2 * 8][t + i / 4 * 8 + i % 2] = host_bf16(f->a[i / 2], i % 2);
    for (unsigned i = 0; i < 4; i++) {
      b[t + i / 2 * 8 + i % 2][g] = host_bf16(f->b[i / 2], i % 2);
      c[g + i / 2 * 8][t + i % 2] = f->c[i];
    }
  }
  for (int row = 0; row < 16; row++)
    for (int k = 0; k < 16; k++)
      for (int column = 0; column < 8; column++)
        c[row][column] += a[row][k] * b[k][column]; /* the product is exact */
  for (unsigned lane = 0; lane < 32; lane++)
    for (unsigned i = 0; i < 4; i++)
      ((const host_fragments *)warp[lane])->c[i] =
          host_nan(c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
}

static inline void multiply_add(float *c, const uint32_t *a, const uint32_t *b) {
  host_fragments mine = {c, a, b};
  const uint64_t *warp = host_exchange((uint64_t)(uintptr_t)&mine);
  if (threadIdx.x % 32 == 0)
    host_multiply(warp);
  __syncwarp(); /* mine has been read and written */
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

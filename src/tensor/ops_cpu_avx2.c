// SPDX-License-Identifier: MIT
/* AVX2 with FMA and F16C: 8 lanes. */
#include <immintrin.h>

#include "tensor/dtype.h"
#include "tensor/ops_cpu.h"

enum { LANES = 8, CHAINS = 4 };
typedef __m256 vec;

static inline vec vec_zero(void) {
  return _mm256_setzero_ps();
}
static inline vec vec_set(float x) {
  return _mm256_set1_ps(x);
}
static inline vec vec_load(const float *p) {
  return _mm256_loadu_ps(p);
}
static inline void vec_store(float *p, vec x) {
  _mm256_storeu_ps(p, x);
}
static inline vec vec_mul_add(vec a, vec b, vec c) {
  return _mm256_fmadd_ps(a, b, c);
}
static inline vec vec_add(vec a, vec b) {
  return _mm256_add_ps(a, b);
}
static inline vec vec_load_bf16(const uint16_t *p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(
      _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)), 16));
}
static inline vec vec_load_f16(const uint16_t *p) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

#include "tensor/ops_cpu_kernels.h"

void moon_ops_add_avx2(moon_ops *table) {
  add_kernels(table);
}

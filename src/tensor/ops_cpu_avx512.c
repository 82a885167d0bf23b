// SPDX-License-Identifier: MIT
/* AVX-512 (F, BW, VL, DQ): 16 lanes. */
#include <immintrin.h>

#include "tensor/dtype.h"
#include "tensor/ops_cpu.h"

enum { LANES = 16, CHAINS = 4 };
typedef __m512 vec;

static inline vec vec_zero(void) {
  return _mm512_setzero_ps();
}
static inline vec vec_set(float x) {
  return _mm512_set1_ps(x);
}
static inline vec vec_load(const float *p) {
  return _mm512_loadu_ps(p);
}
static inline void vec_store(float *p, vec x) {
  _mm512_storeu_ps(p, x);
}
static inline vec vec_mul_add(vec a, vec b, vec c) {
  return _mm512_fmadd_ps(a, b, c);
}
static inline vec vec_add(vec a, vec b) {
  return _mm512_add_ps(a, b);
}
static inline vec vec_load_bf16(const uint16_t *p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(
      _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p)), 16));
}
static inline vec vec_load_f16(const uint16_t *p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

#include "tensor/ops_cpu_kernels.h"

void moon_ops_add_avx512(moon_ops *table) {
  add_kernels(table);
}

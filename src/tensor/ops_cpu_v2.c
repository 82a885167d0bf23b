// SPDX-License-Identifier: MIT
/* x86-64-v2: 4 lanes, no fused multiply-add. */
#include <smmintrin.h>

#include "tensor/dtype.h"
#include "tensor/ops_cpu.h"

enum { LANES = 4, CHAINS = 4 };
typedef __m128 vec;

static inline vec vec_zero(void) {
  return _mm_setzero_ps();
}
static inline vec vec_set(float x) {
  return _mm_set1_ps(x);
}
static inline vec vec_load(const float *p) {
  return _mm_loadu_ps(p);
}
static inline void vec_store(float *p, vec x) {
  _mm_storeu_ps(p, x);
}
static inline vec vec_mul_add(vec a, vec b, vec c) {
  return _mm_add_ps(_mm_mul_ps(a, b), c);
}
static inline vec vec_add(vec a, vec b) {
  return _mm_add_ps(a, b);
}
static inline vec vec_load_bf16(const uint16_t *p) {
  return _mm_castsi128_ps(
      _mm_unpacklo_epi16(_mm_setzero_si128(), _mm_loadl_epi64((const __m128i *)(const void *)p)));
}
static inline vec vec_load_f16(const uint16_t *p) {
  return _mm_setr_ps(moon_f16_to_f32(p[0]), moon_f16_to_f32(p[1]), moon_f16_to_f32(p[2]),
                     moon_f16_to_f32(p[3]));
}

#include "tensor/ops_cpu_kernels.h"

void moon_ops_add_v2(moon_ops *table) {
  add_kernels(table);
}

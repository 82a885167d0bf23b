// SPDX-License-Identifier: MIT
/*
 * AVX-512 with VDPBF16PS, which adds two products of bf16 to each of 16 f32 sums. It rounds to
 * nearest even whatever the mode, and takes and gives denormal numbers as 0.
 */
#include "tensor/ops_cpu_avx512.h"

#define HAS_BF16_PRODUCTS
enum { LANES_BF16 = 32 };
typedef __m512 vec_bf16; /* 32 of them, whose type gcc and clang do not agree on */

static inline vec_bf16 vec_bf16_load(const uint16_t *p) {
  return _mm512_loadu_ps(p);
}
/* The first n < 32; the others are 0. */
static inline vec_bf16 vec_bf16_load_some(const uint16_t *p, int64_t n) {
  return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16((1u << n) - 1, p));
}
static inline vec vec_bf16_mul_add(vec_bf16 a, vec_bf16 b, vec sum) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}
static inline void vec_store_bf16(uint16_t *p, vec x) {
  _mm256_storeu_si256((__m256i *)(void *)p, (__m256i)_mm512_cvtneps_pbh(x));
}

#include "tensor/ops_cpu_kernels.h"

void moon_ops_add_avx512bf16(moon_ops *table) {
  add_kernels(table);
}

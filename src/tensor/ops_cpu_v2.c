// SPDX-License-Identifier: MIT
/* x86-64-v2: 4 lanes, no fused multiply-add. */
#include <smmintrin.h>

#include "tensor/dtype.h"
#include "tensor/ops_cpu.h"

enum {
  LANES = 4,
  CHAINS = 4,
  TILE_X = 3,
  TILE_W = 4,
  PANEL_X = 3,
  PANEL_W = 4,
  QUERIES = 6,
  VECS = 2
};
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
static inline vec vec_sub(vec a, vec b) {
  return _mm_sub_ps(a, b);
}
static inline vec vec_mul(vec a, vec b) {
  return _mm_mul_ps(a, b);
}
static inline vec vec_div(vec a, vec b) {
  return _mm_div_ps(a, b);
}
static inline vec vec_max(vec a, vec b) {
  return _mm_max_ps(a, b);
}
static inline vec vec_min(vec a, vec b) {
  return _mm_min_ps(a, b);
}
static inline vec vec_round(vec x) {
  return _mm_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vec power_of_2(__m128i n) {
  return _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(n, _mm_set1_epi32(127)), 23));
}
/* In two steps: 2^n may be no normal number. */
static inline vec vec_scale(vec x, vec n) {
  __m128i whole = _mm_cvtps_epi32(n), half = _mm_srai_epi32(whole, 1);
  return _mm_mul_ps(_mm_mul_ps(x, power_of_2(half)), power_of_2(_mm_sub_epi32(whole, half)));
}
/* out[0..3] += the sums of the lanes of a, b, c and d */
static inline void vec_add_sum4(float *out, vec a, vec b, vec c, vec d) {
  vec ab = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
  vec cd = _mm_add_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
  vec sums = _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x44), _mm_shuffle_ps(ab, cd, 0xee));
  _mm_storeu_ps(out, _mm_add_ps(_mm_loadu_ps(out), sums));
}
static inline vec vec_load_bf16(const uint16_t *p) {
  return _mm_castsi128_ps(
      _mm_unpacklo_epi16(_mm_setzero_si128(), _mm_loadl_epi64((const __m128i *)(const void *)p)));
}
/* Of a pair in 32 bits. */
static inline vec vec_low_bf16(vec pair) {
  return _mm_castsi128_ps(_mm_slli_epi32(_mm_castps_si128(pair), 16));
}
static inline vec vec_high_bf16(vec pair) {
  return _mm_and_ps(pair, _mm_castsi128_ps(_mm_set1_epi32(~0xffff)));
}
static inline vec vec_load_f16(const uint16_t *p) {
  return _mm_setr_ps(moon_f16_to_f32(p[0]), moon_f16_to_f32(p[1]), moon_f16_to_f32(p[2]),
                     moon_f16_to_f32(p[3]));
}
/* Rows become columns: 4 x 4. */
static inline void vec_turn(vec *r) {
  _MM_TRANSPOSE4_PS(r[0], r[1], r[2], r[3]);
}
static inline float vec_largest(vec x) {
  __m128 two = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

#include "tensor/ops_cpu_kernels.h"

void moon_ops_add_v2(moon_ops *table) {
  add_kernels(table);
}

// SPDX-License-Identifier: MIT
/* Conversions between dtypes: every bit pattern of the small floats, every midpoint between them,
 * the edges of the integers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <immintrin.h>

#include "tensor/dtype.h"

typedef struct small_float {
  moon_dtype dtype;
  int fraction_bits, bias;
  unsigned largest, above; /* bits of the largest finite value and of what lies above it */
} small_float;

static const small_float formats[] = {{MOON_F16, 10, 15, 0x7bff, 0x7c00},
                                      {MOON_BF16, 7, 127, 0x7f7f, 0x7f80},
                                      {MOON_F8_E4M3, 3, 7, 0x7e, 0x7f},
                                      {MOON_F8_E5M2, 2, 15, 0x7b, 0x7c}};
enum { N_FORMATS = 4 };

/* The value of a positive finite pattern, and of the one that would follow the largest. */
static double value_of(const small_float *f, unsigned bits) {
  int exponent = (int)(bits >> f->fraction_bits);
  double fraction = ldexp(bits & ((1u << f->fraction_bits) - 1), -f->fraction_bits);
  return exponent == 0 ? ldexp(fraction, 1 - f->bias) : ldexp(1 + fraction, exponent - f->bias);
}

static double to_f64(moon_dtype from, uint64_t bits) {
  double value;
  moon_dtype_convert(&value, MOON_F64, &bits, from, 1);
  return value;
}

static unsigned from_f64(moon_dtype to, double value) {
  uint16_t bits = 0;
  moon_dtype_convert(&bits, to, &value, MOON_F64, 1);
  return bits;
}

static unsigned from_f32(moon_dtype to, float value) {
  uint16_t bits = 0;
  moon_dtype_convert(&bits, to, &value, MOON_F32, 1);
  return bits;
}

static unsigned sign_bit(moon_dtype dtype) {
  return 1u << (8 * moon_dtype_size(dtype) - 1);
}

static void every_pattern_has_its_value(void **state) {
  (void)state;
  for (int i = 0; i < N_FORMATS; i++) {
    const small_float *f = &formats[i];
    for (unsigned bits = 0; bits <= f->largest; bits++) {
      double value = value_of(f, bits);
      assert_true(to_f64(f->dtype, bits) == value);
      assert_true(to_f64(f->dtype, bits | sign_bit(f->dtype)) == -value);
      assert_int_equal(from_f64(f->dtype, value), bits);
      assert_int_equal(from_f64(f->dtype, -value), bits | sign_bit(f->dtype));
      assert_int_equal(from_f32(f->dtype, (float)value), bits);
    }
    for (unsigned bits = f->largest + 1; bits < sign_bit(f->dtype); bits++) {
      double value = to_f64(f->dtype, bits);
      assert_true(f->dtype != MOON_F8_E4M3 && bits == f->above ? value == INFINITY : isnan(value));
    }
  }
}

static void known_values(void **state) {
  (void)state;
  assert_true(to_f64(MOON_F8_E4M3, 0x7e) == 448 && to_f64(MOON_F8_E4M3, 0x01) == 0x1p-9);
  assert_true(to_f64(MOON_F8_E5M2, 0x7b) == 57344 && to_f64(MOON_F8_E5M2, 0x01) == 0x1p-16);
  assert_true(to_f64(MOON_F16, 0x7bff) == 65504 && to_f64(MOON_F16, 0x0001) == 0x1p-24);
  assert_true(to_f64(MOON_BF16, 0x3f80) == 1 && to_f64(MOON_BF16, 0x4049) == 3.140625);
  assert_int_equal(from_f64(MOON_F8_E4M3, 464), 0x7e); /* a tie: 448 is even */
  assert_int_equal(from_f64(MOON_F8_E4M3, 465), 0x7f);
  assert_int_equal(from_f64(MOON_F8_E4M3, INFINITY), 0x7f);
  assert_int_equal(from_f64(MOON_F16, 65520), 0x7c00);
  assert_int_equal(from_f64(MOON_F16, 65519.99), 0x7bff);
}

/* Between neighbours: the middle goes to the even one, all else to the nearer one. */
static void midpoints_go_to_even(void **state) {
  (void)state;
  for (int i = 0; i < N_FORMATS; i++) {
    const small_float *f = &formats[i];
    for (unsigned low = 0; low <= f->largest; low++) {
      unsigned high = low == f->largest ? f->above : low + 1, even = low & 1 ? high : low;
      double middle = (value_of(f, low) + value_of(f, low + 1)) / 2;
      assert_int_equal(from_f64(f->dtype, middle), even);
      assert_int_equal(from_f64(f->dtype, nextafter(middle, 0)), low);
      assert_int_equal(from_f64(f->dtype, nextafter(middle, INFINITY)), high);
      assert_int_equal(from_f64(f->dtype, -middle), even | sign_bit(f->dtype));
      assert_int_equal(from_f32(f->dtype, (float)middle), even);
      assert_int_equal(from_f32(f->dtype, nextafterf((float)middle, 0)), low);
      assert_int_equal(from_f32(f->dtype, nextafterf((float)middle, INFINITY)), high);
    }
  }
}

static void nan_and_infinity(void **state) {
  (void)state;
  for (int i = 0; i < N_FORMATS; i++) {
    const small_float *f = &formats[i];
    assert_true(isnan(to_f64(f->dtype, from_f64(f->dtype, NAN))));
    assert_true(isnan(to_f64(f->dtype, from_f32(f->dtype, NAN))));
    assert_int_equal(from_f64(f->dtype, INFINITY), f->above);
    assert_int_equal(from_f32(f->dtype, -INFINITY), f->above | sign_bit(f->dtype));
  }
  uint32_t signalling =
      0x7f800001; /* its fraction is lost in 16 bits, it must not become infinity */
  float value;
  memcpy(&value, &signalling, sizeof value);
  assert_true(isnan(moon_bf16_to_f32(moon_bf16_from_f32(value))));
  assert_true(isnan(moon_f16_to_f32(moon_f16_from_f32(value))));
}

__attribute__((target("f16c"))) static void compare_with_f16c(void) {
  for (unsigned bits = 0; bits < 0x10000; bits++) {
    float want = _cvtsh_ss((uint16_t)bits), got = moon_f16_to_f32((uint16_t)bits);
    assert_memory_equal(&got, &want, sizeof got);
  }
  uint32_t pattern = 12345;
  for (int i = 0; i < 1 << 22; i++) {
    float value;
    pattern = pattern * 1664525 + 1013904223;
    memcpy(&value, &pattern, sizeof value);
    assert_int_equal(moon_f16_from_f32(value), _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT));
  }
}

static void f16_as_the_processor_does(void **state) {
  (void)state;
  if (__builtin_cpu_supports("avx2")) /* clang 14 knows no "f16c" to ask for; AVX2 comes with it */
    compare_with_f16c();
  else
    print_message("# SKIP this CPU has no f16c\n");
}

/* Through a narrower type in between, each of these would be rounded twice, to another value. */
static void rounds_once(void **state) {
  (void)state;
  float f;
  int64_t i = (1LL << 60) + (1LL << 36) + 1; /* an f64 loses the 1, and with it the way up */
  moon_dtype_convert(&f, MOON_F32, &i, MOON_I64, 1);
  assert_true(f == 0x1p60f + 0x1p37f);
  assert_int_equal(from_f64(MOON_F16, 1 + 0x1p-11 + 0x1p-40), 0x3c01); /* an f32 loses 2^-40 */
  assert_int_equal(from_f64(MOON_BF16, 1 + 0x1p-8 + 0x1p-40), 0x3f81);
  assert_int_equal(from_f64(MOON_F8_E4M3, 1 + 0x1p-4 + 0x1p-40), 0x39);
}

static void wide_integers_are_exact(void **state) {
  (void)state;
  const int64_t values[] = {INT64_MIN, INT64_MIN + 1, -1, 0, (1LL << 53) + 1, INT64_MAX};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    uint64_t u;
    int64_t back;
    moon_dtype_convert(&u, MOON_U64, &values[i], MOON_I64, 1);
    assert_true(u == (values[i] < 0 ? 0 : (uint64_t)values[i]));
    moon_dtype_convert(&back, MOON_I64, &u, MOON_U64, 1);
    assert_true(back == (values[i] < 0 ? 0 : values[i]));
  }
  uint64_t most = UINT64_MAX;
  int64_t cut;
  moon_dtype_convert(&cut, MOON_I64, &most, MOON_U64, 1);
  assert_true(cut == INT64_MAX);
}

static void to_integers(void **state) {
  (void)state;
  static const struct {
    double value;
    moon_dtype to;
    int64_t want;
  } cases[] = {{2.9, MOON_I8, 2},
               {-2.9, MOON_I8, -2},
               {127.9, MOON_I8, 127},
               {128, MOON_I8, 127},
               {-129, MOON_I8, -128},
               {NAN, MOON_I8, 0},
               {-1, MOON_U8, 0},
               {256, MOON_U8, 255},
               {-0.9, MOON_U8, 0},
               {1e9, MOON_I16, 32767},
               {70000, MOON_U16, 65535},
               {-INFINITY, MOON_I32, INT32_MIN},
               {1e300, MOON_I64, INT64_MAX},
               {-1e300, MOON_I64, INT64_MIN},
               {5e9, MOON_U32, UINT32_MAX},
               {0.1, MOON_BOOL, 1},
               {0, MOON_BOOL, 0},
               {-0.0, MOON_BOOL, 0},
               {NAN, MOON_BOOL, 1}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    uint64_t bits = 0;
    int64_t got;
    moon_dtype_convert(&bits, cases[i].to, &cases[i].value, MOON_F64, 1);
    moon_dtype_convert(&got, MOON_I64, &bits, cases[i].to, 1);
    assert_int_equal(got, cases[i].want);
  }
}

/* Numbers that all dtypes hold survive every pair, from and to odd addresses, over several blocks.
 */
static void all_pairs(void **state) {
  (void)state;
  enum { N = 1000 };
  static char a[8 * N + 1], b[8 * N + 1], c[8 * N + 1];
  double values[N];
  for (int i = 0; i < N; i++)
    values[i] = i * 7 % 2;
  for (int from = 1; from < MOON_DTYPE_COUNT; from++)
    for (int to = 1; to < MOON_DTYPE_COUNT; to++) {
      double back[N];
      size_t from_size = moon_dtype_size((moon_dtype)from),
             to_size = moon_dtype_size((moon_dtype)to);
      memset(b, 0x55, sizeof b);
      moon_dtype_convert(a + 1, (moon_dtype)from, values, MOON_F64, N);
      moon_dtype_convert(b + 1, (moon_dtype)to, a + 1, (moon_dtype)from, N - 1);
      assert_int_equal(b[1 + (N - 1) * to_size], 0x55); /* not one more than asked for */
      moon_dtype_convert(c + 1, (moon_dtype)from, b + 1, (moon_dtype)to, N - 1);
      assert_memory_equal(a + 1, c + 1, (N - 1) * from_size);
      moon_dtype_convert(back, MOON_F64, b + 1, (moon_dtype)to, N - 1);
      assert_memory_equal(back, values, (N - 1) * sizeof *back);
    }
}

int main(int argc, char **argv) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_pattern_has_its_value),
      cmocka_unit_test(known_values),
      cmocka_unit_test(midpoints_go_to_even),
      cmocka_unit_test(nan_and_infinity),
      cmocka_unit_test(f16_as_the_processor_does),
      cmocka_unit_test(rounds_once),
      cmocka_unit_test(wide_integers_are_exact),
      cmocka_unit_test(to_integers),
      cmocka_unit_test(all_pairs),
  };
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: MIT
/* The reference kernels on cases small enough to work out by hand: they say what an operation
 * means. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tensor/dtype.h"
#include "tensor/ops.h"

enum { MAX_TENSORS = 16, ROOM = 64 };

static moon_err err;
static moon_tensor made[MAX_TENSORS];
static int n_made;

static int use_reference(void **state) {
  (void)state;
  return moon_cpu_use_instruction_set("reference", &err) != MOON_OK;
}

static int release_all(void **state) {
  (void)state;
  while (n_made > 0)
    moon_tensor_release(&made[--n_made]);
  return moon_storage_live() != 0;
}

static void ok(moon_status status) {
  if (status)
    fail_msg("%s", err.text);
}

static const moon_tensor *tensor(moon_dtype dtype, const double *values, int rank,
                                 const int64_t *shape) {
  int64_t count = 0;
  char host[ROOM * 8];
  assert_true(n_made < MAX_TENSORS && moon_shape_count(&count, shape, rank) && count <= ROOM);
  moon_dtype_convert(host, dtype, values, MOON_F64, (size_t)count);
  ok(moon_tensor_from_host(&made[n_made], moon_cpu(), dtype, shape, rank, host, &err));
  return &made[n_made++];
}

#define LIST(...)        \
  (const double[ROOM]) { \
    __VA_ARGS__          \
  }
#define RANK(...)                                                                \
  (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]) { \
    __VA_ARGS__                                                                  \
  }
#define T(dtype, values, ...) tensor(MOON_##dtype, values, RANK(__VA_ARGS__))
#define ZEROS(dtype, ...)     T(dtype, LIST(0), __VA_ARGS__)

/* t's elements are `want`, within a millionth; NaN where NaN is wanted. */
static void assert_values(const moon_tensor *t, const double *want) {
  char host[ROOM * 8];
  double got[ROOM];
  int64_t n = moon_tensor_count(t);
  ok(moon_tensor_read(t, host, &err));
  moon_dtype_convert(got, MOON_F64, host, t->dtype, (size_t)n);
  for (int64_t i = 0; i < n; i++)
    if (!(got[i] == want[i] || (isnan(got[i]) && isnan(want[i])) ||
          fabs(got[i] - want[i]) < 1e-6 * fabs(want[i])))
      fail_msg("element %d is %.9g, expected %.9g", (int)i, got[i], want[i]);
}

static void largest_first_of_equals_and_nan(void **state) {
  (void)state;
  const moon_tensor *a = T(F32, LIST(1, 7, 7, 2, NAN, 0, NAN, INFINITY), 2, 4);
  const moon_tensor *at = ZEROS(I64, 2), *top = ZEROS(F32, 2), *values = ZEROS(F32, 2, 3),
                    *indices = ZEROS(I64, 2, 3);
  ok(moon_op_argmax(at, a, &err));
  assert_values(at, LIST(1, 0));
  ok(moon_op_reduce(MOON_MAX, top, a, &err));
  assert_values(top, LIST(7, NAN));
  ok(moon_op_topk(values, indices, a, &err));
  assert_values(values, LIST(7, 7, 2, NAN, NAN, INFINITY));
  assert_values(indices, LIST(1, 2, 3, 0, 2, 3));
}

static void elementwise(void **state) {
  (void)state;
  const moon_tensor *a = T(F32, LIST(-1, 4, NAN, 2), 4), *b = T(F32, LIST(3, 2, 1, NAN), 4),
                    *out = ZEROS(F32, 4);
  ok(moon_op_binary(MOON_MAXIMUM, out, a, b, &err));
  assert_values(out, LIST(3, 4, NAN, NAN));
  ok(moon_op_binary(MOON_SUB, out, a, b, &err));
  assert_values(out, LIST(-4, 2, NAN, NAN));
  ok(moon_op_binary(MOON_DIV, out, a, b, &err));
  assert_values(out, LIST(-1 / 3.0, 2, NAN, NAN));
  ok(moon_op_unary(MOON_RELU, out, a, &err));
  assert_values(out, LIST(0, 4, NAN, 2));
  ok(moon_op_unary(MOON_SQRT, out, a, &err));
  assert_values(out, LIST(NAN, 2, NAN, sqrt(2)));
}

static void sums(void **state) {
  (void)state;
  const moon_tensor *a = T(F32, LIST(1, 2, 3, 0x1p24, 1, 1), 2, 3), *out = ZEROS(F32, 2),
                    *p = ZEROS(F32, 2, 2);
  ok(moon_op_reduce(MOON_SUM, out, a, &err));
  assert_values(out, LIST(6, 0x1p24 + 2));
  ok(moon_op_reduce(MOON_SUM_OF_SQUARES, out, a, &err));
  assert_values(out, LIST(14, 0x1p48));
  ok(moon_op_softmax(p, T(F32, LIST(1000, 1000 + log(3), -1000, INFINITY), 2, 2), &err));
  float got[4];
  ok(moon_tensor_read(p, got, &err));
  assert_true(fabsf(got[0] - 0.25f) < 1e-4f &&
              fabsf(got[1] - 0.75f) < 1e-4f);  /* 1000 + log 3 is rounded */
  assert_true(isnan(got[2]) && isnan(got[3])); /* an infinity is a finding */
}

static void products(void **state) {
  (void)state;
  const moon_tensor *x = T(F32, LIST(1, 2, 1 + 0x1p-9, 0), 2, 2), *out = ZEROS(F32, 2, 3);
  const moon_tensor *w = T(BF16, LIST(1, 0, 0, 1, 3, 4), 3, 2), *bias = T(F16, LIST(0, 10, 0), 3);
  ok(moon_op_linear(out, x, w, bias, MOON_ARITHMETIC_F32, &err));
  assert_values(out, LIST(1, 12, 11, 1 + 0x1p-9, 10, 3 + 3 * 0x1p-9));
  ok(moon_op_linear(out, x, w, NULL, MOON_ARITHMETIC_BF16, &err)); /* 1 + 2^-9 is 1 in bf16 */
  assert_values(out, LIST(1, 2, 11, 1, 0, 3));
  const moon_tensor *w32 = T(F32, LIST(1, 0, 0, 1, 3, 4), 3, 2);
  ok(moon_op_linear(out, x, w32, NULL, MOON_ARITHMETIC_BF16,
                    &err)); /* means f32 where w is not bf16 */
  assert_values(out, LIST(1, 2, 11, 1 + 0x1p-9, 0, 3 + 3 * 0x1p-9));
  moon_product sum = {.out = *out, .w = *w32};
  ok(moon_op_products(&sum, 1, x, MOON_ADD_TO, MOON_ARITHMETIC_F32, &err));
  assert_values(out, LIST(2, 4, 22, 2 + 0x1p-8, 0, 6 + 6 * 0x1p-9));
  ok(moon_op_linear(out, ZEROS(F32, 2, 0), ZEROS(F32, 3, 0), bias, MOON_ARITHMETIC_F32, &err));
  assert_values(out, LIST(0, 10, 0, 0, 10, 0));
}

static void gated(void **state) {
  (void)state;
  const moon_tensor *x = T(F32, LIST(0, 1, -1, 100), 4, 1), *gate = ZEROS(F32, 4, 1),
                    *up = ZEROS(F32, 4, 1);
  const moon_product pair[] = {
      {.out = *gate, .w = *T(F32, LIST(1), 1, 1)},
      {.out = *up, .w = *T(F32, LIST(2), 1, 1), .bias = *T(F32, LIST(4), 1)}};
  ok(moon_op_products(pair, 2, x, MOON_SWIGLU, MOON_ARITHMETIC_F32, &err));
  assert_values(gate, LIST(0, 6 / (1 + exp(-1)), -2 / (1 + exp(1)), 20400));
}

static void norm_and_rope(void **state) {
  (void)state;
  const moon_tensor *x = T(F32, LIST(3, 4), 1, 2), *out = ZEROS(F32, 1, 2),
                    *position = T(I32, LIST(1), 1);
  ok(moon_op_rms_norm(out, x, T(BF16, LIST(1, 2), 2), 12.5f,
                      &err)); /* mean of squares 12.5, with eps 25 */
  assert_values(out, LIST(0.6, 1.6));
  const moon_tensor *q = T(F32, LIST(1, 2, 3, 4), 1, 1, 4); /* pairs are (1, 3) and (2, 4) */
  const moon_tensor *k = T(F32, LIST(0, 0, 1, 1), 1, 1, 4);
  ok(moon_op_rope(q, k, T(F32, LIST(9, 9, 0, 0.5), 2, 2), T(F32, LIST(9, 9, 1, 2), 2, 2), position,
                  &err));
  assert_values(q, LIST(-3, 0.5 * 2 - 2 * 4, 1, 0.5 * 4 + 2 * 2));
  assert_values(k, LIST(-1, -2, 0, 0.5));
}

/* Two queries at positions 0 and 1, two heads that share one kv head. */
static void attends_to_the_past(void **state) {
  (void)state;
  const moon_tensor *cache = ZEROS(F32, 1, 3, 1), *values = ZEROS(F32, 1, 3, 1),
                    *positions = T(I32, LIST(0, 1), 2);
  const moon_tensor *q = T(F32, LIST(0, 5, 0, 2), 2, 2, 1), *out = ZEROS(F32, 2, 2, 1);
  ok(moon_op_kv_append(cache, values, T(F32, LIST(1, 1 + log(3) / 2), 2, 1, 1),
                       T(F32, LIST(8, 16), 2, 1, 1), positions, &err));
  assert_values(values, LIST(8, 16, 0));
  ok(moon_op_attention(out, q, cache, values, positions, 0, 1, MOON_ARITHMETIC_F32, &err));
  float got[4];
  ok(moon_tensor_read(out, got, &err));
  assert_true(got[0] == 8 && got[1] == 8 && got[2] == 12); /* itself; itself; the mean */
  assert_true(fabsf(got[3] - 14) < 1e-4f);                 /* weights 1/4 and 3/4 */
  ok(moon_op_attention(out, q, cache, values, positions, 1, 1, MOON_ARITHMETIC_F32, &err));
  assert_values(out, LIST(8, 8, 16, 16)); /* each sees itself alone */
}

static void activations(void **state) {
  (void)state;
  moon_activation relu = {.kind = MOON_ACTIVATION_RELU};
  moon_activation topk = {.kind = MOON_ACTIVATION_TOPK, .k = 2};
  const moon_tensor *f = T(F32, LIST(-1, 2, 0, NAN, 5), 1, 5);
  ok(moon_op_sae_activate(f, NULL, &relu, &err));
  assert_values(f, LIST(0, 2, 0, NAN, 5));
  ok(moon_op_sae_activate(f, T(BF16, LIST(3, -5, -1, 1, 2), 5), &relu, &err));
  assert_values(f, LIST(3, 0, 0, NAN, 7));
  f = T(F32, LIST(3, 2, 3, 3, -9, 1), 2, 3);
  ok(moon_op_sae_activate(f, NULL, &topk, &err));
  assert_values(f, LIST(3, 0, 3, 3, 0, 1));
  f = T(F32, LIST(1, 2, 3, 4, -1, NAN), 1, 6);
  moon_activation jump = {.kind = MOON_ACTIVATION_JUMPRELU,
                          .threshold = *T(F32, LIST(1, 1, 5, NAN, -2, 0), 6)};
  ok(moon_op_sae_activate(f, NULL, &jump, &err));
  assert_values(f, LIST(0, 2, 0, 0, 0, NAN));
  f = T(F32, LIST(1, 1.5, -2, 3, -4, NAN), 1, 6);
  moon_activation gated = {.kind = MOON_ACTIVATION_GATED,
                           .threshold = *T(F32, LIST(1, 1, -3, 0, -5, 0), 6),
                           .gain = *T(F32, LIST(2, 2, 2, 2, 0.5, 2), 6),
                           .offset = *T(F32, LIST(9, 9, 1, -6, 3, 1), 6)};
  ok(moon_op_sae_activate(f, NULL, &gated, &err));
  assert_values(f, LIST(0, 12, 0, 0, 1, NAN)); /* shut; open; open below 0; at 0; open; NaN */
  f = T(F32, LIST(0, 1, -1, 20, -20, NAN), 1, 6);
  moon_activation gelu = {.kind = MOON_ACTIVATION_GELU};
  ok(moon_op_sae_activate(f, NULL, &gelu, &err));
  float got[6];
  ok(moon_tensor_read(f, got, &err));
  assert_true(got[0] == 0 && fabsf(got[1] - 0.84134475f) < 1e-6f &&
              fabsf(got[2] + 0.15865525f) < 1e-6f && got[3] == 20 && fabsf(got[4]) < 1e-30f);
  assert_true(isnan(got[5]));
}

static void sparse_rows(void **state) {
  (void)state;
  moon_sparse rows = {.n_rows = 2,
                      .n_columns = 3,
                      .starts = *T(I64, LIST(0, 3), 2),
                      .counts = *ZEROS(I32, 2),
                      .indices = *ZEROS(I32, 6),
                      .values = *ZEROS(F32, 6)};
  const moon_tensor *f = T(F32, LIST(0, 2, NAN, 0, 0, 1), 2, 3);
  ok(moon_op_sae_count(&rows.counts, f, &err));
  ok(moon_op_sae_compact(&rows, f, &err));
  assert_values(&rows.counts, LIST(2, 1));
  assert_values(&rows.indices, LIST(1, 2, 0, 2, 0, 0));
  assert_values(&rows.values, LIST(2, NAN, 0, 1, 0, 0));
  f = T(F32, LIST(0, 2, 3, 0, 0, 0), 2, 3);
  ok(moon_op_sae_count(&rows.counts, f, &err));
  ok(moon_op_sae_compact(&rows, f, &err));
  const moon_tensor *out = ZEROS(F32, 2, 2), *w_dec = T(F16, LIST(9, 9, 1, 10, 2, 20), 3, 2);
  ok(moon_op_sae_decode(out, &rows, w_dec, T(BF16, LIST(100, 200), 2), &err));
  assert_values(out, LIST(108, 280, 100, 200));
}

static void edits(void **state) {
  (void)state;
  const moon_tensor *f = T(F32, LIST(1, 2, 3, INFINITY, 5, 6), 2, 3), *delta = ZEROS(F32, 2, 2);
  const moon_edit_step steps[] = {{.slot = 0, .op = MOON_EDIT_ADD, .value = 4},
                                  {.slot = 0, .op = MOON_EDIT_SCALE, .value = 10},
                                  {.slot = 1, .op = MOON_EDIT_SET, .value = 7}};
  ok(moon_op_sae_edit(delta, f, T(I32, LIST(2, 0), 2), steps, 3,
                      T(U8, LIST(1, 1, 1, 0, 1, 0), 2, 3), &err));
  assert_values(f, LIST(7, 2, 70, INFINITY, 5, 60));
  assert_values(delta, LIST(67, 6, 54, 0)); /* an untouched infinity has not changed */
  ok(moon_op_sae_edit(delta, NULL, T(I32, LIST(2, 0), 2), steps, 1, T(U8, LIST(1, 0), 2, 1), &err));
  assert_values(delta, LIST(4, 0, 0, 0)); /* what is added does not depend on what was there */
  const moon_tensor *x = T(F32, LIST(1, 1, 1, 1), 2, 2),
                    *w = T(BF16, LIST(INFINITY, 1, 3, 4), 2, 2);
  ok(moon_op_axpy_rows(x, T(F32, LIST(0, 2, 0, -0.0), 2, 2), T(I32, LIST(0, 1), 2), w, &err));
  assert_values(x, LIST(7, 9, 1, 1));
}

static void gathers(void **state) {
  (void)state;
  const moon_tensor *out = ZEROS(F32, 3, 2);
  ok(moon_op_embed(out, T(BF16, LIST(1, 2, 3, 4, 5, 6), 3, 2), T(I32, LIST(2, 0, 2), 3), &err));
  assert_values(out, LIST(5, 6, 1, 2, 5, 6));
}

int main(int argc, char **argv) {
  static const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, use_reference, release_all)
      TEST(largest_first_of_equals_and_nan),
      TEST(elementwise),
      TEST(sums),
      TEST(products),
      TEST(gated),
      TEST(norm_and_rope),
      TEST(attends_to_the_past),
      TEST(activations),
      TEST(sparse_rows),
      TEST(edits),
      TEST(gathers),
#undef TEST
  };
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}

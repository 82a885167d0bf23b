// SPDX-License-Identifier: MIT
/* What the fronts of the operations refuse, and how they say it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tensor/ops.h"

enum { MAX_TENSORS = 24 };

static moon_err err;
static moon_tensor made[MAX_TENSORS];
static int n_made;

static int release_all(void **state) {
  (void)state;
  while (n_made > 0)
    moon_tensor_release(&made[--n_made]);
  return moon_storage_live() != 0;
}

static const moon_tensor *tensor_on(moon_device *device, moon_dtype dtype, int rank,
                                    const int64_t *shape) {
  assert_true(n_made < MAX_TENSORS);
  assert_int_equal(moon_tensor_new(&made[n_made], device, dtype, shape, rank, &err), MOON_OK);
  return &made[n_made++];
}

#define RANK(...) (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t))
#define TENSOR(dtype, ...) \
  tensor_on(moon_cpu(), MOON_##dtype, RANK(__VA_ARGS__), (const int64_t[]){__VA_ARGS__})
#define F32(...) TENSOR(F32, __VA_ARGS__)
#define FAILS(call, want_code, want_text)     \
  do {                                        \
    assert_int_equal(call, want_code);        \
    assert_string_equal(err.text, want_text); \
  } while (0)

static void names_both_shapes(void **state) {
  (void)state;
  FAILS(moon_op_linear(F32(3, 64), F32(3, 128), F32(64, 100), NULL, MOON_ARITHMETIC_F32, &err),
        MOON_ESHAPE, "linear: x [3, 128] does not fit w [64, 100]: K is 128 and 100");
  FAILS(moon_op_linear(F32(2, 64), F32(3, 128), F32(64, 128), NULL, MOON_ARITHMETIC_F32, &err),
        MOON_ESHAPE, "linear: x [3, 128] does not fit out [2, 64]: M is 3 and 2");
  FAILS(moon_op_copy(F32(2), F32(3), &err), MOON_ESHAPE,
        "copy: source [3] does not fit destination [2]");
  FAILS(moon_op_binary(MOON_MUL, F32(2, 3), F32(2, 3), F32(2), &err), MOON_ESHAPE,
        "mul: b [2] does not fit out [2, 3]");
  FAILS(moon_op_binary(MOON_ADD, F32(3), F32(2, 3), F32(3), &err), MOON_ESHAPE,
        "add: a [2, 3] does not fit out [3]");
  FAILS(moon_op_softmax(F32(6), F32(6), &err), MOON_ESHAPE,
        "softmax: a is [6], expected [rows, n]");
}

static void names_dtypes(void **state) {
  (void)state;
  FAILS(moon_op_linear(F32(3, 64), F32(3, 8), TENSOR(I32, 64, 8), NULL, MOON_ARITHMETIC_F32, &err),
        MOON_EDTYPE, "linear: w is i32, expected f32, f16 or bf16");
  FAILS(moon_op_argmax(TENSOR(I32, 2), F32(2, 3), &err), MOON_EDTYPE,
        "argmax: out is i32, expected i64");
  FAILS(moon_op_unary(MOON_EXP, F32(2), TENSOR(BF16, 2), &err), MOON_EDTYPE,
        "exp: a is bf16, expected f32");
}

static void names_devices(void **state) {
  (void)state;
  moon_device other = *moon_cpu();
  other.name = "elsewhere";
  const moon_tensor *far = tensor_on(&other, MOON_F32, 1, (const int64_t[]){2});
  FAILS(moon_op_unary(MOON_NEG, F32(2), far, &err), MOON_EDEVICE,
        "neg: a is on elsewhere, out on cpu");
  FAILS(moon_op_binary(MOON_ADD, F32(2), F32(2), far, &err), MOON_EDEVICE,
        "add: b is on elsewhere, out on cpu");
  release_all(NULL); /* while `other` is there */
}

static void asks_for_rows_in_order(void **state) {
  (void)state;
  moon_tensor turned;
  assert_int_equal(moon_tensor_transpose(&turned, F32(3, 2), 0, 1, &err), MOON_OK);
  FAILS(moon_op_softmax(F32(2, 3), &turned, &err), MOON_ESHAPE,
        "softmax: a [2, 3] is a strided view, expected row-major");
  moon_tensor_release(&turned);
}

static void rows_without_a_largest(void **state) {
  (void)state;
  FAILS(moon_op_reduce(MOON_MAX, F32(3), F32(3, 0), &err), MOON_ESHAPE,
        "max: a is [3, 0], expected at least one column");
  FAILS(moon_op_argmax(TENSOR(I64, 3), F32(3, 0), &err), MOON_ESHAPE,
        "argmax: a is [3, 0], expected at least one column");
  assert_int_equal(moon_op_reduce(MOON_SUM, F32(3), F32(3, 0), &err), MOON_OK);
  FAILS(moon_op_topk(F32(2, 4), TENSOR(I64, 2, 4), F32(2, 3), &err), MOON_ERANGE,
        "topk: k is 4, expected at most 3 (a is [2, 3])");
}

static void llama(void **state) {
  (void)state;
  const moon_tensor *q = F32(1, 4, 8), *k = F32(3, 5, 8), *positions = TENSOR(I32, 1);
  FAILS(moon_op_attention(q, q, k, k, positions, 0, 1, MOON_ARITHMETIC_F32, &err), MOON_ESHAPE,
        "attention: q [1, 4, 8] does not fit k [3, 5, 8]: n_heads is no multiple of n_kv_heads");
  FAILS(moon_op_attention(q, q, F32(2, 5, 16), F32(2, 5, 8), positions, 0, 1, MOON_ARITHMETIC_F32,
                          &err),
        MOON_ESHAPE, "attention: q [1, 4, 8] does not fit k [2, 5, 16]: d_head is 8 and 16");
  FAILS(moon_op_attention(q, q, F32(2, 5, 8), TENSOR(BF16, 2, 5, 8), positions, 0, 1,
                          MOON_ARITHMETIC_F32, &err),
        MOON_EDTYPE, "attention: v is bf16, expected f32");
  FAILS(moon_op_rope(q, q, F32(9, 8), F32(9, 8), positions, &err), MOON_ESHAPE,
        "rope: q [1, 4, 8] does not fit cos [9, 8]: d_head is not twice the columns of cos");
}

static void sparse_autoencoder(void **state) {
  (void)state;
  const moon_tensor *f = F32(2, 6);
  moon_activation topk = {.kind = MOON_ACTIVATION_TOPK, .k = 7};
  moon_activation jump = {.kind = MOON_ACTIVATION_JUMPRELU, .threshold = *F32(5)};
  moon_sparse rows = {.n_rows = 2,
                      .n_columns = 8,
                      .starts = *TENSOR(I64, 2),
                      .counts = *TENSOR(I32, 2),
                      .indices = *TENSOR(I32, 16),
                      .values = *F32(16)};
  moon_edit_step step = {.slot = 1, .op = MOON_EDIT_SET};
  FAILS(moon_op_sae_activate(f, NULL, &topk, &err), MOON_ERANGE,
        "sae_activate: k is 7, expected 1 to d_sae 6");
  FAILS(moon_op_sae_activate(f, NULL, &jump, &err), MOON_ESHAPE,
        "sae_activate: f [2, 6] does not fit threshold [5]: d_sae is 6 and 5");
  FAILS(moon_op_sae_compact(&rows, f, &err), MOON_ESHAPE,
        "sae_compact: f has d_sae 6, the features have 8");
  FAILS(moon_op_sae_edit(F32(2, 1), f, TENSOR(I32, 1), &step, 1, TENSOR(U8, 2, 1), &err),
        MOON_ERANGE, "sae_edit: step 0 has slot 1, expected 0 to 0");
  FAILS(moon_op_sae_edit(F32(2, 2), NULL, TENSOR(I32, 2), &step, 1, TENSOR(U8, 2, 1), &err),
        MOON_EINVAL, "sae_edit: step 0 is no add and needs the features");
  FAILS(moon_op_sae_edit(F32(2, 2), f, TENSOR(I32, 2), &step, 1, TENSOR(U8, 2, 3), &err),
        MOON_ESHAPE, "sae_edit: mask is [2, 3], expected one column for each of 1 steps");
}

int main(int argc, char **argv) {
  static const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_teardown(name, release_all)
      T(names_both_shapes),      T(names_dtypes), T(names_devices),      T(asks_for_rows_in_order),
      T(rows_without_a_largest), T(llama),        T(sparse_autoencoder),
#undef T
  };
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: MIT
/* Storage, views, mapped tensors, moves between host and device; what leaks shows in the counters.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tensor/ops.h"

static moon_err err;

#define OK(call) assert_true((call) == MOON_OK || (print_error("%s\n", err.text), false))
#define FAILS(call, want_code, want_text)     \
  do {                                        \
    assert_int_equal(call, want_code);        \
    assert_int_equal(err.code, want_code);    \
    assert_string_equal(err.text, want_text); \
  } while (0)
#define SHAPE(...)    \
  (const int64_t[]) { \
    __VA_ARGS__       \
  }

static int nothing_is_left(void **state) {
  (void)state;
  return moon_storage_live() != 0 || moon_storage_live_bytes() != 0;
}

/* [rows][columns] f32: 0, 1, 2, ... */
static moon_tensor counting(int64_t rows, int64_t columns) {
  moon_tensor t;
  float host[64];
  for (int i = 0; i < rows * columns; i++)
    host[i] = (float)i;
  OK(moon_tensor_from_host(&t, moon_cpu(), MOON_F32, SHAPE(rows, columns), 2, host, &err));
  return t;
}

/* t's elements in row-major order are `want` */
#define assert_elements(t, ...)                               \
  do {                                                        \
    const float want[] = {__VA_ARGS__};                       \
    float got[64];                                            \
    assert_int_equal(moon_tensor_size_bytes(t), sizeof want); \
    OK(moon_tensor_read(t, got, &err));                       \
    assert_memory_equal(got, want, sizeof want);              \
  } while (0)

static void views_share_the_storage(void **state) {
  (void)state;
  moon_tensor t = counting(2, 3), row, columns;
  OK(moon_tensor_select(&row, &t, 0, 1, &err));
  OK(moon_tensor_narrow(&columns, &t, 1, 1, 2, &err));
  assert_int_equal(moon_storage_live(), 1);
  assert_elements(&row, 3, 4, 5);
  assert_elements(&columns, 1, 2, 4, 5);
  assert_true(moon_tensor_contiguous(&row) && !moon_tensor_contiguous(&columns));
  OK(moon_tensor_write(&columns, (const float[]){10, 20, 40, 50}, &err));
  moon_tensor_release(&t);
  assert_elements(&row, 3, 40, 50);
  moon_tensor_release(&row);
  moon_tensor_release(&columns);
  moon_tensor_release(&columns); /* an empty one is fine */
}

static void transposes_and_reshapes(void **state) {
  (void)state;
  moon_tensor t = counting(2, 3), turned, flat, back;
  OK(moon_tensor_transpose(&turned, &t, 0, 1, &err));
  assert_int_equal(turned.shape[0], 3);
  assert_elements(&turned, 0, 3, 1, 4, 2, 5);
  OK(moon_tensor_reshape(&flat, &turned, SHAPE(-1), 1, &err)); /* a copy: the order changes */
  assert_int_equal(moon_storage_live(), 2);
  assert_elements(&flat, 0, 3, 1, 4, 2, 5);
  OK(moon_tensor_reshape(&back, &t, SHAPE(3, -1, 1), 3, &err)); /* a view */
  assert_int_equal(moon_storage_live(), 2);
  assert_int_equal(back.shape[1], 2);
  assert_elements(&back, 0, 1, 2, 3, 4, 5);
  moon_tensor_release(&t);
  moon_tensor_release(&turned);
  moon_tensor_release(&flat);
  moon_tensor_release(&back);
}

static void rank_0_and_empty_axes(void **state) {
  (void)state;
  moon_tensor scalar, none, part, turned, sum;
  OK(moon_tensor_from_host(&scalar, moon_cpu(), MOON_F32, NULL, 0, (const float[]){7}, &err));
  assert_int_equal(moon_tensor_count(&scalar), 1);
  assert_true(moon_tensor_contiguous(&scalar));
  assert_elements(&scalar, 7);
  OK(moon_op_fill(&scalar, 8, &err));
  assert_elements(&scalar, 8);

  OK(moon_tensor_new(&none, moon_cpu(), MOON_F32, SHAPE(2, 0, 3), 3, &err));
  assert_int_equal(moon_tensor_count(&none), 0);
  OK(moon_tensor_transpose(&turned, &none, 0, 2, &err));
  OK(moon_tensor_narrow(&part, &none, 1, 0, 0, &err));
  OK(moon_op_fill(&turned, 1, &err));
  OK(moon_op_copy(&part, &none, &err));
  OK(moon_tensor_read(&turned, NULL, &err));
  OK(moon_tensor_new(&sum, moon_cpu(), MOON_F32, SHAPE(2, 0, 3), 3, &err));
  OK(moon_op_binary(MOON_ADD, &sum, &none, &scalar, &err));
  moon_tensor_release(&scalar);
  moon_tensor_release(&none);
  moon_tensor_release(&part);
  moon_tensor_release(&turned);
  moon_tensor_release(&sum);
}

static void broadcasts(void **state) {
  (void)state;
  moon_tensor a = counting(2, 3), row = counting(1, 3), column = counting(2, 1), flat,
              out = counting(2, 3);
  OK(moon_tensor_select(&flat, &row, 0, 0, &err));
  OK(moon_op_binary(MOON_ADD, &out, &a, &flat, &err));
  assert_elements(&out, 0, 2, 4, 3, 5, 7);
  OK(moon_op_binary(MOON_MUL, &out, &column, &row, &err)); /* both grow */
  assert_elements(&out, 0, 0, 0, 0, 1, 2);
  OK(moon_op_binary(MOON_SUB, &a, &a, &column, &err)); /* in place */
  assert_elements(&a, 0, 1, 2, 2, 3, 4);
  moon_tensor_release(&a);
  moon_tensor_release(&row);
  moon_tensor_release(&column);
  moon_tensor_release(&flat);
  moon_tensor_release(&out);
}

static void to_shares_where_it_can(void **state) {
  (void)state;
  moon_tensor t = counting(2, 2), same, turned, dense, half;
  OK(moon_tensor_to(&same, &t, moon_cpu(), MOON_F32, &err));
  assert_ptr_equal(same.storage, t.storage);
  OK(moon_tensor_transpose(&turned, &t, 0, 1, &err));
  OK(moon_tensor_to(&dense, &turned, moon_cpu(), MOON_F32, &err));
  assert_true(dense.storage != t.storage && moon_tensor_contiguous(&dense));
  assert_elements(&dense, 0, 2, 1, 3);
  OK(moon_tensor_to(&half, &turned, moon_cpu(), MOON_BF16, &err));
  uint16_t bits[4];
  OK(moon_tensor_read(&half, bits, &err));
  assert_int_equal(bits[1], 0x4000); /* 2 */
  moon_tensor_release(&t);
  moon_tensor_release(&same);
  moon_tensor_release(&turned);
  moon_tensor_release(&dense);
  moon_tensor_release(&half);
}

static void says_what_does_not_fit(void **state) {
  (void)state;
  moon_tensor t = counting(2, 3), out;
  FAILS(moon_tensor_narrow(&out, &t, 1, 2, 2, &err), MOON_ERANGE,
        "narrow: 2 elements from 2 are not in dim 1 of [2, 3]");
  FAILS(moon_tensor_narrow(&out, &t, 2, 0, 1, &err), MOON_ERANGE,
        "narrow: dim is 2, expected less than rank 2");
  FAILS(moon_tensor_select(&out, &t, 0, 2, &err), MOON_ERANGE,
        "select: index 2 is not in dim 0 of [2, 3]");
  FAILS(moon_tensor_reshape(&out, &t, SHAPE(4), 1, &err), MOON_ESHAPE,
        "reshape: [2, 3] does not fit [4]");
  FAILS(moon_tensor_reshape(&out, &t, SHAPE(-1, -1), 2, &err), MOON_ESHAPE,
        "reshape: [2, 3] does not fit [-1, -1]");
  FAILS(moon_tensor_reshape(&out, &t, SHAPE(-1, 0), 2, &err), MOON_ESHAPE,
        "reshape: [2, 3] does not fit [-1, 0]");
  FAILS(moon_tensor_new(&out, moon_cpu(), MOON_F32, SHAPE(-1), 1, &err), MOON_ESHAPE,
        "tensor: shape [-1] is negative or too large");
  FAILS(moon_tensor_new(&out, moon_cpu(), MOON_F32, SHAPE(1LL << 40, 1LL << 40), 2, &err),
        MOON_ESHAPE, "tensor: shape [1099511627776, 1099511627776] is negative or too large");
  FAILS(moon_tensor_new(&out, moon_cpu(), MOON_F32, SHAPE(1, 1, 1, 1, 1, 1, 1, 1, 1), 9, &err),
        MOON_ESHAPE, "tensor: rank is 9, expected 0 to 8");
  FAILS(moon_tensor_new(&out, moon_cpu(), MOON_F32, SHAPE(1LL << 60), 1, &err), MOON_ENOMEM,
        "cpu: no memory for a tensor of 4611686018427387904 bytes");
  moon_tensor_release(&t);
}

static void finds_devices(void **state) {
  (void)state;
  moon_device *device;
  OK(moon_device_find(&device, "cpu", &err));
  assert_ptr_equal(device, moon_cpu());
  assert_ptr_equal(moon_device_at(0), moon_cpu());
  OK(moon_device_find(&device, "auto", &err)); /* the first with CUDA, where there is one */
  assert_ptr_equal(device, moon_device_at(moon_device_at(1) ? 1 : 0));
  FAILS(moon_device_find(&device, "tpu", &err), MOON_EDEVICE,
        "device \"tpu\" is unknown, expected auto, cpu or cuda");
}

/* Mapped tensors */

static moon_bytes *mapped_floats(void) {
  char path[] = "/tmp/moonscope_test_XXXXXX";
  float values[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  moon_bytes *bytes;
  int file = mkstemp(path);
  assert_true(file >= 0 && write(file, values, sizeof values) == sizeof values);
  close(file);
  OK(moon_bytes_open(&bytes, path, &err));
  unlink(path);
  return bytes;
}

static moon_entry entry_of(moon_bytes *bytes, size_t offset, int64_t rows, int64_t columns) {
  return (moon_entry){.name = "w",
                      .dtype = MOON_F32,
                      .rank = 2,
                      .shape = {rows, columns},
                      .strides = {columns, 1},
                      .size_bytes = (size_t)(rows * columns) * 4,
                      .bytes = bytes,
                      .offset = offset};
}

static void maps_an_entry_in_place(void **state) {
  (void)state;
  moon_bytes *bytes = mapped_floats();
  moon_entry entry = entry_of(bytes, 8, 2, 3), turned = entry;
  moon_tensor t, u;
  OK(moon_tensor_from_entry(&t, &entry, &err));
  turned.strides[0] = 1; /* as a .pth may store it */
  turned.strides[1] = 2;
  OK(moon_tensor_from_entry(&u, &turned, &err));
  moon_bytes_release(bytes); /* the tensors keep the mapping */
  assert_int_equal(moon_storage_live_bytes(), 0);
  assert_elements(&t, 2, 3, 4, 5, 6, 7);
  assert_elements(&u, 2, 4, 6, 3, 5, 7);
  moon_tensor_release(&t);
  moon_tensor_release(&u);
}

static void copies_a_misaligned_entry(void **state) {
  (void)state;
  char odd[1 + 6 * sizeof(float)] = {0};
  const float values[] = {1, 2, 3, 4, 5, 6};
  moon_bytes *bytes;
  moon_tensor t;
  memcpy(odd + 1, values, sizeof values);
  OK(moon_bytes_copy(&bytes, odd, sizeof odd, &err));
  moon_entry entry = entry_of(bytes, 1, 3, 2);
  entry.strides[0] = 1;
  entry.strides[1] = 3;
  OK(moon_tensor_from_entry(&t, &entry, &err));
  moon_bytes_release(bytes);
  assert_int_equal(moon_storage_live_bytes(), sizeof values);
  assert_elements(&t, 1, 4, 2, 5, 3, 6);
  moon_tensor_release(&t);
}

static void a_mapped_tensor_is_read_only(void **state) {
  (void)state;
  moon_bytes *bytes = mapped_floats();
  moon_entry entry = entry_of(bytes, 0, 2, 3);
  moon_tensor t, other = counting(2, 3);
  OK(moon_tensor_from_entry(&t, &entry, &err));
  FAILS(moon_tensor_write(&t, "", &err), MOON_EINVAL,
        "write: the tensor is read-only (it lies in a mapped file)");
  FAILS(moon_op_fill(&t, 1, &err), MOON_EINVAL,
        "fill: tensor is read-only (it lies in a mapped file)");
  FAILS(moon_op_copy(&t, &other, &err), MOON_EINVAL,
        "copy: destination is read-only (it lies in a mapped file)");
  FAILS(moon_op_unary(MOON_NEG, &t, &other, &err), MOON_EINVAL,
        "neg: out is read-only (it lies in a mapped file)");
  FAILS(moon_op_binary(MOON_ADD, &t, &t, &t, &err), MOON_EINVAL,
        "add: out is read-only (it lies in a mapped file)");
  OK(moon_op_copy(&other, &t, &err));
  assert_elements(&other, 0, 1, 2, 3, 4, 5);
  moon_tensor_release(&t);
  moon_tensor_release(&other);
  moon_bytes_release(bytes);
}

static void refuses_an_opaque_entry(void **state) {
  (void)state;
  moon_bytes *bytes = mapped_floats();
  moon_entry entry = entry_of(bytes, 0, 1, 1);
  moon_tensor t;
  entry.dtype = MOON_OPAQUE;
  strcpy(entry.dtype_name, "c64");
  FAILS(moon_tensor_from_entry(&t, &entry, &err), MOON_EDTYPE,
        "w: dtype c64 can be listed, hashed and copied, not computed with");
  moon_bytes_release(bytes);
}

int main(int argc, char **argv) {
  static const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_teardown(name, nothing_is_left)
      T(views_share_the_storage),
      T(transposes_and_reshapes),
      T(rank_0_and_empty_axes),
      T(broadcasts),
      T(to_shares_where_it_can),
      T(says_what_does_not_fit),
      T(finds_devices),
      T(maps_an_entry_in_place),
      T(copies_a_misaligned_entry),
      T(a_mapped_tensor_is_read_only),
      T(refuses_an_opaque_entry),
#undef T
  };
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}

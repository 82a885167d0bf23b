// SPDX-License-Identifier: MIT
/* Statuses, errors, dtypes, checked sizes, progress, the log hook. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "moon.h"

static void names_every_status(void **state) {
  (void)state;
  assert_string_equal(moon_status_name(MOON_OK), "OK");
#define X(code, meaning) assert_string_equal(moon_status_name(MOON_##code), #code);
  MOON_STATUS_LIST(X)
#undef X
}

static void fail_fills_the_error(void **state) {
  (void)state;
  moon_err err;
  assert_int_equal(moon_fail(&err, MOON_ESHAPE, "%s: found %d", "a\tb\n\x7f", 3), MOON_ESHAPE);
  assert_int_equal(err.code, MOON_ESHAPE);
  assert_string_equal(err.text, "a?b??: found 3");
  assert_int_equal(moon_fail_in(&err, err.code, "file"), MOON_ESHAPE);
  assert_string_equal(err.text, "file: a?b??: found 3");
  assert_int_equal(moon_fail(NULL, MOON_EIO, "nobody listens"), MOON_EIO);
  assert_int_equal(moon_fail_in(NULL, MOON_EIO, "file"), MOON_EIO);
}

static void long_error_is_cut(void **state) {
  (void)state;
  char text[2 * MOON_ERR_TEXT];
  memset(text, 'x', sizeof text - 1);
  text[sizeof text - 1] = '\0';
  moon_err err;
  moon_fail(&err, MOON_EINVAL, "%s", text);
  assert_int_equal(strlen(err.text), MOON_ERR_TEXT - 1);
  moon_fail_in(&err, err.code, "what");
  assert_int_equal(strlen(err.text), MOON_ERR_TEXT - 1);
  assert_memory_equal(err.text, "what: xxx", 9);
}

static void dtype_names_lead_back(void **state) {
  (void)state;
  moon_dtype dtype;
#define X(id, name, file_name, size)                               \
  assert_string_equal(moon_dtype_name(MOON_##id), name);           \
  assert_string_equal(moon_dtype_file_name(MOON_##id), file_name); \
  assert_int_equal(moon_dtype_size(MOON_##id), size);              \
  assert_true(moon_dtype_from_name(&dtype, name));                 \
  assert_int_equal(dtype, MOON_##id);                              \
  assert_true(moon_dtype_from_file_name(&dtype, file_name));       \
  assert_int_equal(dtype, MOON_##id);
  MOON_DTYPE_LIST(X)
#undef X
  assert_false(moon_dtype_from_name(&dtype, "F32"));
  assert_false(moon_dtype_from_name(&dtype, "opaque"));
  assert_false(moon_dtype_from_file_name(&dtype, ""));
  assert_int_equal(moon_dtype_size(MOON_OPAQUE), 0);
}

static void sizes_are_checked(void **state) {
  (void)state;
  size_t n;
  assert_true(moon_size_mul(&n, 1u << 16, 1u << 16));
  assert_true(n == (size_t)1 << 32);
  assert_false(moon_size_mul(&n, SIZE_MAX, 2));
  assert_true(moon_size_add(&n, SIZE_MAX - 1, 1));
  assert_true(n == SIZE_MAX);
  assert_false(moon_size_add(&n, SIZE_MAX, 1));
}

static void shapes_are_counted(void **state) {
  (void)state;
  const int64_t big = (int64_t)1 << 32;
  const struct {
    int64_t shape[3];
    int rank;
    bool ok;
    int64_t count;
  } cases[] = {
      {{0}, 0, true, 1},
      {{7}, 1, true, 7},
      {{2, 3, 4}, 3, true, 24},
      {{2, 0, 4}, 3, true, 0},
      {{-1}, 1, false, 0},
      {{0, -1}, 2, false, 0},
      {{INT64_MAX}, 1, true, INT64_MAX},
      {{big, big / 4, 2}, 3, false, 0},
      {{big, big, 0}, 3, false, 0}, /* too large even though empty: strides would overflow */
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    int64_t count = 0;
    assert_int_equal(moon_shape_count(&count, cases[i].shape, cases[i].rank), cases[i].ok);
    if (cases[i].ok)
      assert_true(count == cases[i].count);
  }
}

static void shapes_are_shown(void **state) {
  (void)state;
  char text[MOON_SHAPE_TEXT];
  assert_string_equal(moon_shape_text(text, sizeof text, (int64_t[]){2048, 128}, 2), "[2048, 128]");
  assert_string_equal(moon_shape_text(text, sizeof text, NULL, 0), "[]");
  assert_string_equal(moon_shape_text(text, 6, (int64_t[]){2048, 128}, 2), "[2048");
}

static void progress_counts_and_cancels(void **state) {
  (void)state;
  moon_progress progress = {0};
  moon_err err;
  assert_int_equal(moon_progress_add(&progress, 5, &err), MOON_OK);
  assert_int_equal(moon_progress_add(&progress, 2, &err), MOON_OK);
  assert_int_equal(atomic_load(&progress.done), 7);
  atomic_store(&progress.canceled, true);
  assert_int_equal(moon_progress_add(&progress, 1, &err), MOON_ECANCELED);
  assert_string_equal(err.text, "canceled");
  assert_int_equal(atomic_load(&progress.done), 7);
  assert_int_equal(moon_progress_add(NULL, 1, &err), MOON_OK);
}

static void keep(void *user, moon_log_level level, const char *text) {
  snprintf(user, 64, "%d %s", (int)level, text);
}

static void log_goes_to_the_hook(void **state) {
  (void)state;
  char seen[64] = "";
  moon_log(MOON_LOG_ERROR, "dropped");
  assert_false(moon_log_wants(MOON_LOG_ERROR));
  moon_log_set(keep, seen);
  moon_log(MOON_LOG_WARN, "read %s", "a\nb");
  assert_string_equal(seen, "1 read a?b");
  moon_log(MOON_LOG_INFO, "below the level");
  assert_string_equal(seen, "1 read a?b");
  moon_log_set_level(MOON_LOG_DEBUG);
  assert_true(moon_log_wants(MOON_LOG_DEBUG));
  moon_log(MOON_LOG_DEBUG, "now");
  assert_string_equal(seen, "3 now");
  moon_log_set_level(MOON_LOG_WARN);
  moon_log_set(NULL, NULL);
  moon_log(MOON_LOG_ERROR, "dropped");
  assert_string_equal(seen, "3 now");
}

int main(int argc, char **argv) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(names_every_status),   cmocka_unit_test(fail_fills_the_error),
      cmocka_unit_test(long_error_is_cut),    cmocka_unit_test(dtype_names_lead_back),
      cmocka_unit_test(sizes_are_checked),    cmocka_unit_test(shapes_are_counted),
      cmocka_unit_test(shapes_are_shown),     cmocka_unit_test(progress_counts_and_cancels),
      cmocka_unit_test(log_goes_to_the_hook),
  };
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}

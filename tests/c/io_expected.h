// SPDX-License-Identifier: MIT
/* Comparing what was read with the expected.json of a fixture folder; after cmocka.h. */
#ifndef TESTS_IO_EXPECTED_H
#define TESTS_IO_EXPECTED_H

#include <jansson.h>

#include "io_files.h"

static inline json_t *load_json(const char *path) {
  json_error_t error;
  json_t *value = json_load_file(path, 0, &error);
  if (!value)
    fail_msg("%s: %s", path, error.text);
  return value;
}

static inline void compare_shape(const moon_entry *entry, const json_t *shape) {
  assert_int_equal(entry->rank, json_array_size(shape));
  for (int i = 0; i < entry->rank; i++)
    assert_int_equal(entry->shape[i], json_integer_value(json_array_get(shape, (size_t)i)));
}

/* All bytes at once, and in blocks of each number of elements, must be those of the hex text. */
static inline void compare_bytes(const moon_entry *entry, const char *hex) {
  size_t size = entry->size_bytes, element = moon_dtype_size(entry->dtype);
  char *text = malloc(2 * size + 1);
  uint8_t *out = malloc(size + 2);
  for (size_t block = element; block <= size + element; block += element) {
    text[0] = 0;
    for (size_t first = 0; first < size; first += block) {
      size_t n = block < size - first ? block : size - first;
      out[n] = 0xaa;
      assert_int_equal(moon_entry_read(entry, first, n, out, NULL), MOON_OK);
      assert_int_equal(out[n], 0xaa);
      for (size_t i = 0; i < n; i++)
        snprintf(text + 2 * (first + i), 3, "%02x", out[i]);
    }
    assert_string_equal(text, hex);
  }
  free(text);
  free(out);
}

/* Every tensor of {name: {dtype, shape, bytes}}, and no other. */
static inline void compare_tensors(const moon_checkpoint *checkpoint, const json_t *tensors) {
  const char *name;
  json_t *tensor;
  assert_int_equal(moon_checkpoint_count(checkpoint), json_object_size(tensors));
  json_object_foreach((json_t *)tensors, name, tensor) {
    const moon_entry *entry = moon_checkpoint_find(checkpoint, name);
    assert_non_null(entry);
    assert_string_equal(entry->dtype_name, json_string_value(json_object_get(tensor, "dtype")));
    compare_shape(entry, json_object_get(tensor, "shape"));
    compare_bytes(entry, json_string_value(json_object_get(tensor, "bytes")));
  }
}

#endif

// SPDX-License-Identifier: MIT
/*
 * safetensors: 8 bytes of header size (little endian), the header (JSON), the data.
 *   {"__metadata__": {"k": "v"}, "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0,
 * 24]}, ...} Offsets count from the first data byte. The tensors must fill the data without hole or
 * overlap.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "io/reader.h"

/* Legal dtypes that moonscope does not compute with. */
static const struct {
  const char *file_name;
  unsigned bits;
} opaque_dtypes[] = {
    {"F4", 4},          {"F6_E2M3", 6},     {"F6_E3M2", 6}, {"F8_E8M0", 8},
    {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"C64", 64},
};

static bool find_dtype(moon_entry *entry, unsigned *bits, const char *file_name) {
  if (moon_dtype_from_file_name(&entry->dtype, file_name)) {
    *bits = 8 * (unsigned)moon_dtype_size(entry->dtype);
    strcpy(entry->dtype_name, moon_dtype_name(entry->dtype));
    return true;
  }
  for (size_t i = 0; i < sizeof opaque_dtypes / sizeof *opaque_dtypes; i++) {
    if (strcmp(opaque_dtypes[i].file_name, file_name))
      continue;
    entry->dtype = MOON_OPAQUE;
    *bits = opaque_dtypes[i].bits;
    for (size_t c = 0; c <= strlen(file_name); c++)
      entry->dtype_name[c] = (char)tolower((unsigned char)file_name[c]);
    return true;
  }
  return false;
}

static moon_status read_shape(moon_entry *entry, const json_t *shape, moon_err *err) {
  if (!json_is_array(shape))
    return moon_fail(err, MOON_EFORMAT, "'shape' is not a list");
  size_t rank = json_array_size(shape);
  if (rank > MOON_MAX_RANK)
    return moon_fail(err, MOON_EUNSUPPORTED, "rank %zu, at most %d", rank, MOON_MAX_RANK);
  entry->rank = (int)rank;
  for (size_t i = 0; i < rank; i++) {
    const json_t *dim = json_array_get(shape, i);
    if (!json_is_integer(dim) || json_integer_value(dim) < 0)
      return moon_fail(err, MOON_EFORMAT, "dim %zu of 'shape' is not a whole number >= 0", i);
    entry->shape[i] = json_integer_value(dim);
  }
  return MOON_OK;
}

static moon_status read_offset(size_t *out, const json_t *offsets, size_t index, moon_err *err) {
  const json_t *offset = json_array_get(offsets, index);
  if (json_array_size(offsets) != 2 || !json_is_integer(offset) || json_integer_value(offset) < 0)
    return moon_fail(err, MOON_EFORMAT, "'data_offsets' is not a list of two whole numbers >= 0");
  *out = (size_t)json_integer_value(offset);
  return MOON_OK;
}

/* Does the size that shape and dtype ask for equal size_bytes? */
static moon_status check_size(const moon_entry *entry, unsigned bits, moon_err *err) {
  int64_t count;
  size_t total_bits;
  char shape[MOON_SHAPE_TEXT];
  moon_shape_text(shape, sizeof shape, entry->shape, entry->rank);
  if (!moon_shape_count(&count, entry->shape, entry->rank) ||
      !moon_size_mul(&total_bits, (size_t)count, bits))
    return moon_fail(err, MOON_EFORMAT, "shape %s is too large", shape);
  if (total_bits % 8 || total_bits / 8 != entry->size_bytes)
    return moon_fail(err, MOON_EFORMAT,
                     "shape %s in %s takes %zu bytes, 'data_offsets' give it %zu", shape,
                     entry->dtype_name, total_bits / 8, entry->size_bytes);
  return MOON_OK;
}

/* One value of the header. entry->offset counts from the first data byte, of which there are
 * data_size. */
static moon_status read_tensor(moon_entry *entry, const json_t *value, size_t data_size,
                               moon_err *err) {
  const json_t *dtype = json_object_get(value, "dtype"),
               *offsets = json_object_get(value, "data_offsets");
  if (json_object_size(value) != 3 || !json_is_string(dtype))
    return moon_fail(err, MOON_EFORMAT,
                     "expected an object with exactly dtype (text), shape and data_offsets");
  unsigned bits;
  if (!find_dtype(entry, &bits, json_string_value(dtype)))
    return moon_fail(err, MOON_EFORMAT, "unknown dtype '%s'", json_string_value(dtype));
  size_t end = 0;
  moon_status status = read_shape(entry, json_object_get(value, "shape"), err);
  if (status == MOON_OK)
    status = read_offset(&entry->offset, offsets, 0, err);
  if (status == MOON_OK)
    status = read_offset(&end, offsets, 1, err);
  if (status != MOON_OK)
    return status;
  if (end < entry->offset)
    return moon_fail(err, MOON_EFORMAT, "data_offsets [%zu, %zu] run backwards", entry->offset,
                     end);
  if (end > data_size)
    return moon_fail(err, MOON_EFORMAT,
                     "data_offsets end at %zu, but the file has %zu data bytes (truncated?)", end,
                     data_size);
  entry->size_bytes = end - entry->offset;
  status = check_size(entry, bits, err);
  if (status == MOON_OK)
    moon_strides_fill(entry->strides, entry->shape, entry->rank);
  return status;
}

static moon_status read_metadata(moon_checkpoint *into, json_t *object, moon_err *err) {
  if (!json_is_object(object))
    return moon_fail(err, MOON_EFORMAT, "__metadata__ is not an object");
  const char *key;
  json_t *value;
  json_object_foreach(object, key, value) {
    if (!json_is_string(value))
      return moon_fail(err, MOON_EFORMAT, "__metadata__: '%s' is not text", key);
    moon_status status = moon_checkpoint_add_metadata(into, key, json_string_value(value), err);
    if (status != MOON_OK)
      return status;
  }
  return MOON_OK;
}

static int compare_offsets(const void *a, const void *b) {
  const moon_entry *x = *(const moon_entry *const *)a, *y = *(const moon_entry *const *)b;
  if (x->offset != y->offset)
    return x->offset < y->offset ? -1 : 1;
  return (x->size_bytes > y->size_bytes) - (x->size_bytes < y->size_bytes);
}

/* The n entries, by offset, must fill the data exactly. */
static moon_status check_cover(const moon_entry **entries, size_t n, size_t data_size,
                               moon_err *err) {
  size_t end = 0;
  for (size_t i = 0; i < n; i++) {
    const moon_entry *entry = entries[i];
    if (entry->offset != end)
      return moon_fail(err, MOON_EFORMAT,
                       "tensor '%s': data begin at %zu, but the tensors before it end at %zu (%s)",
                       entry->name, entry->offset, end,
                       entry->offset > end ? "a hole" : "an overlap");
    end += entry->size_bytes;
  }
  if (end != data_size)
    return moon_fail(err, MOON_EFORMAT, "%zu data bytes belong to no tensor", data_size - end);
  return MOON_OK;
}

static moon_status check_layout(const moon_entry *entries, size_t n, size_t data_size,
                                moon_err *err) {
  const moon_entry **sorted = malloc((n ? n : 1) * sizeof *sorted);
  if (!sorted)
    return moon_fail(err, MOON_ENOMEM, "no memory for %zu tensors", n);
  for (size_t i = 0; i < n; i++)
    sorted[i] = &entries[i];
  qsort(sorted, n, sizeof *sorted, compare_offsets);
  moon_status status = check_cover(sorted, n, data_size, err);
  free(sorted);
  return status;
}

static moon_status read_header(moon_checkpoint *into, json_t *header, moon_bytes *bytes,
                               size_t data_start, moon_err *err) {
  size_t first = into->n_entries, data_size = moon_bytes_size(bytes) - data_start;
  const char *name;
  json_t *value;
  json_object_foreach(header, name, value) {
    moon_status status;
    if (!strcmp(name, "__metadata__")) {
      status = read_metadata(into, value, err);
    } else {
      moon_entry entry = {.bytes = bytes};
      status = read_tensor(&entry, value, data_size, err);
      if (status != MOON_OK)
        return moon_fail_in_tensor(err, status, name);
      status = moon_checkpoint_add(into, name, &entry, err);
    }
    if (status != MOON_OK)
      return status;
  }
  moon_status status = check_layout(into->entries + first, into->n_entries - first, data_size, err);
  for (size_t i = first; i < into->n_entries; i++)
    into->entries[i].offset += data_start;
  return status;
}

static uint64_t read_u64(const uint8_t *p) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; i--)
    value = value << 8 | p[i];
  return value;
}

moon_status moon_safetensors_read(moon_checkpoint *into, moon_bytes *bytes, moon_err *err) {
  const uint8_t *data = moon_bytes_data(bytes);
  size_t size = moon_bytes_size(bytes);
  into->format = "safetensors";
  if (size < 8)
    return moon_fail(err, MOON_EFORMAT, "%zu bytes, too short for a safetensors header", size);
  uint64_t header_size = read_u64(data);
  if (header_size > MOON_HEADER_MAX)
    return moon_fail(err, MOON_EFORMAT, "header of %llu bytes, at most %d",
                     (unsigned long long)header_size, MOON_HEADER_MAX);
  if (header_size > size - 8)
    return moon_fail(err, MOON_EFORMAT, "header of %llu bytes in a file of %zu (truncated?)",
                     (unsigned long long)header_size, size);
  if (!header_size || data[8] != '{')
    return moon_fail(err, MOON_EFORMAT, "the header does not begin with '{'");
  json_t *header;
  moon_status status = moon_json_parse(&header, data + 8, (size_t)header_size, err);
  if (status != MOON_OK)
    return moon_fail_in(err, status, "header");
  status = moon_checkpoint_add_file(into, bytes, err);
  if (status == MOON_OK)
    status = read_header(into, header, bytes, 8 + (size_t)header_size, err);
  json_decref(header);
  return status;
}

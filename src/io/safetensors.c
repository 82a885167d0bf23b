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

/* Fields of a tensor's object as they stand in the header. */
typedef struct fields {
  char dtype[16];
  int rank;
  int64_t shape[MOON_MAX_RANK];
  int64_t begin, end; /* data_offsets */
  bool has_dtype, has_shape, has_offsets;
} fields;

static void read_dtype(moon_scan *scan, fields *out) {
  const char *dtype = moon_scan_text(scan);
  size_t size = strlen(dtype) < sizeof out->dtype ? strlen(dtype) : sizeof out->dtype - 1;
  memcpy(out->dtype, dtype, size);
  out->has_dtype = true;
}

static void read_shape(moon_scan *scan, fields *out) {
  moon_scan_enter(scan, '[');
  for (bool first = true; moon_scan_more(scan, ']', &first); out->rank++) {
    int64_t dim = moon_scan_whole(scan);
    if (out->rank < MOON_MAX_RANK)
      out->shape[out->rank] = dim;
  }
  out->has_shape = true;
}

static void read_offsets(moon_scan *scan, fields *out) {
  int n = 0;
  moon_scan_enter(scan, '[');
  for (bool first = true; moon_scan_more(scan, ']', &first); n++) {
    int64_t offset = moon_scan_whole(scan);
    if (n < 2)
      *(n ? &out->end : &out->begin) = offset;
  }
  out->has_offsets = n == 2;
}

static void read_fields(moon_scan *scan, fields *out) {
  moon_scan_enter(scan, '{');
  for (bool first = true; moon_scan_more(scan, '}', &first);) {
    const char *key = moon_scan_key(scan);
    if (!strcmp(key, "dtype") && !out->has_dtype)
      read_dtype(scan, out);
    else if (!strcmp(key, "shape") && !out->has_shape)
      read_shape(scan, out);
    else if (!strcmp(key, "data_offsets") && !out->has_offsets)
      read_offsets(scan, out);
    else
      moon_scan_fail(scan, "the keys dtype, shape and data_offsets once each");
  }
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

/* entry->offset counts from the first data byte, of which there are data_size. */
static moon_status read_tensor(moon_entry *entry, moon_scan *scan, size_t data_size,
                               moon_err *err) {
  fields f = {.dtype = ""};
  unsigned bits;
  read_fields(scan, &f);
  if (scan->status)
    return scan->status;
  if (!f.has_dtype || !f.has_shape || !f.has_offsets)
    return moon_fail(err, MOON_EFORMAT, "lacks a dtype, a shape or two data_offsets");
  if (!find_dtype(entry, &bits, f.dtype))
    return moon_fail(err, MOON_EFORMAT, "unknown dtype '%s'", f.dtype);
  if (f.rank > MOON_MAX_RANK)
    return moon_fail(err, MOON_EUNSUPPORTED, "rank %d, at most %d", f.rank, MOON_MAX_RANK);
  if (f.end < f.begin)
    return moon_fail(err, MOON_EFORMAT, "data_offsets [%lld, %lld] run backwards",
                     (long long)f.begin, (long long)f.end);
  if ((uint64_t)f.end > data_size)
    return moon_fail(err, MOON_EFORMAT,
                     "data_offsets end at %lld, but the file has %zu data bytes (truncated?)",
                     (long long)f.end, data_size);
  entry->rank = f.rank;
  memcpy(entry->shape, f.shape, sizeof f.shape);
  entry->offset = (size_t)f.begin;
  entry->size_bytes = (size_t)(f.end - f.begin);
  moon_status status = check_size(entry, bits, err);
  if (status == MOON_OK)
    moon_strides_fill(entry->strides, entry->shape, entry->rank);
  return status;
}

static moon_status add_tensor(moon_checkpoint *into, moon_scan *scan, moon_bytes *bytes,
                              size_t data_size, const char *key, moon_err *err) {
  moon_entry entry = {.bytes = bytes};
  char *name = strdup(key); /* the scan's text is gone with the next string */
  if (!name)
    return moon_fail(err, MOON_ENOMEM, "no memory for a name");
  moon_status status = read_tensor(&entry, scan, data_size, err);
  if (status == MOON_OK)
    status = moon_checkpoint_add(into, name, &entry, err);
  else
    moon_fail_in_tensor(err, status, name);
  free(name);
  return status;
}

static moon_status add_metadata(moon_checkpoint *into, moon_scan *scan, moon_err *err) {
  moon_status status = MOON_OK;
  moon_scan_enter(scan, '{');
  for (bool first = true; status == MOON_OK && moon_scan_more(scan, '}', &first);) {
    char *key = strdup(moon_scan_key(scan));
    const char *value = moon_scan_text(scan);
    if (!key)
      status = moon_fail(err, MOON_ENOMEM, "no memory for metadata");
    else if (!scan->status)
      status = moon_checkpoint_add_metadata(into, key, value, err);
    free(key);
  }
  return status == MOON_OK ? scan->status : status;
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

/* The same for those that were added from the one numbered first on. */
static moon_status check_layout(const moon_checkpoint *into, size_t first, size_t data_size,
                                moon_err *err) {
  size_t n = into->n_entries - first;
  const moon_entry **sorted = malloc((n ? n : 1) * sizeof *sorted);
  if (!sorted)
    return moon_fail(err, MOON_ENOMEM, "no memory for %zu tensors", n);
  for (size_t i = 0; i < n; i++)
    sorted[i] = &into->entries[first + i];
  qsort(sorted, n, sizeof *sorted, compare_offsets);
  moon_status status = check_cover(sorted, n, data_size, err);
  free(sorted);
  return status;
}

static moon_status read_members(moon_checkpoint *into, moon_scan *scan, moon_bytes *bytes,
                                size_t data_size, moon_err *err) {
  moon_status status = MOON_OK;
  bool has_metadata = false;
  moon_scan_enter(scan, '{');
  for (bool first = true; status == MOON_OK && moon_scan_more(scan, '}', &first);) {
    const char *key = moon_scan_key(scan);
    bool is_metadata = !strcmp(key, "__metadata__");
    if (is_metadata && has_metadata)
      moon_scan_fail(scan, "one __metadata__ only");
    else if (is_metadata)
      status = add_metadata(into, scan, err);
    else if (!scan->status)
      status = add_tensor(into, scan, bytes, data_size, key, err);
    has_metadata = has_metadata || is_metadata;
  }
  return status == MOON_OK ? moon_scan_end(scan) : status;
}

static moon_status read_header(moon_checkpoint *into, moon_bytes *bytes, size_t header_size,
                               moon_err *err) {
  size_t first = into->n_entries, data_start = 8 + header_size,
         data_size = moon_bytes_size(bytes) - data_start;
  moon_scan scan;
  moon_scan_open(&scan, moon_bytes_data(bytes) + 8, header_size, err);
  moon_status status = read_members(into, &scan, bytes, data_size, err);
  if (scan.status)
    moon_fail_in(err, status, "header");
  moon_scan_close(&scan);
  if (status == MOON_OK)
    status = check_layout(into, first, data_size, err);
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
  moon_status status = moon_checkpoint_add_file(into, bytes, err);
  return status == MOON_OK ? read_header(into, bytes, (size_t)header_size, err) : status;
}

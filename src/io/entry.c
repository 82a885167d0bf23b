// SPDX-License-Identifier: MIT
/* The elements of a checkpoint's entry in row-major order, whatever its strides. */
#include <stdlib.h>
#include <string.h>

#include "io/reader.h"

#define TILE \
  64 /* rows and columns: both sides of a transposed copy stay in the first-level cache */

void moon_strides_fill(int64_t *strides, const int64_t *shape, int rank) {
  int64_t stride = 1;
  for (int i = rank - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= shape[i] > 0 ? shape[i] : 1;
  }
}

bool moon_entry_contiguous(const moon_entry *entry) {
  int64_t stride = 1;
  for (int i = entry->rank - 1; i >= 0; i--) {
    if (entry->shape[i] == 0)
      return true;
    if (entry->shape[i] != 1 && entry->strides[i] != stride)
      return false;
    stride *= entry->shape[i];
  }
  return true;
}

/* out [rows][columns] := the elements at source + row * row_stride + column * column_stride (in
 * elements). */
#define COPY_TILES(size)                                                                           \
  for (int64_t top = 0; top < rows; top += TILE)                                                   \
    for (int64_t left = 0; left < columns; left += TILE)                                           \
      for (int64_t r = top; r < rows && r < top + TILE; r++)                                       \
        for (int64_t c = left; c < columns && c < left + TILE; c++)                                \
  memcpy(out + (r * columns + c) * (size), source + (r * row_stride + c * column_stride) * (size), \
         (size))

static void copy_matrix(uint8_t *out, const uint8_t *source, int64_t rows, int64_t columns,
                        int64_t row_stride, int64_t column_stride, size_t element_size) {
  switch (element_size) { /* a constant size makes each memcpy one load and one store */
    case 1:
      COPY_TILES(1);
      break;
    case 2:
      COPY_TILES(2);
      break;
    case 4:
      COPY_TILES(4);
      break;
    default:
      COPY_TILES(8);
  }
}

/* data: where entry->offset counts from. Walks n elements from the one numbered first: whole rows
 * of the last two dims at once, parts of a row alone. */
static void gather(const moon_entry *entry, const uint8_t *data, int64_t first, int64_t n,
                   uint8_t *out) {
  size_t element_size = moon_dtype_size(entry->dtype);
  const int rank = entry->rank; /* >= 1: a scalar is contiguous */
  const int64_t columns = entry->shape[rank - 1], column_stride = entry->strides[rank - 1];
  const int64_t n_rows = rank > 1 ? entry->shape[rank - 2] : 1,
                row_stride = rank > 1 ? entry->strides[rank - 2] : 0;
  while (n > 0) {
    int64_t column = first % columns, row = first / columns % n_rows,
            rest = first / columns / n_rows;
    int64_t start = row * row_stride + column * column_stride;
    for (int dim = rank - 3; dim >= 0; dim--) {
      start += rest % entry->shape[dim] * entry->strides[dim];
      rest /= entry->shape[dim];
    }
    bool whole = column == 0 && n >= columns;
    int64_t rows = !whole ? 1 : n / columns < n_rows - row ? n / columns : n_rows - row;
    int64_t width = whole ? columns : n < columns - column ? n : columns - column;
    const uint8_t *source = data + entry->offset + (size_t)start * element_size;
    copy_matrix(out, source, rows, width, row_stride, column_stride, element_size);
    out += (size_t)(rows * width) * element_size;
    first += rows * width;
    n -= rows * width;
  }
}

static moon_status read_strided(const moon_entry *entry, size_t first, size_t size, void *out,
                                moon_err *err) {
  const uint8_t *data = moon_bytes_data(entry->bytes);
  moon_status status = MOON_OK;
  if (entry->packed)
    status = moon_packed_whole(&data, entry->packed, err);
  if (status != MOON_OK)
    return status;
  int64_t element_size = (int64_t)moon_dtype_size(entry->dtype); /* strided ones are never opaque */
  gather(entry, data, (int64_t)first / element_size, (int64_t)size / element_size, out);
  return MOON_OK;
}

moon_status moon_entry_read(const moon_entry *entry, size_t first, size_t size, void *out,
                            moon_err *err) {
  moon_status status = MOON_OK;
  if (!size)
    return status;
  if (!moon_entry_contiguous(entry))
    status = read_strided(entry, first, size, out, err);
  else if (entry->packed)
    status = moon_packed_read(entry->packed, entry->offset + first, size, out, err);
  else
    memcpy(out, moon_bytes_data(entry->bytes) + entry->offset + first, size);
  if (status != MOON_OK) {
    moon_fail_in_tensor(err, status, entry->name);
    moon_fail_in(err, status, moon_bytes_path(entry->bytes));
  }
  return status;
}

moon_status moon_entry_view(const void **out, void **buffer, const moon_entry *entry, size_t first,
                            size_t size, moon_err *err) {
  *buffer = NULL;
  *out = NULL;
  if (!size)
    return MOON_OK;
  if (moon_entry_contiguous(entry) && !entry->packed) {
    *out = moon_bytes_data(entry->bytes) + entry->offset + first;
    return MOON_OK;
  }
  void *copy = malloc(size);
  if (!copy)
    return moon_fail(err, MOON_ENOMEM, "no memory for %zu bytes", size);
  moon_status status = moon_entry_read(entry, first, size, copy, err);
  if (status != MOON_OK) {
    free(copy);
    return status;
  }
  *out = *buffer = copy;
  return MOON_OK;
}

// SPDX-License-Identifier: MIT
/* NumPy's .npz, a zip file of NAME.npy, stored or deflated; and one .npy alone. */
#include <stdlib.h>
#include <string.h>

#include "io/npy.h"
#include "io/packed.h"
#include "io/reader.h"
#include "io/zip.h"

/* Length of NAME in "NAME.npy"; 0: it is no such name. */
static size_t name_size(const char *file) {
  size_t size = strlen(file);
  return size > 4 && !strcmp(file + size - 4, ".npy") ? size - 4 : 0;
}

bool moon_npz_matches(const moon_zip *zip) {
  for (size_t i = 0; i < zip->n_entries; i++)
    if (name_size(zip->entries[i].name))
      return true;
  return false;
}

/* An array that lies in the file at `offset` as it is. */
static moon_status read_stored(moon_entry *entry, size_t offset, size_t size, moon_err *err) {
  const uint8_t *data = moon_bytes_data(entry->bytes) + offset;
  size_t header_size;
  moon_status status = moon_npy_header_size(&header_size, data, size, err);
  if (status == MOON_OK)
    status = moon_npy_parse(entry, data, header_size, size, err);
  entry->offset += offset;
  return status;
}

static moon_status read_packed_header(moon_entry *entry, size_t size, moon_err *err) {
  uint8_t start[MOON_NPY_START];
  size_t header_size, n = size < sizeof start ? size : sizeof start;
  moon_status status = moon_packed_read(entry->packed, 0, n, start, err);
  if (status == MOON_OK)
    status = moon_npy_header_size(&header_size, start, size, err);
  if (status != MOON_OK)
    return status;
  uint8_t *header = malloc(header_size);
  if (!header)
    return moon_fail(err, MOON_ENOMEM, "no memory for %zu bytes", header_size);
  status = moon_packed_read(entry->packed, 0, header_size, header, err);
  if (status == MOON_OK)
    status = moon_npy_parse(entry, header, header_size, size, err);
  free(header);
  return status;
}

static moon_status read_deflated(moon_checkpoint *into, moon_entry *entry,
                                 const moon_zip_entry *file, moon_err *err) {
  moon_packed_place place = {file->offset, file->packed_bytes, file->size_bytes, file->crc};
  moon_status status = moon_packed_new(&entry->packed, entry->bytes, &place, err);
  if (status == MOON_OK)
    status = moon_checkpoint_add_packed(into, entry->packed, err);
  return status == MOON_OK ? read_packed_header(entry, file->size_bytes, err) : status;
}

static moon_status add_array(moon_checkpoint *into, moon_bytes *bytes, const moon_zip_entry *file,
                             moon_err *err) {
  size_t size = name_size(file->name);
  if (!size)
    return moon_fail(err, MOON_EUNSUPPORTED, "zip entry '%s' is no .npy beside others that are",
                     file->name);
  char *name = strndup(file->name, size);
  if (!name)
    return moon_fail(err, MOON_ENOMEM, "no memory for a name");
  moon_entry entry = {.bytes = bytes};
  moon_status status = file->deflated ? read_deflated(into, &entry, file, err)
                                      : read_stored(&entry, file->offset, file->size_bytes, err);
  if (status == MOON_OK)
    status = moon_checkpoint_count_bytes(into, entry.size_bytes, bytes, err);
  if (status == MOON_OK)
    status = moon_checkpoint_add(into, name, &entry, err);
  else
    moon_fail_in_tensor(err, status, name);
  free(name);
  return status;
}

moon_status moon_npz_read(moon_checkpoint *into, moon_bytes *bytes, const moon_zip *zip,
                          moon_err *err) {
  into->format = "npz";
  moon_status status = moon_checkpoint_add_file(into, bytes, err);
  for (size_t i = 0; i < zip->n_entries && status == MOON_OK; i++)
    status = add_array(into, bytes, &zip->entries[i], err);
  return status;
}

moon_status moon_npy_read(moon_checkpoint *into, moon_bytes *bytes, moon_err *err) {
  moon_entry entry = {.bytes = bytes};
  into->format = "npy";
  moon_status status = moon_checkpoint_add_file(into, bytes, err);
  if (status == MOON_OK)
    status = read_stored(&entry, 0, moon_bytes_size(bytes), err);
  return status == MOON_OK ? moon_checkpoint_add(into, "tensor", &entry, err) : status;
}

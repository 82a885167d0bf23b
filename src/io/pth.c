// SPDX-License-Identifier: MIT
/* PyTorch's zip form: ROOT/data.pkl describes the tensors, ROOT/data/KEY holds the bytes of storage
 * KEY. */
#include <stdio.h>
#include <string.h>

#include "io/torch.h"
#include "io/zip.h"

#define MAX_ROOT 4096

typedef struct reader {
  moon_bytes *bytes;
  const moon_zip *zip;
  char root[MAX_ROOT]; /* the one folder of the zip file */
} reader;

/* Every entry lies in one folder, which has data.pkl, and is stored as it is. */
static moon_status find_root(reader *r, moon_err *err) {
  const char *first = r->zip->n_entries ? r->zip->entries[0].name : "";
  const char *slash = strchr(first, '/');
  size_t size = slash ? (size_t)(slash - first) : 0;
  if (!size || size >= sizeof r->root - 32)
    return moon_fail(err, MOON_EUNSUPPORTED,
                     "a zip file without a folder: neither PyTorch's nor one of .npy files");
  memcpy(r->root, first, size);
  for (size_t i = 0; i < r->zip->n_entries; i++) {
    const moon_zip_entry *entry = &r->zip->entries[i];
    if (strncmp(entry->name, first, size + 1))
      return moon_fail(err, MOON_EFORMAT, "zip entry '%s' lies outside of the folder '%s'",
                       entry->name, r->root);
    if (entry->deflated)
      return moon_fail(err, MOON_EUNSUPPORTED, "zip entry '%s' is compressed; PyTorch's are stored",
                       entry->name);
  }
  return MOON_OK;
}

static const moon_zip_entry *find_entry(const reader *r, const char *file) {
  char name[MAX_ROOT + 512];
  snprintf(name, sizeof name, "%s/%s", r->root, file);
  return moon_zip_find(r->zip, name);
}

static moon_status find_storage(void *user, const char *key, size_t *offset, size_t *size_bytes,
                                moon_err *err) {
  const reader *r = user;
  char file[512];
  snprintf(file, sizeof file, "data/%s", key);
  const moon_zip_entry *entry = find_entry(r, file);
  if (!entry)
    return moon_fail(err, MOON_EFORMAT, "storage '%s/%s' is not in the file", r->root, file);
  *offset = entry->offset;
  *size_bytes = entry->size_bytes;
  return MOON_OK;
}

static moon_status check_byte_order(const reader *r, moon_err *err) {
  const moon_zip_entry *entry = find_entry(r, "byteorder");
  if (!entry)
    return MOON_OK; /* written since PyTorch 2.0 */
  const char *text = (const char *)moon_bytes_data(r->bytes) + entry->offset;
  if (entry->size_bytes != 6 || memcmp(text, "little", 6))
    return moon_fail(err, MOON_EUNSUPPORTED, "its byte order is '%.*s', expected 'little'",
                     (int)(entry->size_bytes < 16 ? entry->size_bytes : 16), text);
  return MOON_OK;
}

static moon_status read_pickle(moon_checkpoint *into, reader *r, moon_err *err) {
  const moon_zip_entry *entry = find_entry(r, "data.pkl");
  if (!entry)
    return moon_fail(err, MOON_EUNSUPPORTED,
                     "a zip file without %s/data.pkl: not written by PyTorch", r->root);
  if (entry->size_bytes > MOON_HEADER_MAX)
    return moon_fail(err, MOON_EFORMAT, "data.pkl of %zu bytes, at most %d", entry->size_bytes,
                     MOON_HEADER_MAX);
  moon_pickle pickle;
  moon_status status = moon_torch_parse(&pickle, moon_bytes_data(r->bytes) + entry->offset,
                                        entry->size_bytes, NULL, err);
  if (status == MOON_OK)
    status = moon_torch_walk(into, r->bytes, &pickle, entry->size_bytes, find_storage, r, err);
  moon_pickle_free(&pickle);
  return status;
}

moon_status moon_pth_read(moon_checkpoint *into, moon_bytes *bytes, const moon_zip *zip,
                          moon_err *err) {
  reader r = {.bytes = bytes, .zip = zip};
  into->format = "pth";
  moon_status status = moon_checkpoint_add_file(into, bytes, err);
  if (status == MOON_OK)
    status = find_root(&r, err);
  if (status == MOON_OK)
    status = check_byte_order(&r, err);
  if (status == MOON_OK)
    status = read_pickle(into, &r, err);
  return status;
}

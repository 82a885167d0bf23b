// SPDX-License-Identifier: MIT
/*
 * The directory at the end of a zip file, read here because of zip64: minizip 1.1 (Debian 12) takes
 * the 32-bit placeholder of a size or offset beyond 4 GiB for the number itself.
 *
 *   local header, name, extra, data    for each entry
 *   central record, name, extra, note  for each entry: the directory
 *   zip64 end record, zip64 locator    where a number does not fit the last record
 *   end record
 */
#include "io/zip.h"

#include <stdlib.h>
#include <string.h>

#define LOCAL_SIZE   30 /* before the name */
#define CENTRAL_SIZE 46 /* likewise */
#define END_SIZE     22 /* without a comment */
#define LOCATOR_SIZE 20
#define END64_SIZE   56

#define LOCAL_MARK   0x04034b50
#define CENTRAL_MARK 0x02014b50
#define END_MARK     0x06054b50
#define LOCATOR_MARK 0x07064b50
#define END64_MARK   0x06064b50

#define IN_ZIP64_16 0xffff /* instead of a number that a zip64 field has */
#define IN_ZIP64_32 0xffffffff

#define STORED   0
#define DEFLATED 8

#define FLAG_ENCRYPTED   1
#define FLAG_SIZES_AFTER 8 /* sizes follow the data, 0 in the local header */

typedef struct file {
  const uint8_t *data;
  size_t size;
} file;

typedef struct directory {
  size_t start, end, n_entries;
} directory;

static uint64_t read_uint(const uint8_t *p, int n_bytes) {
  uint64_t value = 0;
  for (int i = n_bytes - 1; i >= 0; i--)
    value = value << 8 | p[i];
  return value;
}

static uint16_t read_u16(const uint8_t *p) {
  return (uint16_t)read_uint(p, 2);
}

static uint32_t read_u32(const uint8_t *p) {
  return (uint32_t)read_uint(p, 4);
}

/* ---- the end ---- */

/* Does the last record say the same as the zip64 one, where it says anything? */
static bool ends_agree(const uint8_t *end, const uint8_t *end64) {
  uint16_t n = read_u16(end + 10);
  uint32_t size = read_u32(end + 12), start = read_u32(end + 16);
  return (n == IN_ZIP64_16 || n == read_uint(end64 + 32, 8)) &&
         (size == IN_ZIP64_32 || size == read_uint(end64 + 40, 8)) &&
         (start == IN_ZIP64_32 || start == read_uint(end64 + 48, 8));
}

/* The directory must reach to its end records, which must end the file. */
static moon_status find_directory(directory *out, const file *f, moon_err *err) {
  const uint8_t *end = f->size < END_SIZE ? NULL : f->data + f->size - END_SIZE;
  if (!end || read_u32(end) != END_MARK || read_u16(end + 20))
    return moon_fail(err, MOON_EFORMAT,
                     "no zip directory at the end of its %zu bytes (truncated, or bytes behind it)",
                     f->size);
  uint64_t n = read_u16(end + 10), size = read_u32(end + 12), start = read_u32(end + 16);
  size_t tail = END_SIZE;
  bool one_disk = read_u32(end + 4) == 0 && read_u16(end + 8) == n;
  if (f->size >= END_SIZE + LOCATOR_SIZE + END64_SIZE &&
      read_u32(end - LOCATOR_SIZE) == LOCATOR_MARK) {
    const uint8_t *end64 = end - LOCATOR_SIZE - END64_SIZE;
    tail += LOCATOR_SIZE + END64_SIZE;
    n = read_uint(end64 + 32, 8);
    size = read_uint(end64 + 40, 8);
    start = read_uint(end64 + 48, 8);
    one_disk = one_disk && read_uint(end64 + 24, 8) == n;
    if (read_u32(end64) != END64_MARK || read_uint(end - LOCATOR_SIZE + 8, 8) != f->size - tail ||
        !ends_agree(end, end64))
      return moon_fail(err, MOON_EFORMAT, "the two end records of the zip directory disagree");
  }
  size_t records_end = f->size - tail;
  if (!one_disk || start > records_end || size != records_end - start || n > size / CENTRAL_SIZE)
    return moon_fail(err, MOON_EFORMAT,
                     "the zip directory does not reach from byte %llu to its end records at %zu",
                     (unsigned long long)start, records_end);
  *out = (directory){(size_t)start, records_end, (size_t)n};
  return MOON_OK;
}

/* ---- entries ---- */

/* What a central record and a local header both have. */
typedef struct header {
  uint16_t flags, method;
  uint32_t crc;
  uint64_t packed, unpacked, offset; /* offset: of the local header, in the central record only */
  const uint8_t *name;
  size_t name_size;
  const uint8_t *extra;
  size_t extra_size;
} header;

/* The numbers that are all ones have their value in the extra field 1, in this order. */
static bool read_zip64(header *h) {
  uint64_t *const numbers[] = {&h->unpacked, &h->packed, &h->offset};
  bool missing = h->unpacked == IN_ZIP64_32 || h->packed == IN_ZIP64_32 || h->offset == IN_ZIP64_32;
  const uint8_t *p = h->extra, *end = p + h->extra_size;
  while (missing && end - p >= 4) {
    size_t size = read_u16(p + 2);
    bool is_zip64 = read_u16(p) == 1;
    p += 4;
    if (size > (size_t)(end - p))
      return false;
    for (int i = 0; i < 3 && is_zip64; i++)
      if (*numbers[i] == IN_ZIP64_32) {
        if (size < 8)
          return false;
        *numbers[i] = read_uint(p, 8);
        p += 8;
        size -= 8;
      }
    if (is_zip64)
      return true;
    p += size;
  }
  return !missing;
}

/* The record at `at`, of which only bytes before `limit` may be read. False: there is none. */
static bool read_header(header *out, const file *f, size_t at, size_t limit, size_t fixed_size,
                        uint32_t mark) {
  const uint8_t *p = f->data + at;
  if (at > limit || limit - at < fixed_size || read_u32(p) != mark)
    return false;
  bool central = mark == CENTRAL_MARK;
  const uint8_t *common = p + (central ? 8 : 6); /* from the flags on both are alike */
  *out = (header){.flags = read_u16(common),
                  .method = read_u16(common + 2),
                  .crc = read_u32(common + 8),
                  .packed = read_u32(common + 12),
                  .unpacked = read_u32(common + 16),
                  .offset = central ? read_u32(p + 42) : 0,
                  .name = p + fixed_size,
                  .name_size = read_u16(common + 20),
                  .extra_size = read_u16(common + 22)};
  out->extra = out->name + out->name_size;
  return limit - at - fixed_size >= out->name_size + out->extra_size && read_zip64(out);
}

static bool local_agrees(const header *local, const header *central) {
  bool later = local->flags & FLAG_SIZES_AFTER;
  return local->method == central->method && local->name_size == central->name_size &&
         !memcmp(local->name, central->name, central->name_size) &&
         (local->packed == central->packed || (later && !local->packed)) &&
         (local->unpacked == central->unpacked || (later && !local->unpacked));
}

static moon_status check_kind(const header *central, const char *name, moon_err *err) {
  if (strlen(name) != central->name_size)
    return moon_fail(err, MOON_EFORMAT, "zip entry '%s': a zero byte in its name", name);
  if (central->flags & FLAG_ENCRYPTED)
    return moon_fail(err, MOON_EUNSUPPORTED, "zip entry '%s' is encrypted", name);
  if (central->method != STORED && central->method != DEFLATED)
    return moon_fail(err, MOON_EUNSUPPORTED,
                     "zip entry '%s' is compressed by method %d; stored and deflated ones are read",
                     name, central->method);
  if (central->method == STORED && central->packed != central->unpacked)
    return moon_fail(err, MOON_EFORMAT, "zip entry '%s': stored, but of two sizes", name);
  return MOON_OK;
}

/* Where the entry's data are: behind its local header, before the directory. */
static moon_status locate(moon_zip_entry *entry, const header *central, const file *f,
                          const directory *d, moon_err *err) {
  header local;
  if (central->offset > d->start ||
      !read_header(&local, f, (size_t)central->offset, d->start, LOCAL_SIZE, LOCAL_MARK) ||
      !local_agrees(&local, central))
    return moon_fail(err, MOON_EFORMAT,
                     "zip entry '%s': its local header and the directory disagree", entry->name);
  entry->header_offset = (size_t)central->offset;
  entry->offset = entry->header_offset + LOCAL_SIZE + local.name_size + local.extra_size;
  if (central->packed > d->start - entry->offset)
    return moon_fail(err, MOON_EFORMAT,
                     "zip entry '%s': %llu bytes at %zu pass the directory at %zu", entry->name,
                     (unsigned long long)central->packed, entry->offset, d->start);
  entry->packed_bytes = (size_t)central->packed;
  entry->size_bytes = (size_t)central->unpacked;
  entry->crc = central->crc;
  entry->deflated = central->method == DEFLATED;
  return MOON_OK;
}

/* The record at *at, which moves to the next one. */
static moon_status read_entry(moon_zip_entry *entry, size_t *at, const file *f, const directory *d,
                              moon_err *err) {
  header central;
  size_t size = 0;
  if (read_header(&central, f, *at, d->end, CENTRAL_SIZE, CENTRAL_MARK))
    size = CENTRAL_SIZE + central.name_size + central.extra_size + read_u16(f->data + *at + 32);
  if (!size || size > d->end - *at)
    return moon_fail(err, MOON_EFORMAT, "the zip directory is broken at byte %zu", *at);
  *at += size;
  entry->name = strndup((const char *)central.name, central.name_size);
  if (!entry->name)
    return moon_fail(err, MOON_ENOMEM, "no memory for a zip entry");
  moon_status status = check_kind(&central, entry->name, err);
  return status == MOON_OK ? locate(entry, &central, f, d, err) : status;
}

static int compare_names(const void *a, const void *b) {
  return strcmp(((const moon_zip_entry *)a)->name, ((const moon_zip_entry *)b)->name);
}

static int compare_offsets(const void *a, const void *b) {
  const moon_zip_entry *x = a, *y = b;
  return (x->header_offset > y->header_offset) - (x->header_offset < y->header_offset);
}

/* The first entry starts the file, each other one starts after the data of the one before; no name
 * twice. */
static moon_status check_layout(moon_zip *zip, moon_err *err) {
  size_t end = 0;
  if (zip->n_entries)
    qsort(zip->entries, zip->n_entries, sizeof *zip->entries, compare_offsets);
  for (size_t i = 0; i < zip->n_entries; i++) {
    const moon_zip_entry *entry = &zip->entries[i];
    if (i ? entry->header_offset < end : entry->header_offset != 0)
      return moon_fail(err, MOON_EFORMAT, "zip entry '%s' begins at byte %zu, expected %s %zu",
                       entry->name, entry->header_offset, i ? "at least" : "exactly", end);
    end = entry->offset + entry->packed_bytes;
  }
  if (zip->n_entries)
    qsort(zip->entries, zip->n_entries, sizeof *zip->entries, compare_names);
  for (size_t i = 1; i < zip->n_entries; i++)
    if (!strcmp(zip->entries[i - 1].name, zip->entries[i].name))
      return moon_fail(err, MOON_EFORMAT, "zip entry '%s' is there twice", zip->entries[i].name);
  return MOON_OK;
}

moon_status moon_zip_read(moon_zip *out, const moon_bytes *bytes, moon_err *err) {
  *out = (moon_zip){NULL, 0};
  file f = {moon_bytes_data(bytes), moon_bytes_size(bytes)};
  directory d = {0, 0, 0};
  moon_status status = find_directory(&d, &f, err);
  if (status != MOON_OK)
    return status;
  out->entries = calloc(d.n_entries + 1, sizeof *out->entries);
  if (!out->entries)
    return moon_fail(err, MOON_ENOMEM, "no memory for %zu zip entries", d.n_entries);
  size_t at = d.start;
  while (out->n_entries < d.n_entries && status == MOON_OK)
    status = read_entry(&out->entries[out->n_entries++], &at, &f, &d, err);
  if (status == MOON_OK && at != d.end)
    status = moon_fail(err, MOON_EFORMAT, "the zip directory has bytes after its %zu entries",
                       d.n_entries);
  return status == MOON_OK ? check_layout(out, err) : status;
}

void moon_zip_free(moon_zip *zip) {
  for (size_t i = 0; i < zip->n_entries; i++)
    free(zip->entries[i].name);
  free(zip->entries);
  *zip = (moon_zip){NULL, 0};
}

const moon_zip_entry *moon_zip_find(const moon_zip *zip, const char *name) {
  moon_zip_entry key = {.name = (char *)name};
  return zip->n_entries ? bsearch(&key, zip->entries, zip->n_entries, sizeof key, compare_names)
                        : NULL;
}

// SPDX-License-Identifier: MIT
/*
 * minizip reads the directory (zip64 too) and each local header; what it lets pass is checked here.
 * It reads through callbacks over the mapped bytes, so only the pages of headers are touched.
 */
#include "io/zip.h"

#include <minizip/unzip.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_BYTES 1024
#define LOCAL_HEADER   30 /* bytes before the name */
#define CENTRAL_RECORD 46 /* likewise, in the directory */
#define END_RECORD     22 /* the directory's end without a comment */
#define ZIP64_LOCATOR  20 /* stands right before it where a number does not fit there */

/* ---- a file for minizip ---- */

typedef struct cursor {
  const uint8_t *data;
  size_t size, at;
} cursor;

static void *open_cursor(void *opaque, const void *name, int mode) {
  (void)name;
  (void)mode;
  return opaque;
}

static uLong read_cursor(void *opaque, void *stream, void *out, uLong size) {
  (void)stream;
  cursor *c = opaque;
  size_t left = c->size - c->at, n = size < left ? size : left;
  memcpy(out, c->data + c->at, n);
  c->at += n;
  return n;
}

static ZPOS64_T tell_cursor(void *opaque, void *stream) {
  (void)stream;
  return ((cursor *)opaque)->at;
}

static long seek_cursor(void *opaque, void *stream, ZPOS64_T offset, int origin) {
  (void)stream;
  cursor *c = opaque;
  size_t base = origin == ZLIB_FILEFUNC_SEEK_SET   ? 0
                : origin == ZLIB_FILEFUNC_SEEK_CUR ? c->at
                                                   : c->size;
  if (offset > c->size - base)
    return -1;
  c->at = base + (size_t)offset;
  return 0;
}

static int close_cursor(void *opaque, void *stream) {
  (void)opaque;
  (void)stream;
  return 0;
}

/* ---- checks ---- */

static uint32_t read_u32(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* minizip searches the last 64 KiB for the directory's end, and other readers look at the last
 * bytes: both must find the same directory. A number that does not fit is all ones, and the zip64
 * record has it. */
static moon_status check_end(unzFile zip, const cursor *c, moon_err *err) {
  unz_global_info64 info;
  if (unzGetGlobalInfo64(zip, &info) != UNZ_OK || info.size_comment ||
      c->size < END_RECORD + ZIP64_LOCATOR ||
      read_u32(c->data + c->size - END_RECORD) != 0x06054b50)
    return moon_fail(err, MOON_EFORMAT, "bytes follow the zip directory");
  const uint8_t *end = c->data + c->size - END_RECORD;
  uint32_t n = read_u32(end + 8) >> 16, start = read_u32(end + 16);
  bool zip64 = read_u32(end - ZIP64_LOCATOR) == 0x07064b50;
  if ((n != info.number_entry && !(zip64 && n == 0xffff)) ||
      (start != unzGetOffset64(zip) && !(zip64 && start == 0xffffffff)))
    return moon_fail(err, MOON_EFORMAT, "the ends of the zip directory disagree");
  return MOON_OK;
}

static bool agrees(uint32_t stored, size_t value) {
  return stored == value || stored == 0xffffffff; /* all ones: a zip64 field has it */
}

/* The directory's record of the entry, at the offset that the directory's end gives. */
static bool central_agrees(const cursor *c, size_t at, const moon_zip_entry *entry) {
  size_t name_size = strlen(entry->name);
  const uint8_t *record = c->data + at;
  return at < c->size && c->size - at >= CENTRAL_RECORD + name_size &&
         read_u32(record) == 0x02014b50 &&
         !memcmp(record + CENTRAL_RECORD, entry->name, name_size) &&
         agrees(read_u32(record + 20), entry->size_bytes) &&
         agrees(read_u32(record + 24), entry->size_bytes) &&
         agrees(read_u32(record + 42), entry->header_offset);
}

/* The entry's local header. A size of 0 there follows the data. */
static bool local_agrees(const cursor *c, const moon_zip_entry *entry) {
  const uint8_t *header = c->data + entry->header_offset;
  uint32_t packed = read_u32(header + 18), unpacked = read_u32(header + 22);
  return read_u32(header) == 0x04034b50 &&
         !memcmp(header + LOCAL_HEADER, entry->name, strlen(entry->name)) &&
         (packed == 0 || agrees(packed, entry->size_bytes)) &&
         (unpacked == 0 || agrees(unpacked, entry->size_bytes));
}

static moon_status check_kind(const unz_file_info64 *info, const char *name, moon_err *err) {
  if (strlen(name) != info->size_filename)
    return moon_fail(err, MOON_EFORMAT, "zip entry '%s': a name of %lu bytes", name,
                     info->size_filename);
  if (info->flag & 1)
    return moon_fail(err, MOON_EUNSUPPORTED, "zip entry '%s' is encrypted", name);
  if (info->compression_method || info->compressed_size != info->uncompressed_size)
    return moon_fail(err, MOON_EUNSUPPORTED,
                     "zip entry '%s' is compressed (method %lu); only stored ones can be used",
                     name, info->compression_method);
  return MOON_OK;
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
    end = entry->offset + entry->size_bytes;
  }
  if (zip->n_entries)
    qsort(zip->entries, zip->n_entries, sizeof *zip->entries, compare_names);
  for (size_t i = 1; i < zip->n_entries; i++)
    if (!strcmp(zip->entries[i - 1].name, zip->entries[i].name))
      return moon_fail(err, MOON_EFORMAT, "zip entry '%s' is there twice", zip->entries[i].name);
  return MOON_OK;
}

/* ---- reading ---- */

/* Where the data of minizip's current entry are. */
static moon_status locate(moon_zip_entry *entry, unzFile zip, const cursor *c, moon_err *err) {
  int code = unzOpenCurrentFile2(zip, NULL, NULL, 1);
  if (code == UNZ_INTERNALERROR)
    return moon_fail(err, MOON_ENOMEM, "zip entry '%s': no memory", entry->name);
  if (code == UNZ_OK) {
    entry->offset = (size_t)unzGetCurrentFileZStreamPos64(zip);
    size_t before =
        LOCAL_HEADER + strlen(entry->name) + (size_t)unzGetLocalExtrafield(zip, NULL, 0);
    unzCloseCurrentFile(zip);
    if (entry->offset < before || entry->offset > c->size ||
        entry->size_bytes > c->size - entry->offset)
      return moon_fail(err, MOON_EFORMAT,
                       "zip entry '%s': %zu bytes at %zu pass the file's end at %zu", entry->name,
                       entry->size_bytes, entry->offset, c->size);
    entry->header_offset = entry->offset - before;
  }
  if (code != UNZ_OK || !local_agrees(c, entry) ||
      !central_agrees(c, (size_t)unzGetOffset64(zip), entry))
    return moon_fail(err, MOON_EFORMAT,
                     "zip entry '%s': its local header and the directory disagree", entry->name);
  return MOON_OK;
}

static moon_status read_entry(moon_zip_entry *entry, unzFile zip, const cursor *c, moon_err *err) {
  char name[NAME_MAX_BYTES + 1] = "";
  unz_file_info64 info;
  if (unzGetCurrentFileInfo64(zip, &info, name, NAME_MAX_BYTES, NULL, 0, NULL, 0) != UNZ_OK)
    return moon_fail(err, MOON_EFORMAT, "the zip directory is broken");
  moon_status status = check_kind(&info, name, err);
  if (status != MOON_OK)
    return status;
  entry->size_bytes = (size_t)info.uncompressed_size;
  entry->name = strdup(name);
  return entry->name ? locate(entry, zip, c, err)
                     : moon_fail(err, MOON_ENOMEM, "no memory for a zip entry");
}

static moon_status read_entries(moon_zip *out, unzFile zip, const cursor *c, moon_err *err) {
  size_t room = 0;
  int code = unzGoToFirstFile(zip);
  moon_status status = code == UNZ_OK ? check_end(zip, c, err) : MOON_OK;
  for (; code == UNZ_OK && status == MOON_OK; code = unzGoToNextFile(zip)) {
    if (out->n_entries == room) {
      room = room ? 2 * room : 16;
      moon_zip_entry *larger = realloc(out->entries, room * sizeof *larger);
      if (!larger)
        return moon_fail(err, MOON_ENOMEM, "no memory for %zu zip entries", room);
      out->entries = larger;
    }
    out->entries[out->n_entries] = (moon_zip_entry){NULL, 0, 0, 0};
    status = read_entry(&out->entries[out->n_entries++], zip, c, err);
  }
  if (status == MOON_OK && code != UNZ_END_OF_LIST_OF_FILE)
    return moon_fail(err, MOON_EFORMAT, "the zip directory is broken");
  return status == MOON_OK ? check_layout(out, err) : status;
}

moon_status moon_zip_read(moon_zip *out, const moon_bytes *bytes, moon_err *err) {
  *out = (moon_zip){NULL, 0};
  cursor c = {moon_bytes_data(bytes), moon_bytes_size(bytes), 0};
  zlib_filefunc64_def functions = {
      .zopen64_file = open_cursor,
      .zread_file = read_cursor,
      .ztell64_file = tell_cursor,
      .zseek64_file = seek_cursor,
      .zclose_file = close_cursor,
      .zerror_file = close_cursor,
      .opaque = &c,
  };
  unzFile zip = unzOpen2_64("", &functions);
  if (!zip)
    return moon_fail(err, MOON_EFORMAT, "no zip directory at the end of its %zu bytes (truncated?)",
                     c.size);
  moon_status status = read_entries(out, zip, &c, err);
  unzClose(zip);
  return status;
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

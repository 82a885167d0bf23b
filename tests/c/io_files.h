// SPDX-License-Identifier: MIT
/* What the tests of file formats share: growing byte strings, stored zip files, pickles of tensors.
 */
#ifndef TESTS_IO_FILES_H
#define TESTS_IO_FILES_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "io/checkpoint.h"

typedef struct buffer {
  uint8_t *data;
  size_t size, room;
} buffer;

static inline void put(buffer *b, const void *data, size_t size) {
  if (b->size + size > b->room) {
    b->room = 2 * (b->size + size);
    b->data = realloc(b->data, b->room);
  }
  if (size)
    memcpy(b->data + b->size, data, size);
  b->size += size;
}

static inline void put_uint(buffer *b, uint64_t value, size_t n_bytes) {
  for (size_t i = 0; i < n_bytes; i++)
    put(b, &(uint8_t){(uint8_t)(value >> 8 * i)}, 1);
}

static inline void put_line(buffer *b, const char *text) {
  put(b, text, strlen(text));
}

/* The whole file, or an empty buffer. */
static inline buffer read_whole(const char *path) {
  buffer b = {0};
  FILE *file = fopen(path, "rb");
  char block[4096];
  size_t n;
  while (file && (n = fread(block, 1, sizeof block, file)))
    put(&b, block, n);
  if (file)
    fclose(file);
  return b;
}

static inline void write_whole(const char *path, const buffer *b) {
  FILE *file = fopen(path, "wb");
  if (b->size)
    fwrite(b->data, 1, b->size, file);
  fclose(file);
}

/* ---- safetensors ---- */

static inline buffer safetensors(const char *header, size_t data_size) {
  buffer b = {0};
  put_uint(&b, strlen(header), 8);
  put_line(&b, header);
  for (size_t i = 0; i < data_size; i++)
    put_uint(&b, i, 1);
  return b;
}

/* ---- zip ---- */

typedef struct zip_item {
  const char *name;
  const void *data;
  size_t size;
} zip_item;

/* Offsets of what tests break. */
typedef struct zip_places {
  size_t local[8], central[8], end;
} zip_places;

/* A zip file with the items stored one after another. */
static inline buffer zip(const zip_item *items, size_t n, zip_places *places) {
  buffer b = {0};
  for (size_t i = 0; i < n; i++) {
    places->local[i] = b.size;
    put(&b, "PK\3\4\24\0\0\0\0\0\0\0\0\0\0\0\0\0", 18);
    put_uint(&b, items[i].size, 4);
    put_uint(&b, items[i].size, 4);
    put_uint(&b, strlen(items[i].name), 2);
    put_uint(&b, 0, 2);
    put_line(&b, items[i].name);
    put(&b, items[i].data, items[i].size);
  }
  size_t start = b.size;
  for (size_t i = 0; i < n; i++) {
    places->central[i] = b.size;
    put(&b, "PK\1\2\24\0\24\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
    put_uint(&b, items[i].size, 4);
    put_uint(&b, items[i].size, 4);
    put_uint(&b, strlen(items[i].name), 2);
    put(&b, "\0\0\0\0\0\0\0\0\0\0\0\0", 12);
    put_uint(&b, places->local[i], 4);
    put_line(&b, items[i].name);
  }
  places->end = b.size;
  put(&b, "PK\5\6\0\0\0\0", 8);
  put_uint(&b, n, 2);
  put_uint(&b, n, 2);
  put_uint(&b, places->end - start, 4);
  put_uint(&b, start, 4);
  put_uint(&b, 0, 2);
  return b;
}

/* A .pth file of this pickle and one storage "0" of n_bytes. */
static inline buffer pth(const buffer *pickle, size_t n_bytes, zip_places *places) {
  uint8_t *storage = calloc(1, n_bytes + 1);
  for (size_t i = 0; i < n_bytes; i++)
    storage[i] = (uint8_t)i;
  zip_item items[] = {{"archive/data.pkl", pickle->data, pickle->size},
                      {"archive/data/0", storage, n_bytes},
                      {"archive/version", "3\n", 2}};
  buffer b = zip(items, 3, places);
  free(storage);
  return b;
}

/* ---- pickles ---- */

static inline void put_text(buffer *b, const char *text) {
  put(b, "X", 1);
  put_uint(b, strlen(text), 4);
  put_line(b, text);
}

static inline void put_int(buffer *b, int64_t value) {
  put(b, "\x8a\x08", 2);
  put_uint(b, (uint64_t)value, 8);
}

static inline void put_tuple(buffer *b, const int64_t *values, int n) {
  put(b, "(", 1);
  for (int i = 0; i < n; i++)
    put_int(b, values[i]);
  put(b, "t", 1);
}

typedef struct tensor_spec {
  const char *storage_type, *key; /* "FloatStorage", "0" */
  int64_t storage_n, offset;
  int rank, n_strides;
  int64_t shape[10], strides[10];
} tensor_spec;

static inline void put_storage(buffer *b, const char *module, const char *type, const char *key,
                               int64_t n) {
  put(b, "(", 1);
  put_text(b, "storage");
  put(b, "c", 1);
  put_line(b, module);
  put_line(b, "\n");
  put_line(b, type);
  put_line(b, "\n");
  put_text(b, key);
  put_text(b, "cpu");
  put_int(b, n);
  put_line(b, "tQ");
}

static inline void put_tensor(buffer *b, const tensor_spec *t) {
  put_line(b, "ctorch._utils\n_rebuild_tensor_v2\n(");
  put_storage(b, "torch", t->storage_type, t->key, t->storage_n);
  put_int(b, t->offset);
  put_tuple(b, t->shape, t->rank);
  put_tuple(b, t->strides, t->n_strides);
  put_line(b,
           "\x89"
           "ccollections\nOrderedDict\n)RtR");
}

/* {"w": tensor} */
static inline buffer pickle_of(const tensor_spec *t) {
  buffer b = {0};
  put(&b, "\x80\x02}", 3);
  put_text(&b, "w");
  put_tensor(&b, t);
  put_line(&b, "s.");
  return b;
}

/* ---- parsing ---- */

/* Pages of the file that are in memory: what opening it has read, and what was read ahead. */
static inline size_t count_resident(const moon_bytes *bytes) {
  size_t n = (moon_bytes_size(bytes) + 4095) / 4096, resident = 0;
  unsigned char *pages = malloc(n);
  if (!mincore((void *)(uintptr_t)moon_bytes_data(bytes), moon_bytes_size(bytes), pages))
    for (size_t i = 0; i < n; i++)
      resident += pages[i] & 1;
  free(pages);
  return resident;
}

typedef moon_status (*parser)(moon_checkpoint *into, moon_bytes *bytes, moon_err *err);

/* Parses size bytes, reads every element of what came out, and closes it again: out of bounds shows
 * under ASan. MOON_OK or the error. */
static inline moon_status parse_and_read(parser parse, const void *data, size_t size,
                                         moon_err *err) {
  moon_checkpoint *checkpoint;
  moon_bytes *bytes;
  memset(err, 0, sizeof *err);
  if (moon_bytes_copy(&bytes, data, size, err) != MOON_OK)
    return err->code;
  moon_status status = moon_checkpoint_new(&checkpoint, "file", err);
  if (status == MOON_OK)
    status = parse(checkpoint, bytes, err);
  for (size_t i = 0; status == MOON_OK && i < moon_checkpoint_count(checkpoint); i++) {
    const moon_entry *entry = moon_checkpoint_entry(checkpoint, i);
    size_t n = entry->size_bytes < 1 << 20 ? entry->size_bytes : 0;
    void *out = malloc(n + 1);
    moon_entry_read(entry, 0, n, out, NULL);
    free(out);
  }
  moon_checkpoint_release(checkpoint);
  moon_bytes_release(bytes);
  return status;
}

/* Every shorter form of the file must be refused with a message, and every single flipped bit must
 * do no harm. */
static inline size_t count_accepted_prefixes(parser parse, const buffer *file) {
  moon_err err;
  size_t accepted = 0;
  for (size_t n = 0; n < file->size; n++)
    accepted += parse_and_read(parse, file->data, n, &err) == MOON_OK || !err.text[0];
  return accepted;
}

static inline void flip_every_bit(parser parse, const buffer *file) {
  moon_err err;
  for (size_t i = 0; i < 8 * file->size; i++) {
    file->data[i / 8] ^= (uint8_t)(1 << i % 8);
    parse_and_read(parse, file->data, file->size, &err);
    file->data[i / 8] ^= (uint8_t)(1 << i % 8);
  }
}

#endif

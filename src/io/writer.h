// SPDX-License-Identifier: MIT
/*
 * Writes a safetensors file: header first, then each tensor's bytes in the order of the file, into
 * a temporary name in the same folder; seal syncs it, publish renames it. Tensors are sorted by
 * dtype size descending, then name; data start at a multiple of 64; same input, same bytes.
 */
#ifndef MOON_IO_WRITER_H
#define MOON_IO_WRITER_H

#include "io/checkpoint.h"
#include "io/digest.h"

typedef struct moon_plan { /* what one tensor will be; borrowed during create */
  const char *name;
  const char *dtype_name; /* as safetensors spells it: "BF16" */
  size_t dtype_size;      /* for the sort; bytes per element (0 sorts last) */
  int rank;
  int64_t shape[MOON_MAX_RANK];
  size_t size_bytes;
} moon_plan;

/* Shared by reference counting (thread safe); one thread writes at a time. */
typedef struct moon_writer moon_writer;

/* Owned by the caller: one reference. Nothing is visible at `path` before publish; a path that is
 * there and is no regular file is refused. MOON_EINVAL (a name twice, not UTF-8), MOON_EIO,
 * MOON_ENOENT (no such folder). */
moon_status moon_writer_create(moon_writer **out, const char *path, const moon_plan *plans,
                               size_t n_plans, const moon_pair *metadata, size_t n_metadata,
                               moon_err *err);
moon_writer *moon_writer_retain(moon_writer *writer);
void moon_writer_release(
    moon_writer *writer); /* NULL is fine; the last one removes what was not published */

/* The order of the file: index into plans of the tensor at each position; [n_plans], borrowed. */
const size_t *moon_writer_order(const moon_writer *writer);
size_t moon_writer_size(const moon_writer *writer); /* of the whole file in bytes */

/* Appends size bytes of the data, in the order of the file, in pieces of any size. MOON_EINVAL past
 * the end. */
moon_status moon_writer_append(moon_writer *writer, const void *data, size_t size, moon_err *err);
/* The same in steps, so that two threads can share the work: takes the next size bytes of the file,
 * from *at on, which are then hashed in the order of the file and written in any. */
moon_status moon_writer_take(moon_writer *writer, size_t size, size_t *at, moon_err *err);
void moon_writer_hash(moon_writer *writer, const void *data, size_t size);
moon_status moon_writer_write(moon_writer *writer, const void *data, size_t size, size_t at,
                              moon_err *err);
/* All bytes must be there: syncs and closes the file and gives its sha256. */
moon_status moon_writer_seal(moon_writer *writer, char sha256[MOON_SHA256_TEXT], moon_err *err);
/* After seal: the file gets its name, atomically, and the folder is synced. */
moon_status moon_writer_publish(moon_writer *writer, moon_err *err);

#endif

// SPDX-License-Identifier: MIT
/*
 * Writes a safetensors file: header first, then each tensor's bytes in the order of the file,
 * into a temporary name in the same folder, synced and renamed by finish. Tensors are sorted by
 * dtype size descending, then name; data start at a multiple of 64; same input, same bytes.
 */
#ifndef MOON_IO_WRITER_H
#define MOON_IO_WRITER_H

#include "moon.h"
#include "io/checkpoint.h"

typedef struct moon_plan {         /* what one tensor will be; borrowed during create */
  const char *name;
  const char *dtype_name;          /* as safetensors spells it: "BF16" */
  size_t dtype_size;               /* for the sort; bytes per element (0 sorts last) */
  int rank;
  int64_t shape[MOON_MAX_RANK];
  size_t size_bytes;
} moon_plan;

typedef struct moon_writer moon_writer;

/* Owned by the caller. Refuses duplicate names. Nothing is visible at `path` before finish. */
moon_status moon_writer_create(moon_writer **out, const char *path, const moon_plan *plans, size_t n_plans,
                               const moon_pair *metadata, size_t n_metadata, moon_err *err);
/* Index into plans of the tensor whose bytes come next; n_plans when all are there. */
size_t moon_writer_next(const moon_writer *writer);
/* Appends size bytes of the current tensor (may be called many times per tensor). */
moon_status moon_writer_append(moon_writer *writer, const void *data, size_t size, moon_err *err);
/* Checks completeness, syncs file and folder, renames, gives the sha256 of the file. sha256_hex may be NULL. */
moon_status moon_writer_finish(moon_writer *writer, char sha256_hex[65], moon_err *err);
void moon_writer_free(moon_writer *writer); /* removes the temporary file if finish did not succeed */

#endif

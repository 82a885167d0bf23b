// SPDX-License-Identifier: MIT
/*
 * Named tensors in a file: safetensors, both of PyTorch's forms (.pth, .pt, .bin), NumPy's (.npz,
 * .npy); or in a model's folder, one file or several with an index. Opening reads headers only;
 * data stay in the mapping, deflated ones too.
 */
#ifndef MOON_IO_CHECKPOINT_H
#define MOON_IO_CHECKPOINT_H

#include "io/bytes.h"

typedef struct moon_entry {
  char *name;          /* nested dicts are joined by '.' */
  moon_dtype dtype;    /* MOON_OPAQUE: see dtype_name */
  char dtype_name[16]; /* as moonscope names it; an opaque one in lower case, "c64" */
  int rank;
  int64_t shape[MOON_MAX_RANK];
  int64_t strides[MOON_MAX_RANK]; /* in elements, >= 0; row-major unless a .pth says otherwise */
  size_t size_bytes;              /* of the elements, product of shape * dtype size */
  moon_bytes *bytes;              /* borrowed from the checkpoint: the file that holds the data */
  struct moon_packed *packed;     /* borrowed; NULL: the data lie in the file as they are */
  size_t offset; /* of element [0, ..., 0] in bytes, in the file or the inflated data; the whole
                    extent is checked */
} moon_entry;

typedef struct moon_pair {
  char *key, *value;
} moon_pair;

typedef struct moon_checkpoint moon_checkpoint;

/* Opens path by its content (not by its name). Owned by the caller: one reference.
 * MOON_ENOENT, MOON_EIO, MOON_EFORMAT (broken or foreign, with tensor and offset),
 * MOON_EUNSUPPORTED. */
moon_status moon_checkpoint_open(moon_checkpoint **out, const char *path, moon_err *err);
moon_checkpoint *moon_checkpoint_retain(moon_checkpoint *checkpoint);
void moon_checkpoint_release(moon_checkpoint *checkpoint); /* NULL is fine */

const char *moon_checkpoint_path(const moon_checkpoint *checkpoint);
const char *moon_checkpoint_format(
    const moon_checkpoint *checkpoint); /* "safetensors", "pth", "npz", "npy" */
/* Its bytes, borrowed; NULL where it is in several files. */
moon_bytes *moon_checkpoint_file(const moon_checkpoint *checkpoint);
/* All of its files: [*count], borrowed. */
moon_bytes *const *moon_checkpoint_files(const moon_checkpoint *checkpoint, size_t *count);
size_t moon_checkpoint_count(const moon_checkpoint *checkpoint);
const moon_entry *moon_checkpoint_entry(const moon_checkpoint *checkpoint,
                                        size_t index); /* borrowed */
const moon_entry *moon_checkpoint_find(const moon_checkpoint *checkpoint,
                                       const char *name); /* NULL: none */
bool moon_entry_contiguous(const moon_entry *entry);      /* row-major without gaps */

/* safetensors' __metadata__, or a .pth's values that are no tensors, as text; borrowed, sorted by
 * key */
const moon_pair *moon_checkpoint_metadata(const moon_checkpoint *checkpoint, size_t *count);

/* Bytes [first, first + size) of the entry's elements in row-major order; both multiples of the
 * element size, within entry->size_bytes. Read the mapping: for the compute thread. Deflated ones
 * come fastest from front to back. MOON_EFORMAT (deflated ones that are broken), MOON_ENOMEM. */
moon_status moon_entry_read(const moon_entry *entry, size_t first, size_t size, void *out,
                            moon_err *err);
/* The same in place where they lie so, with *buffer NULL; else in *buffer, which the caller frees.
 */
moon_status moon_entry_view(const void **out, void **buffer, const moon_entry *entry, size_t first,
                            size_t size, moon_err *err);

/* Parsers without a disk, for tests and fuzzing: `into` is empty, `bytes` is retained. */
moon_status moon_checkpoint_new(moon_checkpoint **into, const char *path, moon_err *err);
moon_status moon_safetensors_parse(moon_checkpoint *into, moon_bytes *bytes, moon_err *err);
moon_status moon_pth_parse(moon_checkpoint *into, moon_bytes *bytes, moon_err *err); /* zip */
/* Any of them, by its first bytes. */
moon_status moon_checkpoint_parse(moon_checkpoint *into, moon_bytes *bytes, moon_err *err);

#endif

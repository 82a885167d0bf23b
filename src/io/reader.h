// SPDX-License-Identifier: MIT
/* What a checkpoint is made of and how a format fills it: for checkpoint.c and the formats only. */
#ifndef MOON_IO_READER_H
#define MOON_IO_READER_H

#include "io/checkpoint.h"
#include "io/packed.h"
#include "io/scan.h"
#include "io/zip.h"

#define MOON_HEADER_MAX 100000000 /* bytes of a safetensors header, an index or a pickle */

struct moon_checkpoint {
  atomic_int refs;
  char *path;
  const char *format;  /* a string constant */
  moon_entry *entries; /* sorted by name once moon_checkpoint_sort is done */
  size_t n_entries, entries_room;
  moon_pair *metadata; /* likewise by key */
  size_t n_metadata, metadata_room;
  moon_bytes **files; /* one reference each */
  size_t n_files, files_room;
  moon_packed **packed; /* of deflated entries; its own */
  size_t n_packed, packed_room;
  size_t tensor_bytes; /* of all tensors that were counted, row-major */
};

/* The formats: they add the files, entries and metadata of what they read, unsorted. */
moon_status moon_safetensors_read(moon_checkpoint *into, moon_bytes *bytes, moon_err *err);
typedef moon_status moon_read_fn(moon_checkpoint *into, moon_bytes *bytes, moon_err *err);
/* read_file: of each file that the index names. */
moon_status moon_shards_read(moon_checkpoint *into,
                             const char *index_path, /* with a folder in it */
                             moon_read_fn *read_file, moon_err *err);
moon_status moon_pth_read(moon_checkpoint *into, moon_bytes *bytes, const moon_zip *zip,
                          moon_err *err);
moon_status moon_legacy_read(moon_checkpoint *into, moon_bytes *bytes, moon_err *err);
moon_status moon_npz_read(moon_checkpoint *into, moon_bytes *bytes, const moon_zip *zip,
                          moon_err *err);
moon_status moon_npy_read(moon_checkpoint *into, moon_bytes *bytes, moon_err *err);

bool moon_legacy_matches(const uint8_t *data, size_t size); /* PyTorch's form without a zip */
bool moon_npz_matches(const moon_zip *zip);                 /* it has an entry NAME.npy */

moon_status moon_checkpoint_add_file(moon_checkpoint *into, moon_bytes *bytes,
                                     moon_err *err); /* retains */
/* Takes over packed, also after a failure. */
moon_status moon_checkpoint_add_packed(moon_checkpoint *into, moon_packed *packed, moon_err *err);
/* Small files must not stand for endless ones: what a tensor takes (an expanded one, with stride 0,
 * or a deflated one is larger than its bytes in the file) is bounded by the file's size.
 * MOON_EUNSUPPORTED. */
moon_status moon_checkpoint_count_bytes(moon_checkpoint *into, size_t size_bytes,
                                        const moon_bytes *file, moon_err *err);
/* Both copy name, key and value, which must be UTF-8. */
moon_status moon_checkpoint_add(moon_checkpoint *into, const char *name, const moon_entry *entry,
                                moon_err *err);
moon_status moon_checkpoint_add_metadata(moon_checkpoint *into, const char *key, const char *value,
                                         moon_err *err);
/* Sorts by name; MOON_EFORMAT for a name that is there twice. */
moon_status moon_checkpoint_sort(moon_checkpoint *checkpoint, moon_err *err);

/* Puts "tensor 'name': " in front of err's text and returns code. */
moon_status moon_fail_in_tensor(moon_err *err, moon_status code, const char *name);

/* Fills strides for a row-major shape whose count is known to fit. */
void moon_strides_fill(int64_t *strides, const int64_t *shape, int rank);

#endif

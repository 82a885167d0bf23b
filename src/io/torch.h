// SPDX-License-Identifier: MIT
/* What torch.save pickles, in both of its forms: tensors, their storages by key, and plain values.
 * For the formats only. */
#ifndef MOON_IO_TORCH_H
#define MOON_IO_TORCH_H

#include "io/pickle.h"
#include "io/reader.h"

/* The bytes of a storage: where they are in the file and how many. MOON_EFORMAT: not there. */
typedef moon_status (*moon_torch_find)(void *user, const char *key, size_t *offset,
                                       size_t *size_bytes, moon_err *err);

typedef struct moon_torch_storage {
  moon_dtype dtype;
  size_t n;        /* elements */
  const char *key; /* in the pickle's bytes */
  size_t key_size;
} moon_torch_storage;

/* moon_pickle_parse with the names that tensors need. */
moon_status moon_torch_parse(moon_pickle *out, const uint8_t *data, size_t size, size_t *used,
                             moon_err *err);

/* False: the value is no storage. */
bool moon_torch_storage_read(moon_torch_storage *out, const moon_pickle *pickle,
                             const moon_pickle_value *value);

/* Adds the tensors as entries of bytes, and everything else as metadata; size: of the pickle. */
moon_status moon_torch_walk(moon_checkpoint *into, moon_bytes *bytes, const moon_pickle *pickle,
                            size_t size, moon_torch_find find, void *user, moon_err *err);

#endif

// SPDX-License-Identifier: MIT
/* What a tensor's storage is made of: for tensor.c and the backends only. */
#ifndef MOON_TENSOR_STORAGE_H
#define MOON_TENSOR_STORAGE_H

#include "tensor/tensor.h"

struct moon_storage {
  atomic_int refs;
  moon_device *device;
  void *data;  /* the backend's address of byte 0 */
  size_t size; /* bytes */
  moon_bytes
      *file; /* the mapping that data points into, retained; NULL: data is the backend's own */
};

/* Address of element [0, ..., 0]. */
static inline void *moon_tensor_data(const moon_tensor *t) {
  return (char *)t->storage->data + t->offset_bytes;
}

#endif

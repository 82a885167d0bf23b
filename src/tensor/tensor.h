// SPDX-License-Identifier: MIT
/*
 * A tensor: shape, strides and dtype over refcounted storage on a device. The struct is a value;
 * a copy that is kept must be retained. Views (narrow, transpose, reshape of a contiguous one)
 * share the storage. Numbers are reached by moon_tensor_read and moon_tensor_write only.
 */
#ifndef MOON_TENSOR_TENSOR_H
#define MOON_TENSOR_TENSOR_H

#include "io/checkpoint.h"
#include "tensor/device.h"

typedef struct moon_storage moon_storage;

typedef struct moon_tensor {
  moon_storage *storage; /* NULL: an empty struct, holds nothing */
  size_t offset_bytes;   /* of element [0, ..., 0] in the storage */
  moon_dtype dtype;
  int rank;                       /* 0: a scalar */
  int64_t shape[MOON_MAX_RANK];   /* an axis may be 0 */
  int64_t strides[MOON_MAX_RANK]; /* in elements */
} moon_tensor;

/* Uninitialised storage, row-major. Owned by the caller (release it). MOON_ENOMEM, MOON_ESHAPE. */
moon_status moon_tensor_new(moon_tensor *out, moon_device *device, moon_dtype dtype,
                            const int64_t *shape, int rank, moon_err *err);
/* The same, filled from row-major host memory. */
moon_status moon_tensor_from_host(moon_tensor *out, moon_device *device, moon_dtype dtype,
                                  const int64_t *shape, int rank, const void *host, moon_err *err);
/* On the CPU, over the mapped bytes of a checkpoint's entry, in place; keeps the mapping alive.
 * MOON_EDTYPE for an opaque dtype. A misaligned entry is copied (its page is touched). */
moon_status moon_tensor_from_entry(moon_tensor *out, const moon_entry *entry, moon_err *err);

moon_tensor moon_tensor_retain(const moon_tensor *t); /* same view, one more reference */
void moon_tensor_release(moon_tensor *t);             /* empties the struct; an empty one is fine */

moon_device *moon_tensor_device(const moon_tensor *t);
int64_t moon_tensor_count(const moon_tensor *t);     /* elements */
size_t moon_tensor_size_bytes(const moon_tensor *t); /* elements * dtype size */
bool moon_tensor_contiguous(const moon_tensor *t);

/* Views: `out` is owned by the caller. Dims count from 0 here. MOON_ESHAPE, MOON_ERANGE. */
moon_status moon_tensor_narrow(moon_tensor *out, const moon_tensor *t, int dim, int64_t start,
                               int64_t length, moon_err *err);
moon_status moon_tensor_select(moon_tensor *out, const moon_tensor *t, int dim, int64_t index,
                               moon_err *err);
moon_status moon_tensor_transpose(moon_tensor *out, const moon_tensor *t, int dim_a, int dim_b,
                                  moon_err *err);
/* One dim may be -1. A strided tensor is copied first. */
moon_status moon_tensor_reshape(moon_tensor *out, const moon_tensor *t, const int64_t *shape,
                                int rank, moon_err *err);
/* A row-major tensor of this dtype on this device; t itself (retained) where it is one already. */
moon_status moon_tensor_to(moon_tensor *out, const moon_tensor *t, moon_device *device,
                           moon_dtype dtype, moon_err *err);

/* Row-major elements of t in its dtype, to and from host memory of moon_tensor_size_bytes(t). Waits
 * for the device. */
moon_status moon_tensor_read(const moon_tensor *t, void *host, moon_err *err);
moon_status moon_tensor_write(moon_tensor *t, const void *host, moon_err *err);

/* Live storages and their bytes in the process, for leak checks and the collector. */
int64_t moon_storage_live(void);
int64_t moon_storage_live_bytes(void);

#endif

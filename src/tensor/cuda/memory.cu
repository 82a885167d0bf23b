// SPDX-License-Identifier: MIT
/*
 * Device memory. cudaMalloc and cudaFree wait for the device, so freed blocks are kept, by size
 * class, and given out again; only where the device is full do they go back. A class is at most an
 * eighth larger than what was asked for.
 */
#include <stdlib.h>
#include <string.h>

#include "tensor/cuda/device.cuh"

enum { LEAST_BITS = 9, STEP_BITS = 3 };           /* 512 bytes; eight classes per power of two */
static const size_t SLOT_BYTES = (size_t)2 << 20; /* of pinned memory: at full speed of PCIe */

/* The class of a size, and in *bytes how large its blocks are. */
static int class_of(size_t size, size_t *bytes) {
  if (size <= (size_t)1 << LEAST_BITS)
    return *bytes = (size_t)1 << LEAST_BITS, 0;
  int bits = 63 - __builtin_clzll(size - 1); /* 2^bits < size <= 2^(bits + 1) */
  int shift = bits - STEP_BITS;
  size_t steps = ((size - 1) >> shift) + 1; /* 9 to 16 eighths of 2^bits */
  *bytes = steps << shift;
  return (bits - LEAST_BITS) * (1 << STEP_BITS) + (int)steps - (1 << STEP_BITS);
}

static void *take_cached(pool *p, int size_class) {
  block *b = p->cached[size_class];
  if (!b)
    return NULL;
  void *data = b->data;
  p->cached[size_class] = b->next;
  free(b);
  return data;
}

/* Everything cached goes back to the device. */
static void drop_cached(cuda_device *d) {
  cudaStreamSynchronize(d->stream);
  for (int i = 0; i < N_CLASSES; i++)
    for (void *data; (data = take_cached(&d->memory, i)) != NULL;)
      cudaFree(data);
  d->memory.cached_bytes = 0;
}

static moon_status alloc_locked(cuda_device *d, size_t size, void **data, moon_err *err) {
  size_t bytes;
  int size_class = class_of(size, &bytes);
  TRY(start_device(d, err));
  *data = take_cached(&d->memory, size_class);
  if (*data) {
    d->memory.cached_bytes -= bytes;
    return MOON_OK;
  }
  cudaError_t code = cudaMalloc(data, bytes);
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    drop_cached(d);
    code = cudaMalloc(data, bytes);
  }
  return check_cuda(d, code, "no memory for a tensor", bytes, err);
}

moon_status cuda_alloc(moon_device *device, size_t size, void **data, moon_err *err) {
  cuda_device *d = (cuda_device *)device;
  if (size > (size_t)1 << 60)
    return moon_fail(err, MOON_ENOMEM, "%s: no memory for a tensor of %zu bytes", d->name, size);
  pthread_mutex_lock(&d->memory.lock);
  moon_status status = alloc_locked(d, size, data, err);
  pthread_mutex_unlock(&d->memory.lock);
  return status;
}

void cuda_free(moon_device *device, void *data, size_t size) {
  cuda_device *d = (cuda_device *)device;
  size_t bytes;
  int size_class = class_of(size, &bytes);
  block *b = (block *)malloc(sizeof *b);
  if (!b) {
    cudaSetDevice(d->index);
    cudaFree(data);
    return;
  }
  pthread_mutex_lock(&d->memory.lock);
  b->data = data;
  b->next = d->memory.cached[size_class];
  d->memory.cached[size_class] = b;
  d->memory.cached_bytes += bytes;
  pthread_mutex_unlock(&d->memory.lock);
}

moon_status take_scratch(cuda_device *d, size_t size, void **data, moon_err *err) {
  if (size > d->scratch_size) {
    if (d->scratch)
      cuda_free(&d->base, d->scratch, d->scratch_size);
    d->scratch = NULL;
    d->scratch_size = 0;
    TRY(cuda_alloc(&d->base, size, &d->scratch, err));
    d->scratch_size = size;
  }
  *data = d->scratch;
  return MOON_OK;
}

moon_status start_staging(cuda_device *d, moon_err *err) {
  for (int i = 0; i < N_SLOTS; i++) {
    auto *slot = &d->upload.slots[i];
    if (!slot->data)
      TRY(check_cuda(d, cudaMallocHost((void **)&slot->data, SLOT_BYTES), "pinned memory",
                     SLOT_BYTES, err));
    if (!slot->copied)
      TRY(check_cuda(d, cudaEventCreateWithFlags(&slot->copied, cudaEventDisableTiming), "start", 0,
                     err));
  }
  return MOON_OK;
}

/* Leaves the current slot to its copies and waits until those out of the next one are done. */
static cudaError_t next_slot(cuda_device *d) {
  staging *s = &d->upload;
  cudaError_t code = cudaEventRecord(s->slots[s->current].copied, d->stream);
  s->current = (s->current + 1) % N_SLOTS;
  s->used = 0;
  return code == cudaSuccess ? cudaEventSynchronize(s->slots[s->current].copied) : code;
}

moon_status cuda_upload(moon_device *device, void *data, const void *host, size_t size,
                        moon_err *err) {
  cuda_device *d = (cuda_device *)device;
  staging *s = &d->upload;
  cudaError_t code = cudaSetDevice(d->index);
  for (size_t done = 0, n; done < size && code == cudaSuccess; done += n) {
    if (s->used == SLOT_BYTES || (size <= SLOT_BYTES && size > SLOT_BYTES - s->used))
      code = next_slot(d);
    if (code != cudaSuccess)
      break;
    n = size - done < SLOT_BYTES - s->used ? size - done : SLOT_BYTES - s->used;
    char *from = s->slots[s->current].data + s->used;
    memcpy(from, (const char *)host + done, n);
    code = cudaMemcpyAsync((char *)data + done, from, n, cudaMemcpyHostToDevice, d->stream);
    s->used += n;
  }
  return check_cuda(d, code, "upload", size, err);
}

moon_status cuda_download(moon_device *device, void *host, const void *data, size_t size,
                          moon_err *err) {
  cuda_device *d = (cuda_device *)device;
  cudaError_t code = cudaSetDevice(d->index);
  if (code == cudaSuccess && size > 0)
    code = cudaMemcpyAsync(host, data, size, cudaMemcpyDeviceToHost, d->stream);
  if (code == cudaSuccess)
    code = cudaStreamSynchronize(d->stream);
  return check_cuda(d, code, "download", size, err);
}

moon_status cuda_sync(moon_device *device, moon_err *err) {
  cuda_device *d = (cuda_device *)device;
  cudaError_t code = d->started ? cudaSetDevice(d->index) : cudaSuccess;
  if (code == cudaSuccess && d->started)
    code = cudaStreamSynchronize(d->stream);
  return check_cuda(d, code, "sync", 0, err);
}

/* Blocks that are kept for the next tensors are as free as the rest. */
moon_status cuda_memory(moon_device *device, size_t *free_bytes, size_t *total, moon_err *err) {
  cuda_device *d = (cuda_device *)device;
  pthread_mutex_lock(&d->memory.lock);
  moon_status status = start_device(d, err);
  if (status == MOON_OK)
    status = check_cuda(d, cudaMemGetInfo(free_bytes, total), "memory", 0, err);
  if (status == MOON_OK)
    *free_bytes += d->memory.cached_bytes;
  pthread_mutex_unlock(&d->memory.lock);
  return status;
}

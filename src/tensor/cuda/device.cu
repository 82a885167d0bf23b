// SPDX-License-Identifier: MIT
/* The devices of the process and their table. */
#include "tensor/cuda/device.cuh"

#include <stdio.h>
#include <stdlib.h>

enum { LEAST_MAJOR = 8 }; /* compute capability: bf16 begins there */

static moon_ops table;

/* After a fault such as an illegal address every call of this process fails, until it ends. */
static bool is_lost(void) {
  return cudaDeviceSynchronize() != cudaSuccess;
}

moon_status check_cuda(cuda_device *d, cudaError_t code, const char *what, size_t needed,
                       moon_err *err) {
  size_t free_bytes = 0, total = 0;
  if (code == cudaSuccess)
    return MOON_OK;
  cudaGetLastError(); /* one that does not stick is told once */
  if (code != cudaErrorMemoryAllocation && is_lost())
    return moon_fail(err, MOON_ELOST,
                     "%s: %s: %s; the device is lost until the program is started again", d->name,
                     what, cudaGetErrorString(code));
  if (code != cudaErrorMemoryAllocation)
    return moon_fail(err, MOON_EDEVICE, "%s: %s: %s", d->name, what, cudaGetErrorString(code));
  cudaMemGetInfo(&free_bytes, &total);
  if (needed == 0)
    return moon_fail(err, MOON_ENOMEM, "%s: %s: no memory to run it, %zu of %zu bytes are free",
                     d->name, what, free_bytes, total);
  return moon_fail(err, MOON_ENOMEM, "%s: %s: %zu bytes are needed, %zu of %zu are free", d->name,
                   what, needed, free_bytes, total);
}

moon_status start_device(cuda_device *d, moon_err *err) {
  cudaError_t code = cudaSetDevice(d->index);
  if (d->started || code != cudaSuccess)
    return check_cuda(d, code, "start", 0, err);
  if (!d->stream)
    TRY(check_cuda(d, cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking), "start", 0,
                   err));
  TRY(start_staging(d, err));
  d->started = true;
  return MOON_OK;
}

static void fill_table(void) {
  table.name = "cuda";
  table.alloc = cuda_alloc;
  table.free = cuda_free;
  table.upload = cuda_upload;
  table.download = cuda_download;
  table.sync = cuda_sync;
  table.memory = cuda_memory;
  add_tensor_ops(&table);
  add_selection_ops(&table);
  add_matmul_ops(&table);
  add_llama_ops(&table);
  add_attention_ops(&table);
  add_sae_ops(&table);
}

static moon_status count_devices(int *n, moon_err *err) {
  int driver = 0, runtime = 0;
  cudaError_t code = cudaGetDeviceCount(n);
  if (code == cudaSuccess && *n > 0)
    return MOON_OK;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0)
    return moon_fail(err, MOON_EDEVICE, "no NVIDIA driver is installed");
  if (code == cudaErrorInsufficientDriver)
    return moon_fail(err, MOON_EDEVICE,
                     "the NVIDIA driver is for CUDA %d.%d, expected %d.%d or newer", driver / 1000,
                     driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  return moon_fail(err, MOON_EDEVICE, "%s",
                   code == cudaSuccess ? "found no CUDA device" : cudaGetErrorString(code));
}

/* Newer devices compile the PTX, which is of compute_80 and knows no overlap. */
static bool has_overlap(int index) {
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index);
  return major == 9 && minor == 0;
}

static cuda_device *new_device(int index) {
  cuda_device *d = (cuda_device *)calloc(1, sizeof *d);
  if (!d)
    return NULL;
  snprintf(d->name, sizeof d->name, "cuda:%d", index);
  d->base.name = d->name;
  d->base.ops = &table;
  d->index = index;
  d->overlaps = has_overlap(index);
  pthread_mutex_init(&d->memory.lock, NULL);
  return d;
}

extern "C" __attribute__((visibility("default"))) void *moon_cuda_stream(
    const moon_device *device) {
  return ((const cuda_device *)device)->stream;
}

extern "C" __attribute__((visibility("default"))) moon_status moon_cuda_open(moon_device ***devices,
                                                                             int *n,
                                                                             moon_err *err) {
  int count = 0, major = 0, minor = 0;
  *n = 0;
  TRY(count_devices(&count, err));
  *devices = (moon_device **)calloc((size_t)count, sizeof **devices);
  fill_table();
  for (int i = 0; *devices && i < count; i++) {
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, i);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, i);
    cuda_device *d = major >= LEAST_MAJOR ? new_device(i) : NULL;
    if (d)
      (*devices)[(*n)++] = &d->base;
  }
  if (*n > 0)
    return MOON_OK;
  free(*devices);
  return moon_fail(err, MOON_EDEVICE, "compute capability is %d.%d, expected %d.0 or newer", major,
                   minor, LEAST_MAJOR);
}

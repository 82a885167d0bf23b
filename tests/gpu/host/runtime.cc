// SPDX-License-Identifier: MIT
/* Memory, streams and events of the host's CUDA: everything is done at once. */
#include <cuda_runtime.h>
#include <pthread.h>
#include <stdlib.h>

#include "host.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static size_t used;
static long n_calls;

static long number_from(const char *name, long missing) {
  const char *text = getenv(name);
  return text ? atol(text) : missing;
}

bool host_fails(void) {
  pthread_mutex_lock(&lock);
  bool fails = ++n_calls == number_from("MOONSCOPE_FAIL", 0);
  pthread_mutex_unlock(&lock);
  return fails;
}

static size_t total_bytes(void) {
  return (size_t)number_from("MOONSCOPE_DEVICE_BYTES", 64 << 20);
}

cudaError_t cudaGetDeviceCount(int *n) {
  *n = (int)number_from("MOONSCOPE_DEVICES", 2);
  return *n > 0 ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaDriverGetVersion(int *version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor
               ? (int)number_from("MOONSCOPE_CAPABILITY", 9)
               : 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int) {
  return cudaSuccess;
}

cudaError_t cudaGetLastError(void) {
  return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t code) {
  return code == cudaErrorNoDevice ? "no CUDA-capable device is detected" : "an error";
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
  *total = total_bytes();
  *free_bytes = *total - used;
  return cudaSuccess;
}

/* The size lies in front of the data. */
cudaError_t cudaMalloc(void **data, size_t size) {
  if (host_fails() || size > total_bytes() - used)
    return cudaErrorMemoryAllocation;
  char *base = (char *)aligned_alloc(256, (size + 256 + 255) / 256 * 256);
  if (!base)
    return cudaErrorMemoryAllocation;
  memset(base, 0xff, size + 256); /* NaN, so that what is read before it is written shows */
  memcpy(base, &size, sizeof size);
  *data = base + 256;
  pthread_mutex_lock(&lock);
  used += size;
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}

cudaError_t cudaFree(void *data) {
  size_t size;
  memcpy(&size, (char *)data - 256, sizeof size);
  pthread_mutex_lock(&lock);
  used -= size;
  pthread_mutex_unlock(&lock);
  free((char *)data - 256);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void **data, size_t size) {
  *data = host_fails() ? NULL : malloc(size);
  return *data ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, cudaMemcpyKind, cudaStream_t) {
  memmove(to, from, size);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
  *stream = (cudaStream_t)stream; /* anything but NULL */
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
  *event = (cudaEvent_t)event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t) {
  return cudaSuccess;
}

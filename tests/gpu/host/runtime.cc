// SPDX-License-Identifier: MIT
/* Memory, streams and events of the host's CUDA: everything is done at once. */
#include <cuda_runtime.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "host.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static size_t used;
static long n_calls;

static long number_from(const char *name, long missing) {
  const char *text = getenv(name);
  return text ? atol(text) : missing;
}

/* Counts from when the variable got its value. */
bool host_fails(void) {
  static long last;
  pthread_mutex_lock(&lock);
  long wanted = number_from("MOONSCOPE_FAIL", 0);
  n_calls = wanted == last ? n_calls + 1 : 1;
  last = wanted;
  bool fails = n_calls == wanted;
  pthread_mutex_unlock(&lock);
  return fails;
}

static bool lost;

void host_count_launch(void) {
  static long n_launches;
  long wanted = number_from("MOONSCOPE_LOSE", 0);
  n_launches = wanted ? n_launches + 1 : 0;
  lost = lost || (wanted && n_launches == wanted);
}

/* What a call gives that does its work: nothing works on a lost device. */
static cudaError_t unless_lost(void) {
  return lost ? cudaErrorIllegalAddress : cudaSuccess;
}

static size_t total_bytes(void) {
  return (size_t)number_from("MOONSCOPE_DEVICE_BYTES", 64 << 20);
}

cudaError_t cudaGetDeviceCount(int *n) {
  *n = (int)number_from("MOONSCOPE_DEVICES", 2);
  if (number_from("MOONSCOPE_DRIVER", 13000) < 13000)
    return cudaErrorInsufficientDriver;
  return *n > 0 ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaDriverGetVersion(int *version) {
  *version = (int)number_from("MOONSCOPE_DRIVER", 13000);
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
  if (code == cudaErrorIllegalAddress)
    return "an illegal memory access was encountered";
  return code == cudaErrorNoDevice ? "no CUDA-capable device is detected" : "an error";
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
  *total = total_bytes();
  *free_bytes = *total - used;
  return cudaSuccess;
}

/*
 * The device's memory: one stretch of addresses; its blocks in their order. With MOONSCOPE_GUARD=1
 * nobody may touch it but a copy or a grid, so that a program that reads through a device's address
 * dies here as it would with a GPU (slow: two system calls per operation).
 */
enum { LARGEST_DEVICE = 1 << 30, PAGE = 4096 };

struct block {
  char *data;
  size_t size;
  block *next;
};

static char *arena;
static block *blocks;

static void protect(int protection) {
  static const bool guards = number_from("MOONSCOPE_GUARD", 0) != 0;
  size_t end = 0;
  if (!guards)
    return;
  pthread_mutex_lock(&lock);
  for (block *b = blocks; b; b = b->next)
    end = (size_t)(b->data - arena) + b->size;
  if (end > 0 && mprotect(arena, (end + PAGE - 1) / PAGE * PAGE, protection))
    abort();
  pthread_mutex_unlock(&lock);
}

void host_begin_work(void) {
  protect(PROT_READ | PROT_WRITE);
}

void host_end_work(void) {
  protect(PROT_NONE);
}

/* The first gap that is large enough. */
static bool place(void **data, size_t size) {
  block **at = &blocks;
  char *end = arena;
  while (*at && (size_t)((*at)->data - end) < size) {
    end = (*at)->data + (*at)->size;
    at = &(*at)->next;
  }
  if (size > LARGEST_DEVICE - (size_t)(end - arena))
    return false;
  *at = new block{end, size, *at};
  *data = end;
  used += size;
  return true;
}

cudaError_t cudaMalloc(void **data, size_t size) {
  size = (size + 255) / 256 * 256;
  if (lost || host_fails())
    return lost ? cudaErrorIllegalAddress : cudaErrorMemoryAllocation;
  pthread_mutex_lock(&lock);
  if (!arena)
    arena = (char *)mmap(NULL, LARGEST_DEVICE, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (arena == MAP_FAILED)
    abort();
  bool placed = size <= total_bytes() - used && place(data, size);
  pthread_mutex_unlock(&lock);
  if (!placed)
    return cudaErrorMemoryAllocation;
  host_begin_work();
  memset(*data, 0xff, size); /* NaN: what is read before it is written shows */
  host_end_work();
  return cudaSuccess;
}

cudaError_t cudaFree(void *data) {
  pthread_mutex_lock(&lock);
  block **at = &blocks;
  while ((*at)->data != data)
    at = &(*at)->next;
  block *gone = *at;
  *at = gone->next;
  used -= gone->size;
  delete gone;
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void **data, size_t size) {
  *data = host_fails() ? NULL : malloc(size);
  return *data ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, cudaMemcpyKind, cudaStream_t) {
  host_begin_work();
  memmove(to, from, size);
  host_end_work();
  return unless_lost();
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
  *stream = (cudaStream_t)stream; /* anything but NULL */
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return unless_lost();
}

cudaError_t cudaDeviceSynchronize(void) {
  return unless_lost();
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

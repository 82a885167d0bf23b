// SPDX-License-Identifier: MIT
/*
 * CUDA on the host, for tests where there is no GPU: as much of the runtime's interface as
 * src/tensor/cuda uses. The kernels are compiled from the same source; a grid runs block by block,
 * a block's threads as coroutines that change places at barriers and warp operations only
 * (grid.cc). What it shows: index logic, missing barriers (threads run in both orders), calls that
 * fail. What it does not: races within a stretch without barriers, memory ordering, speed.
 */
#ifndef HOST_CUDA_RUNTIME_H
#define HOST_CUDA_RUNTIME_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__      static
#define __grid_constant__
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(type, name) type *name = (type *)host_dynamic_shared

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
struct uint4 {
  unsigned x, y, z, w;
};
static inline float2 make_float2(float x, float y) {
  return float2{x, y};
}
static inline float4 make_float4(float x, float y, float z, float w) {
  return float4{x, y, z, w};
}

extern dim3 threadIdx, blockIdx, blockDim, gridDim;
extern unsigned char *host_dynamic_shared;

void __syncthreads(void);
void __syncwarp(void);
/* Every lane gives `bits`; returns what all 32 gave, valid until this lane's next but one call. */
const uint64_t *host_exchange(uint64_t bits);

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int offset) {
  uint64_t bits = 0;
  (void)mask;
  memcpy(&bits, &value, sizeof value);
  bits = host_exchange(bits)[(threadIdx.x % 32) ^ (unsigned)offset];
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane) {
  uint64_t bits = 0;
  (void)mask;
  memcpy(&bits, &value, sizeof value);
  bits = host_exchange(bits)[lane];
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline unsigned __ballot_sync(unsigned mask, bool predicate) {
  const uint64_t *all = host_exchange(predicate);
  unsigned bits = 0;
  for (int i = 0; i < 32; i++)
    bits |= (unsigned)all[i] << i;
  return bits & mask;
}

static inline int __any_sync(unsigned mask, bool predicate) {
  return __ballot_sync(mask, predicate) != 0;
}

static inline int __popc(unsigned bits) {
  return __builtin_popcount(bits);
}

static inline unsigned atomicAdd(unsigned *at, unsigned n) {
  unsigned before = *at;
  *at += n;
  return before;
}

/* Of src/tensor/cuda/tensor_cores.cuh. 16 bytes, or zeros; they arrive when the thread waits. */
void copy_later(void *to, const void *from, bool there);
void wait_for_copies(void);

#include "tensor_cores.h"

/*
 * The runtime. The environment says what it is like:
 *   MOONSCOPE_FAIL=n           the n-th call from now on that allocates or launches lacks memory
 *   MOONSCOPE_LOSE=n           the n-th launch from now on reads where nothing is; every call fails
 *                              from then on
 *   MOONSCOPE_DEVICES=n        number of devices (2)
 *   MOONSCOPE_DEVICE_BYTES=n   memory of all of them together (64 MiB)
 *   MOONSCOPE_CAPABILITY=n     compute capability n.0 (9)
 *   MOONSCOPE_DRIVER=n         CUDA version of the driver, 0: there is none (13000)
 *   MOONSCOPE_GUARD=1          see runtime.cc
 */
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorIllegalAddress = 700
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };
typedef struct host_stream *cudaStream_t;
typedef struct host_event *cudaEvent_t;

cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t code);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);
cudaError_t cudaMalloc(void **data, size_t size);
cudaError_t cudaFree(void *data);
cudaError_t cudaMallocHost(void **data, size_t size);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);

enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization };

struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute *attrs;
  unsigned numAttrs;
};

template <typename F>
cudaError_t cudaFuncSetAttribute(F *, cudaFuncAttribute, int) {
  return cudaSuccess;
}

/* Runs body(arguments) for every thread of the grid. */
cudaError_t host_run_grid(const cudaLaunchConfig_t *config, void (*body)(void *arguments),
                          void *arguments);

template <typename F>
void host_call(void *f) {
  (*(F *)f)();
}

template <typename F>
cudaError_t host_launch(const cudaLaunchConfig_t *config, F body) {
  return host_run_grid(config, host_call<F>, &body);
}

template <typename... P>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(P...),
                               P... arguments) {
  return host_launch(config, [=] { kernel(arguments...); });
}

#endif

// SPDX-License-Identifier: MIT
/* What kernels share: dtypes, the order of numbers, sums over a warp and a block. */
#ifndef MOON_TENSOR_CUDA_KERNEL_CUH
#define MOON_TENSOR_CUDA_KERNEL_CUH

#include <math.h>

#include "tensor/cuda/device.cuh"

enum { WARP = 32, THREADS = 256, MOST_THREADS = 1024 };
#define ALL_LANES 0xffffffffu

#ifdef __CUDACC__
/* The block's dynamic shared memory. */
#define DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
  type *name = (type *)dynamic_shared
#endif

/* In a kernel that launch_early enqueues: waits until the kernel in front of it has ended and its
 * writes are seen; the next one may then begin in the same way. What comes before the call may read
 * weights alone. */
__device__ __forceinline__ void wait_for_inputs() {
#if defined __CUDA_ARCH__ && __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

/* The 128 bytes around p are on their way to the L2 cache. */
__device__ __forceinline__ void prefetch_l2(const void *p) {
#ifdef __CUDA_ARCH__
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#else
  (void)p;
#endif
}

/* Weights: f32, or 16 bits that say by their type what they are. */
struct f16 {
  uint16_t bits;
};
struct bf16 {
  uint16_t bits;
};

__device__ __forceinline__ uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

__device__ __forceinline__ float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

__device__ __forceinline__ float to_f32(float value) {
  return value;
}

__device__ __forceinline__ float to_f32(bf16 value) {
  return float_of((uint32_t)value.bits << 16);
}

/* As in dtype.c: shifted into place it is a float 2^112 too small. */
__device__ __forceinline__ float to_f32(f16 value) {
  uint32_t magnitude = value.bits & 0x7fffu, sign = (uint32_t)(value.bits & 0x8000u) << 16;
  if (magnitude >= 0x7c00)
    return float_of(sign | 0x7f800000 | magnitude << 13 | (magnitude > 0x7c00 ? 0x400000 : 0));
  return float_of(sign | bits_of(float_of(magnitude << 13) * 0x1p112f));
}

/* All of these round to nearest even and keep NaN. */
__device__ __forceinline__ void from_f32(float *out, float value) {
  *out = value;
}

__device__ __forceinline__ void from_f32(bf16 *out, float value) {
  uint32_t bits = bits_of(value), rounded = bits + 0x7fff + (bits >> 16 & 1);
  out->bits = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded >> 16);
}

__device__ __forceinline__ void from_f32(f16 *out, float value) {
  uint32_t magnitude = bits_of(value) & 0x7fffffff, sign = bits_of(value) >> 16 & 0x8000;
  uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  if (magnitude > 0x7f800000)
    rounded = 0x7e00 | (magnitude >> 13 & 0x3ff);
  else if (magnitude >= 0x47800000) /* 2^16 */
    rounded = 0x7c00;
  else if (magnitude < 0x38800000) /* 2^-14: at 0.5 a float's last place is 2^-24 */
    rounded = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  else
    rounded = (rounded - (112u << 23)) >> 13;
  out->bits = (uint16_t)(sign | rounded);
}

/* Calls with T for a weight's dtype: f32, f16, bf16. */
#define WITH_WEIGHT(dtype, ...) \
  do {                          \
    switch (dtype) {            \
      case MOON_F16: {          \
        typedef f16 T;          \
        __VA_ARGS__;            \
        break;                  \
      }                         \
      case MOON_BF16: {         \
        typedef bf16 T;         \
        __VA_ARGS__;            \
        break;                  \
      }                         \
      default: {                \
        typedef float T;        \
        __VA_ARGS__;            \
      }                         \
    }                           \
  } while (0)

/* Element i of a weight, where it is not worth a kernel per dtype. */
__device__ __forceinline__ float load_weight(moon_dtype dtype, const void *w, int64_t i) {
  switch (dtype) {
    case MOON_F16:
      return to_f32(((const f16 *)w)[i]);
    case MOON_BF16:
      return to_f32(((const bf16 *)w)[i]);
    default:
      return ((const float *)w)[i];
  }
}

/* 16 bytes of a weight that is read once: they leave the L1 cache to what is read again. */
__device__ __forceinline__ uint4 load_once(const void *p) {
#ifdef __CUDA_ARCH__
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(p));
  return v;
#else
  return *(const uint4 *)p;
#endif
}

/* Eight elements as they lie in memory, at a multiple of 16 bytes: half the registers while they
 * are on their way. */
template <typename T>
struct packed_8 {
  uint4 words;
};
template <>
struct packed_8<float> {
  uint4 words, more;
};

__device__ __forceinline__ void load_packed(packed_8<float> *out, const float *from) {
  out->words = load_once(from);
  out->more = load_once(from + 4);
}

template <typename T>
__device__ __forceinline__ void load_packed(packed_8<T> *out, const T *from) {
  out->words = load_once(from);
}

__device__ __forceinline__ void unpack(float *out, const packed_8<float> &from) {
  const uint32_t bits[8] = {from.words.x, from.words.y, from.words.z, from.words.w,
                            from.more.x,  from.more.y,  from.more.z,  from.more.w};
#pragma unroll
  for (int i = 0; i < 8; i++)
    out[i] = float_of(bits[i]);
}

template <typename T>
__device__ __forceinline__ void unpack(float *out, const packed_8<T> &from) {
  const uint32_t pairs[4] = {from.words.x, from.words.y, from.words.z, from.words.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    out[2 * i] = to_f32(T{(uint16_t)pairs[i]});
    out[2 * i + 1] = to_f32(T{(uint16_t)(pairs[i] >> 16)});
  }
}

/* Eight elements that lie at a multiple of 16 bytes. */
__device__ __forceinline__ void load_8(float *out, const float *from) {
  float4 a = ((const float4 *)from)[0], b = ((const float4 *)from)[1];
  out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
  out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
}

template <typename T>
__device__ __forceinline__ void load_8(float *out, const T *from) {
  packed_8<T> packed = {*(const uint4 *)from};
  unpack(out, packed);
}

/* Largest first: NaN before every number. */
__device__ __forceinline__ bool above(float a, float b) {
  return isnan(a) ? !isnan(b) : a > b;
}

/* A number for element i of a row that is larger the earlier it comes when the row is sorted:
 * largest first, NaN before every number, equals (so are both zeros) by index. No two are equal,
 * none is 0. */
__device__ __forceinline__ unsigned long long rank_key(float value, int64_t i) {
  uint32_t bits = bits_of(value == 0 ? 0.0f : value);
  uint32_t order = isnan(value) ? 0xffffffffu : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (unsigned long long)order << 32 | (0xffffffffu - (uint32_t)i);
}

__device__ __forceinline__ int64_t index_of_key(unsigned long long key) {
  return (int64_t)(0xffffffffu - (uint32_t)key);
}

struct sum_of {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};

struct max_of {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

/* value of all lanes, combined in a fixed tree; every lane gets it. */
template <typename F, typename T>
__device__ __forceinline__ T warp_reduce(T value, F combine) {
#pragma unroll
  for (int offset = WARP / 2; offset > 0; offset /= 2)
    value = combine(value, __shfl_xor_sync(ALL_LANES, value, offset));
  return value;
}

/* The same over the block's threads, a multiple of 32; `nothing` changes nothing. */
template <typename F, typename T>
__device__ T block_reduce(T value, T nothing, F combine) {
  __shared__ T partial[WARP];
  unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  value = warp_reduce(value, combine);
  if (lane == 0)
    partial[warp] = value;
  __syncthreads();
  value = warp_reduce(lane < blockDim.x / WARP ? partial[lane] : nothing, combine);
  __syncthreads(); /* partial may be used again */
  return value;
}

/* Key of the row's first in order (see rank_key), n >= 1. */
__device__ __forceinline__ unsigned long long block_largest(const float *row, int64_t n) {
  enum { AT_ONCE = 8 }; /* loads on their way: a row of logits is long, and one block reads it */
  unsigned long long best = 0;
  int64_t i = threadIdx.x, step = blockDim.x;
  for (; i + (AT_ONCE - 1) * step < n; i += AT_ONCE * step) {
    float values[AT_ONCE];
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++)
      values[j] = row[i + j * step];
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++)
      best = max_of()(best, rank_key(values[j], i + j * step));
  }
  for (; i < n; i += step)
    best = max_of()(best, rank_key(row[i], i));
  return block_reduce(best, 0ull, max_of());
}

/* This thread's first element, and how far its elements are apart, over the whole grid. */
__device__ __forceinline__ int64_t first_element() {
  return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ int64_t element_step() {
  return (int64_t)gridDim.x * blockDim.x;
}

#endif

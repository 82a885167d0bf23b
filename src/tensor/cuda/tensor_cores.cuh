// SPDX-License-Identifier: MIT
/*
 * Instructions of sm_80 and later that C++ has no words for. Tests on the host bring their own.
 *
 * A warp multiplies a [16][16] by b [16][8] into c [16][8]. Its lane l has, with g = l / 4 and
 * t = 2 (l % 4), two bf16 in a word, the first in the lower half:
 *
 *   a  row g, columns t, t + 1;  row g + 8, the same;  row g, columns t + 8, t + 9;  row g + 8
 *   b  rows t, t + 1 of column g;  rows t + 8, t + 9
 *   c  row g, columns t, t + 1;  row g + 8, the same; f32
 */
#ifndef MOON_TENSOR_CUDA_TENSOR_CORES_CUH
#define MOON_TENSOR_CUDA_TENSOR_CORES_CUH

#include "tensor/cuda/kernel.cuh"

#ifdef __CUDACC__

/* c [4] += a [4] b [2]; products exact, sums in f32. */
__device__ __forceinline__ void multiply_add(float *c, const uint32_t *a, const uint32_t *b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ unsigned shared_address(const void *p) {
  return (unsigned)__cvta_generic_to_shared(p);
}

/* Four matrices of 8 x 8 bf16 in shared memory: lane l gives the address of row l % 8 of matrix
 * l / 8, and gets in word i columns t, t + 1 of row g of matrix i. */
__device__ __forceinline__ void load_matrices(uint32_t *out, const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

/* The same, but gets rows t, t + 1 of column g. */
__device__ __forceinline__ void load_transposed(uint32_t *out, const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

/* 16 bytes to shared memory, there after the thread's next wait_for_copies; zeros where not
 * `there`, but `from` is an address all the same. */
__device__ __forceinline__ void copy_later(void *to, const void *from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

/* Both rounded to bf16 (nearest even). */
__device__ __forceinline__ uint32_t round_pair(float lower, float upper) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(upper), "f"(lower));
  return pair;
}

/* 2^x, within 2^-22 of it; 0 below 2^-126. */
__device__ __forceinline__ float power_of_2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

#endif

#endif

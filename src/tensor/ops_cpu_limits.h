// SPDX-License-Identifier: MIT
/*
 * What an instruction set can do at best, for limits.h: the innermost step of its kernels without
 * anything around it. Included where vec, LANES, vec_zero, vec_load and vec_mul_add are known, by
 * ops_cpu_kernels.h for the sets and by ops_cpu_reference.c for plain C. A set whose products of
 * bf16 are of a kind of their own defines HAS_BF16_STEPS and, before this, bf16_steps.
 */
#include <omp.h>

/* Enough for the latency of an instruction of which two begin in each cycle; few enough for 16
 * registers. */
enum { STEP_SUMS = 12, READ_AHEAD = 4096 };

/* n times STEP_SUMS multiply-adds of vectors that stay in registers; how many operations of one
 * number these are. */
static double f32_steps(int64_t n) {
  vec sum[STEP_SUMS], x = vec_zero();
  for (int j = 0; j < STEP_SUMS; j++)
    sum[j] = vec_zero();
  for (int64_t i = 0; i < n; i++) {
    __asm__ volatile("" : "+v"(x)); /* or the sums would be known */
    for (int j = 0; j < STEP_SUMS; j++)
      sum[j] = vec_mul_add(x, x, sum[j]);
  }
  for (int j = 0; j < STEP_SUMS; j++)
    __asm__ volatile("" : : "v"(sum[j]));
  return 2.0 * LANES * STEP_SUMS * (double)n;
}

#if defined HAS_BF16_PRODUCTS && !defined HAS_BF16_STEPS
static double bf16_steps(int64_t n) {
  vec sum[STEP_SUMS];
  vec_bf16 x = vec_zero();
  for (int j = 0; j < STEP_SUMS; j++)
    sum[j] = vec_zero();
  for (int64_t i = 0; i < n; i++) {
    __asm__ volatile("" : "+v"(x));
    for (int j = 0; j < STEP_SUMS; j++)
      sum[j] = vec_bf16_mul_add(x, x, sum[j]);
  }
  for (int j = 0; j < STEP_SUMS; j++)
    __asm__ volatile("" : : "v"(sum[j]));
  return 2.0 * LANES_BF16 * STEP_SUMS * (double)n;
}
#elif !defined HAS_BF16_STEPS
static double bf16_steps(int64_t n) { /* bf16 is widened and multiplied as f32 */
  return f32_steps(n);
}
#endif

static double multiply(moon_arithmetic arithmetic, int64_t n_steps) {
  double operations = 0;
#pragma omp parallel num_threads(moon_cpu_threads()) reduction(+ : operations)
  operations += arithmetic == MOON_ARITHMETIC_BF16 ? bf16_steps(n_steps) : f32_steps(n_steps);
  return operations;
}

/* Reads n floats. Each thread has its part of them, and walks through n_streams places of it at
 * once. */
static void read_all(const float *data, int64_t n, int n_streams) {
  enum { STEP = 64 }; /* floats */
#pragma omp parallel num_threads(moon_cpu_threads())
  {
    int64_t stream = n / omp_get_num_threads() / n_streams / STEP * STEP;
    const float *p = data + omp_get_thread_num() * stream * n_streams;
    for (int64_t i = 0; i < stream; i += STEP)
      for (int s = 0; s < n_streams; s++)
        for (int j = 0; j < STEP; j += LANES) {
          const float *at = p + s * stream + i + j;
          if (j % 16 == 0)
            __builtin_prefetch((const char *)at + READ_AHEAD);
          vec x = vec_load(at);
          __asm__ volatile("" : : "v"(x));
        }
  }
}

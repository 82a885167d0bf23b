// SPDX-License-Identifier: MIT
/*
 * out [M][N] := x [M][K] w^T + bias, in one of two ways, chosen by dtype, K, N and the arithmetic,
 * never by M, so that a row has the same bits whatever stands beside it:
 *
 * - BF16 arithmetic with a bf16 weight: x is rounded to bf16 and cuBLASLt multiplies on the tensor
 *   cores (cublas.cu).
 * - Everything else: own kernels. A warp owns a few columns and rows; lane l sums the elements
 *   8 l .. 8 l + 7 of every 256 along K in order, and a tree adds the lanes. How many rows and
 *   columns a warp owns changes what is loaded how often, not the order of a sum.
 */
#include "tensor/cuda/kernel.cuh"

enum { VECTOR = 8, CHUNK = WARP * VECTOR };

/* Own kernels */

/* Adds acc [n] over the lanes; lane l gets the sum of element l / (WARP / n). As a warp_reduce of
 * each element does, with the same tree, but halves what is exchanged in each step. */
template <int n>
__device__ __forceinline__ float reduce_lanes(float *acc) {
  unsigned lane = threadIdx.x % WARP;
  int left = n;
#pragma unroll
  for (int offset = WARP / 2; offset > 0; offset /= 2) {
    if (left > 1) {
      left /= 2;
      bool upper = (lane & (unsigned)offset) != 0;
#pragma unroll
      for (int i = 0; i < n / 2; i++)
        if (i < left) {
          float keep = upper ? acc[i + left] : acc[i], send = upper ? acc[i] : acc[i + left];
          acc[i] = keep + __shfl_xor_sync(ALL_LANES, send, offset);
        }
    } else {
      acc[0] += __shfl_xor_sync(ALL_LANES, acc[0], offset);
    }
  }
  return acc[0];
}

/* Up to 8 elements from k on; 0 beyond K. ALIGNED: K is a multiple of 8, rows begin at 16 bytes. */
template <bool ALIGNED, typename T>
__device__ __forceinline__ void load_part(float *out, const T *row, int64_t k, int64_t K) {
  if (ALIGNED && k < K) {
    load_8(out, row + k);
    return;
  }
#pragma unroll
  for (int i = 0; i < VECTOR; i++)
    out[i] = k + i < K ? to_f32(row[k + i]) : 0;
}

/* Warp w of the grid's x: columns COLUMNS w ..; the grid's y: rows ROWS y ... ROWS * COLUMNS
 * divides
 * 32. One row: bound by reading w once. Many: by shared reads of x and w out of L1. */
template <typename T, bool ALIGNED, int ROWS, int COLUMNS>
static __global__ void __launch_bounds__(THREADS)
    dot_kernel(float *out, const float *x, const T *w, const void *bias, moon_dtype bias_dtype,
               int64_t M, int64_t N, int64_t K) {
  int64_t first = ((int64_t)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP) * COLUMNS;
  int64_t top = (int64_t)blockIdx.y * ROWS;
  unsigned lane = threadIdx.x % WARP;
  if (first >= N)
    return;
  float acc[ROWS * COLUMNS] = {0};
  for (int64_t k = lane * VECTOR; k < K; k += CHUNK) {
    float ws[COLUMNS][VECTOR];
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) /* columns past the last repeat it */
      load_part<ALIGNED>(ws[c], w + (first + c < N ? first + c : N - 1) * K, k, K);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      float xs[VECTOR];
      load_part<ALIGNED>(xs, x + (top + r < M ? top + r : M - 1) * K, k, K);
#pragma unroll
      for (int c = 0; c < COLUMNS; c++)
#pragma unroll
        for (int i = 0; i < VECTOR; i++)
          acc[r * COLUMNS + c] = fmaf(xs[i], ws[c][i], acc[r * COLUMNS + c]);
    }
  }
  float sum = reduce_lanes<ROWS * COLUMNS>(acc);
  enum { LANES = WARP / (ROWS * COLUMNS) }; /* that hold one sum */
  int64_t m = top + lane / LANES / COLUMNS, n = first + lane / LANES % COLUMNS;
  if (lane % LANES == 0 && m < M && n < N)
    out[m * N + n] = bias ? sum + load_weight(bias_dtype, bias, n) : sum;
}

struct dot_call {
  cuda_device *device;
  float *out;
  const float *x;
  const void *w, *bias;
  moon_dtype bias_dtype;
  int64_t M, N, K;
};

template <typename T, bool ALIGNED, int ROWS, int COLUMNS>
static moon_status run_dot(const dot_call *c, moon_err *err) {
  int64_t columns = COLUMNS * (THREADS / WARP);
  dim3 grid((unsigned)((c->N + columns - 1) / columns), (unsigned)((c->M + ROWS - 1) / ROWS));
  return launch(c->device, "linear", err, dot_kernel<T, ALIGNED, ROWS, COLUMNS>, grid, THREADS, 0,
                c->out, c->x, (const T *)c->w, c->bias, c->bias_dtype, c->M, c->N, c->K);
}

static bool is_aligned(const void *p) {
  return (uintptr_t)p % 16 == 0;
}

template <typename T>
static moon_status dot(const dot_call *c, moon_err *err) {
  enum { MOST_ROWS = 4 * 65535 }; /* of a grid's y */
  if (c->M > MOST_ROWS)
    return moon_fail(err, MOON_ESHAPE, "linear: found %lld rows, expected at most %d on a GPU",
                     (long long)c->M, MOST_ROWS);
  if (c->K % VECTOR || !is_aligned(c->x) || !is_aligned(c->w))
    return run_dot<T, false, 4, 2>(c, err);
  if (c->M == 1)
    return run_dot<T, true, 1, 2>(c, err);
  if (c->M <= 4)
    return run_dot<T, true, 4, 2>(c, err);
  return run_dot<T, true, 8, 4>(c, err);
}

/* The tensor cores */

static __global__ void bias_kernel(float *out, const void *bias, moon_dtype dtype, int64_t N,
                                   int64_t n) {
  for (int64_t i = first_element(); i < n; i += element_step())
    out[i] += load_weight(dtype, bias, i % N);
}

/* x rounded to bf16, as what the product takes. */
template <typename To>
static __global__ void round_kernel(To *out, const float *x, int64_t n) {
  for (int64_t i = first_element(); i < n; i += element_step()) {
    bf16 rounded;
    from_f32(&rounded, x[i]);
    from_f32(out + i, to_f32(rounded));
  }
}

template <typename To>
static moon_status round_activations(const dot_call *c, void **out, moon_err *err) {
  int64_t n = c->M * c->K;
  TRY(take_scratch(c->device, (size_t)n * sizeof(To), out, err));
  return launch(c->device, "linear", err, round_kernel<To>, blocks_for(n, THREADS), THREADS, 0,
                (To *)*out, c->x, n);
}

static moon_status linear_on_tensor_cores(const dot_call *c, moon_err *err) {
  int64_t n = c->M * c->N;
  void *x;
  TRY(round_activations<bf16>(c, &x, err));
  TRY(cublas_product(c->device, c->out, x, c->w, c->M, c->N, c->K, err));
  if (!c->bias)
    return MOON_OK;
  return launch(c->device, "linear", err, bias_kernel, blocks_for(n, THREADS), THREADS, 0, c->out,
                c->bias, c->bias_dtype, c->N, n);
}

static moon_status linear(const moon_tensor *out, const moon_tensor *x, const moon_tensor *w,
                          const moon_tensor *bias, moon_arithmetic arithmetic, moon_err *err) {
  dot_call c = {};
  c.device = device_of(out);
  c.out = (float *)moon_tensor_data(out);
  c.x = (const float *)moon_tensor_data(x);
  c.w = moon_tensor_data(w);
  c.bias = bias ? moon_tensor_data(bias) : NULL;
  c.bias_dtype = bias ? bias->dtype : MOON_F32;
  c.M = x->shape[0];
  c.N = w->shape[0];
  c.K = x->shape[1];
  if (c.M == 0 || c.N == 0)
    return MOON_OK;
  if (arithmetic == MOON_ARITHMETIC_BF16 && w->dtype == MOON_BF16 && c.K > 0) {
    if (c.K % 8 == 0 && c.N % 4 == 0 && is_aligned(c.w) && is_aligned(c.out))
      return linear_on_tensor_cores(&c, err);
    void *rounded;
    TRY(round_activations<float>(&c, &rounded, err));
    c.x = (const float *)rounded;
  }
  WITH_WEIGHT(w->dtype, return dot<T>(&c, err));
}

void add_matmul_ops(moon_ops *table) {
  table->linear = linear;
}

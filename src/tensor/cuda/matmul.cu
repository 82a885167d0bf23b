// SPDX-License-Identifier: MIT
/*
 * y [M][N] := x [M][K] w^T + bias, in one of two ways, chosen by dtype, K, N and the arithmetic,
 * never by M, so that a row has the same bits whatever stands beside it:
 *
 * - BF16 arithmetic with a bf16 weight: x is rounded to bf16 and cuBLASLt multiplies on the tensor
 *   cores (cublas.cu).
 * - Everything else: own kernels, all products of an x in one launch. A warp owns a few columns and
 *   rows; lane l sums the elements 8 l .. 8 l + 7 of every 256 along K in order, and a tree adds
 *   the lanes. How many rows and columns a warp owns changes what is loaded how often, not the
 *   order of a sum.
 */
#include "tensor/cuda/kernel.cuh"

enum { VECTOR = 8, CHUNK = WARP * VECTOR };

__device__ __forceinline__ float silu(float x) {
  return x / (1 + expf(-x));
}

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

/* One product of a call; its blocks along the grid's x begin at first_block. */
struct dot_part {
  float *out; /* [M][N] */
  const void *w, *bias;
  moon_dtype bias_dtype;
  int64_t N;
  unsigned first_block;
};

struct dot_call {
  dot_part parts[MOON_MAX_PRODUCTS];
  int n_parts;
  const float *x;
  int64_t M, K;
  bool add; /* to what is in out */
};

/* What a warp multiplies: COLUMNS rows of w, and where their sums go. PAIR: gate, up, gate, up. */
template <typename T, int COLUMNS, bool PAIR>
struct columns {
  const T *w[COLUMNS];
  const dot_part *part[COLUMNS];
  int64_t n[COLUMNS]; /* past the last column: N - 1 again, and the sum is dropped */
};

template <typename T, int COLUMNS, bool PAIR>
__device__ __forceinline__ columns<T, COLUMNS, PAIR> find_columns(const dot_call &c) {
  enum { EACH = PAIR ? COLUMNS / 2 : COLUMNS }; /* of one product */
  columns<T, COLUMNS, PAIR> found;
  int p = PAIR ? 0 : c.n_parts - 1;
  while (p > 0 && blockIdx.x < c.parts[p].first_block)
    p--;
  int64_t first =
      ((int64_t)(blockIdx.x - c.parts[p].first_block) * (THREADS / WARP) + threadIdx.x / WARP) *
      EACH;
#pragma unroll
  for (int i = 0; i < COLUMNS; i++) {
    const dot_part *part = &c.parts[PAIR ? i % 2 : p];
    int64_t n = first + (PAIR ? i / 2 : i);
    found.part[i] = part;
    found.n[i] = n;
    found.w[i] = (const T *)part->w + (n < part->N ? n : part->N - 1) * c.K;
  }
  return found;
}

/* Element k on of every column's row is on its way to the L2 cache. */
template <typename T, int COLUMNS, bool PAIR>
__device__ __forceinline__ void prefetch(const columns<T, COLUMNS, PAIR> &from, int64_t k,
                                         int64_t K) {
#pragma unroll
  for (int i = 0; i < COLUMNS; i++)
    if (k < K)
      prefetch_l2(from.w[i] + k);
}

template <int COLUMNS>
__device__ __forceinline__ void multiply_add(float *acc, const float *xs,
                                             const float (*ws)[VECTOR]) {
#pragma unroll
  for (int i = 0; i < COLUMNS; i++)
#pragma unroll
    for (int j = 0; j < VECTOR; j++)
      acc[i] = fmaf(xs[j], ws[i][j], acc[i]);
}

/* Row `top` + r of x; past the last one it again, whose sums are dropped. */
__device__ __forceinline__ const float *row_of(const dot_call &c, int64_t row) {
  return c.x + (row < c.M ? row : c.M - 1) * c.K;
}

/* Adds the products of STEPS * 256 elements of K, all of them there and aligned. The loads of w
 * come first and without a branch between them: all of them are on their way at once. */
template <int ROWS, int COLUMNS, int STEPS, typename T, bool PAIR>
__device__ __forceinline__ void add_steps(float *acc, const dot_call &c,
                                          const columns<T, COLUMNS, PAIR> &from, int64_t top,
                                          int64_t k) {
  packed_8<T> packed[STEPS][COLUMNS];
#pragma unroll
  for (int s = 0; s < STEPS; s++)
#pragma unroll
    for (int i = 0; i < COLUMNS; i++)
      load_packed(&packed[s][i], from.w[i] + k + s * CHUNK);
#pragma unroll
  for (int s = 0; s < STEPS; s++) {
    float ws[COLUMNS][VECTOR], xs[VECTOR];
#pragma unroll
    for (int i = 0; i < COLUMNS; i++)
      unpack(ws[i], packed[s][i]);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      load_8(xs, row_of(c, top + r) + k + s * CHUNK);
      multiply_add<COLUMNS>(acc + r * COLUMNS, xs, ws);
    }
  }
}

/* The same for up to 256 elements, or where rows lie anyhow. */
template <bool ALIGNED, int ROWS, int COLUMNS, typename T, bool PAIR>
__device__ __forceinline__ void add_rest(float *acc, const dot_call &c,
                                         const columns<T, COLUMNS, PAIR> &from, int64_t top,
                                         int64_t k) {
  float ws[COLUMNS][VECTOR], xs[VECTOR];
#pragma unroll
  for (int i = 0; i < COLUMNS; i++)
    load_part<ALIGNED>(ws[i], from.w[i], k, c.K);
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    load_part<ALIGNED>(xs, row_of(c, top + r), k, c.K);
    multiply_add<COLUMNS>(acc + r * COLUMNS, xs, ws);
  }
}

/* The sum that this lane holds: row m, column i of the warp's. LANES lanes hold one sum. */
template <typename T, int COLUMNS, bool PAIR, int LANES>
__device__ __forceinline__ void store_sum(const dot_call &c, const columns<T, COLUMNS, PAIR> &to,
                                          int64_t m, int i, float sum) {
  unsigned lane = threadIdx.x % WARP;
  const dot_part *part = to.part[0];
  int64_t n = to.n[0];
#pragma unroll
  for (int j = 1; j < COLUMNS; j++)
    if (i == j) {
      part = to.part[j];
      n = to.n[j];
    }
  if (part->bias && n < part->N)
    sum += load_weight(part->bias_dtype, part->bias, n);
  if (PAIR) { /* the lanes behind have the column's up */
    float up = __shfl_xor_sync(ALL_LANES, sum, LANES);
    sum = silu(sum) * up;
  }
  if (lane % LANES == 0 && (!PAIR || i % 2 == 0) && m < c.M && n < part->N) {
    float *place = part->out + m * part->N + n;
    *place = c.add ? *place + sum : sum;
  }
}

/* A block's warps own COLUMNS columns each, the grid's y ROWS rows. ROWS * COLUMNS divides 32. One
 * row: bound by reading w once. Many: by shared reads of x and w out of L1. */
template <typename T, bool ALIGNED, int ROWS, int COLUMNS, bool PAIR>
static __global__ void __launch_bounds__(THREADS) dot_kernel(const __grid_constant__ dot_call c) {
  enum { STEPS = ROWS == 1 ? 4 : 1, LANES = WARP / (ROWS * COLUMNS) };
  unsigned lane = threadIdx.x % WARP;
  columns<T, COLUMNS, PAIR> mine = find_columns<T, COLUMNS, PAIR>(c);
  int64_t top = (int64_t)blockIdx.y * ROWS, k = lane * VECTOR;
#pragma unroll
  for (int s = 0; s < STEPS; s++)
    prefetch(mine, k + s * CHUNK, c.K);
  wait_for_inputs();
  float acc[ROWS * COLUMNS] = {0};
  if (ALIGNED)
    for (; k - lane * VECTOR + STEPS * CHUNK <= c.K; k += STEPS * CHUNK)
      add_steps<ROWS, COLUMNS, STEPS>(acc, c, mine, top, k);
  for (; k < c.K; k += CHUNK)
    add_rest<ALIGNED, ROWS, COLUMNS>(acc, c, mine, top, k);
  float sum = reduce_lanes<ROWS * COLUMNS>(acc);
  store_sum<T, COLUMNS, PAIR, LANES>(c, mine, top + lane / LANES / COLUMNS,
                                     (int)(lane / LANES % COLUMNS), sum);
}

template <typename T, bool ALIGNED, int ROWS, int COLUMNS, bool PAIR>
static moon_status run_dot(cuda_device *d, dot_call *c, moon_err *err) {
  int64_t columns = (PAIR ? COLUMNS / 2 : COLUMNS) * (THREADS / WARP), blocks = 0;
  for (int i = 0; i < c->n_parts; i++) {
    c->parts[i].first_block = (unsigned)blocks;
    if (!PAIR || i == 0)
      blocks += (c->parts[i].N + columns - 1) / columns;
  }
  dim3 grid((unsigned)blocks, (unsigned)((c->M + ROWS - 1) / ROWS));
  return launch_early(d, "linear", err, dot_kernel<T, ALIGNED, ROWS, COLUMNS, PAIR>, grid, THREADS,
                      0, *c);
}

static bool is_aligned(const void *p) {
  return (uintptr_t)p % 16 == 0;
}

template <typename T, bool PAIR>
static moon_status dot(cuda_device *d, dot_call *c, moon_err *err) {
  enum { MOST_ROWS = 4 * 65535 }; /* of a grid's y */
  if (c->M > MOST_ROWS)
    return moon_fail(err, MOON_ESHAPE, "linear: found %lld rows, expected at most %d on a GPU",
                     (long long)c->M, MOST_ROWS);
  bool aligned = c->K % VECTOR == 0 && is_aligned(c->x);
  for (int i = 0; i < c->n_parts; i++)
    aligned = aligned && is_aligned(c->parts[i].w);
  if (!aligned)
    return run_dot<T, false, 4, 2, PAIR>(d, c, err);
  if (c->M == 1)
    return run_dot<T, true, 1, 2, PAIR>(d, c, err);
  if (c->M <= 4)
    return run_dot<T, true, 4, 2, PAIR>(d, c, err);
  return run_dot<T, true, 8, 4, PAIR>(d, c, err);
}

static dot_call new_call(const float *x, int64_t M, int64_t K, bool add) {
  dot_call c = {};
  c.x = x;
  c.M = M;
  c.K = K;
  c.add = add;
  return c;
}

static void add_part(dot_call *c, const moon_product *p) {
  dot_part *part = &c->parts[c->n_parts++];
  part->out = (float *)moon_tensor_data(&p->out);
  part->w = moon_tensor_data(&p->w);
  part->bias = p->bias.storage ? moon_tensor_data(&p->bias) : NULL;
  part->bias_dtype = part->bias ? p->bias.dtype : MOON_F32;
  part->N = p->w.shape[0];
}

/* Products of one weight dtype on own kernels. */
static moon_status run_own(cuda_device *d, dot_call *c, moon_dtype dtype, bool pair,
                           moon_err *err) {
  if (pair)
    WITH_WEIGHT(dtype, return dot<T, true>(d, c, err));
  WITH_WEIGHT(dtype, return dot<T, false>(d, c, err));
}

/* The tensor cores */

static __global__ void bias_kernel(float *out, const void *bias, moon_dtype dtype, int64_t N,
                                   int64_t n) {
  for (int64_t i = first_element(); i < n; i += element_step())
    out[i] += load_weight(dtype, bias, i % N);
}

static __global__ void add_kernel(float *out, const float *y, int64_t n) {
  for (int64_t i = first_element(); i < n; i += element_step())
    out[i] += y[i];
}

/* gate := silu(gate) * up */
static __global__ void swiglu_kernel(float *gate, const float *up, int64_t n) {
  for (int64_t i = first_element(); i < n; i += element_step())
    gate[i] = silu(gate[i]) * up[i];
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

/* One call on its way. x is rounded at most once in each form; both forms and, where a bias comes
 * before an addition, the product lie in the scratch. */
struct batch {
  cuda_device *device;
  const moon_tensor *x;
  moon_epilogue epilogue;
  moon_arithmetic arithmetic;
  bf16 *half;   /* [M][K], or NULL: not made yet */
  float *whole; /* the same in f32 */
  float *y;     /* [M][widest N] */
};

static bool rounds(const batch *b, const moon_product *p) {
  return b->arithmetic == MOON_ARITHMETIC_BF16 && p->w.dtype == MOON_BF16;
}

static bool on_tensor_cores(const batch *b, const moon_product *p) {
  int64_t K = p->w.shape[1], N = p->w.shape[0];
  return rounds(b, p) && K > 0 && K % 8 == 0 && N % 4 == 0 && is_aligned(moon_tensor_data(&p->w)) &&
         is_aligned(moon_tensor_data(&p->out));
}

static size_t padded(int64_t size) {
  return ((size_t)size + 255) / 256 * 256;
}

static moon_status start_batch(batch *b, const moon_product *list, int n, moon_err *err) {
  int64_t M = b->x->shape[0], K = b->x->shape[1], widest = 0;
  bool half = false, whole = false;
  for (int i = 0; i < n; i++) {
    half = half || on_tensor_cores(b, &list[i]);
    whole = whole || (rounds(b, &list[i]) && !on_tensor_cores(b, &list[i]));
    if (b->epilogue == MOON_ADD_TO && list[i].bias.storage && list[i].w.shape[0] > widest)
      widest = list[i].w.shape[0];
  }
  size_t half_size = half ? padded(M * K * 2) : 0, whole_size = whole ? padded(M * K * 4) : 0;
  size_t size = half_size + whole_size + (half ? (size_t)(M * widest * 4) : 0);
  char *scratch = NULL;
  if (size > 0)
    TRY(take_scratch(b->device, size, (void **)&scratch, err));
  const float *x = (const float *)moon_tensor_data(b->x);
  if (half) {
    b->half = (bf16 *)scratch;
    b->y = (float *)(scratch + half_size + whole_size);
    TRY(launch(b->device, "linear", err, round_kernel<bf16>, blocks_for(M * K, THREADS), THREADS, 0,
               b->half, x, M * K));
  }
  if (whole) {
    b->whole = (float *)(scratch + half_size);
    TRY(launch(b->device, "linear", err, round_kernel<float>, blocks_for(M * K, THREADS), THREADS,
               0, b->whole, x, M * K));
  }
  return MOON_OK;
}

static moon_status run_on_tensor_cores(const batch *b, const moon_product *p, moon_err *err) {
  int64_t M = b->x->shape[0], K = p->w.shape[1], N = p->w.shape[0], n = M * N;
  float *out = (float *)moon_tensor_data(&p->out);
  bool add = b->epilogue == MOON_ADD_TO, apart = add && p->bias.storage;
  float *y = apart ? b->y : out;
  TRY(cublas_product(b->device, y, b->half, moon_tensor_data(&p->w), add && !apart, M, N, K, err));
  if (p->bias.storage)
    TRY(launch(b->device, "linear", err, bias_kernel, blocks_for(n, THREADS), THREADS, 0, y,
               moon_tensor_data(&p->bias), p->bias.dtype, N, n));
  if (!apart)
    return MOON_OK;
  return launch(b->device, "linear", err, add_kernel, blocks_for(n, THREADS), THREADS, 0, out, y,
                n);
}

static const float *own_x(const batch *b, const moon_product *p) {
  return rounds(b, p) ? b->whole : (const float *)moon_tensor_data(b->x);
}

/* Products first .. of one dtype and the same x, which one launch takes; returns how many. */
static int count_alike(const batch *b, const moon_product *list, int n) {
  int alike = 1;
  while (alike < n && list[alike].w.dtype == list[0].w.dtype && !on_tensor_cores(b, &list[alike]))
    alike++;
  return alike;
}

static moon_status run_products(const batch *b, const moon_product *list, int n, moon_err *err) {
  for (int i = 0, alike; i < n; i += alike) {
    alike = 1;
    if (on_tensor_cores(b, &list[i])) {
      TRY(run_on_tensor_cores(b, &list[i], err));
      continue;
    }
    alike = count_alike(b, list + i, n - i);
    dot_call c =
        new_call(own_x(b, &list[i]), b->x->shape[0], b->x->shape[1], b->epilogue == MOON_ADD_TO);
    for (int j = i; j < i + alike; j++)
      add_part(&c, &list[j]);
    TRY(run_own(b->device, &c, list[i].w.dtype, false, err));
  }
  return MOON_OK;
}

static moon_status run_pair(const batch *b, const moon_product *list, moon_err *err) {
  dot_call c = new_call(own_x(b, &list[0]), b->x->shape[0], b->x->shape[1], false);
  add_part(&c, &list[0]);
  add_part(&c, &list[1]);
  return run_own(b->device, &c, list[0].w.dtype, true, err);
}

static moon_status products(const moon_product *list, int n, const moon_tensor *x,
                            moon_epilogue epilogue, moon_arithmetic arithmetic, moon_err *err) {
  batch b = {device_of(x), x, epilogue, arithmetic, NULL, NULL, NULL};
  int64_t count = x->shape[0] * list[0].w.shape[0];
  if (x->shape[0] == 0)
    return MOON_OK;
  TRY(start_batch(&b, list, n, err));
  bool pair = epilogue == MOON_SWIGLU;
  if (pair && !on_tensor_cores(&b, &list[0]) && count_alike(&b, list, n) == n)
    return run_pair(&b, list, err);
  TRY(run_products(&b, list, n, err));
  if (!pair)
    return MOON_OK;
  return launch(b.device, "swiglu", err, swiglu_kernel, blocks_for(count, THREADS), THREADS, 0,
                (float *)moon_tensor_data(&list[0].out),
                (const float *)moon_tensor_data(&list[1].out), count);
}

void add_matmul_ops(moon_ops *table) {
  table->products = products;
}

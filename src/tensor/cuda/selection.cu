// SPDX-License-Identifier: MIT
/*
 * The k largest of a row: topk, and the TopK activation of an SAE.
 *
 * Each element has a rank key (kernel.cuh) that no other element shares, so "the k largest" is "the
 * keys that are not below the k-th", which a radix search finds in eight passes over the row, 8
 * bits each. One block per row; bound by reading the row, out of L2 after the first time.
 */
#include "tensor/cuda/kernel.cuh"

enum { SELECT_THREADS = 512, N_BINS = 256 };

/* The k-th largest key of the row, 1 <= k <= n. */
__device__ static unsigned long long kth_key(const float *row, int64_t n, int64_t k) {
  __shared__ unsigned counts[N_BINS];
  __shared__ unsigned chosen;
  __shared__ unsigned long long left; /* the one sought is the left-th of those with the prefix */
  unsigned long long prefix = 0, known = 0;
  if (threadIdx.x == 0)
    left = (unsigned long long)k;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (unsigned bin = threadIdx.x; bin < N_BINS; bin += blockDim.x)
      counts[bin] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      unsigned long long key = rank_key(row[i], i);
      if ((key & known) == prefix)
        atomicAdd(&counts[key >> shift & 0xff], 1u);
    }
    __syncthreads();
    unsigned long long larger = 0, wanted = left;
    for (unsigned bin = threadIdx.x + 1; bin < N_BINS; bin++)
      larger += counts[bin];
    __syncthreads();
    if (threadIdx.x < N_BINS && larger < wanted && wanted <= larger + counts[threadIdx.x]) {
      chosen = threadIdx.x;
      left = wanted - larger;
    }
    __syncthreads();
    prefix |= (unsigned long long)chosen << shift;
    known |= 0xffull << shift;
  }
  return prefix;
}

/* keys [padded], a power of two, descending. */
__device__ static void sort_keys(unsigned long long *keys, int64_t padded) {
  for (int64_t size = 2; size <= padded; size *= 2)
    for (int64_t gap = size / 2; gap > 0; gap /= 2) {
      __syncthreads();
      for (int64_t i = threadIdx.x; i < padded; i += blockDim.x) {
        int64_t other = i ^ gap;
        if (other < i) /* the lower of a pair does it */
          continue;
        unsigned long long a = keys[i], b = keys[other];
        if ((i & size) == 0 ? a < b : a > b) {
          keys[i] = b;
          keys[other] = a;
        }
      }
    }
  __syncthreads();
}

/* keys: scratch [rows][padded]. The order in which keys are gathered does not matter: they are
 * sorted, and no two are equal. */
static __global__ void topk_kernel(float *values, int64_t *indices, unsigned long long *keys,
                                   const float *a, int64_t n, int64_t k, int64_t padded) {
  __shared__ unsigned found;
  const float *row = a + (int64_t)blockIdx.x * n;
  unsigned long long *mine = keys + (int64_t)blockIdx.x * padded;
  unsigned long long least = kth_key(row, n, k);
  if (threadIdx.x == 0)
    found = 0;
  for (int64_t i = k + threadIdx.x; i < padded; i += blockDim.x)
    mine[i] = 0;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    unsigned long long key = rank_key(row[i], i);
    if (key >= least)
      mine[atomicAdd(&found, 1u)] = key;
  }
  sort_keys(mine, padded);
  for (int64_t i = threadIdx.x; i < k; i += blockDim.x) {
    int64_t index = index_of_key(mine[i]);
    values[(int64_t)blockIdx.x * k + i] = row[index];
    indices[(int64_t)blockIdx.x * k + i] = index;
  }
}

static moon_status check_rows(const char *op, const moon_tensor *a, moon_err *err) {
  if (a->shape[0] <= INT32_MAX && a->shape[1] <= INT32_MAX)
    return MOON_OK;
  return moon_fail(err, MOON_ESHAPE,
                   "%s: found %lld rows of %lld columns, expected less than 2^31 on a GPU", op,
                   (long long)a->shape[0], (long long)a->shape[1]);
}

static moon_status topk(const moon_tensor *values, const moon_tensor *indices, const moon_tensor *a,
                        moon_err *err) {
  int64_t rows = a->shape[0], k = values->shape[1], padded = 1;
  void *keys;
  TRY(check_rows("topk", a, err));
  if (rows == 0 || k == 0)
    return MOON_OK;
  while (padded < k)
    padded *= 2;
  TRY(take_scratch(device_of(a), (size_t)(rows * padded) * 8, &keys, err));
  return launch(device_of(a), "topk", err, topk_kernel, dim3((unsigned)rows), SELECT_THREADS, 0,
                (float *)moon_tensor_data(values), (int64_t *)moon_tensor_data(indices),
                (unsigned long long *)keys, (const float *)moon_tensor_data(a), a->shape[1], k,
                padded);
}

/* Per feature, each [d_sae] or NULL: bias is added first; only what lies above threshold stays, and
 * gain and offset are applied to it. */
struct gates {
  const void *bias;
  moon_dtype bias_dtype;
  const float *threshold, *gain, *offset;
};

__device__ __forceinline__ float with_bias(const gates &g, float x, int64_t i) {
  return g.bias ? x + load_weight(g.bias_dtype, g.bias, i) : x;
}

/* Grid (columns, rows). relu of what stays; NaN stays. */
static __global__ void relu_kernel(float *f, gates g, int64_t d_sae) {
  int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= d_sae)
    return;
  float *place = f + (int64_t)blockIdx.y * d_sae + i, x = with_bias(g, *place, i);
  bool open = !g.threshold || above(x, g.threshold[i]);
  if (g.gain)
    x = fmaf(g.gain[i], x, g.offset[i]);
  *place = open && above(x, 0) ? x : 0;
}

static __global__ void gelu_kernel(float *f, gates g, int64_t d_sae) {
  int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= d_sae)
    return;
  float *place = f + (int64_t)blockIdx.y * d_sae + i, x = with_bias(g, *place, i);
  *place = 0.5f * x * erfcf(-x * 0.70710678118654752f);
}

static const float *data(const moon_tensor *t) {
  return (const float *)moon_tensor_data(t);
}

/* After relu: what is not among the row's k largest becomes 0; NaN stays. */
static __global__ void keep_largest_kernel(float *f, int64_t d_sae, int64_t k) {
  float *row = f + (int64_t)blockIdx.x * d_sae;
  unsigned long long least = kth_key(row, d_sae, k);
  for (int64_t i = threadIdx.x; i < d_sae; i += blockDim.x)
    if (rank_key(row[i], i) < least && !isnan(row[i]))
      row[i] = 0;
}

static gates gates_of(const moon_activation *activation, const moon_tensor *bias) {
  bool gated = activation->kind == MOON_ACTIVATION_GATED;
  gates g = {};
  g.bias = bias ? moon_tensor_data(bias) : NULL;
  g.bias_dtype = bias ? bias->dtype : MOON_F32;
  if (gated || activation->kind == MOON_ACTIVATION_JUMPRELU)
    g.threshold = data(&activation->threshold);
  if (gated) {
    g.gain = data(&activation->gain);
    g.offset = data(&activation->offset);
  }
  return g;
}

/* At most MOST_ROWS rows. */
static moon_status activate_rows(cuda_device *d, float *f, int64_t rows, int64_t d_sae,
                                 const moon_activation *activation, const moon_tensor *bias,
                                 moon_err *err) {
  dim3 grid((unsigned)((d_sae + THREADS - 1) / THREADS), (unsigned)rows);
  bool gelu = activation->kind == MOON_ACTIVATION_GELU;
  TRY(launch(d, "sae_activate", err, gelu ? gelu_kernel : relu_kernel, grid, THREADS, 0, f,
             gates_of(activation, bias), d_sae));
  if (activation->kind != MOON_ACTIVATION_TOPK)
    return MOON_OK;
  return launch(d, "sae_activate", err, keep_largest_kernel, dim3((unsigned)rows), SELECT_THREADS,
                0, f, d_sae, activation->k);
}

static moon_status sae_activate(const moon_tensor *f, const moon_tensor *bias,
                                const moon_activation *activation, moon_err *err) {
  const int64_t MOST_ROWS = 65535; /* of a grid's y */
  int64_t rows = f->shape[0], d_sae = f->shape[1];
  TRY(check_rows("sae_activate", f, err));
  for (int64_t first = 0; first < rows; first += MOST_ROWS)
    TRY(activate_rows(device_of(f), (float *)moon_tensor_data(f) + first * d_sae,
                      rows - first < MOST_ROWS ? rows - first : MOST_ROWS, d_sae, activation, bias,
                      err));
  return MOON_OK;
}

void add_selection_ops(moon_ops *table) {
  table->topk = topk;
  table->sae_activate = sae_activate;
}

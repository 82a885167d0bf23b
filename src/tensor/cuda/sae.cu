// SPDX-License-Identifier: MIT
/* Sparse features: compact, decode, edit, and rows added to the stream. Bound by memory. */
#include "tensor/cuda/kernel.cuh"

enum { COMPACT_THREADS = 512, EACH = 4 }; /* threads of a row, elements of a thread at a time */

/* Elements first .. first + EACH - 1 of a row; zeros beyond its end. */
__device__ __forceinline__ void load_elements(float *out, const float *row, int64_t first,
                                              int64_t n) {
  if (n % EACH == 0 && first < n) { /* rows begin at 16 bytes then */
    float4 v = *(const float4 *)(row + first);
    out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
    return;
  }
#pragma unroll
  for (int j = 0; j < EACH; j++)
    out[j] = first + j < n ? row[first + j] : 0;
}

/* One block per row. */
static __global__ void count_kernel(int32_t *counts, const float *f, int64_t n) {
  const float *row = f + (int64_t)blockIdx.x * n;
  int mine = 0;
  for (int64_t first = threadIdx.x * EACH; first < n; first += COMPACT_THREADS * EACH) {
    float value[EACH];
    load_elements(value, row, first, n);
#pragma unroll
    for (int j = 0; j < EACH; j++)
      mine += value[j] != 0;
  }
  int all = block_reduce(mine, 0, sum_of());
  if (threadIdx.x == 0)
    counts[blockIdx.x] = all;
}

static moon_status sae_count(const moon_tensor *counts, const moon_tensor *f, moon_err *err) {
  return launch(device_of(f), "sae_count", err, count_kernel, dim3((unsigned)f->shape[0]),
                COMPACT_THREADS, 0, (int32_t *)moon_tensor_data(counts),
                (const float *)moon_tensor_data(f), f->shape[1]);
}

/* The nonzero elements of a row in ascending order, one block per row: each warp counts its own in
 * a stretch of the row, a scan over the warps says where they go. */
static __global__ void compact_kernel(int32_t *indices, float *values, const int64_t *starts,
                                      const float *f, int64_t n) {
  __shared__ unsigned in_warp[WARP];
  const float *row = f + (int64_t)blockIdx.x * n;
  unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, below = (1u << lane) - 1;
  int64_t next = starts[blockIdx.x];
  for (int64_t stretch = 0; stretch < n; stretch += COMPACT_THREADS * EACH) {
    int64_t first = stretch + threadIdx.x * EACH;
    float value[EACH];
    load_elements(value, row, first, n);
    unsigned mine = 0, total = 0; /* of the warp: in lanes below, in all */
#pragma unroll
    for (int j = 0; j < EACH; j++) {
      unsigned active = __ballot_sync(ALL_LANES, value[j] != 0);
      mine += (unsigned)__popc(active & below);
      total += (unsigned)__popc(active);
    }
    if (lane == 0)
      in_warp[warp] = total;
    __syncthreads();
    unsigned before = 0, all = 0;
    for (unsigned w = 0; w < COMPACT_THREADS / WARP; w++) {
      before += w < warp ? in_warp[w] : 0;
      all += in_warp[w];
    }
    int64_t at = next + before + mine;
#pragma unroll
    for (int j = 0; j < EACH; j++)
      if (value[j] != 0) {
        indices[at] = (int32_t)(first + j);
        values[at++] = value[j];
      }
    next += all;
    __syncthreads();
  }
}

static moon_status sae_compact(const moon_sparse *out, const moon_tensor *f, moon_err *err) {
  return launch(device_of(f), "sae_compact", err, compact_kernel, dim3((unsigned)out->n_rows),
                COMPACT_THREADS, 0, (int32_t *)moon_tensor_data(&out->indices),
                (float *)moon_tensor_data(&out->values),
                (const int64_t *)moon_tensor_data(&out->starts), (const float *)moon_tensor_data(f),
                out->n_columns);
}

/* b_dec + sum of value * w_dec[index], in the row's order. Block (row, stretch of d_model). */
template <typename T>
static __global__ void decode_kernel(float *out, const int64_t *starts, const int32_t *counts,
                                     const int32_t *indices, const float *values, const T *w,
                                     const void *b, moon_dtype b_dtype, int64_t d) {
  int64_t t = blockIdx.x, i = (int64_t)blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= d)
    return;
  float y = load_weight(b_dtype, b, i);
  for (int64_t e = starts[t]; e < starts[t] + counts[t]; e++)
    y = fmaf(values[e], to_f32(w[indices[e] * d + i]), y);
  out[t * d + i] = y;
}

static dim3 row_blocks(int64_t rows, int64_t d) {
  return dim3((unsigned)rows, (unsigned)((d + THREADS - 1) / THREADS));
}

static moon_status sae_decode(const moon_tensor *out, const moon_sparse *f,
                              const moon_tensor *w_dec, const moon_tensor *b_dec, moon_err *err) {
  int64_t d = w_dec->shape[1];
  WITH_WEIGHT(
      w_dec->dtype,
      return launch(device_of(out), "sae_decode", err, decode_kernel<T>, row_blocks(f->n_rows, d),
                    THREADS, 0, (float *)moon_tensor_data(out),
                    (const int64_t *)moon_tensor_data(&f->starts),
                    (const int32_t *)moon_tensor_data(&f->counts),
                    (const int32_t *)moon_tensor_data(&f->indices),
                    (const float *)moon_tensor_data(&f->values), (const T *)moon_tensor_data(w_dec),
                    moon_tensor_data(b_dec), b_dec->dtype, d));
}

/* One thread per row and edited feature; see moon_op_sae_edit. f may be NULL. */
static __global__ void edit_kernel(float *delta, float *f, const int32_t *features,
                                   const moon_edit_step *steps, int n_steps, const uint8_t *mask,
                                   int64_t d_sae, int64_t m, int64_t n) {
  for (int64_t i = first_element(); i < n; i += element_step()) {
    int64_t t = i / m, j = i % m;
    float *feature = f ? f + t * d_sae + features[j] : NULL;
    float before = feature ? *feature : 0, now = before, change = 0;
    for (int e = 0; e < n_steps; e++) {
      if (!mask[t * n_steps + e] || steps[e].slot != j)
        continue;
      if (steps[e].op == MOON_EDIT_ADD) {
        now += steps[e].value;
        change += steps[e].value;
      } else {
        now = steps[e].op == MOON_EDIT_SET ? steps[e].value : now * steps[e].value;
        change = now == before ? 0 : now - before; /* equal infinities differ by nothing */
      }
    }
    delta[i] = change;
    if (feature)
      *feature = now;
  }
}

static moon_status sae_edit(const moon_tensor *delta, const moon_tensor *f,
                            const moon_tensor *features, const moon_edit_step *steps, int n_steps,
                            const moon_tensor *mask, moon_err *err) {
  cuda_device *d = device_of(delta);
  size_t size = (size_t)n_steps * sizeof *steps;
  int64_t m = features->shape[0], n = delta->shape[0] * m;
  void *on_device;
  TRY(take_scratch(d, size, &on_device, err));
  TRY(cuda_upload(&d->base, on_device, steps, size, err));
  return launch(d, "sae_edit", err, edit_kernel, blocks_for(n, THREADS), THREADS, 0,
                (float *)moon_tensor_data(delta), f ? (float *)moon_tensor_data(f) : NULL,
                (const int32_t *)moon_tensor_data(features), (const moon_edit_step *)on_device,
                n_steps, (const uint8_t *)moon_tensor_data(mask), f ? f->shape[1] : 0, m, n);
}

/* x[t] += sum over j of coefficients[t][j] * w[rows[j]], in the order of j. */
template <typename T>
static __global__ void axpy_kernel(float *x, const float *coefficients, const int32_t *rows,
                                   const T *w, int64_t m, int64_t d) {
  int64_t t = blockIdx.x, i = (int64_t)blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= d)
    return;
  float y = x[t * d + i];
  for (int64_t j = 0; j < m; j++) {
    float c = coefficients[t * m + j];
    if (c != 0) /* NaN too; a zero leaves every bit of x */
      y = fmaf(c, to_f32(w[rows[j] * d + i]), y);
  }
  x[t * d + i] = y;
}

static moon_status axpy_rows(const moon_tensor *x, const moon_tensor *coefficients,
                             const moon_tensor *rows, const moon_tensor *w, moon_err *err) {
  WITH_WEIGHT(w->dtype, return launch(device_of(x), "axpy_rows", err, axpy_kernel<T>,
                                      row_blocks(x->shape[0], x->shape[1]), THREADS, 0,
                                      (float *)moon_tensor_data(x),
                                      (const float *)moon_tensor_data(coefficients),
                                      (const int32_t *)moon_tensor_data(rows),
                                      (const T *)moon_tensor_data(w), rows->shape[0], x->shape[1]));
}

void add_sae_ops(moon_ops *table) {
  table->sae_count = sae_count;
  table->sae_compact = sae_compact;
  table->sae_decode = sae_decode;
  table->sae_edit = sae_edit;
  table->axpy_rows = axpy_rows;
}

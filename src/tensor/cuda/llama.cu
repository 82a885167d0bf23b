// SPDX-License-Identifier: MIT
/* The Llama's operations but attention. All of them are bound by memory. */
#include "tensor/cuda/kernel.cuh"

template <typename T>
static __global__ void embed_kernel(float *out, const T *table, const int32_t *ids, int64_t d) {
  int64_t t = blockIdx.x;
  const T *row = table + ids[t] * d;
  for (int64_t i = threadIdx.x; i < d; i += blockDim.x)
    out[t * d + i] = to_f32(row[i]);
}

static moon_status embed(const moon_tensor *out, const moon_tensor *table, const moon_tensor *ids,
                         moon_err *err) {
  WITH_WEIGHT(
      table->dtype,
      return launch(device_of(out), "embed", err, embed_kernel<T>, dim3((unsigned)ids->shape[0]),
                    THREADS, 0, (float *)moon_tensor_data(out), (const T *)moon_tensor_data(table),
                    (const int32_t *)moon_tensor_data(ids), table->shape[1]));
}

/* w x / sqrt(mean(x^2) + eps), one block per row; out may be x. */
template <typename T>
static __global__ void rms_norm_kernel(float *out, const float *x, const T *w, int64_t d,
                                       float eps) {
  const float *row = x + (int64_t)blockIdx.x * d;
  float *y = out + (int64_t)blockIdx.x * d, sum = 0;
  for (int64_t i = threadIdx.x; i < d; i += blockDim.x)
    sum = fmaf(row[i], row[i], sum);
  float scale = 1 / sqrtf(block_reduce(sum, 0.0f, sum_of()) / (float)d + eps);
  for (int64_t i = threadIdx.x; i < d; i += blockDim.x)
    y[i] = row[i] * scale * to_f32(w[i]);
}

static moon_status rms_norm(const moon_tensor *out, const moon_tensor *x, const moon_tensor *w,
                            float eps, moon_err *err) {
  WITH_WEIGHT(w->dtype,
              return launch(device_of(out), "rms_norm", err, rms_norm_kernel<T>,
                            dim3((unsigned)x->shape[0]), THREADS, 0, (float *)moon_tensor_data(out),
                            (const float *)moon_tensor_data(x), (const T *)moon_tensor_data(w),
                            x->shape[1], eps));
}

/* (a, b) -> (a cos - b sin, b cos + a sin) for the halves of each head; n pairs in all. */
static __global__ void rope_kernel(float *x, const float *cos, const float *sin,
                                   const int32_t *positions, int64_t n_heads, int64_t n_pairs,
                                   int64_t n) {
  for (int64_t i = first_element(); i < n; i += element_step()) {
    int64_t head = i / n_pairs, j = i % n_pairs; /* head counts over all rows */
    int64_t at = positions[head / n_heads] * n_pairs + j;
    float *a = x + head * 2 * n_pairs + j, *b = a + n_pairs;
    float first = *a * cos[at] - *b * sin[at];
    *b = *b * cos[at] + *a * sin[at];
    *a = first;
  }
}

static moon_status rope(const moon_tensor *x, const moon_tensor *cos, const moon_tensor *sin,
                        const moon_tensor *positions, moon_err *err) {
  int64_t n_pairs = cos->shape[1], n = x->shape[0] * x->shape[1] * n_pairs;
  return launch(device_of(x), "rope", err, rope_kernel, blocks_for(n, THREADS), THREADS, 0,
                (float *)moon_tensor_data(x), (const float *)moon_tensor_data(cos),
                (const float *)moon_tensor_data(sin), (const int32_t *)moon_tensor_data(positions),
                x->shape[1], n_pairs, n);
}

/* cache [n_heads][n_ctx][d_head] gets x [n_tok][n_heads][d_head] at the rows of positions. */
template <typename T>
static __global__ void kv_append_kernel(T *cache, const float *x, const int32_t *positions,
                                        int64_t n_heads, int64_t n_ctx, int64_t d_head, int64_t n) {
  for (int64_t i = first_element(); i < n; i += element_step()) {
    int64_t head = i / d_head % n_heads, t = i / d_head / n_heads;
    from_f32(cache + (head * n_ctx + positions[t]) * d_head + i % d_head, x[i]);
  }
}

static moon_status kv_append(const moon_tensor *cache, const moon_tensor *x,
                             const moon_tensor *positions, moon_err *err) {
  int64_t n = x->shape[0] * x->shape[1] * x->shape[2];
  WITH_WEIGHT(
      cache->dtype,
      return launch(device_of(x), "kv_append", err, kv_append_kernel<T>, blocks_for(n, THREADS),
                    THREADS, 0, (T *)moon_tensor_data(cache), (const float *)moon_tensor_data(x),
                    (const int32_t *)moon_tensor_data(positions), cache->shape[0], cache->shape[1],
                    cache->shape[2], n));
}

/* gate / (1 + exp(-gate)) * up; out may be either. */
static __global__ void swiglu_kernel(float *out, const float *gate, const float *up, int64_t n) {
  for (int64_t i = first_element(); i < n; i += element_step())
    out[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

static moon_status swiglu(const moon_tensor *out, const moon_tensor *gate, const moon_tensor *up,
                          moon_err *err) {
  int64_t n = 1;
  for (int i = 0; i < out->rank; i++)
    n *= out->shape[i];
  return launch(device_of(out), "swiglu", err, swiglu_kernel, blocks_for(n, THREADS), THREADS, 0,
                (float *)moon_tensor_data(out), (const float *)moon_tensor_data(gate),
                (const float *)moon_tensor_data(up), n);
}

void add_llama_ops(moon_ops *table) {
  table->embed = embed;
  table->rms_norm = rms_norm;
  table->rope = rope;
  table->kv_append = kv_append;
  table->swiglu = swiglu;
}

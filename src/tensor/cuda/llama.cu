// SPDX-License-Identifier: MIT
/* The Llama's operations but products and attention. All of them are bound by memory. */
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

/* w x / sqrt(mean(x^2) + eps), one block per row; out may be x. A decode step waits for its one
 * block: as many threads as there can be, each with four elements at a time where rows allow it. */
template <typename T>
static __global__ void __launch_bounds__(MOST_THREADS)
    rms_norm_kernel(float *out, const float *x, const T *w, int64_t d, float eps) {
  wait_for_inputs();
  const float *row = x + (int64_t)blockIdx.x * d;
  float *y = out + (int64_t)blockIdx.x * d, sum = 0;
  if (d % 4 == 0)
    for (int64_t i = threadIdx.x; i < d / 4; i += blockDim.x) {
      float4 v = ((const float4 *)row)[i];
      sum = fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
    }
  else
    for (int64_t i = threadIdx.x; i < d; i += blockDim.x)
      sum = fmaf(row[i], row[i], sum);
  float mean = block_reduce(sum, 0.0f, sum_of()) / (float)d;
  float scale = isinf(mean) ? NAN : 1 / sqrtf(mean + eps);
  for (int64_t i = threadIdx.x; i < d; i += blockDim.x)
    y[i] = row[i] * scale * to_f32(w[i]);
}

static moon_status rms_norm(const moon_tensor *out, const moon_tensor *x, const moon_tensor *w,
                            float eps, moon_err *err) {
  WITH_WEIGHT(w->dtype, return launch_early(device_of(out), "rms_norm", err, rms_norm_kernel<T>,
                                            dim3((unsigned)x->shape[0]), MOST_THREADS, 0,
                                            (float *)moon_tensor_data(out),
                                            (const float *)moon_tensor_data(x),
                                            (const T *)moon_tensor_data(w), x->shape[1], eps));
}

/* Heads of a token: [n_tok][n_heads][2 * n_pairs]. */
struct heads {
  float *data;
  int64_t n_heads;
};

/* (a, b) -> (a cos - b sin, b cos + a sin) for the halves of each head; n pairs in all, those of k
 * behind those of q within a token. */
static __global__ void rope_kernel(heads q, heads k, const float *cos, const float *sin,
                                   const int32_t *positions, int64_t n_pairs, int64_t n) {
  wait_for_inputs();
  for (int64_t i = first_element(); i < n; i += element_step()) {
    int64_t head = i / n_pairs % (q.n_heads + k.n_heads), j = i % n_pairs;
    int64_t t = i / n_pairs / (q.n_heads + k.n_heads), at = positions[t] * n_pairs + j;
    bool is_q = head < q.n_heads;
    float *x = is_q ? q.data + (t * q.n_heads + head) * 2 * n_pairs
                    : k.data + (t * k.n_heads + head - q.n_heads) * 2 * n_pairs;
    float *a = x + j, *b = a + n_pairs;
    float first = *a * cos[at] - *b * sin[at];
    *b = *b * cos[at] + *a * sin[at];
    *a = first;
  }
}

static moon_status rope(const moon_tensor *q, const moon_tensor *k, const moon_tensor *cos,
                        const moon_tensor *sin, const moon_tensor *positions, moon_err *err) {
  heads qs = {(float *)moon_tensor_data(q), q->shape[1]};
  heads ks = {(float *)moon_tensor_data(k), k->shape[1]};
  int64_t n_pairs = cos->shape[1], n = q->shape[0] * (qs.n_heads + ks.n_heads) * n_pairs;
  return launch_early(device_of(q), "rope", err, rope_kernel, blocks_for(n, THREADS), THREADS, 0,
                      qs, ks, (const float *)moon_tensor_data(cos),
                      (const float *)moon_tensor_data(sin),
                      (const int32_t *)moon_tensor_data(positions), n_pairs, n);
}

/* The caches [n_heads][n_ctx][d_head] get k and v [n_tok][n_heads][d_head] at the rows of
 * positions. */
template <typename T>
static __global__ void kv_append_kernel(T *k_cache, T *v_cache, const float *k, const float *v,
                                        const int32_t *positions, int64_t n_heads, int64_t n_ctx,
                                        int64_t d_head, int64_t n) {
  wait_for_inputs();
  for (int64_t i = first_element(); i < n; i += element_step()) {
    int64_t head = i / d_head % n_heads, t = i / d_head / n_heads;
    int64_t at = (head * n_ctx + positions[t]) * d_head + i % d_head;
    from_f32(k_cache + at, k[i]);
    from_f32(v_cache + at, v[i]);
  }
}

static moon_status kv_append(const moon_tensor *k_cache, const moon_tensor *v_cache,
                             const moon_tensor *k, const moon_tensor *v,
                             const moon_tensor *positions, moon_err *err) {
  int64_t n = k->shape[0] * k->shape[1] * k->shape[2];
  WITH_WEIGHT(k_cache->dtype,
              return launch_early(
                  device_of(k), "kv_append", err, kv_append_kernel<T>, blocks_for(n, THREADS),
                  THREADS, 0, (T *)moon_tensor_data(k_cache), (T *)moon_tensor_data(v_cache),
                  (const float *)moon_tensor_data(k), (const float *)moon_tensor_data(v),
                  (const int32_t *)moon_tensor_data(positions), k_cache->shape[0],
                  k_cache->shape[1], k_cache->shape[2], n));
}

void add_llama_ops(moon_ops *table) {
  table->embed = embed;
  table->rms_norm = rms_norm;
  table->rope = rope;
  table->kv_append = kv_append;
}

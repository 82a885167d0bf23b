// SPDX-License-Identifier: MIT
/*
 * The CPU's kernels, told once over a vector type. An instruction set's file defines LANES, vec and
 * the vec_* functions (where a vec_max or vec_min has a NaN, it is its second operand), the sizes
 * of tiles that its registers hold, and includes this.
 */
#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "tensor/dtype.h"

#define INLINE static inline __attribute__((always_inline))

/* dtype is a constant wherever these are called, so the switch folds away. */
INLINE vec load_vec(moon_dtype dtype, const void *p, int64_t i) {
  switch (dtype) {
    case MOON_BF16:
      return vec_load_bf16((const uint16_t *)p + i);
    case MOON_F16:
      return vec_load_f16((const uint16_t *)p + i);
    default:
      return vec_load((const float *)p + i);
  }
}

INLINE float load_one(moon_dtype dtype, const void *p, int64_t i) {
  switch (dtype) {
    case MOON_BF16:
      return moon_bf16_to_f32(((const uint16_t *)p)[i]);
    case MOON_F16:
      return moon_f16_to_f32(((const uint16_t *)p)[i]);
    default:
      return ((const float *)p)[i];
  }
}

INLINE float sum_lanes(vec x) {
  float lanes[LANES], sum = 0;
  vec_store(lanes, x);
  for (int i = 0; i < LANES; i++)
    sum += lanes[i];
  return sum;
}

/* x . w, both K long. The order of the sum, in CHAINS vectors and then single elements, depends on
 * K alone. */
INLINE float dot(const float *x, moon_dtype dtype, const void *w, int64_t K) {
  vec sum[CHAINS];
  for (int c = 0; c < CHAINS; c++)
    sum[c] = vec_zero();
  int64_t i = 0;
  for (; i + LANES * CHAINS <= K; i += LANES * CHAINS)
    for (int c = 0; c < CHAINS; c++)
      sum[c] = vec_mul_add(vec_load(x + i + c * LANES), load_vec(dtype, w, i + c * LANES), sum[c]);
  for (; i + LANES <= K; i += LANES)
    sum[0] = vec_mul_add(vec_load(x + i), load_vec(dtype, w, i), sum[0]);
  float s = sum_lanes(vec_add(vec_add(sum[0], sum[1]), vec_add(sum[2], sum[3])));
  for (; i < K; i++)
    s += x[i] * load_one(dtype, w, i);
  return s;
}

/* y += a * w, n long */
INLINE void axpy(float *y, float a, moon_dtype dtype, const void *w, int64_t n) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    vec_store(y + i, vec_mul_add(vec_set(a), load_vec(dtype, w, i), vec_load(y + i)));
  for (; i < n; i++)
    y[i] += a * load_one(dtype, w, i);
}

/* Calls `call` with DTYPE a constant that the compiler can see. */
#define WITH_DTYPE(dtype, call)           \
  do {                                    \
    if ((dtype) == MOON_BF16) {           \
      const moon_dtype DTYPE = MOON_BF16; \
      call;                               \
    } else if ((dtype) == MOON_F16) {     \
      const moon_dtype DTYPE = MOON_F16;  \
      call;                               \
    } else {                              \
      const moon_dtype DTYPE = MOON_F32;  \
      call;                               \
    }                                     \
  } while (0)

/* Bytes of an element of weights or activations: a constant where dtype is one. */
INLINE int64_t size_of(moon_dtype dtype) {
  return dtype == MOON_F32 ? 4 : 2;
}

/* Address of element i of a weight. */
INLINE const void *at(moon_dtype dtype, const void *w, int64_t i) {
  return (const char *)w + i * size_of(dtype);
}

static bool worth_threads(int64_t multiply_adds) {
  return multiply_adds > 1 << 16;
}

/* e^x within 2 units in the last place; NaN stays. */
INLINE vec vec_exp(vec x) {
  static const float terms[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1, 1};
  x = vec_min(vec_set(89), vec_max(vec_set(-104), x)); /* 0 and infinity in f32 */
  vec n = vec_round(vec_mul(x, vec_set(1.44269504f))), power = vec_set(1.0f / 5040);
  x = vec_mul_add(n, vec_set(-0.693145752f), x); /* ln 2 in two parts: n times this is exact */
  x = vec_mul_add(n, vec_set(-1.42860677e-6f), x);
  for (int i = 0; i < 7; i++)
    power = vec_mul_add(power, x, vec_set(terms[i]));
  return vec_scale(power, n);
}

#include "tensor/ops_cpu_products.h"

/* y := x * scale * w, n long */
INLINE void weigh(moon_dtype dtype, float *y, const float *x, float scale, const void *w,
                  int64_t n) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    vec_store(y + i, vec_mul(vec_mul(vec_load(x + i), vec_set(scale)), load_vec(dtype, w, i)));
  for (; i < n; i++)
    y[i] = x[i] * scale * load_one(dtype, w, i);
}

static moon_status rms_norm(const moon_tensor *out, const moon_tensor *x, const moon_tensor *w,
                            float eps, moon_err *err) {
  (void)err;
  int64_t n = x->shape[0], d = x->shape[1];
  const float *xs = moon_tensor_data(x);
  float *ys = moon_tensor_data(out);
#pragma omp parallel for schedule(static) num_threads(moon_cpu_threads()) if (worth_threads(n * d))
  for (int64_t t = 0; t < n; t++) {
    const float *row = xs + t * d;
    float sum = dot(row, MOON_F32, row, d);
    float scale = isinf(sum) ? NAN : 1.0f / sqrtf(sum / (float)d + eps);
    WITH_DTYPE(w->dtype, weigh(DTYPE, ys + t * d, row, scale, moon_tensor_data(w), d));
  }
  return MOON_OK;
}

/* Both from the reference kernels, a stretch of rows each thread. */
static moon_tensor rows_of(const moon_tensor *t, int64_t first, int64_t n) {
  moon_tensor part = *t;
  part.shape[0] = n;
  part.offset_bytes += (size_t)(first * t->strides[0]) * moon_dtype_size(t->dtype);
  return part;
}

static moon_status rope(const moon_tensor *q, const moon_tensor *k, const moon_tensor *cos,
                        const moon_tensor *sin, const moon_tensor *positions, moon_err *err) {
  (void)err;
  int64_t n = q->shape[0], work = moon_tensor_count(q) + moon_tensor_count(k);
#pragma omp parallel num_threads(moon_cpu_threads()) if (worth_threads(work))
  {
    int64_t thread = omp_get_thread_num(), n_threads = omp_get_num_threads();
    int64_t first = n * thread / n_threads, rows = n * (thread + 1) / n_threads - first;
    moon_tensor some_q = rows_of(q, first, rows), some_k = rows_of(k, first, rows);
    moon_tensor where = rows_of(positions, first, rows);
    moon_ops_reference.rope(&some_q, &some_k, cos, sin, &where, NULL);
  }
  return MOON_OK;
}

static moon_status kv_append(const moon_tensor *k_cache, const moon_tensor *v_cache,
                             const moon_tensor *k, const moon_tensor *v,
                             const moon_tensor *positions, moon_err *err) {
  (void)err;
  int64_t n = k->shape[0], work = 2 * moon_tensor_count(k);
#pragma omp parallel num_threads(moon_cpu_threads()) if (worth_threads(work))
  {
    int64_t thread = omp_get_thread_num(), n_threads = omp_get_num_threads();
    int64_t first = n * thread / n_threads, rows = n * (thread + 1) / n_threads - first;
    moon_tensor some_k = rows_of(k, first, rows), some_v = rows_of(v, first, rows);
    moon_tensor where = rows_of(positions, first, rows);
    moon_ops_reference.kv_append(k_cache, v_cache, &some_k, &some_v, &where, NULL);
  }
  return MOON_OK;
}

#include "tensor/ops_cpu_attention.h"

#include "tensor/ops_cpu_sae.h"

static moon_status sae_decode(const moon_tensor *out, const moon_sparse *f,
                              const moon_tensor *w_dec, const moon_tensor *b_dec, moon_err *err) {
  (void)err;
  int64_t n = out->shape[0], d = out->shape[1];
  const int64_t *starts = moon_tensor_data(&f->starts);
  const int32_t *counts = moon_tensor_data(&f->counts), *indices = moon_tensor_data(&f->indices);
  const float *values = moon_tensor_data(&f->values);
  const void *w = moon_tensor_data(w_dec);
#pragma omp parallel for schedule(dynamic, 1) \
    num_threads(moon_cpu_threads()) if (worth_threads(n * d * 16))
  for (int64_t t = 0; t < n; t++) {
    float *y = (float *)moon_tensor_data(out) + t * d;
    for (int64_t i = 0; i < d; i++)
      y[i] = load_one(b_dec->dtype, moon_tensor_data(b_dec), i);
    for (int64_t i = starts[t]; i < starts[t] + counts[t]; i++)
      WITH_DTYPE(w_dec->dtype, axpy(y, values[i], DTYPE, at(DTYPE, w, indices[i] * d), d));
  }
  return MOON_OK;
}

static moon_status axpy_rows(const moon_tensor *x, const moon_tensor *coefficients,
                             const moon_tensor *rows, const moon_tensor *w, moon_err *err) {
  (void)err;
  int64_t n = x->shape[0], d = x->shape[1], m = rows->shape[0];
  const float *c = moon_tensor_data(coefficients);
  const int32_t *row = moon_tensor_data(rows);
  for (int64_t t = 0; t < n; t++)
    for (int64_t j = 0; j < m; j++)
      if (c[t * m + j] != 0)
        WITH_DTYPE(w->dtype, axpy((float *)moon_tensor_data(x) + t * d, c[t * m + j], DTYPE,
                                  at(DTYPE, moon_tensor_data(w), row[j] * d), d));
  return MOON_OK;
}

enum {
  TILE = 64,
  RUN = 1 << 18
}; /* elements: edge of a tile, and of a piece of a plain conversion */

/* tile[i][j] := a[i0 + i][j0 + j], elements of `size` (a constant) bytes; down the columns, where a
 * is dense */
INLINE void gather_tile(char *tile, const char *a, int64_t row_stride, int64_t column_stride,
                        int64_t rows, int64_t columns, size_t size) {
  for (int64_t j = 0; j < columns; j++)
    for (int64_t i = 0; i < rows; i++)
      memcpy(tile + (size_t)(i * TILE + j) * size,
             a + (i * row_stride + j * column_stride) * (int64_t)size, size);
}

static void copy_tile(const moon_tensor *out, const moon_tensor *a, int64_t i0, int64_t j0) {
  char tile[TILE * TILE * 8];
  size_t size = moon_dtype_size(a->dtype), out_size = moon_dtype_size(out->dtype);
  int64_t rows = out->shape[0] - i0 < TILE ? out->shape[0] - i0 : TILE;
  int64_t columns = out->shape[1] - j0 < TILE ? out->shape[1] - j0 : TILE;
  const char *from =
      (const char *)moon_tensor_data(a) + (i0 * a->strides[0] + j0 * a->strides[1]) * (int64_t)size;
  switch (size) {
    case 1:
      gather_tile(tile, from, a->strides[0], a->strides[1], rows, columns, 1);
      break;
    case 2:
      gather_tile(tile, from, a->strides[0], a->strides[1], rows, columns, 2);
      break;
    case 4:
      gather_tile(tile, from, a->strides[0], a->strides[1], rows, columns, 4);
      break;
    default:
      gather_tile(tile, from, a->strides[0], a->strides[1], rows, columns, 8);
  }
  for (int64_t i = 0; i < rows; i++)
    moon_dtype_convert(
        (char *)moon_tensor_data(out) + ((i0 + i) * out->strides[0] + j0) * (int64_t)out_size,
        out->dtype, tile + (size_t)(i * TILE) * size, a->dtype, (size_t)columns);
}

/* A transposed matrix in tiles (a decoder as published is one), a plain conversion in pieces; the
 * rest is rare. */
static moon_status copy(const moon_tensor *out, const moon_tensor *a, moon_err *err) {
  int64_t n = moon_tensor_count(out);
  if (n < RUN || !moon_tensor_contiguous(out))
    return moon_ops_reference.copy(out, a, err);
  if (moon_tensor_contiguous(a)) {
    char *to = moon_tensor_data(out);
    const char *from = moon_tensor_data(a);
    size_t out_size = moon_dtype_size(out->dtype), size = moon_dtype_size(a->dtype);
#pragma omp parallel for schedule(static) num_threads(moon_cpu_threads())
    for (int64_t i = 0; i < n; i += RUN)
      moon_dtype_convert(to + (size_t)i * out_size, out->dtype, from + (size_t)i * size, a->dtype,
                         (size_t)(n - i < RUN ? n - i : RUN));
    return MOON_OK;
  }
  if (a->rank != 2 || a->strides[0] > a->strides[1])
    return moon_ops_reference.copy(out, a, err);
#pragma omp parallel for collapse(2) schedule(static) num_threads(moon_cpu_threads())
  for (int64_t i = 0; i < out->shape[0]; i += TILE)
    for (int64_t j = 0; j < out->shape[1]; j += TILE)
      copy_tile(out, a, i, j);
  return MOON_OK;
}

#include "tensor/ops_cpu_limits.h"

static void add_kernels(moon_ops *table) {
  table->copy = copy;
  table->products = products;
  table->rms_norm = rms_norm;
  table->rope = rope;
  table->kv_append = kv_append;
  table->attention = attention;
  table->sae_activate = sae_activate;
  table->sae_count = sae_count;
  table->sae_compact = sae_compact;
  table->sae_decode = sae_decode;
  table->axpy_rows = axpy_rows;
  table->read_all = read_all;
  table->multiply = multiply;
}

// SPDX-License-Identifier: MIT
/*
 * The CPU's kernels, told once over a vector type. An instruction set's file defines LANES, CHAINS,
 * vec and the vec_* functions, and includes this.
 *
 * A sum over K runs in CHAINS independent vectors (chain c takes elements c * LANES .. of every
 * LANES * CHAINS), then over what is left in vectors and single elements. That order depends on K
 * alone, so a row has the same bits alone, in any batch, and with any number of threads.
 */
#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "tensor/dtype.h"

enum { X_ROWS = 4, W_ROWS = 16 }; /* rows of x per pass over a weight row; weight rows per task */

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

/* out[r] := x[r] . w for `rows` (a constant) rows of x, each K long, x_stride apart. */
INLINE void dot_rows(float *out, const float *x, int64_t x_stride, int rows, moon_dtype dtype,
                     const void *w, int64_t K) {
  vec sum[X_ROWS][CHAINS];
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < CHAINS; c++)
      sum[r][c] = vec_zero();
  int64_t i = 0;
  for (; i + LANES * CHAINS <= K; i += LANES * CHAINS)
    for (int c = 0; c < CHAINS; c++) {
      vec wv = load_vec(dtype, w, i + c * LANES);
      for (int r = 0; r < rows; r++)
        sum[r][c] = vec_mul_add(vec_load(x + r * x_stride + i + c * LANES), wv, sum[r][c]);
    }
  for (; i + LANES <= K; i += LANES) {
    vec wv = load_vec(dtype, w, i);
    for (int r = 0; r < rows; r++)
      sum[r][0] = vec_mul_add(vec_load(x + r * x_stride + i), wv, sum[r][0]);
  }
  for (int r = 0; r < rows; r++) {
    float s = sum_lanes(vec_add(vec_add(sum[r][0], sum[r][1]), vec_add(sum[r][2], sum[r][3])));
    for (int64_t j = i; j < K; j++)
      s += x[r * x_stride + j] * load_one(dtype, w, j);
    out[r] = s;
  }
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

/* Address of element i of a weight. */
INLINE const void *at(moon_dtype dtype, const void *w, int64_t i) {
  return (const char *)w + i * (dtype == MOON_F32 ? 4 : 2);
}

/* Weight rows [first, first + W_ROWS) against every row of x; `add`: to what is there. */
INLINE void linear_block(moon_dtype dtype, float *out, const float *x, const void *w,
                         const moon_tensor *bias, bool add, int64_t M, int64_t N, int64_t K,
                         int64_t first) {
  int64_t last = first + W_ROWS < N ? first + W_ROWS : N;
  float y[X_ROWS];
  for (int64_t m = 0; m < M; m += X_ROWS) {
    int64_t rows = M - m < X_ROWS ? M - m : X_ROWS;
    for (int64_t n = first; n < last; n++) {
      const void *row = at(dtype, w, n * K);
      if (rows == X_ROWS)
        dot_rows(y, x + m * K, K, X_ROWS, dtype, row, K);
      else
        for (int64_t r = 0; r < rows; r++)
          dot_rows(y + r, x + (m + r) * K, K, 1, dtype, row, K);
      float b = bias->storage ? load_one(bias->dtype, moon_tensor_data(bias), n) : 0;
      for (int64_t r = 0; r < rows; r++) {
        float *place = out + (m + r) * N + n, sum = bias->storage ? y[r] + b : y[r];
        *place = add ? *place + sum : sum;
      }
    }
  }
}

static bool worth_threads(int64_t multiply_adds) {
  return multiply_adds > 1 << 16;
}

static float *rounded_to_bf16(const float *x, int64_t n) {
  float *out = malloc((size_t)n * sizeof *out + 1);
  for (int64_t i = 0; out && i < n; i++)
    out[i] = moon_bf16_to_f32(moon_bf16_from_f32(x[i]));
  return out;
}

/* x: what the product multiplies with */
static void linear(const moon_product *p, const float *x, bool add) {
  int64_t M = p->out.shape[0], N = p->out.shape[1], K = p->w.shape[1];
  float *y = moon_tensor_data(&p->out);
  const void *w = moon_tensor_data(&p->w);
#pragma omp parallel for schedule(static) \
    num_threads(moon_cpu_threads()) if (worth_threads(M * N * K))
  for (int64_t first = 0; first < N; first += W_ROWS)
    WITH_DTYPE(p->w.dtype, linear_block(DTYPE, y, x, w, &p->bias, add, M, N, K, first));
}

static void swiglu(float *gate, const float *up, int64_t n) {
#pragma omp parallel for schedule(static) num_threads(moon_cpu_threads()) if (worth_threads(n * 16))
  for (int64_t i = 0; i < n; i++)
    gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

static moon_status products(const moon_product *list, int n, const moon_tensor *x,
                            moon_epilogue epilogue, moon_arithmetic arithmetic, moon_err *err) {
  int64_t count = moon_tensor_count(x);
  const float *xs = moon_tensor_data(x);
  float *rounded = NULL;
  for (int i = 0; i < n; i++) {
    bool rounds = arithmetic == MOON_ARITHMETIC_BF16 && list[i].w.dtype == MOON_BF16;
    if (rounds && !rounded && !(rounded = rounded_to_bf16(xs, count)))
      return moon_fail(err, MOON_ENOMEM, "linear: no memory for %lld activations",
                       (long long)count);
    linear(&list[i], rounds ? rounded : xs, epilogue == MOON_ADD_TO);
  }
  if (epilogue == MOON_SWIGLU)
    swiglu(moon_tensor_data(&list[0].out), moon_tensor_data(&list[1].out),
           moon_tensor_count(&list[0].out));
  free(rounded);
  return MOON_OK;
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
    float sum;
    dot_rows(&sum, row, d, 1, MOON_F32, row, d);
    float scale = isinf(sum) ? NAN : 1.0f / sqrtf(sum / (float)d + eps);
    for (int64_t i = 0; i < d; i++)
      ys[t * d + i] = row[i] * scale * load_one(w->dtype, moon_tensor_data(w), i);
  }
  return MOON_OK;
}

/* One query row against rows 0 .. n_keys - 1 of one head's cache. scores has room for n_keys. */
INLINE void attend(moon_dtype dtype, float *out, const float *q, const void *k, const void *v,
                   int64_t n_keys, int64_t d_head, float scale, float *scores) {
  float largest = -INFINITY, sum = 0;
  for (int64_t i = 0; i < n_keys; i++) {
    dot_rows(scores + i, q, d_head, 1, dtype, at(dtype, k, i * d_head), d_head);
    scores[i] *= scale;
    largest = scores[i] > largest || isnan(scores[i]) ? scores[i] : largest;
  }
  for (int64_t i = 0; i < n_keys; i++)
    sum += scores[i] = expf(scores[i] - largest);
  for (int64_t j = 0; j < d_head; j++)
    out[j] = 0;
  for (int64_t i = 0; i < n_keys; i++)
    axpy(out, scores[i] / sum, dtype, at(dtype, v, i * d_head), d_head);
}

static moon_status attention(const moon_tensor *out, const moon_tensor *q, const moon_tensor *k,
                             const moon_tensor *v, const moon_tensor *positions, float scale,
                             moon_arithmetic arithmetic, moon_err *err) {
  (void)arithmetic;
  int64_t n = q->shape[0], n_heads = q->shape[1], d_head = q->shape[2], n_ctx = k->shape[1];
  int64_t group = n_heads / k->shape[0], longest = 0;
  const int32_t *position = moon_tensor_data(positions);
  for (int64_t t = 0; t < n; t++)
    longest = position[t] + 1 > longest ? position[t] + 1 : longest;
  bool shared = worth_threads(n * n_heads * longest * d_head);
  int threads = shared ? moon_cpu_threads() : 1;
  float *scores = malloc((size_t)(threads * longest) * sizeof *scores + 1);
  if (!scores)
    return moon_fail(err, MOON_ENOMEM, "attention: no memory for %lld scores",
                     (long long)(threads * longest));
#pragma omp parallel num_threads(threads)
  {
    float *mine = scores + omp_get_thread_num() * longest;
#pragma omp for schedule(static, 1)
    for (int64_t i = 0; i < n * n_heads; i++) {
      int64_t t = i / n_heads, head = i % n_heads, row = head / group * n_ctx * d_head;
      const float *query = (const float *)moon_tensor_data(q) + i * d_head;
      float *y = (float *)moon_tensor_data(out) + i * d_head;
      WITH_DTYPE(k->dtype,
                 attend(DTYPE, y, query, at(DTYPE, moon_tensor_data(k), row),
                        at(DTYPE, moon_tensor_data(v), row), position[t] + 1, d_head, scale, mine));
    }
  }
  free(scores);
  return MOON_OK;
}

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

static void add_kernels(moon_ops *table) {
  table->copy = copy;
  table->products = products;
  table->rms_norm = rms_norm;
  table->attention = attention;
  table->sae_decode = sae_decode;
  table->axpy_rows = axpy_rows;
}

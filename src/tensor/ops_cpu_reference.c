// SPDX-License-Identifier: MIT
/*
 * Every operation in plain loops on one thread: what it means, and what faster kernels are measured
 * against. Nothing here is to be made faster. The fronts in ops.c have checked shapes and dtypes.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tensor/dtype.h"
#include "tensor/host_memory.h"
#include "tensor/ops_cpu.h"

/* Memory */

#define ALIGNMENT 64 /* a cache line, and a vector of AVX-512 */
#define HUGE_PAGE ((size_t)1 << 21)

/* A large tensor gets huge pages where the system has some: fewer of them to look up. */
static moon_status cpu_alloc(moon_device *device, size_t size, void **data, moon_err *err) {
  size_t alignment = size < 2 * HUGE_PAGE ? ALIGNMENT : HUGE_PAGE;
  *data = size > SIZE_MAX - alignment
              ? NULL
              : aligned_alloc(alignment, (size / alignment + 1) * alignment);
  if (!*data)
    return moon_fail(err, MOON_ENOMEM, "%s: no memory for a tensor of %zu bytes", device->name,
                     size);
  if (alignment == HUGE_PAGE)
    madvise(*data, size, MADV_HUGEPAGE); /* a wish: whether it is heard changes nothing */
  return MOON_OK;
}

static void cpu_free(moon_device *device, void *data, size_t size) {
  (void)device, (void)size;
  free(data);
}

static moon_status upload(moon_device *device, void *data, const void *host, size_t size,
                          moon_err *err) {
  (void)device, (void)err;
  if (size > 0)
    memcpy(data, host, size);
  return MOON_OK;
}

static moon_status download(moon_device *device, void *host, const void *data, size_t size,
                            moon_err *err) {
  return upload(device, host, data, size, err);
}

static moon_status sync_nothing(moon_device *device, moon_err *err) {
  (void)device, (void)err;
  return MOON_OK;
}

static moon_status memory(moon_device *device, size_t *free_bytes, size_t *total, moon_err *err) {
  (void)device;
  return moon_host_memory("", free_bytes, total, err);
}

/* Element access */

/* Element i of a weight in f32, f16 or bf16. */
static inline float load(const moon_tensor *w, int64_t i) {
  const void *data = moon_tensor_data(w);
  switch (w->dtype) {
    case MOON_F16:
      return moon_f16_to_f32(((const uint16_t *)data)[i]);
    case MOON_BF16:
      return moon_bf16_to_f32(((const uint16_t *)data)[i]);
    default:
      return ((const float *)data)[i];
  }
}

static int64_t n_columns(const moon_tensor *t) {
  return t->rank == 0 ? 1 : t->shape[t->rank - 1];
}

static int64_t column_stride(const moon_tensor *t) {
  return t->rank == 0 ? 1 : t->strides[t->rank - 1];
}

/* All axes but the last, as one. */
static int64_t n_rows(const moon_tensor *t) {
  int64_t n = 1;
  for (int i = 0; i < t->rank - 1; i++)
    n *= t->shape[i];
  return n;
}

/* Address of the first element of a row of a tensor with any strides. */
static void *row_of(const moon_tensor *t, int64_t row) {
  int64_t offset = 0;
  for (int i = t->rank - 2; i >= 0; i--) {
    offset += row % t->shape[i] * t->strides[i];
    row /= t->shape[i];
  }
  return (char *)moon_tensor_data(t) + offset * (int64_t)moon_dtype_size(t->dtype);
}

/* Order of the largest first: NaN before every number. */
static bool above(float a, float b) {
  return isnan(a) ? !isnan(b) : a > b;
}

/* Tensors */

#define BLOCK 256

/* n elements of `size` bytes between places with strides in elements */
static void move(void *dst, int64_t dst_stride, const void *src, int64_t src_stride, size_t size,
                 int64_t n) {
  for (int64_t i = 0; i < n; i++)
    memcpy((char *)dst + i * dst_stride * (int64_t)size,
           (const char *)src + i * src_stride * (int64_t)size, size);
}

/* Gathered, converted, scattered a block at a time, so that any strides and any dtypes are one
 * case. */
static void copy_row(const moon_tensor *out, const moon_tensor *a, int64_t row) {
  size_t out_size = moon_dtype_size(out->dtype), a_size = moon_dtype_size(a->dtype);
  int64_t out_stride = column_stride(out), a_stride = column_stride(a), n = n_columns(a);
  uint64_t gathered[BLOCK], converted[BLOCK];
  char *dst = row_of(out, row), *src = row_of(a, row);
  for (int64_t i = 0; i < n; i += BLOCK) {
    int64_t count = n - i < BLOCK ? n - i : BLOCK;
    move(gathered, 1, src + i * a_stride * (int64_t)a_size, a_stride, a_size, count);
    moon_dtype_convert(converted, out->dtype, gathered, a->dtype, (size_t)count);
    move(dst + i * out_stride * (int64_t)out_size, out_stride, converted, 1, out_size, count);
  }
}

static moon_status copy(const moon_tensor *out, const moon_tensor *a, moon_err *err) {
  (void)err;
  if (moon_tensor_contiguous(out) && moon_tensor_contiguous(a))
    moon_dtype_convert(moon_tensor_data(out), out->dtype, moon_tensor_data(a), a->dtype,
                       (size_t)moon_tensor_count(a));
  else if (moon_tensor_count(a) > 0)
    for (int64_t row = 0; row < n_rows(a); row++)
      copy_row(out, a, row);
  return MOON_OK;
}

static moon_status fill(const moon_tensor *out, double value, moon_err *err) {
  (void)err;
  uint64_t element;
  moon_dtype_convert(&element, out->dtype, &value, MOON_F64, 1);
  if (moon_tensor_count(out) > 0)
    for (int64_t row = 0; row < n_rows(out); row++)
      move(row_of(out, row), column_stride(out), &element, 0, moon_dtype_size(out->dtype),
           n_columns(out));
  return MOON_OK;
}

static float binary_of(moon_binary op, float a, float b) {
  switch (op) {
    case MOON_ADD:
      return a + b;
    case MOON_SUB:
      return a - b;
    case MOON_MUL:
      return a * b;
    case MOON_DIV:
      return a / b;
    default:
      return above(a, b) ? a : b;
  }
}

/* The front has given a and b out's shape, with stride 0 along repeated axes. */
static moon_status binary(moon_binary op, const moon_tensor *out, const moon_tensor *a,
                          const moon_tensor *b, moon_err *err) {
  (void)err;
  int64_t n = n_columns(out), rows = moon_tensor_count(out) > 0 ? n_rows(out) : 0;
  for (int64_t row = 0; row < rows; row++) {
    float *y = row_of(out, row);
    const float *as = row_of(a, row), *bs = row_of(b, row);
    for (int64_t i = 0; i < n; i++)
      y[i] = binary_of(op, as[i * column_stride(a)], bs[i * column_stride(b)]);
  }
  return MOON_OK;
}

static float unary_of(moon_unary op, float a) {
  switch (op) {
    case MOON_NEG:
      return -a;
    case MOON_ABS:
      return fabsf(a);
    case MOON_EXP:
      return expf(a);
    case MOON_LOG:
      return logf(a);
    case MOON_SQRT:
      return sqrtf(a);
    default:
      return above(a, 0) ? a : 0; /* relu; NaN stays */
  }
}

static moon_status unary(moon_unary op, const moon_tensor *out, const moon_tensor *a,
                         moon_err *err) {
  (void)err;
  float *y = moon_tensor_data(out);
  const float *x = moon_tensor_data(a);
  for (int64_t i = 0; i < moon_tensor_count(a); i++)
    y[i] = unary_of(op, x[i]);
  return MOON_OK;
}

/* Column of the largest of n >= 1. */
static int64_t largest(const float *x, int64_t n) {
  int64_t best = 0;
  for (int64_t i = 1; i < n; i++)
    if (above(x[i], x[best]))
      best = i;
  return best;
}

/* Sums in double: a row may be a whole tensor, and an f32 sum of ones stands still at 2^24. */
static float reduce_row(moon_reduce op, const float *x, int64_t n) {
  if (op == MOON_MAX)
    return x[largest(x, n)];
  double sum = 0;
  for (int64_t i = 0; i < n; i++)
    sum += op == MOON_SUM ? x[i] : (double)x[i] * x[i];
  return (float)sum;
}

static moon_status reduce(moon_reduce op, const moon_tensor *out, const moon_tensor *a,
                          moon_err *err) {
  (void)err;
  float *y = moon_tensor_data(out);
  const float *x = moon_tensor_data(a);
  for (int64_t t = 0; t < a->shape[0]; t++)
    y[t] = reduce_row(op, x + t * a->shape[1], a->shape[1]);
  return MOON_OK;
}

static moon_status argmax(const moon_tensor *out, const moon_tensor *a, moon_err *err) {
  (void)err;
  int64_t *y = moon_tensor_data(out);
  const float *x = moon_tensor_data(a);
  for (int64_t t = 0; t < a->shape[0]; t++)
    y[t] = largest(x + t * a->shape[1], a->shape[1]);
  return MOON_OK;
}

typedef struct ranked {
  float value;
  int64_t column;
} ranked;

static int compare_ranked(const void *a, const void *b) {
  const ranked *x = a, *y = b;
  if (above(x->value, y->value))
    return -1;
  if (above(y->value, x->value))
    return 1;
  return x->column < y->column ? -1 : 1;
}

/* The n elements of a row, largest first. */
static void rank_row(ranked *order, const float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    order[i] = (ranked){x[i], i};
  qsort(order, (size_t)n, sizeof *order, compare_ranked);
}

static moon_status new_order(ranked **order, const char *op, int64_t n, moon_err *err) {
  *order = malloc(((size_t)n + 1) * sizeof **order);
  return *order
             ? MOON_OK
             : moon_fail(err, MOON_ENOMEM, "%s: no memory to sort %lld values", op, (long long)n);
}

static moon_status topk(const moon_tensor *values, const moon_tensor *indices, const moon_tensor *a,
                        moon_err *err) {
  int64_t n = a->shape[1], k = values->shape[1];
  float *value = moon_tensor_data(values);
  int64_t *index = moon_tensor_data(indices);
  ranked *order;
  moon_status status = new_order(&order, "topk", n, err);
  if (status)
    return status;
  for (int64_t t = 0; t < a->shape[0]; t++) {
    rank_row(order, (const float *)moon_tensor_data(a) + t * n, n);
    for (int64_t i = 0; i < k; i++) {
      value[t * k + i] = order[i].value;
      index[t * k + i] = order[i].column;
    }
  }
  free(order);
  return MOON_OK;
}

static void softmax_row(float *y, const float *x, int64_t n) {
  float top = n > 0 ? x[largest(x, n)] : 0, sum = 0;
  for (int64_t i = 0; i < n; i++) {
    y[i] = expf(x[i] - top);
    sum += y[i];
  }
  for (int64_t i = 0; i < n; i++)
    y[i] /= sum;
}

static moon_status softmax(const moon_tensor *out, const moon_tensor *a, moon_err *err) {
  (void)err;
  int64_t n = a->shape[1];
  for (int64_t t = 0; t < a->shape[0]; t++)
    softmax_row((float *)moon_tensor_data(out) + t * n, (const float *)moon_tensor_data(a) + t * n,
                n);
  return MOON_OK;
}

/* y [M][N] of one product, into out or added to it. */
static void linear(const moon_product *p, const moon_tensor *x, bool add,
                   moon_arithmetic arithmetic) {
  int64_t M = x->shape[0], K = x->shape[1], N = p->w.shape[0];
  bool round = arithmetic == MOON_ARITHMETIC_BF16 && p->w.dtype == MOON_BF16;
  const float *xs = moon_tensor_data(x);
  float *ys = moon_tensor_data(&p->out);
  for (int64_t m = 0; m < M; m++)
    for (int64_t n = 0; n < N; n++) {
      float sum = 0;
      for (int64_t k = 0; k < K; k++) {
        float a = xs[m * K + k];
        sum += (round ? moon_bf16_to_f32(moon_bf16_from_f32(a)) : a) * load(&p->w, n * K + k);
      }
      float y = p->bias.storage ? sum + load(&p->bias, n) : sum;
      ys[m * N + n] = add ? ys[m * N + n] + y : y;
    }
}

static moon_status products(const moon_product *list, int n, const moon_tensor *x,
                            moon_epilogue epilogue, moon_arithmetic arithmetic, moon_err *err) {
  (void)err;
  for (int i = 0; i < n; i++)
    linear(&list[i], x, epilogue == MOON_ADD_TO, arithmetic);
  if (epilogue != MOON_SWIGLU)
    return MOON_OK;
  float *gate = moon_tensor_data(&list[0].out);
  const float *up = moon_tensor_data(&list[1].out);
  for (int64_t i = 0; i < moon_tensor_count(&list[0].out); i++)
    gate[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
  return MOON_OK;
}

/* Llama */

static moon_status embed(const moon_tensor *out, const moon_tensor *table, const moon_tensor *ids,
                         moon_err *err) {
  (void)err;
  int64_t d = table->shape[1];
  const int32_t *id = moon_tensor_data(ids);
  float *y = moon_tensor_data(out);
  for (int64_t t = 0; t < ids->shape[0]; t++)
    for (int64_t i = 0; i < d; i++)
      y[t * d + i] = load(table, id[t] * d + i);
  return MOON_OK;
}

static moon_status rms_norm(const moon_tensor *out, const moon_tensor *x, const moon_tensor *w,
                            float eps, moon_err *err) {
  (void)err;
  int64_t d = x->shape[1];
  for (int64_t t = 0; t < x->shape[0]; t++) {
    const float *row = (const float *)moon_tensor_data(x) + t * d;
    float *y = (float *)moon_tensor_data(out) + t * d;
    float mean = reduce_row(MOON_SUM_OF_SQUARES, row, d) / (float)d;
    float scale = isinf(mean) ? NAN : 1 / sqrtf(mean + eps);
    for (int64_t i = 0; i < d; i++)
      y[i] = row[i] * scale * load(w, i);
  }
  return MOON_OK;
}

static void rotate(const moon_tensor *x, const moon_tensor *cos, const moon_tensor *sin,
                   const int32_t *position) {
  int64_t n_heads = x->shape[1], half = cos->shape[1];
  for (int64_t t = 0; t < x->shape[0]; t++)
    for (int64_t head = 0; head < n_heads; head++) {
      float *a = (float *)moon_tensor_data(x) + (t * n_heads + head) * 2 * half, *b = a + half;
      const float *c = (const float *)moon_tensor_data(cos) + position[t] * half;
      const float *s = (const float *)moon_tensor_data(sin) + position[t] * half;
      for (int64_t i = 0; i < half; i++) {
        float first = a[i] * c[i] - b[i] * s[i];
        b[i] = b[i] * c[i] + a[i] * s[i];
        a[i] = first;
      }
    }
}

static moon_status rope(const moon_tensor *q, const moon_tensor *k, const moon_tensor *cos,
                        const moon_tensor *sin, const moon_tensor *positions, moon_err *err) {
  (void)err;
  rotate(q, cos, sin, moon_tensor_data(positions));
  rotate(k, cos, sin, moon_tensor_data(positions));
  return MOON_OK;
}

static void append(const moon_tensor *cache, const moon_tensor *x, const int32_t *position) {
  int64_t n_heads = cache->shape[0], n_ctx = cache->shape[1], d_head = cache->shape[2];
  int64_t size = (int64_t)moon_dtype_size(cache->dtype);
  for (int64_t t = 0; t < x->shape[0]; t++)
    for (int64_t head = 0; head < n_heads; head++) {
      const float *from = (const float *)moon_tensor_data(x) + (t * n_heads + head) * d_head;
      char *to = (char *)moon_tensor_data(cache) + (head * n_ctx + position[t]) * d_head * size;
      moon_dtype_convert(to, cache->dtype, from, MOON_F32, (size_t)d_head);
    }
}

static moon_status kv_append(const moon_tensor *k_cache, const moon_tensor *v_cache,
                             const moon_tensor *k, const moon_tensor *v,
                             const moon_tensor *positions, moon_err *err) {
  (void)err;
  append(k_cache, k, moon_tensor_data(positions));
  append(v_cache, v, moon_tensor_data(positions));
  return MOON_OK;
}

/* y := softmax(scale q k^T) v for one query and one head, whose keys begin at element `at` of the
 * caches. */
static void attend(float *y, const float *q, const moon_tensor *k, const moon_tensor *v, int64_t at,
                   int64_t n_keys, float scale, float *weights) {
  int64_t d_head = k->shape[2];
  for (int64_t i = 0; i < n_keys; i++) {
    float sum = 0;
    for (int64_t j = 0; j < d_head; j++)
      sum += q[j] * load(k, at + i * d_head + j);
    weights[i] = scale * sum;
  }
  softmax_row(weights, weights, n_keys);
  for (int64_t j = 0; j < d_head; j++) {
    y[j] = 0;
    for (int64_t i = 0; i < n_keys; i++)
      y[j] += weights[i] * load(v, at + i * d_head + j);
  }
}

static moon_status attention(const moon_tensor *out, const moon_tensor *q, const moon_tensor *k,
                             const moon_tensor *v, const moon_tensor *positions, int64_t window,
                             float scale, moon_arithmetic arithmetic, moon_err *err) {
  (void)arithmetic;
  int64_t n_heads = q->shape[1], d_head = q->shape[2], n_ctx = k->shape[1],
          group = n_heads / k->shape[0];
  const int32_t *position = moon_tensor_data(positions);
  float *weights = malloc(((size_t)n_ctx + 1) * sizeof *weights);
  if (!weights)
    return moon_fail(err, MOON_ENOMEM, "attention: no memory for %lld weights", (long long)n_ctx);
  for (int64_t t = 0; t < q->shape[0]; t++)
    for (int64_t head = 0; head < n_heads; head++) {
      int64_t at = (t * n_heads + head) * d_head;
      int64_t n_keys = position[t] < window ? position[t] + 1 : window;
      int64_t first = position[t] + 1 - n_keys;
      attend((float *)moon_tensor_data(out) + at, (const float *)moon_tensor_data(q) + at, k, v,
             (head / group * n_ctx + first) * d_head, n_keys, scale, weights);
    }
  free(weights);
  return MOON_OK;
}

/* Sparse autoencoder */

#define SQRT_HALF 0.70710678118654752f

static void keep_largest(float *row, int64_t n, int64_t k, ranked *order) {
  rank_row(order, row, n);
  for (int64_t i = k; i < n; i++)
    if (!isnan(order[i].value))
      row[order[i].column] = 0;
}

/* Feature i of a row, but for what TOPK takes away. */
static float activate(const moon_activation *a, float x, int64_t i) {
  if (a->kind == MOON_ACTIVATION_GELU)
    return 0.5f * x * erfcf(-x * SQRT_HALF); /* 1 + erf(y) = erfc(-y), without its cancellation */
  bool gated = a->kind == MOON_ACTIVATION_GATED;
  if ((gated || a->kind == MOON_ACTIVATION_JUMPRELU) &&
      !above(x, ((const float *)moon_tensor_data(&a->threshold))[i]))
    return 0;
  if (gated)
    x = fmaf(((const float *)moon_tensor_data(&a->gain))[i], x,
             ((const float *)moon_tensor_data(&a->offset))[i]);
  return above(x, 0) ? x : 0;
}

static moon_status sae_activate(const moon_tensor *f, const moon_tensor *bias,
                                const moon_activation *activation, moon_err *err) {
  int64_t n = f->shape[1];
  ranked *order;
  moon_status status = new_order(&order, "sae_activate", n, err);
  if (status)
    return status;
  for (int64_t t = 0; t < f->shape[0]; t++) {
    float *row = (float *)moon_tensor_data(f) + t * n;
    for (int64_t i = 0; i < n; i++)
      row[i] = activate(activation, bias ? row[i] + load(bias, i) : row[i], i);
    if (activation->kind == MOON_ACTIVATION_TOPK)
      keep_largest(row, n, activation->k, order);
  }
  free(order);
  return MOON_OK;
}

static moon_status sae_count(const moon_tensor *counts, const moon_tensor *f, moon_err *err) {
  (void)err;
  int32_t *count = moon_tensor_data(counts);
  for (int64_t t = 0; t < f->shape[0]; t++) {
    const float *row = (const float *)moon_tensor_data(f) + t * f->shape[1];
    count[t] = 0;
    for (int64_t i = 0; i < f->shape[1]; i++)
      count[t] += row[i] != 0;
  }
  return MOON_OK;
}

static moon_status sae_compact(const moon_sparse *out, const moon_tensor *f, moon_err *err) {
  (void)err;
  const int64_t *starts = moon_tensor_data(&out->starts);
  int32_t *indices = moon_tensor_data(&out->indices);
  float *values = moon_tensor_data(&out->values);
  for (int64_t t = 0; t < out->n_rows; t++) {
    const float *row = (const float *)moon_tensor_data(f) + t * out->n_columns;
    int64_t next = starts[t];
    for (int64_t i = 0; i < out->n_columns; i++)
      if (row[i] != 0) {
        indices[next] = (int32_t)i;
        values[next++] = row[i];
      }
  }
  return MOON_OK;
}

static moon_status sae_decode(const moon_tensor *out, const moon_sparse *f,
                              const moon_tensor *w_dec, const moon_tensor *b_dec, moon_err *err) {
  (void)err;
  int64_t d = w_dec->shape[1];
  const int64_t *starts = moon_tensor_data(&f->starts);
  const int32_t *counts = moon_tensor_data(&f->counts);
  const int32_t *indices = moon_tensor_data(&f->indices);
  const float *values = moon_tensor_data(&f->values);
  for (int64_t t = 0; t < f->n_rows; t++) {
    float *y = (float *)moon_tensor_data(out) + t * d;
    for (int64_t i = 0; i < d; i++)
      y[i] = load(b_dec, i);
    for (int64_t e = starts[t]; e < starts[t] + counts[t]; e++)
      for (int64_t i = 0; i < d; i++)
        y[i] += values[e] * load(w_dec, indices[e] * d + i);
  }
  return MOON_OK;
}

/* One step on a feature that was f and is *now: the new value, and how far it is from f. */
static void edit_feature(const moon_edit_step *step, float f, float *now, float *delta) {
  if (step->op == MOON_EDIT_ADD) {
    *now += step->value;
    *delta += step->value;
    return;
  }
  *now = step->op == MOON_EDIT_SET ? step->value : *now * step->value;
  *delta = *now == f ? 0 : *now - f; /* equal infinities differ by nothing */
}

static moon_status sae_edit(const moon_tensor *delta, const moon_tensor *f,
                            const moon_tensor *features, const moon_edit_step *steps, int n_steps,
                            const moon_tensor *mask, moon_err *err) {
  (void)err;
  int64_t m = features->shape[0];
  const int32_t *feature = moon_tensor_data(features);
  for (int64_t t = 0; t < delta->shape[0]; t++) {
    float *row = f ? (float *)moon_tensor_data(f) + t * f->shape[1] : NULL;
    const uint8_t *acts = (const uint8_t *)moon_tensor_data(mask) + t * n_steps;
    for (int64_t j = 0; j < m; j++) {
      float before = row ? row[feature[j]] : 0, now = before, change = 0;
      for (int e = 0; e < n_steps; e++)
        if (acts[e] && steps[e].slot == j)
          edit_feature(&steps[e], before, &now, &change);
      ((float *)moon_tensor_data(delta))[t * m + j] = change;
      if (row)
        row[feature[j]] = now;
    }
  }
  return MOON_OK;
}

static moon_status axpy_rows(const moon_tensor *x, const moon_tensor *coefficients,
                             const moon_tensor *rows, const moon_tensor *w, moon_err *err) {
  (void)err;
  int64_t d = x->shape[1], m = rows->shape[0];
  const float *coefficient = moon_tensor_data(coefficients);
  const int32_t *row = moon_tensor_data(rows);
  for (int64_t t = 0; t < x->shape[0]; t++)
    for (int64_t j = 0; j < m; j++)
      if (coefficient[t * m + j] != 0)
        for (int64_t i = 0; i < d; i++)
          ((float *)moon_tensor_data(x))[t * d + i] +=
              coefficient[t * m + j] * load(w, row[j] * d + i);
  return MOON_OK;
}

enum { LANES = 1 };
typedef float vec;

static float vec_zero(void) {
  return 0;
}
static float vec_load(const float *p) {
  return *p;
}
static float vec_mul_add(float a, float b, float c) {
  return a * b + c;
}

#include "tensor/ops_cpu_limits.h"

const moon_ops moon_ops_reference = {
    .name = "reference",
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = upload,
    .download = download,
    .sync = sync_nothing,
    .memory = memory,
    .copy = copy,
    .fill = fill,
    .binary = binary,
    .unary = unary,
    .reduce = reduce,
    .argmax = argmax,
    .topk = topk,
    .softmax = softmax,
    .products = products,
    .embed = embed,
    .rms_norm = rms_norm,
    .rope = rope,
    .kv_append = kv_append,
    .attention = attention,
    .sae_activate = sae_activate,
    .sae_count = sae_count,
    .sae_compact = sae_compact,
    .sae_decode = sae_decode,
    .sae_edit = sae_edit,
    .axpy_rows = axpy_rows,
    .read_all = read_all,
    .multiply = multiply,
};

// SPDX-License-Identifier: MIT
/*
 * From pre-activations to sparse rows. Activations are exactly those of ops_cpu_reference.c; the
 * loops are plain so that the compiler makes vectors of them. Included by ops_cpu_kernels.h.
 */

enum { PIECE = 4096 }; /* columns of a row that a thread takes at a time: 16 KiB */

/* a > b, where a NaN is above every number; without a branch. */
INLINE bool is_above(float a, float b) {
  return (a > b) | ((a != a) & (b == b));
}

INLINE void add_to_row(moon_dtype dtype, float *x, const void *bias, int64_t n) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    vec_store(x + i, vec_add(vec_load(x + i), load_vec(dtype, bias, i)));
  for (; i < n; i++)
    x[i] += load_one(dtype, bias, i);
}

static void relu_row(float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    x[i] = is_above(x[i], 0) ? x[i] : 0;
}

static void jumprelu_row(float *x, const float *threshold, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    float y = is_above(x[i], 0) ? x[i] : 0;
    x[i] = is_above(x[i], threshold[i]) ? y : 0;
  }
}

static void gated_row(float *x, const float *threshold, const float *gain, const float *offset,
                      int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    float y = fmaf(gain[i], x[i], offset[i]);
    y = is_above(y, 0) ? y : 0;
    x[i] = is_above(x[i], threshold[i]) ? y : 0;
  }
}

/* The exact one by erfc: 1 + erf(y) = erfc(-y), without its cancellation. */
static void gelu_row(float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    x[i] = 0.5f * x[i] * erfcf(-x[i] * 0.70710678118654752f);
}

/* Order of features, none of which is negative: 0 last, NaN first. */
INLINE uint32_t rank_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return x > 0 ? bits : x != x ? UINT32_MAX : 0;
}

/* Rank of the k-th largest of a row, found digit by digit, and in *among how many of that rank
 * belong to the k largest. */
static uint32_t find_rank(const float *x, int64_t n, int64_t k, int64_t *among) {
  enum { BITS = 11, DIGITS = 3 };
  uint32_t found = 0, known = 0;
  for (int digit = DIGITS - 1; digit >= 0; digit--) {
    uint32_t counts[1 << BITS] = {0}, mask = (1u << BITS) - 1;
    for (int64_t i = 0; i < n; i++) {
      uint32_t rank = rank_of(x[i]);
      if ((rank & known) == found)
        counts[rank >> digit * BITS & mask]++;
    }
    uint32_t value = mask;
    for (; value > 0 && counts[value] < k; value--)
      k -= counts[value];
    found |= value << digit * BITS;
    known |= mask << digit * BITS;
  }
  *among = k;
  return found;
}

/* Leaves the k largest and every NaN; of equals the first. */
static void keep_largest(float *x, int64_t n, int64_t k) {
  int64_t among;
  uint32_t least = find_rank(x, n, k, &among);
  for (int64_t i = 0; i < n; i++) {
    uint32_t rank = rank_of(x[i]);
    bool stays = rank > least || (rank == least && among-- > 0) || rank == UINT32_MAX;
    x[i] = stays ? x[i] : 0;
  }
}

/* Columns [first, first + n) of one row, but for what TOPK takes away. */
static void activate_piece(float *x, const moon_tensor *bias, const moon_activation *a,
                           int64_t first, int64_t n) {
  if (bias)
    WITH_DTYPE(bias->dtype, add_to_row(DTYPE, x, at(DTYPE, moon_tensor_data(bias), first), n));
  switch (a->kind) {
    case MOON_ACTIVATION_JUMPRELU:
      jumprelu_row(x, (const float *)moon_tensor_data(&a->threshold) + first, n);
      break;
    case MOON_ACTIVATION_GATED:
      gated_row(x, (const float *)moon_tensor_data(&a->threshold) + first,
                (const float *)moon_tensor_data(&a->gain) + first,
                (const float *)moon_tensor_data(&a->offset) + first, n);
      break;
    case MOON_ACTIVATION_GELU:
      gelu_row(x, n);
      break;
    default:
      relu_row(x, n);
  }
}

static moon_status sae_activate(const moon_tensor *f, const moon_tensor *bias,
                                const moon_activation *activation, moon_err *err) {
  (void)err;
  int64_t M = f->shape[0], n = f->shape[1];
  float *x = moon_tensor_data(f);
#pragma omp parallel num_threads(moon_cpu_threads()) if (worth_threads(M * n))
  {
#pragma omp for collapse(2) schedule(static)
    for (int64_t t = 0; t < M; t++)
      for (int64_t first = 0; first < n; first += PIECE)
        activate_piece(x + t * n + first, bias, activation, first,
                       n - first < PIECE ? n - first : PIECE);
    if (activation->kind == MOON_ACTIVATION_TOPK) {
#pragma omp for schedule(static)
      for (int64_t t = 0; t < M; t++)
        keep_largest(x + t * n, n, activation->k);
    }
  }
  return MOON_OK;
}

static int32_t count_row(const float *x, int64_t n) {
  int32_t count = 0;
  for (int64_t i = 0; i < n; i++)
    count += x[i] != 0;
  return count;
}

static moon_status sae_count(const moon_tensor *counts, const moon_tensor *f, moon_err *err) {
  (void)err;
  int64_t M = f->shape[0], n = f->shape[1];
  int32_t *count = moon_tensor_data(counts);
  const float *x = moon_tensor_data(f);
#pragma omp parallel for num_threads(moon_cpu_threads()) if (worth_threads(M * n))
  for (int64_t t = 0; t < M; t++)
    count[t] = count_row(x + t * n, n);
  return MOON_OK;
}

/* Most of a row is 0, so it is skipped in strides. */
static void compact_row(int32_t *indices, float *values, const float *x, int64_t n) {
  enum { STRIDE = 32 };
  for (int64_t first = 0; first < n; first += STRIDE) {
    int64_t last = first + STRIDE < n ? first + STRIDE : n;
    if (last - first == STRIDE && count_row(x + first, STRIDE) == 0)
      continue;
    for (int64_t i = first; i < last; i++)
      if (x[i] != 0) {
        *indices++ = (int32_t)i;
        *values++ = x[i];
      }
  }
}

static moon_status sae_compact(const moon_sparse *out, const moon_tensor *f, moon_err *err) {
  (void)err;
  int64_t n = out->n_columns;
  const int64_t *starts = moon_tensor_data(&out->starts);
  int32_t *indices = moon_tensor_data(&out->indices);
  float *values = moon_tensor_data(&out->values);
  const float *x = moon_tensor_data(f);
#pragma omp parallel for num_threads(moon_cpu_threads()) if (worth_threads(out->n_rows * n))
  for (int64_t t = 0; t < out->n_rows; t++)
    compact_row(indices + starts[t], values + starts[t], x + t * n, n);
  return MOON_OK;
}

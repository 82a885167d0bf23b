// SPDX-License-Identifier: MIT
/*
 * Products of rows with weight rows as they are stored. Included by ops_cpu_kernels.h.
 *
 * A sum over K: K is cut into pieces (of K_BLOCK, or K_BLOCK_BF16 where both are bf16), whose sums
 * are added in order. A piece is summed in one vector, whose lanes are added at the end, and what
 * does not fill a vector after that. The order depends on K alone, so that every tile below may be
 * used for any row, and a row has the same bits alone, in any batch, and with any number of
 * threads.
 *
 * A tile holds its sums in registers over a piece of K, so a loaded vector serves several products.
 * A panel of TILE_W weight rows stays in the first cache while a block of rows of x, which the
 * second one holds, passes it; each thread reads its part of the weights once per block.
 */
#if defined HAS_BF16_PRODUCTS || defined HAS_TILES
enum { BF16_PRODUCTS = 1 };
#else /* never called */
enum { BF16_PRODUCTS = 0 };
#endif

enum {
  K_BLOCK = 1024, /* a tile's rows of x and w: 32 to 40 KiB */
  K_BLOCK_BF16 = 2048,
#ifdef HAS_TILES
  M_BLOCK = 192, /* rows of x: what has tiles has a second cache of 2 MiB */
#else
  M_BLOCK = 120, /* rows of x, a multiple of every TILE_X: 480 KiB of a piece */
#endif
  N_BLOCK = 96, /* weight rows, a multiple of LANES and of every TILE_W */
  MAX_SUMS = 24 /* outputs of a tile, a multiple of 4 */
};

/* Sums of a block of one product. */
typedef struct sums {
  float at[M_BLOCK][N_BLOCK];
} sums;

/* Rows of x, in bf16 cut into pieces of K_BLOCK_BF16 columns that lie one behind the other. */
typedef struct activations {
  const void *data;
  moon_dtype dtype; /* f32 or bf16 */
  int64_t M, K;
} activations;

/* Address of element k, where a piece begins, of row m; rows of it are *stride elements apart. */
INLINE const void *piece_of(const activations *x, int64_t m, int64_t k, int64_t *stride) {
  *stride = x->K;
  if (x->dtype == MOON_F32)
    return (const float *)x->data + m * x->K + k;
  *stride = x->K - k < K_BLOCK_BF16 ? x->K - k : K_BLOCK_BF16;
  return (const uint16_t *)x->data + x->M * k + m * *stride;
}

/* What a tile reads: n_x and n_w (constants) rows, K long. With `ahead`, the weights that many
 * bytes further on are fetched. */
typedef struct reading {
  const void *x;
  int64_t x_stride;
  const void *w[4];
  moon_dtype dtype; /* of w */
  int64_t K, ahead;
} reading;

/* out[r][j] += lanes of sum[r * n_w + j] */
INLINE void add_sums(float *out, int64_t stride, vec *sum, int n_x, int n_w) {
  float total[MAX_SUMS];
  for (int i = n_x * n_w; i % 4; i++)
    sum[i] = vec_zero();
  for (int i = 0; i < n_x * n_w; i += 4)
    vec_sum4(total + i, sum[i], sum[i + 1], sum[i + 2], sum[i + 3]);
  for (int r = 0; r < n_x; r++)
    for (int j = 0; j < n_w; j++)
      out[r * stride + j] += total[r * n_w + j];
}

INLINE void tile_f32(float *out, int64_t stride, const reading *t, int n_x, int n_w) {
  vec sum[MAX_SUMS], row[TILE_X];
  const float *x = t->x;
  int64_t i = 0, size = t->dtype == MOON_F32 ? 4 : 2;
  for (int s = 0; s < n_x * n_w; s++)
    sum[s] = vec_zero();
  for (; i + LANES <= t->K; i += LANES) {
    for (int r = 0; r < n_x; r++)
      row[r] = vec_load(x + r * t->x_stride + i);
    for (int j = 0; j < n_w; j++) {
      vec w = load_vec(t->dtype, t->w[j], i);
      if (t->ahead)
        __builtin_prefetch((const char *)t->w[j] + i * size + t->ahead);
      for (int r = 0; r < n_x; r++)
        sum[r * n_w + j] = vec_mul_add(row[r], w, sum[r * n_w + j]);
    }
  }
  add_sums(out, stride, sum, n_x, n_w);
  for (; i < t->K; i++)
    for (int r = 0; r < n_x; r++)
      for (int j = 0; j < n_w; j++)
        out[r * stride + j] += x[r * t->x_stride + i] * load_one(t->dtype, t->w[j], i);
}

#ifdef HAS_BF16_PRODUCTS
/* The same with both in bf16. */
INLINE void tile_bf16(float *out, int64_t stride, const reading *t, int n_x, int n_w) {
  vec sum[MAX_SUMS];
  vec_bf16 w[TILE_W];
  const uint16_t *x = t->x;
  int64_t i = 0;
  for (int s = 0; s < n_x * n_w; s++)
    sum[s] = vec_zero();
  for (; i + LANES_BF16 <= t->K; i += LANES_BF16) {
    for (int j = 0; j < n_w; j++) {
      if (t->ahead)
        __builtin_prefetch((const char *)t->w[j] + 2 * i + t->ahead);
      w[j] = vec_bf16_load((const uint16_t *)t->w[j] + i);
    }
    for (int r = 0; r < n_x; r++) {
      vec_bf16 row = vec_bf16_load(x + r * t->x_stride + i);
      for (int j = 0; j < n_w; j++)
        sum[r * n_w + j] = vec_bf16_mul_add(row, w[j], sum[r * n_w + j]);
    }
  }
  for (int j = 0; i < t->K && j < n_w; j++)
    w[j] = vec_bf16_load_some((const uint16_t *)t->w[j] + i, t->K - i);
  for (int r = 0; i < t->K && r < n_x; r++) {
    vec_bf16 row = vec_bf16_load_some(x + r * t->x_stride + i, t->K - i);
    for (int j = 0; j < n_w; j++)
      sum[r * n_w + j] = vec_bf16_mul_add(row, w[j], sum[r * n_w + j]);
  }
  add_sums(out, stride, sum, n_x, n_w);
}
#else
INLINE void tile_bf16(float *out, int64_t stride, const reading *t, int n_x, int n_w) {
  (void)out, (void)stride, (void)t, (void)n_x, (void)n_w;
}
#endif

/* n_x of one tile, as a constant for each. */
INLINE void tile_of(float *out, const reading *t, bool bf16, int64_t n_x) {
#define CASE(n)                              \
  case n:                                    \
    if (bf16)                                \
      tile_bf16(out, N_BLOCK, t, n, TILE_W); \
    else if ((n) <= TILE_X)                  \
      tile_f32(out, N_BLOCK, t, n, TILE_W);  \
    break
  switch (n_x) {
    CASE(1);
    CASE(2);
    CASE(3);
    CASE(4);
    CASE(5);
    CASE(6);
  }
#undef CASE
}

/* Rows of x times one panel of weight rows, over one piece of K. Only the first tile fetches what
 * the next panel will want. */
INLINE void panel(float *out, const activations *x, reading *t, int64_t m, int64_t rows, int64_t k,
                  int64_t ahead) {
  bool bf16 = BF16_PRODUCTS && x->dtype == MOON_BF16;
  int64_t n_x = TILE_X;
  for (int64_t r = 0; r < rows; r += n_x) {
    t->x = piece_of(x, m + r, k, &t->x_stride);
    t->ahead = r == 0 ? ahead : 0;
    tile_of(out + r * N_BLOCK, t, bf16, rows - r < n_x ? rows - r : n_x);
  }
}

/* A block of sums: rows [m, m + rows) of x with rows [n, n + columns) of w [N][K]. Few rows go
 * along each weight row from end to end, as memory likes it. */
INLINE void block(sums *out, const activations *x, moon_dtype dtype, const moon_tensor *w,
                  int64_t m, int64_t rows, int64_t n, int64_t columns) {
  bool bf16 = BF16_PRODUCTS && x->dtype == MOON_BF16;
  bool along = rows <= TILE_X;
  int64_t K = x->K, last = w->shape[0] - 1, piece = bf16 ? K_BLOCK_BF16 : K_BLOCK;
  const void *data = moon_tensor_data(w);
  int64_t n_pieces = (K + piece - 1) / piece, n_panels = (columns + TILE_W - 1) / TILE_W;
  for (int64_t r = 0; r < rows; r++)
    memset(out->at[r], 0, sizeof out->at[r]);
  for (int64_t i = 0; i < n_pieces * n_panels; i++) {
    int64_t p = along ? i / n_pieces : i % n_panels;
    int64_t k = piece * (along ? i % n_pieces : i / n_panels);
    reading t = {.dtype = dtype, .K = K - k < piece ? K - k : piece};
    for (int64_t j = 0; j < TILE_W; j++) {
      int64_t row = n + p * TILE_W + j;
      t.w[j] = at(dtype, data, (row < last ? row : last) * K + k);
    }
    panel(&out->at[0][p * TILE_W], x, &t, m, rows, k, TILE_W * K * (dtype == MOON_F32 ? 4 : 2));
  }
}

/* y := y + bias for a row of a block */
INLINE void add_bias(float *y, const moon_tensor *bias, int64_t n, int64_t columns) {
  for (int64_t j = 0; bias->storage && j < columns; j++)
    y[j] += load_one(bias->dtype, moon_tensor_data(bias), n + j);
}

/* gate / (1 + exp(-gate)) * up, for whole vectors */
INLINE void swiglu(float *gate, const float *up, int64_t columns) {
  for (int64_t j = 0; j < columns; j += LANES) {
    vec g = vec_load(gate + j), power = vec_exp(vec_sub(vec_zero(), g));
    vec_store(gate + j, vec_mul(vec_div(g, vec_add(vec_set(1), power)), vec_load(up + j)));
  }
}

INLINE void put(float *out, const float *y, int64_t columns, bool add) {
  for (int64_t j = 0; j < columns; j++)
    out[j] = add ? out[j] + y[j] : y[j];
}

#ifdef HAS_TILES
#include "tensor/ops_cpu_tiles.h"
#endif

/* All of one call. x of each product: as it is or rounded. */
typedef struct task {
  const moon_product *list;
  int n;
  activations x[MOON_MAX_PRODUCTS];
  moon_epilogue epilogue;
} task;

static void one_block(sums *out, const task *t, int i, int64_t m, int64_t rows, int64_t n,
                      int64_t columns) {
  const moon_product *p = &t->list[i];
  if (BF16_PRODUCTS && t->x[i].dtype == MOON_BF16) {
#ifdef HAS_TILES
    block_of_tiles(out, &t->x[i], &p->w, m, rows, n, columns);
#else
    activations x = t->x[i];
    x.dtype = MOON_BF16;
    block(out, &x, MOON_BF16, &p->w, m, rows, n, columns);
#endif
  } else {
    activations x = t->x[i];
    x.dtype = MOON_F32;
    WITH_DTYPE(p->w.dtype, block(out, &x, DTYPE, &p->w, m, rows, n, columns));
  }
  for (int64_t r = 0; r < rows; r++)
    add_bias(out->at[r], &p->bias, n, columns);
}

/* Weight rows [first, last) of product i (with SwiGLU, of both). */
static void run_rows(const task *t, int i, int64_t first, int64_t last) {
  sums y, up;
  const moon_tensor *out = &t->list[i].out;
  int64_t M = out->shape[0], N = out->shape[1];
  for (int64_t m = 0; m < M; m += M_BLOCK)
    for (int64_t n = first; n < last; n += N_BLOCK) {
      int64_t rows = M - m < M_BLOCK ? M - m : M_BLOCK;
      int64_t columns = last - n < N_BLOCK ? last - n : N_BLOCK;
      one_block(&y, t, i, m, rows, n, columns);
      if (t->epilogue == MOON_SWIGLU)
        one_block(&up, t, 1, m, rows, n, columns);
      for (int64_t r = 0; r < rows; r++) {
        if (t->epilogue == MOON_SWIGLU)
          swiglu(y.at[r], up.at[r], columns);
        put((float *)moon_tensor_data(out) + (m + r) * N + n, y.at[r], columns,
            t->epilogue == MOON_ADD_TO);
      }
    }
}

/* Every thread takes one stretch of each product's weight rows, in one parallel region. */
static void run_task(const task *t) {
  int64_t work = 0;
  for (int i = 0; i < t->n; i++)
    work += moon_tensor_count(&t->list[i].w) * t->x[i].M;
#pragma omp parallel num_threads(moon_cpu_threads()) if (worth_threads(work))
  {
    int64_t thread = omp_get_thread_num(), n_threads = omp_get_num_threads();
    for (int i = 0; i < (t->epilogue == MOON_SWIGLU ? 1 : t->n); i++) {
      int64_t N = t->list[i].w.shape[0], panels = (N + TILE_W - 1) / TILE_W;
      int64_t first = panels * thread / n_threads * TILE_W;
      int64_t last = panels * (thread + 1) / n_threads * TILE_W;
      run_rows(t, i, first, last < N ? last : N);
    }
  }
}

#ifndef HAS_TILES
/* Elements [i, i + n) of a row into bf16, or f32 that is one. */
INLINE void round_piece(void *out, int64_t at_element, const float *x, int64_t n) {
  int64_t i = 0;
#ifdef HAS_BF16_PRODUCTS
  uint16_t *y = (uint16_t *)out + at_element;
  for (; i + LANES <= n; i += LANES)
    vec_store_bf16(y + i, vec_load(x + i));
  for (; i < n; i++)
    y[i] = moon_bf16_from_f32(x[i]);
#else
  float *y = (float *)out + at_element;
  for (; i < n; i++)
    y[i] = moon_bf16_to_f32(moon_bf16_from_f32(x[i]));
#endif
}

/* x [M][K] rounded to bf16, as `activations` says; the caller frees .data, NULL: no memory. */
static activations rounded(const float *x, int64_t M, int64_t K) {
  activations out = {.dtype = BF16_PRODUCTS ? MOON_BF16 : MOON_F32, .M = M, .K = K};
  void *data = malloc((size_t)(M * K) * (BF16_PRODUCTS ? 2 : 4) + 1);
#pragma omp parallel for num_threads(moon_cpu_threads()) if (worth_threads(M * K))
  for (int64_t m = 0; m < (data ? M : 0); m++)
    for (int64_t k = 0; k < K; k += K_BLOCK_BF16) {
      int64_t n = K - k < K_BLOCK_BF16 ? K - k : K_BLOCK_BF16;
      round_piece(data, BF16_PRODUCTS ? M * k + m * n : m * K + k, x + m * K + k, n);
    }
  out.data = data;
  return out;
}
#endif

static moon_status products(const moon_product *list, int n, const moon_tensor *x,
                            moon_epilogue epilogue, moon_arithmetic arithmetic, moon_err *err) {
  int64_t M = x->shape[0], K = x->shape[1];
  task t = {.list = list, .n = n, .epilogue = epilogue};
  activations exact = {moon_tensor_data(x), MOON_F32, M, K}, in_bf16 = {0};
  for (int i = 0; i < n; i++) {
    bool rounds = arithmetic == MOON_ARITHMETIC_BF16 && list[i].w.dtype == MOON_BF16;
    if (rounds && !in_bf16.data && !(in_bf16 = rounded(exact.data, M, K)).data)
      return moon_fail(err, MOON_ENOMEM, "linear: no memory for %lld activations",
                       (long long)(M * K));
    t.x[i] = rounds ? in_bf16 : exact;
  }
  run_task(&t);
  free((void *)in_bf16.data);
  return MOON_OK;
}

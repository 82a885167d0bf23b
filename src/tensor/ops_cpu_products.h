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
 * A panel of weight rows, made f32 once, stays in the first cache while a block of rows of x, which
 * the second one holds, passes it; each thread reads its part of the weights once per block. A row
 * of x takes 64 bytes from the second cache for PANEL_W products of vectors, so the panel is wide
 * and the tile PANEL_X rows low. Fewer than PANEL_ROWS are not worth it: their tiles, TILE_X by
 * TILE_W, read the weights as they are.
 */
#if defined HAS_BF16_PRODUCTS || defined HAS_TILES
enum { BF16_PRODUCTS = 1 };
#else /* never called */
enum { BF16_PRODUCTS = 0 };
#endif

enum {
  CACHE_LINE = 64, /* what a load of AVX-512 must not straddle */
  K_BLOCK = 1024,  /* a panel of 8 weight rows: 32 KiB */
  K_BLOCK_BF16 = 2048,
#ifdef HAS_TILES
  M_BLOCK = 256, /* most rows of x: 1 MiB of a piece */
#else
  M_BLOCK = 128, /* 512 KiB */
#endif
  M_GROUP = 32,    /* a block begins at a multiple of it */
  PANEL_ROWS = 24, /* 16 rows took 56% of the FMA limit with a panel, 58% without; 32 took 69, 59 */
  N_BLOCK = 96,    /* weight rows, a multiple of LANES and of every TILE_W and PANEL_W */
  MAX_SUMS = 24,   /* outputs of a tile */
  MAX_W = 8,       /* weight rows of a tile */
  FETCHED_ROWS = 4, /* weight rows that a tile fetches for the next panel */
  FAR_TILES = 4     /* 16 to 64 KiB ahead */
};

/* A loop over a tile's rows: were it not all laid out, the sums would pass through memory. */
#define UNROLL _Pragma("GCC unroll 32")

/* Sums of a block of one product. */
typedef struct sums {
  float at[M_BLOCK][N_BLOCK];
} sums;

/* Rows of x, cut into pieces of `piece` columns that lie one behind the other: whole rows would be
 * a power of 2 apart, where caches have room for few of them. */
typedef struct activations {
  const void *data;
  moon_dtype dtype;    /* f32 or bf16 */
  int64_t M, K, piece; /* piece is K where the rows are as they came */
} activations;

/* Address of element k of row m, up to the end of its piece; rows are *stride elements apart. */
INLINE const void *piece_of(const activations *x, int64_t m, int64_t k, int64_t *stride) {
  int64_t first = k / x->piece * x->piece;
  *stride = x->K - first < x->piece ? x->K - first : x->piece;
  int64_t i = x->M * first + m * *stride + k - first;
  return at(x->dtype, x->data, i);
}

/* What a tile reads: n_x and n_w (constants) rows, K long. Where `ahead` is set, FETCHED_ROWS rows
 * from there on, ahead_stride bytes apart, are fetched into the first cache meanwhile, and those
 * from `far` on into the second. */
typedef struct reading {
  const void *x;
  int64_t x_stride;
  const void *w[MAX_W];
  const float *panel; /* whole vectors of w, made f32: [K / LANES][PANEL_W][LANES] */
  moon_dtype dtype;   /* of w */
  int64_t K, ahead_stride;
  const char *ahead, *far;
} reading;

/* What lies ahead at element i, where i begins or ends a line. Either fetch alone leaves 5 to 10%
 * of the bandwidth: the first cache has room for few lines on their way, the second is not near
 * enough. */
INLINE void fetch_ahead(const reading *t, int64_t i) {
  int64_t size = size_of(t->dtype), offset = i * size;
  if (!t->ahead)
    return;
  for (int j = 0; j < FETCHED_ROWS; j++) {
    if (offset % CACHE_LINE == 0)
      __builtin_prefetch(t->ahead + offset + j * t->ahead_stride, 0, 3);
    if ((offset + LANES * size) % CACHE_LINE == 0)
      __builtin_prefetch(t->far + offset + j * t->ahead_stride, 0, 2);
  }
}

/* PANEL_W rows on their way into the second cache, a share with each tile: memory takes as long for
 * all of them as many tiles do. */
typedef struct fetching {
  const char *row;
  int64_t line, lines, stride, share, left; /* stride in bytes, the others in lines */
} fetching;

INLINE void fetch_share(fetching *f) {
  int64_t n = f->share < f->left ? f->share : f->left;
  f->left -= n;
  for (int64_t i = 0; i < n; i++) {
    __builtin_prefetch(f->row + f->line * CACHE_LINE, 0, 2);
    if (++f->line == f->lines) {
      f->line = 0;
      f->row += f->stride;
    }
  }
}

/* sum[0 .. n - 1] := 0, in registers: gcc would call memset for each tile if it saw the 0. */
INLINE void clear(vec *sum, int n) {
  vec zero = vec_zero();
  __asm__("" : "+v"(zero));
  UNROLL
  for (int s = 0; s < n; s++)
    sum[s] = zero;
}

/* out[r][j] += lanes of sum[r * n_w + j]; n_w is a multiple of 4 */
INLINE void add_sums(float *out, int64_t stride, const vec *sum, int n_x, int n_w) {
  UNROLL
  for (int r = 0; r < n_x; r++)
    UNROLL
  for (int j = 0; j < n_w; j += 4) {
    const vec *s = sum + r * n_w + j;
    vec_add_sum4(out + r * stride + j, s[0], s[1], s[2], s[3]);
  }
}

/* What is left of K where a vector is not full. */
INLINE void add_rest(float *out, int64_t stride, const reading *t, int64_t i, int n_x, int n_w) {
  const float *x = t->x;
  for (; i < t->K; i++)
    for (int r = 0; r < n_x; r++)
      for (int j = 0; j < n_w; j++)
        out[r * stride + j] += x[r * t->x_stride + i] * load_one(t->dtype, t->w[j], i);
}

INLINE void tile_f32(float *out, int64_t stride, const reading *t, int n_x, int n_w) {
  vec sum[MAX_SUMS], row[TILE_X];
  const float *x = t->x;
  int64_t i = 0;
  clear(sum, n_x * n_w);
  for (; i + LANES <= t->K; i += LANES) {
    fetch_ahead(t, i);
    UNROLL
    for (int r = 0; r < n_x; r++)
      row[r] = vec_load(x + r * t->x_stride + i);
    UNROLL
    for (int j = 0; j < n_w; j++) {
      vec w = load_vec(t->dtype, t->w[j], i);
      UNROLL
      for (int r = 0; r < n_x; r++)
        sum[r * n_w + j] = vec_mul_add(row[r], w, sum[r * n_w + j]);
    }
  }
  add_sums(out, stride, sum, n_x, n_w);
  add_rest(out, stride, t, i, n_x, n_w);
}

/* The same with whole vectors of w from the panel. */
INLINE void tile_panel(float *out, int64_t stride, const reading *t, int n_x) {
  vec sum[MAX_SUMS], row[PANEL_X];
  const float *x = t->x, *w = t->panel;
  int64_t i = 0;
  clear(sum, n_x * PANEL_W);
  for (; i + LANES <= t->K; i += LANES, x += LANES, w += PANEL_W * LANES) {
    UNROLL
    for (int r = 0; r < n_x; r++)
      row[r] = vec_load(x + r * t->x_stride);
    UNROLL
    for (int j = 0; j < PANEL_W; j++) {
      vec one = vec_load(w + j * LANES);
      __asm__("" : "+v"(one)); /* loaded once, not with each product */
      UNROLL
      for (int r = 0; r < n_x; r++)
        sum[r * PANEL_W + j] = vec_mul_add(row[r], one, sum[r * PANEL_W + j]);
    }
  }
  add_sums(out, stride, sum, n_x, PANEL_W);
  add_rest(out, stride, t, i, n_x, PANEL_W);
}

/* The same with PANEL_W rows of f32 where they lie. */
INLINE void tile_rows(float *out, int64_t stride, const reading *t, int n_x) {
  vec sum[MAX_SUMS], row[PANEL_X];
  const float *x = t->x, *w[MAX_W];
  int64_t i = 0;
  for (int j = 0; j < PANEL_W; j++)
    w[j] = t->w[j];
  clear(sum, n_x * PANEL_W);
  for (; i + LANES <= t->K; i += LANES) {
    UNROLL
    for (int r = 0; r < n_x; r++)
      row[r] = vec_load(x + i + r * t->x_stride);
    UNROLL
    for (int j = 0; j < PANEL_W; j++) {
      vec one = vec_load(w[j] + i);
      __asm__("" : "+v"(one));
      UNROLL
      for (int r = 0; r < n_x; r++)
        sum[r * PANEL_W + j] = vec_mul_add(row[r], one, sum[r * PANEL_W + j]);
    }
  }
  add_sums(out, stride, sum, n_x, PANEL_W);
  add_rest(out, stride, t, i, n_x, PANEL_W);
}

#ifdef HAS_BF16_PRODUCTS
/* The same with both in bf16. */
INLINE void tile_bf16(float *out, int64_t stride, const reading *t, int n_x, int n_w) {
  vec sum[MAX_SUMS];
  vec_bf16 w[TILE_W];
  const uint16_t *x = t->x;
  int64_t i = 0;
  clear(sum, n_x * n_w);
  for (; i + LANES_BF16 <= t->K; i += LANES_BF16) {
    fetch_ahead(t, i);
    for (int j = 0; j < n_w; j++)
      w[j] = vec_bf16_load((const uint16_t *)t->w[j] + i);
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

INLINE void panel_of(float *out, const reading *t, int n_x) {
  if (t->dtype == MOON_F32)
    tile_rows(out, N_BLOCK, t, n_x);
  else
    tile_panel(out, N_BLOCK, t, n_x);
}

/* n_x of one tile, as a constant for each. */
INLINE void tile_of(float *out, const reading *t, bool bf16, bool wide, int64_t n_x) {
#define CASE(n)                              \
  case n:                                    \
    if (bf16)                                \
      tile_bf16(out, N_BLOCK, t, n, TILE_W); \
    else if (wide && (n) <= PANEL_X)         \
      panel_of(out, t, n);                   \
    else if (!wide && (n) <= TILE_X)         \
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

/* A block of sums: rows [m, m + rows) of x with rows [n, n + columns) of w [N][K]. */
typedef struct area {
  const activations *x;
  const void *w;
  moon_dtype dtype;
  int64_t m, rows, n, columns, N;
} area;

/* Address of column k of weight row n + i, the last row for those beyond it. */
INLINE const void *weight_of(const area *a, int64_t i, int64_t k) {
  int64_t row = a->n + i < a->N ? a->n + i : a->N - 1;
  return at(a->dtype, a->w, row * a->x->K + k);
}

/* The weight rows from i on, over the piece at k. */
INLINE void choose_rows(reading *t, const area *a, int64_t i, int n_w, int64_t k, int64_t piece) {
  t->K = a->x->K - k < piece ? a->x->K - k : piece;
  for (int j = 0; j < n_w; j++)
    t->w[j] = weight_of(a, i + j, k);
}

/* Where a tile of few rows begins to read, also one behind the block. */
INLINE const char *tile_at(const area *a, int64_t tile, int64_t n_pieces, int64_t piece) {
  int64_t row = a->n + tile / n_pieces * TILE_W, k = tile % n_pieces * piece;
  return at(a->dtype, a->w, row * a->x->K + k);
}

INLINE void fill_panel(float *panel, const reading *t) {
  for (int64_t i = 0; i + LANES <= t->K; i += LANES, panel += PANEL_W * LANES)
    for (int j = 0; j < PANEL_W; j++)
      vec_store(panel + j * LANES, load_vec(t->dtype, t->w[j], i));
}

/* Few rows go along each weight row from end to end, as memory likes it. */
INLINE void few_rows(sums *out, const area *a, bool bf16, int64_t piece) {
  int64_t K = a->x->K, n_pieces = (K + piece - 1) / piece;
  int64_t n_tiles = (a->columns + TILE_W - 1) / TILE_W * n_pieces;
  reading t = {.dtype = a->dtype, .ahead_stride = K * size_of(a->dtype)};
  for (int64_t tile = 0; tile < n_tiles; tile++) {
    int64_t i = tile / n_pieces * TILE_W, k = tile % n_pieces * piece;
    choose_rows(&t, a, i, TILE_W, k, piece);
    t.ahead = tile_at(a, tile + 1, n_pieces, piece);
    t.far = tile_at(a, tile + FAR_TILES, n_pieces, piece);
    for (int64_t r = 0; r < a->rows; r += TILE_X) {
      t.x = piece_of(a->x, a->m + r, k, &t.x_stride);
      tile_of(&out->at[r][i], &t, bf16, false, a->rows - r < TILE_X ? a->rows - r : TILE_X);
      t.ahead = NULL;
    }
  }
}

/* Rows of x pass one panel of weight rows after the other, while the next one is fetched. Rows of
 * f32 serve where they lie: each one's piece is spread over all of the first cache. */
INLINE void many_rows(sums *out, const area *a, bool bf16, int64_t piece, bool wide) {
  _Alignas(CACHE_LINE) float panel[PANEL_W * K_BLOCK];
  const int n_x = wide ? PANEL_X : TILE_X, n_w = wide ? PANEL_W : TILE_W;
  int64_t K = a->x->K, n_tiles = (a->rows + n_x - 1) / n_x;
  reading t = {.dtype = a->dtype, .ahead_stride = K * size_of(a->dtype), .panel = panel};
  for (int64_t k = 0; k < K; k += piece)
    for (int64_t i = 0; i < a->columns; i += n_w) {
      choose_rows(&t, a, i, n_w, k, piece);
      if (wide && a->dtype != MOON_F32)
        fill_panel(panel, &t);
      t.far = t.ahead = (const char *)t.w[0] + n_w * t.ahead_stride;
      int64_t lines = t.K * size_of(a->dtype) / CACHE_LINE + 1;
      fetching f = {.row = t.ahead,
                    .lines = lines,
                    .stride = t.ahead_stride,
                    .share = (PANEL_W * lines + n_tiles - 1) / n_tiles,
                    .left = PANEL_W * lines};
      const char *x = piece_of(a->x, a->m, k, &t.x_stride);
      int64_t x_step = n_x * t.x_stride * size_of(a->x->dtype);
      for (int64_t tile = 0; tile < n_tiles; tile++) {
        int64_t r = tile * n_x;
        if (!wide && tile > 0)
          t.ahead = NULL;
        t.x = x + tile * x_step;
        if (wide)
          fetch_share(&f);
        tile_of(&out->at[r][i], &t, bf16, wide, a->rows - r < n_x ? a->rows - r : n_x);
      }
    }
}

INLINE void block(sums *out, const activations *x, moon_dtype dtype, const moon_tensor *w,
                  int64_t m, int64_t rows, int64_t n, int64_t columns) {
  bool bf16 = BF16_PRODUCTS && x->dtype == MOON_BF16;
  int64_t piece = bf16 ? K_BLOCK_BF16 : K_BLOCK;
  area a = {x, moon_tensor_data(w), dtype, m, rows, n, columns, w->shape[0]};
  for (int64_t r = 0; r < rows; r++)
    memset(out->at[r], 0, sizeof out->at[r]);
  if (rows < PANEL_ROWS)
    few_rows(out, &a, bf16, piece);
  else
    many_rows(out, &a, bf16, piece, !bf16);
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

/* Columns [n, n + columns) of product i (with SwiGLU, of both) for rows [m, m + rows). */
static void run_block(const task *t, int i, int64_t m, int64_t rows, int64_t n, int64_t columns) {
  sums y, up;
  const moon_tensor *out = &t->list[i].out;
  one_block(&y, t, i, m, rows, n, columns);
  if (t->epilogue == MOON_SWIGLU)
    one_block(&up, t, 1, m, rows, n, columns);
  for (int64_t r = 0; r < rows; r++) {
    if (t->epilogue == MOON_SWIGLU)
      swiglu(y.at[r], up.at[r], columns);
    put((float *)moon_tensor_data(out) + (m + r) * out->shape[1] + n, y.at[r], columns,
        t->epilogue == MOON_ADD_TO);
  }
}

/* Columns of a block: such that every thread gets some of them, of whole tiles. */
static int64_t block_columns(int64_t n_columns) {
  int64_t some = n_columns / (4 * (int64_t)moon_cpu_threads()) / M_GROUP * M_GROUP;
  return some < M_GROUP ? M_GROUP : some > N_BLOCK ? N_BLOCK : some;
}

/* All products in one parallel region. Threads take blocks as they come to them, as they seldom
 * are equally fast: all columns for some rows of x, which stay in the second cache. */
static void run_task(const task *t) {
  int n = t->epilogue == MOON_SWIGLU ? 1 : t->n;
  int64_t M = t->x[0].M, K = t->x[0].K, N = 0, before[MOON_MAX_PRODUCTS + 1] = {0};
  for (int i = 0; i < n; i++)
    N += t->list[i].w.shape[0];
  int64_t columns = block_columns(N);
  for (int i = 0; i < n; i++)
    before[i + 1] = before[i] + (t->list[i].w.shape[0] + columns - 1) / columns;
  int64_t groups = (M + M_GROUP - 1) / M_GROUP, high = (M + M_BLOCK - 1) / M_BLOCK;
#pragma omp parallel for schedule(dynamic, 1) \
    num_threads(moon_cpu_threads()) if (worth_threads(M * N * K))
  for (int64_t b = 0; b < high * before[n]; b++) {
    int64_t m = groups * (b / before[n]) / high * M_GROUP;
    int64_t end = groups * (b / before[n] + 1) / high * M_GROUP;
    int i = 0;
    while (b % before[n] >= before[i + 1])
      i++;
    int64_t first = (b % before[n] - before[i]) * columns, rest = t->list[i].w.shape[0] - first;
    run_block(t, i, m, (end < M ? end : M) - m, first, rest < columns ? rest : columns);
  }
}

/* n elements of x, to begin at element `to` of out: as they are or rounded to bf16, which without
 * products of it is f32 again. */
INLINE void put_piece(void *out, int64_t to, const float *x, int64_t n, bool rounds) {
  float *y = (float *)out + to;
  int64_t i = 0;
  if (!rounds)
    memcpy(y, x, (size_t)n * sizeof *y);
#ifdef HAS_BF16_PRODUCTS
  uint16_t *y_bf16 = (uint16_t *)out + to;
  for (; rounds && i + LANES <= n; i += LANES)
    vec_store_bf16(y_bf16 + i, vec_load(x + i));
  for (; rounds && i < n; i++)
    y_bf16[i] = moon_bf16_from_f32(x[i]);
#else
  for (; rounds && i < n; i++)
    y[i] = moon_bf16_to_f32(moon_bf16_from_f32(x[i]));
#endif
}

/* x [M][K] in pieces; the caller frees .data, NULL: no memory. */
static activations in_pieces(const float *x, int64_t M, int64_t K, bool rounds) {
  bool bf16 = BF16_PRODUCTS && rounds;
  activations out = {.dtype = bf16 ? MOON_BF16 : MOON_F32, .M = M, .K = K};
  size_t size = (size_t)(M * K) * (bf16 ? 2 : 4);
  void *data = aligned_alloc(CACHE_LINE, (size / CACHE_LINE + 1) * CACHE_LINE);
  out.piece = bf16 ? K_BLOCK_BF16 : K_BLOCK;
#pragma omp parallel for num_threads(moon_cpu_threads()) if (worth_threads(M * K))
  for (int64_t m = 0; m < (data ? M : 0); m++)
    for (int64_t k = 0; k < K; k += out.piece) {
      int64_t n = K - k < out.piece ? K - k : out.piece;
      put_piece(data, M * k + m * n, x + m * K + k, n, rounds);
    }
  out.data = data;
  return out;
}

#ifdef HAS_TILES
static activations in_form(const float *x, int64_t M, int64_t K, bool rounds) {
  return rounds ? in_tiles(x, M, K) : in_pieces(x, M, K, false);
}
#else
#define in_form in_pieces
#endif

/* x as the products of one call take it: f32 and rounded, each if any wants it. */
typedef struct forms {
  activations exact, rounded;
  void *owned[2];
} forms;

static moon_status prepare(task *t, forms *f, const moon_tensor *x, moon_arithmetic arithmetic,
                           moon_err *err) {
  int64_t M = x->shape[0], K = x->shape[1];
  for (int i = 0; i < t->n; i++) {
    bool rounds = arithmetic == MOON_ARITHMETIC_BF16 && t->list[i].w.dtype == MOON_BF16;
    activations *form = rounds ? &f->rounded : &f->exact;
    bool as_it_is = !rounds && (M <= TILE_X || K <= K_BLOCK);
    if (as_it_is)
      *form = (activations){moon_tensor_data(x), MOON_F32, M, K, K > 0 ? K : 1};
    else if (!form->data) {
      *form = in_form(moon_tensor_data(x), M, K, rounds);
      if (!(f->owned[rounds] = (void *)form->data))
        return moon_fail(err, MOON_ENOMEM, "linear: no memory for %lld activations",
                         (long long)(M * K));
    }
    t->x[i] = *form;
  }
  return MOON_OK;
}

static moon_status products(const moon_product *list, int n, const moon_tensor *x,
                            moon_epilogue epilogue, moon_arithmetic arithmetic, moon_err *err) {
  task t = {.list = list, .n = n, .epilogue = epilogue};
  forms f = {0};
  moon_status status = prepare(&t, &f, x, arithmetic, err);
  if (status == MOON_OK)
    run_task(&t);
  free(f.owned[0]);
  free(f.owned[1]);
  return status;
}

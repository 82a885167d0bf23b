// SPDX-License-Identifier: MIT
/*
 * Products of bf16 rows with bf16 weight rows in AMX tiles. Included by ops_cpu_products.h where
 * HAS_TILES is defined.
 *
 * A step is 32 columns of K: one tile of 16 weight rows as they are stored, times one tile of 16
 * rows of x, turned so that each of its rows holds one pair of columns, added to a tile of sums
 * [weight row][row of x]. Four tiles of sums stay in the registers over a piece of K, so a loaded
 * tile serves twice. Sums go on in the order of K wherever it is cut, and each is of one row of x
 * alone: a row has the same bits in any batch.
 *
 * A panel of weight rows is copied first, so that many rows of x find it in the first cache: where
 * K is a power of two, rows as they are stored would all fall into a few sets of it. Each product
 * of tiles copies a share of the next panel and fetches one of the panel after that, which takes
 * none of the time that the tiles take. For one pair of tiles of x, weights are read where they
 * are.
 */
enum {
  TILE_EDGE = 16,                 /* rows of a tile, and columns of a tile of sums */
  TILE_K = 32,                    /* columns of K in a tile of operands */
  TILE_SIZE = TILE_EDGE * TILE_K, /* its elements: 1 KiB */
  PAIR = 2 * TILE_EDGE,           /* rows of x or w that a register block takes */
  TILES_PIECE = 256,              /* columns of K: two panels of weights are 32 KiB */
  TILES_AHEAD = 512               /* bytes of a weight row that are fetched ahead of its use */
};

/* Sums of a block: tiles [weight row][row of x]. */
typedef struct tile_sums {
  float at[M_BLOCK / TILE_EDGE][N_BLOCK / TILE_EDGE][TILE_EDGE * TILE_EDGE];
} __attribute__((aligned(64))) tile_sums;

_Static_assert(M_BLOCK % PAIR == 0 && M_GROUP % PAIR == 0 && N_BLOCK % PAIR == 0,
               "a block is whole register blocks");

/* All tiles: 16 rows of 64 bytes. */
static void tiles_begin(void) {
  struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } config = {.palette = 1};
  for (int i = 0; i < 8; i++) {
    config.row_bytes[i] = 64;
    config.rows[i] = TILE_EDGE;
  }
  _tile_loadconfig(&config);
}

/* gcc does not know that tile instructions read and write memory. */
INLINE void tiles_see_memory(void) {
  __asm__ volatile("" ::: "memory");
}

/* The first n < 16 elements, or all; the others are 0. */
INLINE vec load_some(const float *p, int64_t n) {
  return n >= LANES ? vec_load(p)
                    : _mm512_maskz_loadu_ps((__mmask16)((1u << (n > 0 ? n : 0)) - 1), p);
}

/* A tile of x: rows [m, M), 16 at most, from column k on. */
static void pack_tile(uint16_t *out, const float *x, int64_t M, int64_t K, int64_t m, int64_t k) {
  vec row[TILE_EDGE];
  for (int i = 0; i < TILE_EDGE; i++) {
    const float *p = x + (m + i) * K + k;
    row[i] = m + i < M ? vec_pair_bf16(load_some(p, K - k), load_some(p + LANES, K - k - LANES))
                       : vec_zero();
  }
  vec_turn(row); /* elements of 32 bits: pairs */
  for (int i = 0; i < TILE_EDGE; i++)
    _mm512_store_ps(out + i * TILE_K, row[i]);
}

/* x [M][K] rounded to bf16 and in tiles: those of two times 16 rows alternate along K. The caller
 * frees .data, NULL: no memory. */
static activations in_tiles(const float *x, int64_t M, int64_t K) {
  int64_t pairs = (M + PAIR - 1) / PAIR, steps = (K + TILE_K - 1) / TILE_K;
  uint16_t *data = aligned_alloc(64, (size_t)(pairs * steps) * 2 * TILE_SIZE * sizeof *data + 64);
#pragma omp parallel for num_threads(moon_cpu_threads()) if (worth_threads(M * K)) collapse(2)
  for (int64_t p = 0; p < (data ? pairs : 0); p++)
    for (int64_t s = 0; s < steps; s++)
      for (int64_t half = 0; half < 2; half++)
        pack_tile(data + ((p * steps + s) * 2 + half) * TILE_SIZE, x, M, K,
                  p * PAIR + half * TILE_EDGE, s * TILE_K);
  return (activations){.data = data, .dtype = MOON_BF16, .M = M, .K = K, .piece = K};
}

/* PAIR weight rows, from the first column of a panel on. Past the last row come copies of it, whose
 * sums nobody reads. */
typedef struct panel_rows {
  const uint16_t *row[PAIR];
  int64_t length; /* columns */
} panel_rows;

static void panel_rows_at(panel_rows *out, const moon_tensor *w, int64_t n, int64_t k,
                          int64_t length) {
  int64_t K = w->shape[1], last = w->shape[0] - 1;
  for (int64_t r = 0; r < PAIR; r++)
    out->row[r] = (const uint16_t *)moon_tensor_data(w) + (n + r < last ? n + r : last) * K + k;
  out->length = length;
}

/* Panel `index` of a block of `columns` weight rows from n on, or of the block behind it: K goes
 * slower than the rows. */
static void panel_at(panel_rows *out, const moon_tensor *w, int64_t n, int64_t columns,
                     int64_t index) {
  int64_t K = w->shape[1], high = (columns + PAIR - 1) / PAIR;
  int64_t wide = (K + TILES_PIECE - 1) / TILES_PIECE, in_block = index % (high * wide);
  int64_t k = in_block / high * TILES_PIECE;
  panel_rows_at(out, w, n + index / (high * wide) * columns + in_block % high * PAIR, k,
                K - k < TILES_PIECE ? K - k : TILES_PIECE);
}

/* The columns of a step, of rows [first, last): zeros beyond the panel's length. */
INLINE void copy_step(uint16_t *to, const panel_rows *from, int64_t first, int64_t last,
                      int64_t step) {
  int64_t left = from->length - step * TILE_K;
  __mmask32 some = left >= TILE_K ? ~(__mmask32)0 : ((__mmask32)1 << left) - 1;
  for (int64_t r = first; r < last; r++)
    _mm512_store_si512(to + r * TILE_K,
                       _mm512_maskz_loadu_epi16(some, from->row[r] + step * TILE_K));
}

/* What a product of tiles does for the panels to come: rows [first, last) of both. */
typedef struct panel_share {
  uint16_t *to;
  panel_rows next, far;
  int64_t first, last;
} panel_share;

INLINE void do_share(const panel_share *share, int64_t step) {
  if (step * TILE_K >= share->next.length)
    return;
  copy_step(share->to + step * PAIR * TILE_K, &share->next, share->first, share->last, step);
  for (int64_t r = share->first; r < share->last; r++)
    __builtin_prefetch(share->far.row[r] + step * TILE_K, 0, 2);
}

INLINE void begin_sums(float (*first)[TILE_EDGE * TILE_EDGE],
                       float (*second)[TILE_EDGE * TILE_EDGE], bool from_zero) {
  if (from_zero) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, first[0], 64);
    _tile_loadd(1, first[1], 64);
    _tile_loadd(2, second[0], 64);
    _tile_loadd(3, second[1], 64);
  }
}

INLINE void end_sums(float (*first)[TILE_EDGE * TILE_EDGE],
                     float (*second)[TILE_EDGE * TILE_EDGE]) {
  _tile_stored(0, first[0], 64);
  _tile_stored(1, first[1], 64);
  _tile_stored(2, second[0], 64);
  _tile_stored(3, second[1], 64);
}

/* One step: tiles of weights, w_stride bytes a row, times one tile of x or two. */
INLINE void multiply_step(const uint16_t *x, const uint16_t *w, int64_t w_stride, bool two) {
  _tile_loadd(4, w, w_stride);
  _tile_loadd(5, (const char *)w + TILE_EDGE * w_stride, w_stride);
  _tile_loadd(6, x, 64);
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 5, 6);
  if (two) {
    _tile_loadd(7, x + TILE_SIZE, 64);
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
}

/* Weight rows from n on with one pair of tiles of x, where they are. */
INLINE void multiply_in_place(tile_sums *out, int64_t tile, const uint16_t *x, const moon_tensor *w,
                              int64_t n, bool two) {
  uint16_t copy[2 * TILE_SIZE] __attribute__((aligned(64)));
  int64_t K = w->shape[1], whole = n + PAIR <= w->shape[0] ? K / TILE_K * TILE_K : 0;
  panel_rows rows;
  panel_rows_at(&rows, w, n, 0, K);
  begin_sums(&out->at[0][tile], &out->at[1][tile], true);
  for (int64_t k = 0; k < K; k += TILE_K, x += 2 * TILE_SIZE) {
    const char *ahead = (const char *)(rows.row[0] + k) + TILES_AHEAD;
    if (k + TILES_AHEAD / 2 >= K)
      ahead += (PAIR - 1) * K * 2; /* of the rows after these */
    for (int r = 0; r < PAIR; r++)
      __builtin_prefetch(ahead + r * K * 2, 0, 2);
    if (k < whole) {
      multiply_step(x, rows.row[0] + k, K * 2, two);
    } else {
      copy_step(copy, &rows, 0, PAIR, k / TILE_K);
      tiles_see_memory();
      multiply_step(x, copy, 64, two);
      tiles_see_memory();
    }
  }
  end_sums(&out->at[0][tile], &out->at[1][tile]);
}

/* The tiles of a block whose sums are done, into its rows. */
static void sums_of_tiles(sums *out, tile_sums *tiles, int64_t rows, int64_t columns) {
  for (int64_t m = 0; m < rows; m += TILE_EDGE)
    for (int64_t n = 0; n < columns; n += TILE_EDGE) {
      vec tile[TILE_EDGE];
      for (int i = 0; i < TILE_EDGE; i++)
        tile[i] = vec_load(tiles->at[m / TILE_EDGE][n / TILE_EDGE] + i * TILE_EDGE);
      vec_turn(tile);
      for (int64_t r = 0; r < TILE_EDGE && m + r < rows; r++)
        vec_store(&out->at[m + r][n], tile[r]);
    }
}

/* Few rows of x, from m on, with a block of weight rows. */
static void few_in_tiles(tile_sums *out, const activations *x, const moon_tensor *w, int64_t m,
                         int64_t rows, int64_t n, int64_t columns) {
  int64_t steps = (x->K + TILE_K - 1) / TILE_K;
  const uint16_t *tiles = (const uint16_t *)x->data + m / PAIR * steps * 2 * TILE_SIZE;
  for (int64_t j = 0; j < columns; j += PAIR)
    if (rows > TILE_EDGE)
      multiply_in_place(out, j / TILE_EDGE, tiles, w, n + j, true);
    else
      multiply_in_place(out, j / TILE_EDGE, tiles, w, n + j, false);
}

/* Many rows of x pass one panel of weights after the other. */
static void many_in_tiles(tile_sums *out, const activations *x, const moon_tensor *w, int64_t m,
                          int64_t rows, int64_t n, int64_t columns) {
  uint16_t panels[2][PAIR * TILES_PIECE] __attribute__((aligned(64)));
  int64_t K = x->K, steps = (K + TILE_K - 1) / TILE_K, pairs = (rows + PAIR - 1) / PAIR;
  int64_t high = (columns + PAIR - 1) / PAIR, wide = (K + TILES_PIECE - 1) / TILES_PIECE;
  panel_share share;
  panel_at(&share.next, w, n, columns, 0);
  for (int64_t s = 0; s * TILE_K < share.next.length; s++)
    copy_step(panels[0] + s * PAIR * TILE_K, &share.next, 0, PAIR, s);
  for (int64_t i = 0; i < high * wide; i++) {
    int64_t j = i % high * 2, k = i / high * TILES_PIECE;
    int64_t length = share.next.length; /* that of this panel now */
    panel_at(&share.next, w, n, columns, i + 1);
    panel_at(&share.far, w, n, columns, i + 2);
    share.to = panels[(i + 1) % 2];
    tiles_see_memory();
    for (int64_t p = 0; p < pairs; p++) {
      const uint16_t *in =
          (const uint16_t *)x->data + ((m / PAIR + p) * steps + k / TILE_K) * 2 * TILE_SIZE;
      share.first = PAIR * p / pairs;
      share.last = PAIR * (p + 1) / pairs;
      begin_sums(&out->at[2 * p][j], &out->at[2 * p + 1][j], k == 0);
      for (int64_t s = 0; s * TILE_K < length; s++) {
        multiply_step(in + s * 2 * TILE_SIZE, panels[i % 2] + s * 2 * TILE_SIZE, 64, true);
        do_share(&share, s);
      }
      end_sums(&out->at[2 * p][j], &out->at[2 * p + 1][j]);
    }
  }
}

/* A block of sums: rows [m, m + rows) of x, m a multiple of PAIR, with rows [n, n + columns) of
 * w. */
static void block_of_tiles(sums *out, const activations *x, const moon_tensor *w, int64_t m,
                           int64_t rows, int64_t n, int64_t columns) {
  tile_sums tiles;
  tiles_begin();
  if (rows <= PAIR)
    few_in_tiles(&tiles, x, w, m, rows, n, columns);
  else
    many_in_tiles(&tiles, x, w, m, rows, n, columns);
  tiles_see_memory();
  _tile_release();
  sums_of_tiles(out, &tiles, rows, columns);
}

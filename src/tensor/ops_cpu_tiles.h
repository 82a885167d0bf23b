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
 * Weight rows are copied first: where K is a power of two their pieces would all fall into a few
 * sets of the first cache.
 */
enum {
  TILE_EDGE = 16,                 /* rows of a tile, and columns of a tile of sums */
  TILE_K = 32,                    /* columns of K in a tile of operands */
  TILE_SIZE = TILE_EDGE * TILE_K, /* its elements: 1 KiB */
  PAIR = 2 * TILE_EDGE,           /* rows of x or w that a register block takes */
  TILES_PIECE = 512               /* columns of K: a panel of weights is 32 KiB */
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

/* A pair of weight tiles for each step of columns [k, k + length) of rows from n on. Past the last
 * row come copies of it, whose sums nobody reads. */
static void pack_weights(uint16_t *out, const moon_tensor *w, int64_t n, int64_t k,
                         int64_t length) {
  int64_t K = w->shape[1], last = w->shape[0] - 1, whole = length / TILE_K * TILE_K;
  __mmask32 some = (1u << (length - whole)) - 1;
  for (int64_t r = 0; r < PAIR; r++) {
    const uint16_t *row =
        (const uint16_t *)moon_tensor_data(w) + (n + r < last ? n + r : last) * K + k;
    for (int64_t i = 0; i < whole; i += TILE_K)
      _mm512_store_si512(out + i * PAIR + r * TILE_K, _mm512_loadu_si512(row + i));
    if (some)
      _mm512_store_si512(out + whole * PAIR + r * TILE_K,
                         _mm512_maskz_loadu_epi16(some, row + whole));
  }
}

/* sums [2 tiles of x][2 of w] += steps of both, all in registers between. */
static void multiply_tiles(float (*first)[TILE_EDGE * TILE_EDGE],
                           float (*second)[TILE_EDGE * TILE_EDGE], const uint16_t *x,
                           const uint16_t *w, int64_t steps) {
  _tile_loadd(0, first[0], 64);
  _tile_loadd(1, first[1], 64);
  _tile_loadd(2, second[0], 64);
  _tile_loadd(3, second[1], 64);
  for (int64_t s = 0; s < steps; s++, x += 2 * TILE_SIZE, w += 2 * TILE_SIZE) {
    _tile_loadd(4, w, 64);
    _tile_loadd(5, w + TILE_SIZE, 64);
    _tile_loadd(6, x, 64);
    _tile_loadd(7, x + TILE_SIZE, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 5, 6);
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, first[0], 64);
  _tile_stored(1, first[1], 64);
  _tile_stored(2, second[0], 64);
  _tile_stored(3, second[1], 64);
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

/* A block of sums: rows [m, m + rows) of x, m a multiple of PAIR, with rows [n, n + columns) of
 * w. */
static void block_of_tiles(sums *out, const activations *x, const moon_tensor *w, int64_t m,
                           int64_t rows, int64_t n, int64_t columns) {
  tile_sums tiles;
  uint16_t panel[PAIR * TILES_PIECE] __attribute__((aligned(64)));
  int64_t K = x->K, steps = (K + TILE_K - 1) / TILE_K, pairs = (rows + PAIR - 1) / PAIR;
  tiles_begin();
  memset(&tiles, 0, (size_t)pairs * 2 * sizeof tiles.at[0]);
  for (int64_t k = 0; k < K; k += TILES_PIECE)
    for (int64_t j = 0; j < columns; j += PAIR) {
      int64_t length = K - k < TILES_PIECE ? K - k : TILES_PIECE, tile = j / TILE_EDGE;
      pack_weights(panel, w, n + j, k, length);
      tiles_see_memory();
      for (int64_t p = 0; p < pairs; p++) {
        int64_t step = (m / PAIR + p) * steps + k / TILE_K;
        multiply_tiles(&tiles.at[2 * p][tile], &tiles.at[2 * p + 1][tile],
                       (const uint16_t *)x->data + step * 2 * TILE_SIZE, panel,
                       (length + TILE_K - 1) / TILE_K);
      }
      tiles_see_memory();
    }
  _tile_release();
  sums_of_tiles(out, &tiles, rows, columns);
}

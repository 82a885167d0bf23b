// SPDX-License-Identifier: MIT
/*
 * Attention of the query rows that share a kv head, ROWS of them at a time: the rows of a task are
 * the heads of the group of one token, then those of the next. Their keys come in blocks of
 * KEY_BLOCK, counted from position 0; scores of a block become weights relative to the largest
 * score up to there, and what was summed before is scaled to it. Keys and values of a block are
 * made f32 once for all rows, keys turned so that a vector holds SPAN / VECS of them.
 *
 * Each score is summed over d_head in order, each output over the keys in order, and nothing
 * past the row's own position enters. So the bits of a row depend on its query and the cache alone.
 * Included by ops_cpu_kernels.h.
 */
enum {
  SPAN = VECS * LANES, /* columns of a tile */
  AHEAD = 64,          /* rows of keys or values that are fetched before they are read */
  KEY_BLOCK = 128,     /* a multiple of SPAN */
  ROWS = 96            /* a multiple of QUERIES, which is the rows of a tile */
};

_Static_assert(KEY_BLOCK % SPAN == 0 && ROWS % QUERIES == 0, "blocks are whole tiles");

/* Of one thread, all f32. */
typedef struct attention_room {
  float *q;       /* [ROWS][d_head], scaled */
  float *out;     /* [ROWS][width], before the division */
  float *keys;    /* [d_head][SPAN] of a span of them */
  float *values;  /* [KEY_BLOCK][width], 0 from d_head on */
  float *weights; /* [ROWS][KEY_BLOCK], first the scores */
  float *sums;    /* [ROWS][LANES] of the weights */
  float *tops;    /* [ROWS] largest score so far */
} attention_room;

/* What a call does; width is d_head up to whole tiles. */
typedef struct attention_task {
  const moon_tensor *out, *q, *k, *v;
  const int32_t *position;
  int64_t n_heads, group, d_head, width, window;
  float scale;
} attention_task;

/* Columns [0, n) of a row that is read AHEAD rows later, on their way to the second cache. */
INLINE void fetch_row(moon_dtype dtype, const void *row, int64_t n) {
  for (int64_t i = 0; i < n; i += CACHE_LINE / (dtype == MOON_F32 ? 4 : 2))
    __builtin_prefetch(at(dtype, row, i), 0, 2);
}

/* out[r][0 .. SPAN) += the sum over i of a[r][i] * b[i][0 .. SPAN), for n_q (a constant) rows;
 * from_memory: b is in no cache yet */
INLINE void attention_tile(moon_dtype dtype, float *out, int64_t out_stride, const float *a,
                           int64_t a_stride, const void *b, int64_t b_stride, int64_t n, int n_q,
                           bool from_memory) {
  vec sum[QUERIES * VECS], column[VECS];
  for (int r = 0; r < n_q; r++)
    for (int c = 0; c < VECS; c++)
      sum[r * VECS + c] = vec_load(out + r * out_stride + c * LANES);
  for (int64_t i = 0; i < n; i++) {
    for (int c = 0; c < VECS; c++)
      column[c] = load_vec(dtype, b, i * b_stride + c * LANES);
    if (from_memory)
      fetch_row(dtype, at(dtype, b, (i + AHEAD) * b_stride), SPAN);
    for (int r = 0; r < n_q; r++) {
      vec one = vec_set(a[r * a_stride + i]);
      for (int c = 0; c < VECS; c++)
        sum[r * VECS + c] = vec_mul_add(one, column[c], sum[r * VECS + c]);
    }
  }
  for (int r = 0; r < n_q; r++)
    for (int c = 0; c < VECS; c++)
      vec_store(out + r * out_stride + c * LANES, sum[r * VECS + c]);
}

/* The same for any n_q up to QUERIES. */
static void attention_rows(moon_dtype dtype, float *out, int64_t out_stride, const float *a,
                           int64_t a_stride, const void *b, int64_t b_stride, int64_t n,
                           int64_t n_q, bool from_memory) {
#define CASE(rows)                                                                              \
  case rows:                                                                                    \
    WITH_DTYPE(dtype, attention_tile(DTYPE, out, out_stride, a, a_stride, b, b_stride, n, rows, \
                                     from_memory));                                             \
    break
  switch (n_q) {
    CASE(1);
    CASE(2);
    CASE(3);
    CASE(4);
    CASE(5);
    CASE(6);
  }
#undef CASE
}

/* Rows of LANES keys, f32 or pairs of bf16, become columns: those from d on. */
INLINE void turn_square(moon_dtype dtype, float *keys, const void *const *row, int64_t d) {
  vec square[LANES];
  for (int j = 0; j < LANES; j++)
    square[j] = dtype == MOON_BF16 ? vec_load((const float *)at(dtype, row[j], d))
                                   : load_vec(dtype, row[j], d);
  vec_turn(square);
  for (int j = 0; j < LANES; j++)
    if (dtype == MOON_BF16) {
      vec_store(keys + (d + 2 * j) * SPAN, vec_low_bf16(square[j]));
      vec_store(keys + (d + 2 * j + 1) * SPAN, vec_high_bf16(square[j]));
    } else {
      vec_store(keys + (d + j) * SPAN, square[j]);
    }
}

/* keys [d_head][SPAN] := n rows of k turned, and copies of the last one */
INLINE void turn_keys(moon_dtype dtype, float *keys, const void *k, int64_t n, int64_t d_head) {
  const int64_t width = dtype == MOON_BF16 ? 2 * LANES : LANES;
  for (int64_t i = 0; i < SPAN; i += LANES) {
    const void *row[LANES];
    int64_t d = 0;
    for (int64_t j = 0; j < LANES; j++) {
      row[j] = at(dtype, k, (i + j < n ? i + j : n - 1) * d_head);
      fetch_row(dtype, at(dtype, k, (i + j + AHEAD) * d_head), d_head);
    }
    for (; d + width <= d_head; d += width) {
      turn_square(dtype, keys + i, row, d);
    }
    for (; d < d_head; d++)
      for (int j = 0; j < LANES; j++)
        keys[d * SPAN + i + j] = load_one(dtype, row[j], d);
  }
}

/* values [n][width] := n rows of v; the columns from d_head on stay as they are */
INLINE void widen_values(moon_dtype dtype, float *values, int64_t width, const void *v, int64_t n,
                         int64_t d_head) {
  for (int64_t i = 0; i < n; i++) {
    int64_t d = 0;
    for (; d + LANES <= d_head; d += LANES)
      vec_store(values + i * width + d, load_vec(dtype, v, i * d_head + d));
    for (; d < d_head; d++)
      values[i * width + d] = load_one(dtype, v, i * d_head + d);
  }
}

/* Scores [unseen, n) of row r, at least one, become weights, those before them 0; its sums so far
 * follow the new largest score. */
static void soften(const attention_room *room, int64_t r, int64_t unseen, int64_t n,
                   int64_t width) {
  float *x = room->weights + r * KEY_BLOCK, *out = room->out + r * width;
  float before = room->tops[r];
  vec largest = vec_set(before), sum = vec_load(room->sums + r * LANES);
  for (int64_t i = 0; i < unseen; i++)
    x[i] = -INFINITY;
  for (int64_t i = n; i % LANES; i++)
    x[i] = -INFINITY;
  for (int64_t i = 0; i < n; i += LANES)
    largest = vec_max(vec_load(x + i), largest);
  float top = vec_largest(largest);
  if (top > before) {
    room->tops[r] = top;
    vec shrink = vec_exp(vec_set(before - top)); /* 0 for the first block */
    sum = vec_mul(sum, shrink);
    for (int64_t j = 0; j < width; j += LANES)
      vec_store(out + j, vec_mul(vec_load(out + j), shrink));
  }
  vec zero = vec_set(top > -INFINITY ? top : 0);
  for (int64_t i = 0; i < n; i += LANES) {
    vec power = vec_exp(vec_sub(vec_load(x + i), zero));
    vec_store(x + i, power);
    sum = vec_add(sum, power);
  }
  vec_store(room->sums + r * LANES, sum);
}

/* Sums of n_q rows from r on, of values v [..][width]: over the keys that all of them see together,
 * before and after these each its own. A key that a row does not see may have no number as value.
 */
static void mix(moon_dtype dtype, const attention_room *room, const void *v, const int64_t *unseen,
                const int64_t *sees, int64_t r, int64_t n_q, int64_t width, bool from_memory) {
  int64_t begin = unseen[r], end = sees[r];
  for (int64_t i = 1; i < n_q; i++) {
    begin = unseen[r + i] > begin ? unseen[r + i] : begin;
    end = sees[r + i] < end ? sees[r + i] : end;
  }
  end = begin < end ? end : begin;
  const float *weights = room->weights + r * KEY_BLOCK;
  for (int64_t j = 0; j < width; j += SPAN) {
    float *out = room->out + r * width + j;
#define MIX(row, rows, first, last, fetches)                                                      \
  attention_rows(dtype, out + (row)*width, width, weights + (row)*KEY_BLOCK + (first), KEY_BLOCK, \
                 at(dtype, v, (first)*width + j), width, (last) - (first), rows, fetches)
    for (int64_t i = 0; i < n_q; i++)
      MIX(i, 1, unseen[r + i], begin < sees[r + i] ? begin : sees[r + i], false);
    if (begin < end)
      MIX(0, n_q, begin, end, from_memory);
    for (int64_t i = 0; i < n_q; i++)
      MIX(i, 1, end, sees[r + i], false);
#undef MIX
  }
}

/* Scores of all rows with n keys of a block, those of each tile as far as one of its rows sees. */
static void score(const attention_room *room, const int64_t *sees, int64_t n_rows, int64_t d_head,
                  int64_t first) {
  for (int64_t r = 0; r < n_rows; r += QUERIES) {
    int64_t n_q = n_rows - r < QUERIES ? n_rows - r : QUERIES, most = 0;
    for (int64_t i = 0; i < n_q; i++) {
      memset(room->weights + (r + i) * KEY_BLOCK + first, 0, SPAN * sizeof(float));
      most = sees[r + i] > most ? sees[r + i] : most;
    }
    if (most > first)
      attention_rows(MOON_F32, room->weights + r * KEY_BLOCK + first, KEY_BLOCK,
                     room->q + r * d_head, d_head, room->keys, SPAN, d_head, n_q, false);
  }
}

/* One block of n keys; row r sees those from unseen[r] up to sees[r], or none. */
static void attend_block(const attention_task *t, const attention_room *room, const int64_t *unseen,
                         const int64_t *sees, int64_t n_rows, int64_t head, int64_t first,
                         int64_t n) {
  moon_dtype dtype = t->k->dtype;
  int64_t from = (head * t->k->shape[1] + first) * t->d_head;
  const void *k = at(dtype, moon_tensor_data(t->k), from);
  const void *v = at(dtype, moon_tensor_data(t->v), from);
  bool widens = n_rows > QUERIES || t->width > t->d_head;
  for (int64_t i = 0; i < n; i += SPAN) {
    WITH_DTYPE(dtype, turn_keys(DTYPE, room->keys, at(DTYPE, k, i * t->d_head), n - i, t->d_head));
    score(room, sees, n_rows, t->d_head, i);
  }
  if (widens) {
    WITH_DTYPE(dtype, widen_values(DTYPE, room->values, t->width, v, n, t->d_head));
    dtype = MOON_F32;
    v = room->values;
  }
  for (int64_t r = 0; r < n_rows; r++)
    if (sees[r] > 0)
      soften(room, r, unseen[r], sees[r], t->width);
  for (int64_t r = 0; r < n_rows; r += QUERIES)
    mix(dtype, room, v, unseen, sees, r, n_rows - r < QUERIES ? n_rows - r : QUERIES, t->width,
        !widens);
}

/* Element 0 of row r of kv head `head` in q and out. */
INLINE int64_t row_of_query(const attention_task *t, int64_t head, int64_t r) {
  return (r / t->group * t->n_heads + head * t->group + r % t->group) * t->d_head;
}

/* Rows [begin, begin + n_rows) of a kv head. */
static void attend(const attention_task *t, const attention_room *room, int64_t head, int64_t begin,
                   int64_t n_rows) {
  int64_t longest = 0, earliest = INT64_MAX, unseen[ROWS], sees[ROWS];
  memset(room->out, 0, (size_t)(n_rows * t->width) * sizeof(float));
  memset(room->sums, 0, (size_t)(n_rows * LANES) * sizeof(float));
  for (int64_t r = 0; r < n_rows; r++) {
    const float *q = (float *)moon_tensor_data(t->q) + row_of_query(t, head, begin + r);
    int64_t n = t->position[(begin + r) / t->group] + 1;
    for (int64_t d = 0; d < t->d_head; d++)
      room->q[r * t->d_head + d] = q[d] * t->scale;
    room->tops[r] = -INFINITY;
    longest = n > longest ? n : longest;
    earliest = n - t->window < earliest ? n - t->window : earliest;
  }
  earliest = earliest > 0 ? earliest / KEY_BLOCK * KEY_BLOCK : 0;
  for (int64_t first = earliest; first < longest; first += KEY_BLOCK) {
    int64_t n = longest - first < KEY_BLOCK ? longest - first : KEY_BLOCK;
    for (int64_t r = 0; r < n_rows; r++) {
      int64_t left = t->position[(begin + r) / t->group] + 1 - first;
      unseen[r] = left > t->window ? left - t->window : 0;
      sees[r] = left < 0 || unseen[r] >= n ? 0 : left < n ? left : n;
    }
    attend_block(t, room, unseen, sees, n_rows, head, first, n);
  }
  for (int64_t r = 0; r < n_rows; r++) {
    float *out = (float *)moon_tensor_data(t->out) + row_of_query(t, head, begin + r);
    float share = 1.0f / sum_lanes(vec_load(room->sums + r * LANES));
    for (int64_t d = 0; d < t->d_head; d++)
      out[d] = room->out[r * t->width + d] * share;
  }
}

/* Cuts the room of a thread out of `all`, or counts its floats where that is NULL. */
static int64_t take_attention_room(attention_room *room, float *all, int64_t d_head,
                                   int64_t width) {
  struct {
    float **part;
    int64_t n;
  } parts[] = {
      {&room->q, ROWS * d_head},
      {&room->out, ROWS * width},
      {&room->keys, SPAN * d_head},
      {&room->values, KEY_BLOCK * width},
      {&room->weights, ROWS * KEY_BLOCK},
      {&room->sums, ROWS * LANES},
      {&room->tops, ROWS},
  };
  int64_t n = 0;
  for (size_t i = 0; i < sizeof parts / sizeof *parts; n += parts[i++].n)
    *parts[i].part = all ? all + n : NULL;
  return n;
}

static moon_status attention(const moon_tensor *out, const moon_tensor *q, const moon_tensor *k,
                             const moon_tensor *v, const moon_tensor *positions, int64_t window,
                             float scale, moon_arithmetic arithmetic, moon_err *err) {
  (void)arithmetic;
  int64_t n = q->shape[0], n_kv_heads = k->shape[0], d_head = q->shape[2], longest = 0;
  attention_task t = {.out = out,
                      .q = q,
                      .k = k,
                      .v = v,
                      .position = moon_tensor_data(positions),
                      .n_heads = q->shape[1],
                      .group = q->shape[1] / n_kv_heads,
                      .d_head = d_head,
                      .width = (d_head + SPAN - 1) / SPAN * SPAN,
                      .window = window,
                      .scale = scale};
  for (int64_t i = 0; i < n; i++)
    longest = t.position[i] + 1 > longest ? t.position[i] + 1 : longest;
  int threads = worth_threads(n * longest * t.n_heads * d_head) ? moon_cpu_threads() : 1;
  attention_room room;
  int64_t size = take_attention_room(&room, NULL, d_head, t.width);
  float *all = calloc((size_t)(threads * size), sizeof *all);
  if (!all)
    return moon_fail(err, MOON_ENOMEM, "attention: no memory for %lld scores",
                     (long long)(threads * size));
  int64_t rows = n * t.group, n_blocks = (rows + ROWS - 1) / ROWS;
#pragma omp parallel num_threads(threads) private(room)
  {
    take_attention_room(&room, all + omp_get_thread_num() * size, d_head, t.width);
    /* The last blocks see the most keys, so they come first. */
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < n_blocks * n_kv_heads; i++) {
      int64_t begin = (n_blocks - 1 - i / n_kv_heads) * ROWS;
      attend(&t, &room, i % n_kv_heads, begin, rows - begin < ROWS ? rows - begin : ROWS);
    }
  }
  free(all);
  return MOON_OK;
}

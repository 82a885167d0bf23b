// SPDX-License-Identifier: MIT
/*
 * Attention of the query rows that share a kv head, ROWS of them at a time: the rows of a task are
 * the heads of the group of one token, then those of the next. Their keys come in pieces of
 * KEY_PIECE and, within a piece, in blocks of KEY_BLOCK, both counted from position 0; scores of a
 * block become weights relative to the largest score of the piece up to there, and what was summed
 * before is scaled to it. The sums of a piece are scaled in the same way when they are added to
 * those of the pieces before. Keys and values of a block are made f32 once for all rows, keys
 * turned so that a vector holds SPAN / VECS of them.
 *
 * Each score is summed over d_head in order, each output of a piece over its keys in order, the
 * pieces in order, and nothing past the row's own position enters. So the bits of a row depend on
 * its query and the cache alone, and the pieces of one token's long cache may be summed by as many
 * threads as there are. Included by ops_cpu_kernels.h.
 */
enum {
  SPAN = VECS * LANES, /* columns of a tile */
  AHEAD = 64,          /* rows of keys or values that are fetched before they are read */
  KEY_BLOCK = 128,     /* a multiple of SPAN */
  KEY_PIECE = 512,     /* a multiple of KEY_BLOCK; adding pieces up is 1% of the work of one */
  TASKS = 4,           /* of each thread at least, or one may wait long for the others */
  ROWS = 96            /* a multiple of QUERIES, which is the rows of a tile */
};

_Static_assert(KEY_BLOCK % SPAN == 0 && ROWS % QUERIES == 0, "blocks are whole tiles");
_Static_assert(KEY_PIECE % KEY_BLOCK == 0, "pieces are whole blocks");

/* Rows' sums over some of their keys, all f32. */
typedef struct attention_sums {
  float *out;     /* [n_rows][width], before the division */
  float *weights; /* [n_rows][LANES] */
  float *tops;    /* [n_rows] largest score */
} attention_sums;

/* Of one thread, all f32. */
typedef struct attention_room {
  float *q;             /* [n_rows][d_head], scaled */
  float *keys;          /* [d_head][SPAN] of a span of them */
  float *values;        /* [KEY_BLOCK][width], 0 from d_head on */
  float *weights;       /* [n_rows][KEY_BLOCK], first the scores */
  attention_sums sums;  /* of the piece at hand: one of the two below, or others */
  attention_sums whole; /* of the pieces so far */
  attention_sums next;  /* of the piece after them */
} attention_room;

/* What a call does; width is d_head up to whole tiles. */
typedef struct attention_task {
  const moon_tensor *out, *q, *k, *v;
  const int32_t *position;
  int64_t n_heads, group, d_head, width, window;
  float scale;
} attention_task;

/* Rows [begin, begin + n) of a kv head; keys [earliest, end) are all that one of them sees. */
typedef struct query_rows {
  int64_t head, begin, n, earliest, end;
} query_rows;

/* Columns [0, n) of a row that is read AHEAD rows later, on their way to the second cache. */
INLINE void fetch_row(moon_dtype dtype, const void *row, int64_t n) {
  for (int64_t i = 0; i < n; i += CACHE_LINE / size_of(dtype))
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
  const attention_sums *to = &room->sums;
  float *x = room->weights + r * KEY_BLOCK, *out = to->out + r * width;
  float before = to->tops[r];
  vec largest = vec_set(before), sum = vec_load(to->weights + r * LANES);
  for (int64_t i = 0; i < unseen; i++)
    x[i] = -INFINITY;
  for (int64_t i = n; i % LANES; i++)
    x[i] = -INFINITY;
  for (int64_t i = 0; i < n; i += LANES)
    largest = vec_max(vec_load(x + i), largest);
  float top = vec_largest(largest);
  if (top > before) {
    to->tops[r] = top;
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
  vec_store(to->weights + r * LANES, sum);
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
    float *out = room->sums.out + r * width + j;
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

static query_rows find_rows(const attention_task *t, int64_t head, int64_t begin, int64_t n) {
  query_rows rows = {head, begin, n, INT64_MAX, 0};
  for (int64_t i = begin / t->group; i <= (begin + n - 1) / t->group; i++) {
    int64_t end = t->position[i] + 1;
    rows.end = end > rows.end ? end : rows.end;
    rows.earliest = end - t->window < rows.earliest ? end - t->window : rows.earliest;
  }
  rows.earliest = rows.earliest > 0 ? rows.earliest : 0;
  return rows;
}

static int64_t n_pieces(const query_rows *rows) {
  return (rows->end + KEY_PIECE - 1) / KEY_PIECE - rows->earliest / KEY_PIECE;
}

/* Sums over no key. */
static void clear_sums(const attention_sums *of, int64_t n_rows, int64_t width) {
  memset(of->out, 0, (size_t)(n_rows * width) * sizeof(float));
  memset(of->weights, 0, (size_t)(n_rows * LANES) * sizeof(float));
  for (int64_t r = 0; r < n_rows; r++)
    of->tops[r] = -INFINITY;
}

static void load_queries(const attention_task *t, float *to, const query_rows *rows) {
  for (int64_t r = 0; r < rows->n; r++) {
    const float *q = (float *)moon_tensor_data(t->q) + row_of_query(t, rows->head, rows->begin + r);
    for (int64_t d = 0; d < t->d_head; d++)
      to[r * t->d_head + d] = q[d] * t->scale;
  }
}

/* room->sums := over piece i of those that the rows see. */
static void attend_piece(const attention_task *t, const attention_room *room,
                         const query_rows *rows, int64_t i) {
  int64_t unseen[ROWS], sees[ROWS], piece = (rows->earliest / KEY_PIECE + i) * KEY_PIECE;
  int64_t end = rows->end - piece < KEY_PIECE ? rows->end : piece + KEY_PIECE;
  int64_t first = rows->earliest > piece ? rows->earliest / KEY_BLOCK * KEY_BLOCK : piece;
  clear_sums(&room->sums, rows->n, t->width);
  for (; first < end; first += KEY_BLOCK) {
    int64_t n = end - first < KEY_BLOCK ? end - first : KEY_BLOCK;
    for (int64_t r = 0; r < rows->n; r++) {
      int64_t left = t->position[(rows->begin + r) / t->group] + 1 - first;
      unseen[r] = left > t->window ? left - t->window : 0;
      sees[r] = left < 0 || unseen[r] >= n ? 0 : left < n ? left : n;
    }
    attend_block(t, room, unseen, sees, rows->n, rows->head, first, n);
  }
}

/* Row r of `to` := of the other. */
static void copy_sums(const attention_sums *to, const attention_sums *from, int64_t r,
                      int64_t width) {
  memcpy(to->out + r * width, from->out + r * width, (size_t)width * sizeof(float));
  memcpy(to->weights + r * LANES, from->weights + r * LANES, LANES * sizeof(float));
  to->tops[r] = from->tops[r];
}

/* Row r of `to` gets the sums of a piece, which is the next one. */
static void add_piece(const attention_sums *to, const attention_sums *piece, int64_t r,
                      int64_t width) {
  float before = to->tops[r], here = piece->tops[r], top = here > before ? here : before;
  float zero = top > -INFINITY ? top : 0;
  float *out = to->out + r * width, *weights = to->weights + r * LANES;
  vec shrink = vec_exp(vec_set(before - zero)), share = vec_exp(vec_set(here - zero));
  to->tops[r] = top;
  for (int64_t j = 0; j < width; j += LANES)
    vec_store(out + j, vec_mul_add(share, vec_load(piece->out + r * width + j),
                                   vec_mul(shrink, vec_load(out + j))));
  vec_store(weights, vec_mul_add(share, vec_load(piece->weights + r * LANES),
                                 vec_mul(shrink, vec_load(weights))));
}

/* The same for all rows that see something of piece i, which is not the first one: a row's first
 * piece is what it has, and so is what a row has that does not see this one. */
static void add_pieces(const attention_task *t, const attention_sums *to,
                       const attention_sums *piece, const query_rows *rows, int64_t i) {
  int64_t first = (rows->earliest / KEY_PIECE + i) * KEY_PIECE;
  for (int64_t r = 0; r < rows->n; r++) {
    int64_t end = t->position[(rows->begin + r) / t->group] + 1;
    if (end <= first || end - t->window >= first + KEY_PIECE)
      continue;
    if (end - t->window >= first)
      copy_sums(to, piece, r, t->width);
    else
      add_piece(to, piece, r, t->width);
  }
}

static void store_rows(const attention_task *t, const attention_sums *of, const query_rows *rows) {
  for (int64_t r = 0; r < rows->n; r++) {
    float *out = (float *)moon_tensor_data(t->out) + row_of_query(t, rows->head, rows->begin + r);
    float share = 1.0f / sum_lanes(vec_load(of->weights + r * LANES));
    for (int64_t d = 0; d < t->d_head; d++)
      out[d] = of->out[r * t->width + d] * share;
  }
}

/* All pieces of some rows, one after the other. */
static void attend(const attention_task *t, attention_room *room, const query_rows *rows) {
  load_queries(t, room->q, rows);
  for (int64_t i = 0; i < n_pieces(rows); i++) {
    room->sums = i == 0 ? room->whole : room->next;
    attend_piece(t, room, rows, i);
    if (i > 0)
      add_pieces(t, &room->whole, &room->next, rows, i);
  }
  store_rows(t, &room->whole, rows);
}

/* Cuts parts out of `all`, each of whole cache lines, or counts their floats where that is NULL. */
static int64_t take_parts(float *all, int n_parts, float **const *parts, const int64_t *sizes) {
  const int64_t line = CACHE_LINE / (int64_t)sizeof *all;
  int64_t n = 0;
  for (int i = 0; i < n_parts; n += (sizes[i++] + line - 1) / line * line)
    *parts[i] = all ? all + n : NULL;
  return n;
}

static int64_t take_sums(attention_sums *of, float *all, int64_t n_rows, int64_t width) {
  float **const parts[] = {&of->out, &of->weights, &of->tops};
  return take_parts(all, 3, parts, (int64_t[]){n_rows * width, n_rows * LANES, n_rows});
}

static int64_t take_room(attention_room *room, float *all, const attention_task *t,
                         int64_t n_rows) {
  float **const parts[] = {&room->q, &room->keys, &room->values, &room->weights};
  int64_t n = take_parts(
      all, 4, parts,
      (int64_t[]){n_rows * t->d_head, SPAN * t->d_head, KEY_BLOCK * t->width, n_rows * KEY_BLOCK});
  if (all && t->width > t->d_head)
    memset(room->values, 0, (size_t)(KEY_BLOCK * t->width) * sizeof(float));
  n += take_sums(&room->whole, all ? all + n : NULL, n_rows, t->width);
  return n + take_sums(&room->next, all ? all + n : NULL, n_rows, t->width);
}

/* Blocks of rows, each a thread's. The last blocks see the most keys, so they come first. */
static void attend_blocks(const attention_task *t, attention_room *room, int64_t n_rows) {
  int64_t n_blocks = (n_rows + ROWS - 1) / ROWS, n_kv_heads = t->k->shape[0];
#pragma omp for schedule(dynamic, 1)
  for (int64_t i = 0; i < n_blocks * n_kv_heads; i++) {
    int64_t begin = (n_blocks - 1 - i / n_kv_heads) * ROWS;
    query_rows rows =
        find_rows(t, i % n_kv_heads, begin, n_rows - begin < ROWS ? n_rows - begin : ROWS);
    attend(t, room, &rows);
  }
}

/* Rows of which there are too few for all threads: the threads share their pieces, and add them up
 * when all are there. `memory`: for the sums of every piece of every kv head. */
static void attend_together(const attention_task *t, attention_room *room, const query_rows *rows,
                            float *memory) {
  int64_t n = n_pieces(rows), n_kv_heads = t->k->shape[0];
  attention_sums whole, next;
  int64_t size = take_sums(&whole, NULL, rows->n, t->width);
#pragma omp for schedule(dynamic, 1)
  for (int64_t i = 0; i < n * n_kv_heads; i++) {
    query_rows mine = *rows;
    mine.head = i / n;
    load_queries(t, room->q, &mine);
    take_sums(&room->sums, memory + i * size, rows->n, t->width);
    attend_piece(t, room, &mine, i % n);
  }
#pragma omp for schedule(static)
  for (int64_t head = 0; head < n_kv_heads; head++) {
    query_rows mine = *rows;
    mine.head = head;
    take_sums(&whole, memory + head * n * size, rows->n, t->width);
    for (int64_t i = 1; i < n; i++) {
      take_sums(&next, memory + (head * n + i) * size, rows->n, t->width);
      add_pieces(t, &whole, &next, rows, i);
    }
    store_rows(t, &whole, &mine);
  }
}

static moon_status attention(const moon_tensor *out, const moon_tensor *q, const moon_tensor *k,
                             const moon_tensor *v, const moon_tensor *positions, int64_t window,
                             float scale, moon_arithmetic arithmetic, moon_err *err) {
  (void)arithmetic;
  int64_t n = q->shape[0], n_kv_heads = k->shape[0], d_head = q->shape[2];
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
  int64_t n_rows = n * t.group, n_blocks = (n_rows + ROWS - 1) / ROWS;
  if (n_rows == 0)
    return MOON_OK;
  query_rows all = find_rows(&t, 0, 0, n_rows);
  int threads = worth_threads(n * all.end * t.n_heads * d_head) ? moon_cpu_threads() : 1;
  bool shares =
      threads > 1 && n_blocks == 1 && n_pieces(&all) > 1 && n_kv_heads < (int64_t)TASKS * threads;
  attention_room room;
  attention_sums one;
  int64_t height = n_rows < ROWS ? n_rows : ROWS, size = take_room(&room, NULL, &t, height);
  int64_t shared =
      shares ? n_kv_heads * n_pieces(&all) * take_sums(&one, NULL, n_rows, t.width) : 0;
  float *memory = aligned_alloc(CACHE_LINE, (size_t)(threads * size + shared) * sizeof *memory);
  if (!memory)
    return moon_fail(err, MOON_ENOMEM, "attention: no memory for %lld sums",
                     (long long)(threads * size + shared));
#pragma omp parallel num_threads(threads) private(room)
  {
    take_room(&room, memory + omp_get_thread_num() * size, &t, height);
    if (shares)
      attend_together(&t, &room, &all, memory + threads * size);
    else
      attend_blocks(&t, &room, n_rows);
  }
  free(memory);
  return MOON_OK;
}

// SPDX-License-Identifier: MIT
/*
 * Attention of the query heads of one token that share a cache, QUERIES at a time: a loaded key or
 * value serves them all. Scores are summed as in a product; an output is summed over the keys in
 * order, for each element by itself. So neither depends on how many queries there are. Included by
 * ops_cpu_kernels.h.
 */
enum { KEYS = 4, VALUE_VECS = 4 };

/* scores[r][i] := q[r] . k[i]; rows of scores are `room` apart, a multiple of KEYS. */
INLINE void score(moon_dtype dtype, float *scores, int64_t room, const float *q, int n_q,
                  const void *k, int64_t n_keys, int64_t d_head) {
  for (int r = 0; r < n_q; r++)
    memset(scores + r * room, 0, (size_t)room * sizeof *scores);
  for (int64_t i = 0; i < n_keys; i += KEYS) {
    reading t = {.x = q, .x_stride = d_head, .dtype = dtype, .K = d_head};
    for (int64_t j = 0; j < KEYS; j++)
      t.w[j] = at(dtype, k, (i + j < n_keys ? i + j : n_keys - 1) * d_head);
    tile_f32(scores + i, room, &t, n_q, KEYS);
  }
}

/* x := exp(scale x - the largest of that), and 1 / their sum. x has room for whole vectors. */
INLINE float soften(float *x, int64_t n, float scale) {
  vec largest = vec_set(-INFINITY), sum = vec_zero();
  for (int64_t i = 0; i < n; i += LANES)
    vec_store(x + i, vec_mul(vec_load(x + i), vec_set(scale)));
  for (int64_t i = n; i % LANES; i++)
    x[i] = -INFINITY;
  for (int64_t i = 0; i < n; i += LANES)
    largest = vec_max(vec_load(x + i), largest);
  float lanes[LANES], top = -INFINITY;
  vec_store(lanes, largest);
  for (int i = 0; i < LANES; i++)
    top = lanes[i] > top ? lanes[i] : top;
  for (int64_t i = 0; i < n; i += LANES) {
    vec power = vec_exp(vec_sub(vec_load(x + i), vec_set(top)));
    vec_store(x + i, power);
    sum = vec_add(sum, power);
  }
  return 1.0f / sum_lanes(sum);
}

/* Columns [j, j + n_vecs * LANES) of out[r] := the sum of weights[r][i] * v[i], times shares[r] */
INLINE void mix(moon_dtype dtype, float *out, const float *weights, int64_t room,
                const float *shares, int n_q, const void *v, int64_t n_keys, int64_t d_head,
                int64_t j, int n_vecs) {
  vec sum[QUERIES * VALUE_VECS];
  clear(sum, n_q * n_vecs);
  for (int64_t i = 0; i < n_keys; i++)
    for (int c = 0; c < n_vecs; c++) {
      vec value = load_vec(dtype, v, i * d_head + j + c * LANES);
      for (int r = 0; r < n_q; r++)
        sum[r * n_vecs + c] =
            vec_mul_add(vec_set(weights[r * room + i]), value, sum[r * n_vecs + c]);
    }
  for (int r = 0; r < n_q; r++)
    for (int c = 0; c < n_vecs; c++)
      vec_store(out + r * d_head + j + c * LANES, vec_mul(sum[r * n_vecs + c], vec_set(shares[r])));
}

/* n_q (a constant) queries against rows 0 .. n_keys - 1 of one cache. */
INLINE void attend(moon_dtype dtype, float *out, const float *q, int n_q, const void *k,
                   const void *v, int64_t n_keys, int64_t d_head, float scale, float *scores,
                   int64_t room) {
  float shares[QUERIES];
  int64_t j = 0;
  score(dtype, scores, room, q, n_q, k, n_keys, d_head);
  for (int r = 0; r < n_q; r++)
    shares[r] = soften(scores + r * room, n_keys, scale);
  for (; j + VALUE_VECS * LANES <= d_head; j += VALUE_VECS * LANES)
    mix(dtype, out, scores, room, shares, n_q, v, n_keys, d_head, j, VALUE_VECS);
  for (; j + LANES <= d_head; j += LANES)
    mix(dtype, out, scores, room, shares, n_q, v, n_keys, d_head, j, 1);
  for (; j < d_head; j++)
    for (int r = 0; r < n_q; r++) {
      float sum = 0;
      for (int64_t i = 0; i < n_keys; i++)
        sum += scores[r * room + i] * load_one(dtype, v, i * d_head + j);
      out[r * d_head + j] = sum * shares[r];
    }
}

/* As many queries as a call of attend takes; a constant where n is one. */
INLINE int at_most_queries(int n) {
  return n < QUERIES ? n : QUERIES;
}

/* The queries of token t that share kv head `head`, all of which see the n_keys rows from
 * first_key on. */
static void attend_group(const moon_tensor *out, const moon_tensor *q, const moon_tensor *k,
                         const moon_tensor *v, int64_t t, int64_t head, int64_t first_key,
                         int64_t n_keys, float scale, float *scores, int64_t room) {
  int64_t d_head = q->shape[2], group = q->shape[1] / k->shape[0];
  int64_t cache = (head * k->shape[1] + first_key) * d_head;
  for (int64_t i = 0; i < group; i += QUERIES) {
    int64_t first = (t * q->shape[1] + head * group + i) * d_head, n_q = group - i;
    const float *query = (const float *)moon_tensor_data(q) + first;
    float *y = (float *)moon_tensor_data(out) + first;
#define ATTEND(n)                                                                               \
  WITH_DTYPE(k->dtype,                                                                          \
             attend(DTYPE, y, query, at_most_queries(n), at(DTYPE, moon_tensor_data(k), cache), \
                    at(DTYPE, moon_tensor_data(v), cache), n_keys, d_head, scale, scores, room))
    if (n_q >= QUERIES)
      ATTEND(QUERIES);
    else if (n_q == 1)
      ATTEND(1);
    else if (n_q == 2)
      ATTEND(2);
    else
      ATTEND(3);
#undef ATTEND
  }
}

static moon_status attention(const moon_tensor *out, const moon_tensor *q, const moon_tensor *k,
                             const moon_tensor *v, const moon_tensor *positions, int64_t window,
                             float scale, moon_arithmetic arithmetic, moon_err *err) {
  (void)arithmetic;
  int64_t n = q->shape[0], n_kv_heads = k->shape[0], longest = 0;
  const int32_t *position = moon_tensor_data(positions);
  for (int64_t t = 0; t < n; t++)
    longest = position[t] + 1 > longest ? position[t] + 1 : longest;
  longest = longest < window ? longest : window;
  bool shared = worth_threads(n * longest * q->shape[1] * q->shape[2]);
  int threads = shared ? moon_cpu_threads() : 1;
  int64_t room = (longest / LANES + 1) * LANES;
  float *scores = malloc((size_t)(threads * QUERIES * room) * sizeof *scores);
  if (!scores)
    return moon_fail(err, MOON_ENOMEM, "attention: no memory for %lld scores",
                     (long long)(threads * QUERIES * room));
#pragma omp parallel num_threads(threads)
  {
    float *mine = scores + omp_get_thread_num() * QUERIES * room;
#pragma omp for schedule(static, 1)
    for (int64_t i = 0; i < n * n_kv_heads; i++) {
      int64_t t = i / n_kv_heads, n_keys = position[t] < window ? position[t] + 1 : window;
      attend_group(out, q, k, v, t, i % n_kv_heads, position[t] + 1 - n_keys, n_keys, scale, mine,
                   room);
    }
  }
  free(scores);
  return MOON_OK;
}

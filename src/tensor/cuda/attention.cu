// SPDX-License-Identifier: MIT
/*
 * out[t][h] := softmax(scale q k^T) v over the keys 0 .. positions[t], or the last `window` of them,
 * everything in f32, without the matrix of scores in memory. BF16 arithmetic over a bf16 cache is attention_bf16.cu's.
 *
 * The keys of a head are cut into runs of RUN, always at the same places. Within a run a softmax
 * goes over tiles of 32 keys, correcting what it has when a larger score comes; those runs that a
 * query sees something of are then merged in order. So the order of every sum depends on the position alone, and it is the same in
 * both ways of sharing the work:
 *
 * - few rows (decode): a block per run writes the run's part to memory, and a second kernel merges
 *   them. Bound by reading the cache once.
 * - many rows (prefill): a block goes over all runs of its queries and merges as it goes. Bound by
 *   multiply-adds.
 *
 * The queries of a kv head are numbered [row][head of its group]; a warp owns QUERIES of them, a
 * lane the dims lane, lane + 32, ...: SLOTS of them.
 */
#include <limits.h>

#include "tensor/cuda/attention.cuh"

enum { TILE = WARP, RUN = 64, WARPS = THREADS / WARP, FEW_ROWS = 16, MOST_D_HEAD = 512 };

/* A softmax so far, of the warp's queries. */
template <int QUERIES, int SLOTS>
struct state {
  float top[QUERIES], sum[QUERIES]; /* of the scores, of exp(score - top); all lanes the same */
  float y[QUERIES][SLOTS];          /* sum of exp(score - top) v */
};

template <int QUERIES, int SLOTS>
__device__ __forceinline__ void clear(state<QUERIES, SLOTS> *s) {
#pragma unroll
  for (int i = 0; i < QUERIES; i++) {
    s->top[i] = -INFINITY;
    s->sum[i] = 0;
#pragma unroll
    for (int j = 0; j < SLOTS; j++)
      s->y[i][j] = 0;
  }
}

/* exp(score - top), where the top of no scores, or of -inf alone, is -inf: those weigh nothing. */
__device__ __forceinline__ float weight_of(float score, float top) {
  return score == -INFINITY ? 0 : expf(score - top);
}

/* s := s and the part (top, sum, y) of later keys, for query i. */
template <int QUERIES, int SLOTS>
__device__ __forceinline__ void merge(state<QUERIES, SLOTS> *s, int i, float top, float sum,
                                      const float *y) {
  float both = s->top[i] > top ? s->top[i] : top;
  float old_weight = weight_of(s->top[i], both), new_weight = weight_of(top, both);
  s->top[i] = both;
  s->sum[i] = s->sum[i] * old_weight + sum * new_weight;
#pragma unroll
  for (int j = 0; j < SLOTS; j++)
    s->y[i][j] = s->y[i][j] * old_weight + y[j] * new_weight;
}

/* What a block keeps in shared memory; k and v rows are `stride` apart, which spreads the 16-byte
 * reads of 32 keys over all banks. */
struct shared_tiles {
  float *q;       /* [WARPS * QUERIES][padded], times scale */
  float *k, *v;   /* [TILE][stride] */
  float *weights; /* [WARPS][TILE][QUERIES] */
  int stride;
};

static size_t shared_bytes(const attention_call *c, int queries) {
  size_t q = (size_t)(WARPS * queries) * (size_t)c->padded, tile = TILE * (size_t)(c->padded + 4);
  return (q + 2 * tile + (size_t)(WARPS * TILE * queries)) * sizeof(float);
}

__device__ __forceinline__ shared_tiles split_shared(float *shared, const attention_call &c,
                                                     int queries) {
  shared_tiles s;
  s.stride = c.padded + 4;
  s.q = shared;
  s.k = s.q + WARPS * queries * c.padded;
  s.v = s.k + TILE * s.stride;
  s.weights = s.v + TILE * s.stride;
  return s;
}

/* Rows first .. first + TILE - 1 of one head's cache; zeros beyond `end` and beyond d_head. */
template <typename T>
__device__ static void load_tile(float *to, int stride, const T *cache, int first, int end,
                                 int d_head, int padded) {
  if (d_head % 8 == 0) {
    for (int i = (int)threadIdx.x; i < TILE * d_head / 8; i += THREADS) {
      int row = i / (d_head / 8), column = i % (d_head / 8) * 8;
      float values[8] = {0};
      if (first + row < end)
        load_8(values, cache + (int64_t)(first + row) * d_head + column);
      float4 *place = (float4 *)(to + row * stride + column);
      place[0] = make_float4(values[0], values[1], values[2], values[3]);
      place[1] = make_float4(values[4], values[5], values[6], values[7]);
    }
    return;
  }
  for (int i = (int)threadIdx.x; i < TILE * padded; i += THREADS) {
    int row = i / padded, column = i % padded;
    bool there = first + row < end && column < d_head;
    to[row * stride + column] = there ? to_f32(cache[(int64_t)(first + row) * d_head + column]) : 0;
  }
}

/* The block's queries, from number `first` of the kv head. */
__device__ static void load_queries(float *to, const attention_call &c, int64_t kv_head,
                                    int64_t first, int n) {
  for (int i = (int)threadIdx.x; i < n * c.padded; i += THREADS) {
    int64_t query = first + i / c.padded, t = query / c.group;
    int column = i % c.padded;
    int64_t at = (t * c.n_heads + kv_head * c.group + query % c.group) * c.d_head + column;
    to[i] = t < c.n_tok && column < c.d_head ? c.q[at] : 0;
  }
}

/* scale q k of this lane's key for each of the warp's queries; -inf where the query does not see
 * the key. d runs upward. */
template <int QUERIES>
__device__ __forceinline__ void score_tile(float *scores, const float *q, const float *k,
                                           const attention_call &c, int key, const int *n_keys) {
#pragma unroll
  for (int i = 0; i < QUERIES; i++)
    scores[i] = 0;
#pragma unroll 2
  for (int d = 0; d < c.padded; d += 4) {
    float4 b = *(const float4 *)(k + d);
#pragma unroll
    for (int i = 0; i < QUERIES; i++) {
      float4 a = *(const float4 *)(q + i * c.padded + d);
      scores[i] = fmaf(a.x, b.x, scores[i]);
      scores[i] = fmaf(a.y, b.y, scores[i]);
      scores[i] = fmaf(a.z, b.z, scores[i]);
      scores[i] = fmaf(a.w, b.w, scores[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < QUERIES; i++)
    scores[i] = sees(c, n_keys[i], key) ? c.scale * scores[i] : -INFINITY;
}

/* The tile that begins at key `first`, into the state of its run. */
template <int QUERIES, int SLOTS>
__device__ __forceinline__ void attend_tile(state<QUERIES, SLOTS> *s, const shared_tiles &tiles,
                                            const attention_call &c, int first, const int *n_keys) {
  int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
  float *weights = tiles.weights + warp * TILE * QUERIES;
  float scores[QUERIES];
  score_tile<QUERIES>(scores, tiles.q + warp * QUERIES * c.padded, tiles.k + lane * tiles.stride,
                      c, first + lane, n_keys);
#pragma unroll
  for (int i = 0; i < QUERIES; i++) {
    float top = warp_reduce(scores[i], max_of());
    top = s->top[i] > top ? s->top[i] : top;
    float weight = weight_of(scores[i], top), correction = weight_of(s->top[i], top);
    s->sum[i] = s->sum[i] * correction + warp_reduce(weight, sum_of());
    s->top[i] = top;
    weights[lane * QUERIES + i] = weight;
#pragma unroll
    for (int j = 0; j < SLOTS; j++)
      s->y[i][j] *= correction;
  }
  __syncwarp();
#pragma unroll 2
  for (int key = 0; key < TILE; key++) {
    float v[SLOTS];
#pragma unroll
    for (int j = 0; j < SLOTS; j++)
      v[j] = lane + j * WARP < c.padded ? tiles.v[key * tiles.stride + lane + j * WARP] : 0;
#pragma unroll
    for (int i = 0; i < QUERIES; i++)
      if (sees(c, n_keys[i], first + key)) /* not 0 * v: an unseen row's v may be no number */
#pragma unroll
        for (int j = 0; j < SLOTS; j++)
          s->y[i][j] = fmaf(weights[key * QUERIES + i], v[j], s->y[i][j]);
  }
}

/* Keys that some of a block's queries see: from the begin of a run. */
struct key_range {
  int begin, end;
};

/* Keys up to the position of each of the warp's queries, 0 for a query that is not there. */
template <int QUERIES>
__device__ __forceinline__ key_range count_keys(int *n_keys, const attention_call &c,
                                                int64_t first) {
  int least = INT_MAX, most = 0, warp = (int)threadIdx.x / WARP;
  int64_t last = (first + WARPS * QUERIES - 1) / c.group;
  for (int64_t t = first / c.group; t <= last && t < c.n_tok; t++) {
    int n = c.positions[t] + 1, seen = first_seen(c, n);
    most = n > most ? n : most;
    least = seen < least ? seen : least;
  }
#pragma unroll
  for (int i = 0; i < QUERIES; i++) {
    int64_t t = (first + warp * QUERIES + i) / c.group;
    n_keys[i] = t < c.n_tok ? c.positions[t] + 1 : 0;
  }
  return {most > 0 ? least / RUN * RUN : 0, most};
}

/* The run from key `first`, `end` keys being there at most, into s. */
template <typename T, int QUERIES, int SLOTS>
__device__ __forceinline__ void attend_run(state<QUERIES, SLOTS> *s, const shared_tiles &tiles,
                                           const attention_call &c, int64_t kv_head, int first,
                                           int end, const int *n_keys) {
  const T *k = (const T *)c.k + kv_head * c.n_ctx * c.d_head;
  const T *v = (const T *)c.v + kv_head * c.n_ctx * c.d_head;
  int last = first + RUN < end ? first + RUN : end;
  for (int at = first; at < last; at += TILE) {
    __syncthreads(); /* the tile before has been read */
    load_tile(tiles.k, tiles.stride, k, at, end, c.d_head, c.padded);
    load_tile(tiles.v, tiles.stride, v, at, end, c.d_head, c.padded);
    __syncthreads();
    attend_tile(s, tiles, c, at, n_keys);
  }
}

/* Many rows. Grid (queries, kv heads): a block owns WARPS * QUERIES queries; those with the most
 * keys begin first. */
template <typename T, int QUERIES, int SLOTS>
static __global__ void __launch_bounds__(THREADS, 2) attention_kernel(attention_call c) {
  DYNAMIC_SHARED(float, shared);
  shared_tiles tiles = split_shared(shared, c, QUERIES);
  int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
  int64_t kv_head = blockIdx.y;
  int64_t first = (int64_t)(gridDim.x - 1 - blockIdx.x) * WARPS * QUERIES;
  int n_keys[QUERIES];
  key_range keys = count_keys<QUERIES>(n_keys, c, first);
  state<QUERIES, SLOTS> all, run;
  load_queries(tiles.q, c, kv_head, first, WARPS * QUERIES);
  clear(&all);
  for (int at = keys.begin; at < keys.end; at += RUN) {
    clear(&run);
    attend_run<T>(&run, tiles, c, kv_head, at, keys.end, n_keys);
#pragma unroll
    for (int i = 0; i < QUERIES; i++)
      if (at < n_keys[i] && at + RUN > first_seen(c, n_keys[i]))
        merge(&all, i, run.top[i], run.sum[i], run.y[i]);
  }
#pragma unroll
  for (int i = 0; i < QUERIES; i++) {
    int64_t place = place_of_query(c, kv_head, first + warp * QUERIES + i);
#pragma unroll
    for (int j = 0; j < SLOTS; j++)
      if (place >= 0 && lane + j * WARP < c.d_head)
        c.out[place * c.d_head + lane + j * WARP] = all.y[i][j] / all.sum[i];
  }
}

/* Few rows. Grid (runs, queries, kv heads), a query per warp. */
template <typename T, int SLOTS>
static __global__ void __launch_bounds__(THREADS) attention_run_kernel(attention_call c) {
  DYNAMIC_SHARED(float, shared);
  shared_tiles tiles = split_shared(shared, c, 1);
  int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
  int64_t kv_head = blockIdx.z, first = (int64_t)blockIdx.y * WARPS;
  int n_keys[1], at = (int)blockIdx.x * RUN;
  key_range keys = count_keys<1>(n_keys, c, first);
  if (at < keys.begin || at >= keys.end)
    return;
  state<1, SLOTS> run;
  load_queries(tiles.q, c, kv_head, first, WARPS);
  clear(&run);
  attend_run<T>(&run, tiles, c, kv_head, at, keys.end, n_keys);
  int64_t place = place_of_query(c, kv_head, first + warp);
  if (place < 0)
    return;
  float *part = c.parts + (place * c.n_runs + blockIdx.x) * (c.d_head + 2);
#pragma unroll
  for (int j = 0; j < SLOTS; j++)
    if (lane + j * WARP < c.d_head)
      part[lane + j * WARP] = run.y[0][j];
  if (lane == 0) {
    part[c.d_head] = run.top[0];
    part[c.d_head + 1] = run.sum[0];
  }
}

/* The runs of one query, merged in order. Grid [n_tok * n_heads]; a thread owns a dim. */
static __global__ void attention_merge_kernel(attention_call c) {
  int64_t place = blockIdx.x;
  int n_keys = c.positions[place / c.n_heads] + 1;
  for (int d = (int)threadIdx.x; d < c.d_head; d += (int)blockDim.x) {
    state<1, 1> all;
    clear(&all);
    for (int64_t run = first_seen(c, n_keys) / RUN; run * RUN < n_keys; run++) {
      const float *part = c.parts + (place * c.n_runs + run) * (c.d_head + 2);
      merge(&all, 0, part[c.d_head], part[c.d_head + 1], part + d);
    }
    c.out[place * c.d_head + d] = all.y[0][0] / all.sum[0];
  }
}

template <typename T, int QUERIES, int SLOTS>
static moon_status attend_many(cuda_device *d, const attention_call *c, moon_err *err) {
  int64_t n = c->n_tok * c->group, mine = WARPS * QUERIES;
  return launch(d, "attention", err, attention_kernel<T, QUERIES, SLOTS>,
                dim3((unsigned)((n + mine - 1) / mine), (unsigned)c->n_kv_heads), THREADS,
                shared_bytes(c, QUERIES), *c);
}

template <typename T, int SLOTS>
static moon_status attend_few(cuda_device *d, attention_call *c, moon_err *err) {
  int64_t n = c->n_tok * c->group;
  size_t size = (size_t)(c->n_tok * c->n_heads * c->n_runs * (c->d_head + 2)) * sizeof(float);
  TRY(take_scratch(d, size, (void **)&c->parts, err));
  TRY(launch(
      d, "attention", err, attention_run_kernel<T, SLOTS>,
      dim3((unsigned)c->n_runs, (unsigned)((n + WARPS - 1) / WARPS), (unsigned)c->n_kv_heads),
      THREADS, shared_bytes(c, 1), *c));
  return launch(d, "attention", err, attention_merge_kernel,
                dim3((unsigned)(c->n_tok * c->n_heads)), 128, 0, *c);
}

template <typename T, int QUERIES, int SLOTS>
static moon_status attend(cuda_device *d, attention_call *c, moon_err *err) {
  if (c->n_tok <= FEW_ROWS)
    return attend_few<T, SLOTS>(d, c, err);
  return attend_many<T, QUERIES, SLOTS>(d, c, err);
}

template <typename T>
static moon_status attend_dtype(cuda_device *d, attention_call *c, moon_err *err) {
  if (c->d_head <= 64)
    return attend<T, 4, 2>(d, c, err);
  if (c->d_head <= 128)
    return attend<T, 4, 4>(d, c, err);
  return attend<T, 2, MOST_D_HEAD / WARP>(d, c, err);
}

static moon_status attention(const moon_tensor *out, const moon_tensor *q, const moon_tensor *k,
                             const moon_tensor *v, const moon_tensor *positions, int64_t window,
                             float scale, moon_arithmetic arithmetic, moon_err *err) {
  int64_t n_kv_heads = k->shape[0], d_head = q->shape[2];
  if (d_head > MOST_D_HEAD || n_kv_heads > 65535)
    return moon_fail(err, MOON_ESHAPE,
                     "attention: found d_head %lld and %lld kv heads, expected at "
                     "most %d and 65535 on a GPU",
                     (long long)d_head, (long long)n_kv_heads, MOST_D_HEAD);
  attention_call c = {};
  c.out = (float *)moon_tensor_data(out);
  c.q = (const float *)moon_tensor_data(q);
  c.k = moon_tensor_data(k);
  c.v = moon_tensor_data(v);
  c.positions = (const int32_t *)moon_tensor_data(positions);
  c.scale = scale;
  c.window = window < INT_MAX ? (int)window : INT_MAX;
  c.n_tok = q->shape[0];
  c.n_heads = q->shape[1];
  c.n_kv_heads = n_kv_heads;
  c.n_ctx = k->shape[1];
  c.n_runs = (c.n_ctx + RUN - 1) / RUN;
  c.group = (int)(c.n_heads / n_kv_heads);
  c.d_head = (int)d_head;
  c.padded = (int)(d_head + 3) / 4 * 4;
  if (arithmetic == MOON_ARITHMETIC_BF16 && k->dtype == MOON_BF16 && fits_tensor_cores(&c))
    return attend_on_tensor_cores(device_of(out), &c, err);
  WITH_WEIGHT(k->dtype, return attend_dtype<T>(device_of(out), &c, err));
}

void add_attention_ops(moon_ops *table) {
  table->attention = attention;
}

// SPDX-License-Identifier: MIT
/*
 * out[t][h] := softmax(scale q k^T) v over the keys 0 .. positions[t] of a bf16 cache, or the last
 * `window` of them, on the tensor cores: scale q is taken as the sum of two bf16, and so is each softmax weight, within
 * 2^-17 of it; all sums, the softmax and its weights' sum are f32. So results are those of
 * attention.cu to about 1e-5.
 *
 * A block owns QUERIES queries of a kv head, numbered [row][head of its group], and a warp 16 of
 * them. The keys are cut into tiles of TILE, always at the same places; a tile is fetched while the
 * one before is multiplied. A warp goes over the tiles in order, correcting what it has when a
 * larger score comes, and a tile in which a row sees nothing changes no bit of it: so a row's bits
 * depend on its position, not on the rows beside it. Bound by multiply-adds.
 *
 * NaN in q, k or v makes NaN of the rows that see it, and of no others. Infinity may do the same
 * where f32 has a weight of 0 or a result of infinity: two halves of it are no more a number.
 */
#include <limits.h>

#include "tensor/cuda/attention.cuh"
#include "tensor/cuda/tensor_cores.cuh"

enum {
  STEP = 16, /* of a product along the dims, or the keys */
  TILE = 64,
  QUERIES = 64,
  BLOCK = QUERIES / STEP * WARP, /* threads */
  KEY_STEPS = TILE / STEP,
  PAD = 8 /* elements behind a row of a tile: eight rows then begin in different banks */
};

/* A softmax so far, of 16 queries; a lane has rows lane / 4 and lane / 4 + 8 (tensor_cores.cuh). */
template <int STEPS>
struct state {
  float top[2]; /* of the scores, of all lanes of a row */
  float sum[2]; /* of the weights 2^(score - top) of this lane's keys */
  float y[2 * STEPS][4];
};

/* scale log2(e) q, as the sum of two bf16. */
template <int STEPS>
struct queries {
  uint32_t high[STEPS][4], low[STEPS][4];
};

/* Both rounded to bf16, and what that leaves. */
__device__ __forceinline__ void split(uint32_t *high, uint32_t *low, float a, float b) {
  *high = round_pair(a, b);
  float left_a = a - float_of(*high << 16), left_b = b - float_of(*high & 0xffff0000u);
  *low = round_pair(left_a, left_b);
}

/* Place of this lane's query of half r; -1: not there. */
__device__ __forceinline__ int64_t place_of_row(const attention_call &c, int r) {
  unsigned n_kv_heads = (unsigned)c.n_kv_heads;
  int64_t first = (int64_t)(gridDim.x / n_kv_heads - 1 - blockIdx.x / n_kv_heads) * QUERIES;
  int row = (int)threadIdx.x / WARP * STEP + (int)threadIdx.x % WARP / 4 + 8 * r;
  return place_of_query(c, blockIdx.x % n_kv_heads, first + row);
}

template <int STEPS>
__device__ __forceinline__ void load_queries(queries<STEPS> *to, const attention_call &c) {
  const int64_t places[2] = {place_of_row(c, 0), place_of_row(c, 1)};
  const float scale = c.scale * 1.44269504f;
#pragma unroll
  for (int step = 0; step < STEPS; step++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int column = step * STEP + i / 2 * 8 + (int)threadIdx.x % 4 * 2;
      float2 q = make_float2(0, 0);
      if (places[i % 2] >= 0 && column < c.d_head)
        q = *(const float2 *)(c.q + places[i % 2] * c.d_head + column);
      split(&to->high[step][i], &to->low[step][i], scale * q.x, scale * q.y);
    }
}

/* Rows first .. first + TILE - 1 of one head's cache; zeros from row `end` on and beyond d_head. */
template <int STEPS>
__device__ __forceinline__ void load_tile(bf16 *to, const bf16 *cache, int first, int end,
                                          int d_head) {
  const int chunks = STEPS * STEP / 8, rows = BLOCK / chunks, stride = STEPS * STEP + PAD;
  int row = (int)threadIdx.x / chunks, column = (int)threadIdx.x % chunks * 8;
  int left = column < d_head ? end - first - row : 0;
  const bf16 *from = cache + (int64_t)(first + row) * d_head + column;
  to += row * stride + column;
#pragma unroll
  for (int i = 0; i < TILE; i += rows)
    copy_later(to + i * stride, i < left ? from + i * d_head : cache, i < left);
}

/* scores := log2(e) scale q k^T of the warp's queries and a tile's keys. */
template <int STEPS>
__device__ __forceinline__ void score_tile(float (*scores)[4], const queries<STEPS> &q,
                                           const bf16 *k) {
  const int stride = STEPS * STEP + PAD;
  int lane = (int)threadIdx.x % WARP;
  const bf16 *row = k + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8;
#pragma unroll
  for (int n = 0; n < 2 * KEY_STEPS; n++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      scores[n][i] = 0;
#pragma unroll
  for (int step = 0; step < STEPS; step++)
#pragma unroll
    for (int n = 0; n < 2 * KEY_STEPS; n += 4) {
      uint32_t keys[4][2];
      load_matrices(keys[0], row + n * 8 * stride + step * STEP);
      load_matrices(keys[2], row + (n + 2) * 8 * stride + step * STEP);
#pragma unroll
      for (int i = 0; i < 4; i++)
        multiply_add(scores[n + i], q.high[step], keys[i]);
#pragma unroll
      for (int i = 0; i < 4; i++)
        multiply_add(scores[n + i], q.low[step], keys[i]);
    }
}

/* -inf for the keys that a row does not see. */
__device__ __forceinline__ void mask_tile(float (*scores)[4], const attention_call &c, int first,
                                          const int *n_keys) {
#pragma unroll
  for (int n = 0; n < 2 * KEY_STEPS; n++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (!sees(c, n_keys[i / 2], first + n * 8 + (int)threadIdx.x % 4 * 2 + i % 2))
        scores[n][i] = -INFINITY;
}

/* Over the four lanes of a row. */
template <typename F>
__device__ __forceinline__ float row_reduce(float value, F combine) {
  value = combine(value, __shfl_xor_sync(ALL_LANES, value, 1));
  return combine(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

struct larger_of { /* passes NaN over */
  __device__ __forceinline__ float operator()(float a, float b) const {
    return fmaxf(a, b);
  }
};

/* Scores to weights; the state's top, and with it what the state has, to theirs. The top of no
 * scores, or of -inf alone, is -inf: those weigh nothing. */
template <int STEPS>
__device__ __forceinline__ void weigh_tile(state<STEPS> *s, float (*scores)[4]) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float top = s->top[r], sum = 0;
#pragma unroll
    for (int n = 0; n < 2 * KEY_STEPS; n++)
      top = fmaxf(top, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
    top = row_reduce(top, larger_of());
    float base = top == -INFINITY ? 0 : top, correction = power_of_2(s->top[r] - base);
    s->top[r] = top;
#pragma unroll
    for (int n = 0; n < 2 * KEY_STEPS; n++)
#pragma unroll
      for (int i = 2 * r; i < 2 * r + 2; i++)
        sum += scores[n][i] = power_of_2(scores[n][i] - base);
    s->sum[r] = s->sum[r] * correction + sum;
#pragma unroll
    for (int n = 0; n < 2 * STEPS; n++) {
      s->y[n][2 * r] *= correction;
      s->y[n][2 * r + 1] *= correction;
    }
  }
}

/* Where a lane's part of 16 keys and 16 dims of v begins, for load_transposed. */
template <int STEPS>
__device__ __forceinline__ const bf16 *values_of_lane(const bf16 *v) {
  int lane = (int)threadIdx.x % WARP;
  return v + lane % 16 * (STEPS * STEP + PAD) + lane / 16 * 8;
}

/* The weights of 16 keys, from two neighbours among the tile's columns. */
__device__ __forceinline__ void split_weights(uint32_t *high, uint32_t *low,
                                              const float (*weights)[4]) {
#pragma unroll
  for (int i = 0; i < 4; i++)
    split(&high[i], &low[i], weights[i / 2][i % 2 * 2], weights[i / 2][i % 2 * 2 + 1]);
}

/* y += weights v */
template <int STEPS>
__device__ __forceinline__ void add_values(state<STEPS> *s, const float (*weights)[4],
                                           const bf16 *v) {
  const bf16 *row = values_of_lane<STEPS>(v);
#pragma unroll
  for (int step = 0; step < KEY_STEPS; step++, row += STEP * (STEPS * STEP + PAD)) {
    uint32_t high[4], low[4];
    split_weights(high, low, weights + 2 * step);
#pragma unroll
    for (int n = 0; n < 2 * STEPS; n += 4) {
      uint32_t values[4][2];
      load_transposed(values[0], row + n * 8);
      load_transposed(values[2], row + (n + 2) * 8);
#pragma unroll
      for (int i = 0; i < 4; i++)
        multiply_add(s->y[n + i], high, values[i]);
#pragma unroll
      for (int i = 0; i < 4; i++)
        multiply_add(s->y[n + i], low, values[i]);
    }
  }
}

/* Whether v has NaN or infinity from row `from` of the tile on; all lanes get the answer. */
template <int STEPS>
__device__ __forceinline__ bool has_no_number(const bf16 *v, int from) {
  const int chunks = STEPS * STEP / 8, stride = STEPS * STEP + PAD;
  const uint32_t lower = 0x7f80, upper = 0x7f800000;
  bool found = false;
#pragma unroll 1
  for (int i = from * chunks + (int)threadIdx.x % WARP; i < TILE * chunks; i += WARP) {
    uint4 words = *(const uint4 *)(v + i / chunks * stride + i % chunks * 8);
    const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int j = 0; j < 4; j++)
      found = found || (pairs[j] & lower) == lower || (pairs[j] & upper) == upper;
  }
  return __any_sync(ALL_LANES, found);
}

/* The elements of a fragment of v, of keys from `first` on, that a row with so many keys sees. */
__device__ __forceinline__ void keep_seen(uint32_t *values, const attention_call &c, int first,
                                          int n_keys) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int key = first + i * 8 + (int)threadIdx.x % 4 * 2;
    values[i] &= (sees(c, n_keys, key) ? 0xffff : 0) | (sees(c, n_keys, key + 1) ? 0xffff0000 : 0);
  }
}

/* add_values where a key that some rows do not see has a value that is no number, and their weight
 * of 0 would not keep it out: row by row, with the values that the row sees. The same sums in the
 * same order. Rare, so slow. */
template <int STEPS>
__device__ __forceinline__ void add_seen_values(state<STEPS> *s, const float (*weights)[4],
                                                const bf16 *v, const attention_call &c, int first,
                                                const int *n_keys) {
  const bf16 *lane_values = values_of_lane<STEPS>(v);
  int lane = (int)threadIdx.x % WARP;
#pragma unroll 1
  for (int step = 0; step < KEY_STEPS; step++) {
    float mine[2][4];
    uint32_t high[4], low[4];
#pragma unroll
    for (int i = 0; i < KEY_STEPS; i++) /* not indexed by step: weights stay in registers */
      if (i == step)
        memcpy(mine, weights + 2 * i, sizeof mine);
    split_weights(high, low, mine);
#pragma unroll 1
    for (int row = 0; row < STEP; row++) {
      int seen = __shfl_sync(ALL_LANES, row < 8 ? n_keys[0] : n_keys[1], row % 8 * 4);
#pragma unroll
      for (int n = 0; n < 2 * STEPS; n += 2) {
        uint32_t values[2][2];
        load_transposed(values[0], lane_values + step * STEP * (STEPS * STEP + PAD) + n * 8);
#pragma unroll
        for (int i = 0; i < 2; i++) {
          float *y = s->y[n + i], sums[4] = {y[0], y[1], y[2], y[3]};
          keep_seen(values[i], c, first + step * STEP, seen);
          multiply_add(sums, high, values[i]);
          multiply_add(sums, low, values[i]);
#pragma unroll
          for (int j = 0; j < 4; j++)
            y[j] = row == lane / 4 + j / 2 * 8 ? sums[j] : y[j];
        }
      }
    }
  }
}

/* Keys [begin, end) are those that some of the warp's rows see, [all_begin, all_end) those that all
 * of them see. */
struct warp_keys {
  int begin, end, all_begin, all_end;
};

/* The tile that begins at key `first`. */
template <int STEPS>
__device__ __forceinline__ void attend_tile(state<STEPS> *s, const queries<STEPS> &q, const bf16 *k,
                                            const bf16 *v, const attention_call &c, int first,
                                            const int *n_keys, const warp_keys &warp) {
  float scores[2 * KEY_STEPS][4];
  bool before = first < warp.all_begin, after = warp.all_end < first + TILE;
  int unseen = before || warp.all_end <= first ? 0 : warp.all_end - first; /* the first of them */
  score_tile<STEPS>(scores, q, k);
  if (before || after)
    mask_tile(scores, c, first, n_keys);
  weigh_tile(s, scores);
  if ((before || after) && has_no_number<STEPS>(v, unseen))
    add_seen_values(s, scores, v, c, first, n_keys);
  else
    add_values(s, scores, v);
}

template <int STEPS>
__device__ __forceinline__ void store(const state<STEPS> &s, const attention_call &c) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    int64_t place = place_of_row(c, r);
    float part = 1 / row_reduce(s.sum[r], sum_of());
#pragma unroll
    for (int n = 0; n < 2 * STEPS; n++) {
      int column = n * 8 + (int)threadIdx.x % 4 * 2;
      /* + 0: a tile in which the row sees nothing adds zeros to -0 */
      float2 y = make_float2(s.y[n][2 * r] * part + 0.0f, s.y[n][2 * r + 1] * part + 0.0f);
      if (place >= 0 && column < c.d_head)
        *(float2 *)(c.out + place * c.d_head + column) = y;
    }
  }
}

static size_t shared_bytes(int steps) {
  return (size_t)(4 * TILE * (steps * STEP + PAD)) * sizeof(bf16);
}

struct min_of {
  __device__ __forceinline__ int operator()(int a, int b) const {
    return a < b ? a : b;
  }
};

/* Of a lane's two rows, over the warp. A row that is not there sees nothing and is none of them. */
__device__ __forceinline__ warp_keys find_keys(const attention_call &c, const int *n_keys) {
  warp_keys found = {INT_MAX, 0, 0, INT_MAX};
#pragma unroll
  for (int r = 0; r < 2; r++)
    if (n_keys[r] > 0) {
      int first = first_seen(c, n_keys[r]);
      found.begin = min_of()(found.begin, first);
      found.end = max_of()(found.end, n_keys[r]);
      found.all_begin = max_of()(found.all_begin, first);
      found.all_end = min_of()(found.all_end, n_keys[r]);
    }
  return {warp_reduce(found.begin, min_of()), warp_reduce(found.end, max_of()),
          warp_reduce(found.all_begin, max_of()), warp_reduce(found.all_end, min_of())};
}

/* Grid [queries / QUERIES][kv heads] in one dimension; blocks with the most keys begin first. */
template <int STEPS>
static __global__ void __launch_bounds__(BLOCK, 2) attention_bf16_kernel(attention_call c) {
  DYNAMIC_SHARED(bf16, shared); /* two tiles of k and v in turn */
  const int tile = TILE * (STEPS * STEP + PAD);
  int n_keys[2];
  for (int r = 0; r < 2; r++) {
    int64_t place = place_of_row(c, r);
    n_keys[r] = place >= 0 ? c.positions[place / c.n_heads] + 1 : 0;
  }
  warp_keys warp = find_keys(c, n_keys);
  int end = block_reduce(warp.end, 0, max_of());
  int begin = block_reduce(warp.begin, INT_MAX, min_of()) / TILE * TILE;

  int64_t head = blockIdx.x % (unsigned)c.n_kv_heads * c.n_ctx * c.d_head;
  bf16 *start = shared + begin / TILE % 2 * 2 * tile;
  load_tile<STEPS>(start, (const bf16 *)c.k + head, begin, end, c.d_head);
  load_tile<STEPS>(start + tile, (const bf16 *)c.v + head, begin, end, c.d_head);
  queries<STEPS> q;
  load_queries(&q, c);
  state<STEPS> s = {};
  s.top[0] = s.top[1] = -INFINITY;
  for (int at = begin; at < end; at += TILE) {
    bf16 *now = shared + at / TILE % 2 * 2 * tile, *next = shared + (at / TILE + 1) % 2 * 2 * tile;
    wait_for_copies();
    __syncthreads(); /* the tile is there, the one before has been read */
    if (at + TILE < end) {
      load_tile<STEPS>(next, (const bf16 *)c.k + head, at + TILE, end, c.d_head);
      load_tile<STEPS>(next + tile, (const bf16 *)c.v + head, at + TILE, end, c.d_head);
    }
    if (at < warp.end && at + TILE > warp.begin)
      attend_tile(&s, q, now, now + tile, c, at, n_keys, warp);
  }
  store(s, c);
}

static bool begins_at(const void *p, uintptr_t multiple) {
  return (uintptr_t)p % multiple == 0;
}

bool fits_tensor_cores(const attention_call *c) {
  return c->d_head % STEP == 0 && c->d_head <= 128 && begins_at(c->k, 16) && begins_at(c->v, 16) &&
         begins_at(c->q, 8) && begins_at(c->out, 8);
}

template <int STEPS>
static moon_status attend(cuda_device *d, const attention_call *c, moon_err *err) {
  int64_t blocks = (c->n_tok * c->group + QUERIES - 1) / QUERIES * c->n_kv_heads;
  return launch(d, "attention", err, attention_bf16_kernel<STEPS>, dim3((unsigned)blocks), BLOCK,
                shared_bytes(STEPS), *c);
}

moon_status attend_on_tensor_cores(cuda_device *d, const attention_call *c, moon_err *err) {
  return c->d_head <= 64 ? attend<4>(d, c, err) : attend<8>(d, c, err);
}

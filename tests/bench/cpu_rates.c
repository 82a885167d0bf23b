// SPDX-License-Identifier: MIT
/*
 * What the CPU's kernels reach, each beside the limit that was measured in the same round: bytes
 * read per second, or f32 or bf16 multiply-adds per second, on all threads. A line: the work, its
 * figure, the limit, the median share and the smallest and largest share of some rounds.
 *
 *   cpu_rates [SET] [threads=N] [rounds=N] [only=TEXT]
 */
#include <immintrin.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tensor/ops.h"
#include "tensor/storage.h"

enum { MAX_ROUNDS = 99 };

static int n_rounds = 7;

typedef enum kind {
  PRODUCT,
  SAE,      /* a product with bias, relu, count and compaction */
  ATTENTION /* the last M of N positions: 8 kv heads of K elements, 4 heads each */
} kind;

typedef struct job {
  const char *name;
  int64_t M, K, N;
  moon_dtype dtype;
  moon_arithmetic arithmetic;
  kind kind;
} job;

enum { N_KV_HEADS = 8, GROUP = 4 };

typedef struct work {
  job s;
  moon_tensor out, x, w, bias;
  moon_tensor v, positions; /* of attention, whose queries are x and keys w */
} work;

static void must(moon_status status, const moon_err *err) {
  if (status) {
    fprintf(stderr, "cpu_rates: %s\n", err->text);
    exit(1);
  }
}

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Limits */

static float sink;

/* Bytes per second of plain reading. */
__attribute__((target("avx2"))) static double read_rate(const float *p, int64_t n) {
  double start = seconds();
#pragma omp parallel num_threads(moon_cpu_threads())
  {
    int64_t share = n / omp_get_num_threads() / 256 * 256;
    const float *from = p + omp_get_thread_num() * share;
    __m256 sum[4] = {{0}};
    for (int64_t i = 0; i < share; i += 32)
      for (int j = 0; j < 4; j++) {
        if (j % 2 == 0)
          _mm_prefetch((const char *)(from + i + 8 * j) + 4096, _MM_HINT_T0);
        sum[j] = _mm256_xor_ps(sum[j], _mm256_loadu_ps(from + i + 8 * j));
      }
    float lanes[8];
    _mm256_storeu_ps(lanes,
                     _mm256_xor_ps(_mm256_xor_ps(sum[0], sum[1]), _mm256_xor_ps(sum[2], sum[3])));
#pragma omp atomic
    sink += lanes[0];
  }
  return 4 * (double)n / (seconds() - start);
}

enum { N_SUMS = 24, N_STEPS = 2000000 };

#define FLOP_LOOP(zero, step)                                                  \
  _Pragma("omp parallel num_threads(moon_cpu_threads())") {                    \
    __typeof__(zero) sum[N_SUMS], x = zero;                                    \
    for (int j = 0; j < N_SUMS; j++)                                           \
      sum[j] = zero;                                                           \
    for (int i = 0; i < N_STEPS; i++) {                                        \
      _Pragma("GCC unroll 24") for (int j = 0; j < N_SUMS; j++) sum[j] = step; \
      __asm__ volatile("" : "+v"(x));                                          \
    }                                                                          \
    for (int j = 0; j < N_SUMS; j++)                                           \
      __asm__ volatile("" : : "v"(sum[j]));                                    \
  }

__attribute__((target("avx512f,avx512bf16"))) static void bf16_loop(void) {
  FLOP_LOOP(_mm512_setzero_ps(), _mm512_dpbf16_ps(sum[j], (__m512bh)x, (__m512bh)x))
}

__attribute__((target("avx512f"))) static void f32_loop_512(void) {
  FLOP_LOOP(_mm512_setzero_ps(), _mm512_fmadd_ps(x, x, sum[j]))
}

__attribute__((target("avx2,fma"))) static void f32_loop_256(void) {
  FLOP_LOOP(_mm256_setzero_ps(), _mm256_fmadd_ps(x, x, sum[j]))
}

/* A step is one product of tiles: 16 x 16 sums over 32. */
__attribute__((target("amx-tile,amx-bf16"))) static void tile_loop(void) {
  struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } config = {.palette = 1};
  for (int i = 0; i < 8; i++) {
    config.row_bytes[i] = 64;
    config.rows[i] = 16;
  }
#pragma omp parallel num_threads(moon_cpu_threads())
  {
    _tile_loadconfig(&config);
    for (int i = 0; i < N_STEPS; i += 4) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 5, 6);
      _tile_dpbf16ps(2, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
  }
}

/* Floating point operations per second of the best instruction of the set. */
static double flop_rate(moon_arithmetic arithmetic) {
  const char *set = moon_cpu_instruction_set();
  bool tiles = !strcmp(set, "amx"), wide = tiles || !strncmp(set, "avx512", 6);
  bool rounds = arithmetic == MOON_ARITHMETIC_BF16;
  double operations = (double)N_SUMS * N_STEPS, start = seconds();
  if (rounds && tiles) {
    tile_loop();
    operations = (double)N_STEPS * 2 * 16 * 16 * 32;
  } else if (rounds && !strcmp(set, "avx512bf16")) {
    bf16_loop();
    operations *= 64;
  } else if (wide) {
    f32_loop_512();
    operations *= 32;
  } else {
    f32_loop_256();
    operations *= 16;
  }
  return operations * moon_cpu_threads() / (seconds() - start);
}

/* Work */

static moon_tensor random_tensor(moon_dtype dtype, int64_t rows, int64_t columns) {
  moon_err err;
  moon_tensor f32, out;
  int64_t shape[] = {rows, columns}, n = rows * columns;
  uint32_t state = 1;
  must(moon_tensor_new(&f32, moon_cpu(), MOON_F32, shape, 2, &err), &err);
  float *y = moon_tensor_data(&f32);
  for (int64_t i = 0; i < n; i++) {
    state = state * 1664525u + 1013904223u;
    y[i] = (float)(state >> 8) * 0x1p-23f - 1;
  }
  must(moon_tensor_to(&out, &f32, moon_cpu(), dtype, &err), &err);
  moon_tensor_release(&f32);
  return out;
}

/* About 1 in 1000 features is on. */
static moon_tensor random_bias(const work *o) {
  moon_err err;
  moon_tensor bias;
  must(moon_tensor_new(&bias, moon_cpu(), MOON_F32, &o->s.N, 1, &err), &err);
  must(moon_op_fill(&bias, -3.1 * sqrt((double)o->s.K) / 3, &err), &err);
  return bias;
}

static void select_features(const work *o) {
  moon_err err;
  moon_sparse f = {.n_rows = o->s.M, .n_columns = o->s.N};
  moon_activation relu = {.kind = MOON_ACTIVATION_RELU};
  must(moon_op_sae_activate(&o->out, &o->bias, &relu, &err), &err);
  must(moon_tensor_new(&f.counts, moon_cpu(), MOON_I32, &o->s.M, 1, &err), &err);
  must(moon_tensor_new(&f.starts, moon_cpu(), MOON_I64, &o->s.M, 1, &err), &err);
  must(moon_op_sae_count(&f.counts, &o->out, &err), &err);
  int64_t total = 0;
  for (int64_t t = 0; t < o->s.M; total += ((int32_t *)moon_tensor_data(&f.counts))[t++])
    ((int64_t *)moon_tensor_data(&f.starts))[t] = total;
  must(moon_tensor_new(&f.indices, moon_cpu(), MOON_I32, &total, 1, &err), &err);
  must(moon_tensor_new(&f.values, moon_cpu(), MOON_F32, &total, 1, &err), &err);
  must(moon_op_sae_compact(&f, &o->out, &err), &err);
  moon_tensor *all[] = {&f.counts, &f.starts, &f.indices, &f.values};
  for (int i = 0; i < 4; i++)
    moon_tensor_release(all[i]);
}

static void call(const work *o) {
  moon_err err;
  if (o->s.kind == ATTENTION) {
    must(moon_op_attention(&o->out, &o->x, &o->w, &o->v, &o->positions, 1 / sqrtf((float)o->s.K),
                           o->s.arithmetic, &err),
         &err);
    return;
  }
  must(moon_op_linear(&o->out, &o->x, &o->w, NULL, o->s.arithmetic, &err), &err);
  if (o->s.kind == SAE)
    select_features(o);
}

/* Floating point operations of one call. */
static double flop_of(const job *s) {
  double n = (double)s->M;
  if (s->kind == ATTENTION) /* row i of M sees N - M + 1 + i */
    return 4 * (double)(N_KV_HEADS * GROUP * s->K) * n * ((double)s->N - (n - 1) / 2);
  return 2 * n * (double)s->N * (double)s->K;
}

/* Seconds of one call; short ones several times. */
static double time_of(const work *o) {
  int n_calls = flop_of(&o->s) < 4e9 ? 4 : 1;
  double start = seconds();
  for (int i = 0; i < n_calls; i++)
    call(o);
  return (seconds() - start) / n_calls;
}

static moon_tensor shaped(moon_tensor *flat, int64_t a, int64_t b, int64_t c) {
  moon_err err;
  moon_tensor out;
  must(moon_tensor_reshape(&out, flat, (int64_t[]){a, b, c}, 3, &err), &err);
  moon_tensor_release(flat);
  return out;
}

static moon_tensor random_heads(moon_dtype dtype, int64_t a, int64_t b, int64_t c) {
  moon_tensor flat = random_tensor(dtype, a * b, c);
  return shaped(&flat, a, b, c);
}

static void make_attention(work *o) {
  moon_err err;
  int64_t M = o->s.M, K = o->s.K, N = o->s.N;
  o->x = random_heads(MOON_F32, M, N_KV_HEADS * GROUP, K);
  o->out = random_heads(MOON_F32, M, N_KV_HEADS * GROUP, K);
  o->w = random_heads(o->s.dtype, N_KV_HEADS, N, K);
  o->v = random_heads(o->s.dtype, N_KV_HEADS, N, K);
  must(moon_tensor_new(&o->positions, moon_cpu(), MOON_I32, &M, 1, &err), &err);
  for (int64_t i = 0; i < M; i++)
    ((int32_t *)moon_tensor_data(&o->positions))[i] = (int32_t)(N - M + i);
}

static void make_product(work *o) {
  moon_err err;
  o->x = random_tensor(MOON_F32, o->s.M, o->s.K);
  o->w = random_tensor(o->s.dtype, o->s.N, o->s.K);
  o->bias = random_bias(o);
  must(moon_tensor_new(&o->out, moon_cpu(), MOON_F32, (int64_t[]){o->s.M, o->s.N}, 2, &err), &err);
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Whichever limit lets this work take longer. */
static void measure(const job *s, const float *buffer, int64_t n) {
  work one = {.s = *s}, *o = &one;
  double share[MAX_ROUNDS], took[MAX_ROUNDS], bound[MAX_ROUNDS];
  bool attends = s->kind == ATTENTION;
  if (attends)
    make_attention(o);
  else
    make_product(o);
  double bytes = (double)moon_tensor_size_bytes(&o->w) * (attends ? 2 : 1), flop = flop_of(s);
  bool by_memory = false;
  time_of(o);
  for (int round = 0; round < n_rounds; round++) {
    double reading = bytes / read_rate(buffer, n), adding = flop / flop_rate(o->s.arithmetic);
    took[round] = time_of(o);
    by_memory = reading > adding;
    bound[round] = by_memory ? reading : adding;
    share[round] = bound[round] / took[round];
  }
  qsort(share, (size_t)n_rounds, sizeof *share, by_size);
  qsort(took, (size_t)n_rounds, sizeof *took, by_size);
  qsort(bound, (size_t)n_rounds, sizeof *bound, by_size);
  double unit = 1e-9 * (by_memory ? bytes : flop);
  printf("%-34s %9.3f ms %8.1f of %8.1f %-7s %4.0f%% (%.0f to %.0f)\n", o->s.name,
         1e3 * took[n_rounds / 2], unit / took[n_rounds / 2], unit / bound[n_rounds / 2],
         by_memory ? "GB/s" : "GFLOP/s", 100 * share[n_rounds / 2], 100 * share[0],
         100 * share[n_rounds - 1]);
  fflush(stdout);
  moon_tensor *all[] = {&o->x, &o->w, &o->bias, &o->out, &o->v, &o->positions};
  for (int i = 0; i < 6; i++)
    moon_tensor_release(all[i]);
}

int main(int argc, char **argv) {
  moon_err err;
  const char *only = "";
  for (int i = 1; i < argc; i++)
    if (!strncmp(argv[i], "threads=", 8))
      moon_cpu_set_threads(atoi(argv[i] + 8));
    else if (!strncmp(argv[i], "rounds=", 7))
      n_rounds = atoi(argv[i] + 7) < MAX_ROUNDS ? atoi(argv[i] + 7) : MAX_ROUNDS;
    else if (!strncmp(argv[i], "only=", 5))
      only = argv[i] + 5;
    else
      must(moon_cpu_use_instruction_set(argv[i], &err), &err);
  const moon_arithmetic BF16 = MOON_ARITHMETIC_BF16, F32 = MOON_ARITHMETIC_F32;
  const job list[] = {
      {"decode bf16 4096x65536, 1", 1, 4096, 65536, MOON_BF16, F32, PRODUCT},
      {"decode bf16 4096x65536, 4", 4, 4096, 65536, MOON_BF16, F32, PRODUCT},
      {"decode bf16 4096x65536, 16", 16, 4096, 65536, MOON_BF16, F32, PRODUCT},
      {"decode f16 4096x65536, 1", 1, 4096, 65536, MOON_F16, F32, PRODUCT},
      {"decode f32 4096x65536, 1", 1, 4096, 65536, MOON_F32, F32, PRODUCT},
      {"fast 4096x65536, 1", 1, 4096, 65536, MOON_BF16, BF16, PRODUCT},
      {"fast 2048x8192, 16", 16, 2048, 8192, MOON_BF16, BF16, PRODUCT},
      {"fast 2048x8192, 128", 128, 2048, 8192, MOON_BF16, BF16, PRODUCT},
      {"fast 2048x8192, 512", 512, 2048, 8192, MOON_BF16, BF16, PRODUCT},
      {"fast 8192x2048, 512", 512, 8192, 2048, MOON_BF16, BF16, PRODUCT},
      {"exact bf16 2048x8192, 128", 128, 2048, 8192, MOON_BF16, F32, PRODUCT},
      {"exact bf16 2048x8192, 512", 512, 2048, 8192, MOON_BF16, F32, PRODUCT},
      {"exact f32 2048x8192, 512", 512, 2048, 8192, MOON_F32, F32, PRODUCT},
      {"sae step f32 4096x65536, 1", 1, 4096, 65536, MOON_F32, F32, SAE},
      {"sae f32 4096x65536, 16", 16, 4096, 65536, MOON_F32, F32, SAE},
      {"sae f32 4096x65536, 32", 32, 4096, 65536, MOON_F32, F32, SAE},
      {"sae step bf16 4096x65536, 1", 1, 4096, 65536, MOON_BF16, F32, SAE},
      {"sae bf16 4096x65536, 16", 16, 4096, 65536, MOON_BF16, BF16, SAE},
      {"sae bf16 4096x65536, 32", 32, 4096, 65536, MOON_BF16, BF16, SAE},
      {"attention bf16, 1 at 8192", 1, 64, 8192, MOON_BF16, F32, ATTENTION},
      {"attention f32, 1 at 8192", 1, 64, 8192, MOON_F32, F32, ATTENTION},
      {"attention bf16, 512", 512, 64, 512, MOON_BF16, F32, ATTENTION},
      {"attention bf16, 512 at 8192", 512, 64, 8192, MOON_BF16, F32, ATTENTION},
  };
  int64_t n = 1 << 28; /* f32 in 1 GiB, more than a cache holds */
  moon_tensor buffer;
  must(moon_tensor_new(&buffer, moon_cpu(), MOON_F32, &n, 1, &err), &err);
  must(moon_op_fill(&buffer, 1, &err), &err);
  printf("%s, %d threads\n", moon_cpu_instruction_set(), moon_cpu_threads());
  for (size_t i = 0; i < sizeof list / sizeof *list; i++)
    if (strstr(list[i].name, only))
      measure(&list[i], moon_tensor_data(&buffer), n);
  moon_tensor_release(&buffer);
  return 0;
}

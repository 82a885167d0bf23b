// SPDX-License-Identifier: MIT
/*
 * The row rule at the sizes of a real model: 128 rows alone, in blocks of 7, all at once and all at
 * once again, with any number of threads, give the same bits, in products, attention over a long
 * cache, norms and features. A backend that picks a kernel by the number of rows or threads, or
 * splits a sum by it, fails here; test_ops has too small shapes to tempt it.
 *
 *   test_rows [BACKEND...] [shape=8b]     BACKEND: an instruction set or a device; default: every
 * instruction set that this CPU has. shape: 8b is Llama 3.1 8B with an SAE of 65,536 features
 * (5 GB), default a small one.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/dtype.h"
#include "tensor/ops.h"

enum {
  N_ROWS = 128,
  MAX_BACKENDS = 16,
  BLOCK = 1 << 20, /* elements that are drawn; then again */
  MANY_THREADS = 16
};

typedef struct shape {
  int64_t d_model, d_ff, n_vocab, d_sae, n_heads, n_kv_heads, d_head, n_ctx;
} shape;

static const shape small = {512, 704, 1000, 1200, 4, 2, 64, 1300};
static const shape llama_8b = {4096, 14336, 128256, 65536, 32, 8, 128, 4096};

/* An operation on some rows: x and out are views of them, `first` is the number of the first. */
typedef struct trial {
  char name[96];
  moon_tensor x, w, v, positions, out;
  moon_arithmetic arithmetic;
  int64_t k;
  moon_status (*call)(const struct trial *t, const moon_tensor *out, const moon_tensor *x,
                      const moon_tensor *positions, moon_err *err);
} trial;

static moon_device *device;
static const char *backend;
static int n_failures;
static uint32_t random_state = 1;

static void must(moon_status status, const moon_err *err) {
  if (status) {
    printf("FAILED: %s\n", err->text);
    exit(1);
  }
}

static float random_unit(void) { /* -1 to 1 */
  random_state = random_state * 1664525u + 1013904223u;
  return (float)(random_state >> 8) * 0x1p-23f - 1;
}

/* [rows][columns...] of this dtype on the device: BLOCK random numbers, again and again. */
static moon_tensor random_tensor(moon_dtype dtype, const int64_t *dims, int rank) {
  moon_err err;
  moon_tensor out, flat, block, part;
  must(moon_tensor_new(&out, device, dtype, dims, rank, &err), &err);
  int64_t n = moon_tensor_count(&out), n_block = n < BLOCK ? n : BLOCK;
  float *host = malloc((size_t)n_block * sizeof *host);
  for (int64_t i = 0; i < n_block; i++)
    host[i] = random_unit();
  must(moon_tensor_from_host(&block, device, MOON_F32, &n_block, 1, host, &err), &err);
  must(moon_tensor_reshape(&flat, &out, &n, 1, &err), &err);
  for (int64_t at = 0; at < n; at += n_block) {
    int64_t length = n - at < n_block ? n - at : n_block;
    moon_tensor from;
    must(moon_tensor_narrow(&part, &flat, 0, at, length, &err), &err);
    must(moon_tensor_narrow(&from, &block, 0, 0, length, &err), &err);
    must(moon_op_copy(&part, &from, &err), &err);
    moon_tensor_release(&part);
    moon_tensor_release(&from);
  }
  moon_tensor_release(&flat);
  moon_tensor_release(&block);
  free(host);
  return out;
}

static void run(const trial *t, int64_t block) {
  moon_err err;
  for (int64_t first = 0; first < N_ROWS; first += block) {
    int64_t n = N_ROWS - first < block ? N_ROWS - first : block;
    moon_tensor out, x, positions = {0};
    must(moon_tensor_narrow(&out, &t->out, 0, first, n, &err), &err);
    must(moon_tensor_narrow(&x, &t->x, 0, first, n, &err), &err);
    if (t->positions.storage)
      must(moon_tensor_narrow(&positions, &t->positions, 0, first, n, &err), &err);
    must(t->call(t, &out, &x, &positions, &err), &err);
    moon_tensor_release(&out);
    moon_tensor_release(&x);
    moon_tensor_release(&positions);
  }
}

/* Columns of the first row that differs, in words. */
static void report(const trial *t, int64_t block, int threads, const float *got,
                   const float *want) {
  int64_t n = moon_tensor_count(&t->out), width = n / N_ROWS;
  for (int64_t i = 0; i < n; i++)
    if (memcmp(&got[i], &want[i], sizeof *got) != 0) {
      printf("FAILED %s on %s, blocks of %d rows, %d threads: row %" PRId64 ", column %" PRId64
             " is %.9g, all at once %.9g\n",
             t->name, backend, (int)block, threads, i / width, i % width, (double)got[i],
             (double)want[i]);
      return;
    }
}

static void check(const trial *t) {
  static const struct {
    int64_t block;
    int threads;
  } ways[] = {{N_ROWS, 2}, {N_ROWS, 2}, {7, 1}, {1, 1}, {1, 2}, {7, MANY_THREADS}};
  moon_err err;
  size_t size = moon_tensor_size_bytes(&t->out);
  float *want = malloc(size), *got = malloc(size);
  for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
    must(moon_op_fill(&t->out, -1, &err), &err);
    moon_cpu_set_threads(ways[i].threads);
    run(t, ways[i].block);
    must(moon_tensor_read(&t->out, i == 0 ? want : got, &err), &err);
    if (i > 0 && memcmp(got, want, size) != 0) {
      n_failures++;
      report(t, ways[i].block, ways[i].threads, got, want);
    }
  }
  free(want);
  free(got);
}

static void end(trial *t) {
  check(t);
  moon_tensor *all[] = {&t->x, &t->w, &t->v, &t->positions, &t->out};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    moon_tensor_release(all[i]);
}

/* Operations */

static moon_status call_linear(const trial *t, const moon_tensor *out, const moon_tensor *x,
                               const moon_tensor *positions, moon_err *err) {
  (void)positions;
  return moon_op_linear(out, x, &t->w, NULL, t->arithmetic, err);
}

static void linear(int64_t K, int64_t N, moon_dtype dtype, moon_arithmetic arithmetic) {
  trial t = {.call = call_linear, .arithmetic = arithmetic};
  snprintf(t.name, sizeof t.name, "linear %" PRId64 " to %" PRId64 ", %s weight, %s activations", K,
           N, moon_dtype_name(dtype), arithmetic == MOON_ARITHMETIC_F32 ? "f32" : "bf16");
  t.x = random_tensor(MOON_F32, (int64_t[]){N_ROWS, K}, 2);
  t.w = random_tensor(dtype, (int64_t[]){N, K}, 2);
  t.out = random_tensor(MOON_F32, (int64_t[]){N_ROWS, N}, 2);
  end(&t);
}

static void linears(const shape *s) {
  const int64_t d = s->d_model, kv = s->n_kv_heads * s->d_head;
  const int64_t maps[][2] = {{d, d}, {d, kv}, {d, s->d_ff}, {s->d_ff, d}};
  static const moon_dtype dtypes[] = {MOON_BF16, MOON_F16, MOON_F32};
  for (size_t i = 0; i < sizeof maps / sizeof *maps; i++)
    for (int j = 0; j < 3; j++)
      linear(maps[i][0], maps[i][1], dtypes[j], MOON_ARITHMETIC_F32);
  for (size_t i = 0; i < sizeof maps / sizeof *maps; i++)
    linear(maps[i][0], maps[i][1], MOON_BF16, MOON_ARITHMETIC_BF16);
  for (int bf16 = 0; bf16 < 2; bf16++) {
    moon_arithmetic arithmetic = bf16 ? MOON_ARITHMETIC_BF16 : MOON_ARITHMETIC_F32;
    linear(d, s->n_vocab, MOON_BF16, arithmetic);
    linear(d, s->d_sae, MOON_BF16, arithmetic);
  }
}

static moon_status call_attention(const trial *t, const moon_tensor *out, const moon_tensor *x,
                                  const moon_tensor *positions, moon_err *err) {
  return moon_op_attention(out, x, &t->w, &t->v, positions, t->k, 0.1f, t->arithmetic, err);
}

/* Positions from the cache's first to its last row, the last always among them. */
static void attention(const shape *s, moon_dtype dtype, moon_arithmetic arithmetic,
                      int64_t window) {
  moon_err err;
  int32_t positions[N_ROWS];
  int64_t n = N_ROWS, cache[] = {s->n_kv_heads, s->n_ctx, s->d_head};
  trial t = {.call = call_attention, .arithmetic = arithmetic, .k = window};
  for (int64_t i = 0; i < n; i++)
    positions[i] = (int32_t)((i + 1) * s->n_ctx / n - 1);
  snprintf(t.name, sizeof t.name,
           "attention over %" PRId64 " %s positions, window %" PRId64 ", %s arithmetic", s->n_ctx,
           moon_dtype_name(dtype), window, arithmetic == MOON_ARITHMETIC_F32 ? "f32" : "bf16");
  t.x = random_tensor(MOON_F32, (int64_t[]){n, s->n_heads, s->d_head}, 3);
  t.out = random_tensor(MOON_F32, (int64_t[]){n, s->n_heads, s->d_head}, 3);
  t.w = random_tensor(dtype, cache, 3);
  t.v = random_tensor(dtype, cache, 3);
  must(moon_tensor_from_host(&t.positions, device, MOON_I32, &n, 1, positions, &err), &err);
  end(&t);
}

static moon_status call_rms_norm(const trial *t, const moon_tensor *out, const moon_tensor *x,
                                 const moon_tensor *positions, moon_err *err) {
  (void)positions;
  return moon_op_rms_norm(out, x, &t->w, 1e-5f, err);
}

static void rms_norm(const shape *s) {
  trial t = {.name = "rms_norm", .call = call_rms_norm};
  t.x = random_tensor(MOON_F32, (int64_t[]){N_ROWS, s->d_model}, 2);
  t.out = random_tensor(MOON_F32, (int64_t[]){N_ROWS, s->d_model}, 2);
  t.w = random_tensor(MOON_BF16, &s->d_model, 1);
  end(&t);
}

static moon_status call_softmax(const trial *t, const moon_tensor *out, const moon_tensor *x,
                                const moon_tensor *positions, moon_err *err) {
  (void)t, (void)positions;
  return moon_op_softmax(out, x, err);
}

static void softmax(const shape *s) {
  trial t = {.name = "softmax", .call = call_softmax};
  t.x = random_tensor(MOON_F32, (int64_t[]){N_ROWS, s->n_vocab}, 2);
  t.out = random_tensor(MOON_F32, (int64_t[]){N_ROWS, s->n_vocab}, 2);
  end(&t);
}

static moon_status call_activate(const trial *t, const moon_tensor *out, const moon_tensor *x,
                                 const moon_tensor *positions, moon_err *err) {
  (void)positions;
  moon_activation activation = {.kind = MOON_ACTIVATION_TOPK, .k = t->k};
  moon_status status = moon_op_copy(out, x, err);
  return status ? status : moon_op_sae_activate(out, NULL, &activation, err);
}

static void activate(const shape *s) {
  trial t = {.name = "sae_activate, 64 largest", .call = call_activate, .k = 64};
  t.x = random_tensor(MOON_F32, (int64_t[]){N_ROWS, s->d_sae}, 2);
  t.out = random_tensor(MOON_F32, (int64_t[]){N_ROWS, s->d_sae}, 2);
  end(&t);
}

static moon_status use_backend(const char *name, moon_err *err) {
  backend = name;
  for (int i = 0; moon_cpu_instruction_set_name(i); i++)
    if (!strcmp(name, moon_cpu_instruction_set_name(i))) {
      device = moon_cpu();
      return moon_cpu_use_instruction_set(name, err);
    }
  return moon_device_find(&device, name, err);
}

static void check_backend(const shape *s) {
  int failures = n_failures;
  linears(s);
  for (int windowed = 0; windowed < 2; windowed++) {
    int64_t window = windowed ? s->n_ctx / 3 : 0;
    attention(s, MOON_BF16, MOON_ARITHMETIC_F32, window);
    attention(s, MOON_BF16, MOON_ARITHMETIC_BF16, window);
    attention(s, MOON_F32, MOON_ARITHMETIC_F32, window);
  }
  rms_norm(s);
  softmax(s);
  activate(s);
  printf("%s: %d failures\n", backend, n_failures - failures);
}

int main(int argc, char **argv) {
  const char *names[MAX_BACKENDS];
  const shape *s = &small;
  int n = 0;
  for (int i = 1; i < argc; i++)
    if (!strcmp(argv[i], "shape=8b"))
      s = &llama_8b;
    else if (n < MAX_BACKENDS)
      names[n++] = argv[i];
  if (n == 0)
    for (; n < MAX_BACKENDS && moon_cpu_instruction_set_name(n); n++)
      names[n] = moon_cpu_instruction_set_name(n);
  for (int i = 0; i < n; i++) {
    moon_err err;
    must(use_backend(names[i], &err), &err);
    check_backend(s);
  }
  if (moon_storage_live() != 0)
    printf("FAILED: %" PRId64 " storages are left\n", moon_storage_live());
  return n_failures > 0 || moon_storage_live() != 0;
}

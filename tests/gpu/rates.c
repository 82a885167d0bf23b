// SPDX-License-Identifier: MIT
/*
 * What a device can do at best, through the operations that the model uses: bytes per second of a
 * copy (read and written counted), floating point operations per second of a square product in
 * bf16. The benchmarks state their figures as shares of these. Prints one JSON object.
 *
 *   rates DEVICE [copy=MIB] [product=N]     default: 2048 MiB, 8192; on the CPU 64 MiB, 512
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tensor/ops.h"

enum { N_ROUNDS = 5, N_CALLS = 10 };

typedef struct operands {
  moon_tensor out, x, w;
} operands;

static void must(moon_status status, const moon_err *err) {
  if (status) {
    fprintf(stderr, "rates: %s\n", err->text);
    exit(1);
  }
}

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Seconds of one call: the median of some rounds, after one that does not count. */
static double time_of(moon_status (*call)(const operands *o, moon_err *err), const operands *o,
                      moon_device *device) {
  moon_err err;
  double rounds[N_ROUNDS];
  for (int round = -1; round < N_ROUNDS; round++) {
    double start = seconds();
    for (int i = 0; i < N_CALLS; i++)
      must(call(o, &err), &err);
    must(moon_op_sync(device, &err), &err);
    if (round >= 0)
      rounds[round] = (seconds() - start) / N_CALLS;
  }
  qsort(rounds, N_ROUNDS, sizeof *rounds, by_size);
  return rounds[N_ROUNDS / 2];
}

static moon_status copy(const operands *o, moon_err *err) {
  return moon_op_copy(&o->out, &o->x, err);
}

static moon_status product(const operands *o, moon_err *err) {
  return moon_op_linear(&o->out, &o->x, &o->w, NULL, MOON_ARITHMETIC_BF16, err);
}

/* [n][n], random: a GPU is faster on zeros than on numbers. */
static moon_tensor random_matrix(moon_device *device, moon_dtype dtype, int64_t n) {
  moon_err err;
  moon_tensor f32, out;
  int64_t shape[] = {n, n};
  uint32_t state = 1;
  float *host = malloc((size_t)(n * n) * sizeof *host);
  for (int64_t i = 0; i < n * n; i++) {
    state = state * 1664525u + 1013904223u;
    host[i] = (float)(state >> 8) * 0x1p-23f - 1;
  }
  must(moon_tensor_from_host(&f32, device, MOON_F32, shape, 2, host, &err), &err);
  must(moon_tensor_to(&out, &f32, device, dtype, &err), &err);
  moon_tensor_release(&f32);
  free(host);
  return out;
}

static double copy_rate(moon_device *device, int64_t mib) {
  moon_err err;
  operands o = {0};
  int64_t n = mib << 18; /* f32 */
  must(moon_tensor_new(&o.x, device, MOON_F32, &n, 1, &err), &err);
  must(moon_tensor_new(&o.out, device, MOON_F32, &n, 1, &err), &err);
  must(moon_op_fill(&o.x, 1, &err), &err);
  double s = time_of(copy, &o, device);
  moon_tensor_release(&o.x);
  moon_tensor_release(&o.out);
  return 2 * (double)n * sizeof(float) / s;
}

static double product_rate(moon_device *device, int64_t n) {
  moon_err err;
  operands o = {.x = random_matrix(device, MOON_F32, n), .w = random_matrix(device, MOON_BF16, n)};
  must(moon_tensor_new(&o.out, device, MOON_F32, (int64_t[]){n, n}, 2, &err), &err);
  double s = time_of(product, &o, device);
  moon_tensor_release(&o.x);
  moon_tensor_release(&o.w);
  moon_tensor_release(&o.out);
  return 2 * (double)n * (double)n * (double)n / s;
}

int main(int argc, char **argv) {
  moon_err err;
  moon_device *device;
  if (argc < 2)
    return fprintf(stderr, "usage: rates DEVICE [copy=MIB] [product=N]\n"), 2;
  must(moon_device_find(&device, argv[1], &err), &err);
  bool cpu = device == moon_cpu();
  int64_t mib = cpu ? 64 : 2048, n = cpu ? 512 : 8192;
  for (int i = 2; i < argc; i++)
    if (!strncmp(argv[i], "copy=", 5))
      mib = atoll(argv[i] + 5);
    else if (!strncmp(argv[i], "product=", 8))
      n = atoll(argv[i] + 8);
  printf("{\"device\":\"%s\",\"copy_bytes_per_s\":%.4g,\"product_flops\":%.4g}\n", device->name,
         copy_rate(device, mib), product_rate(device, n));
  return 0;
}

// SPDX-License-Identifier: MIT
/*
 * Products x w^T in f32 by oneDNN, w [N][K] as it is stored. For each line "M K N" on standard
 * input prints the seconds of one call. OMP_NUM_THREADS says how many threads.
 */
#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define LEAST_SECONDS 0.05

static void must(dnnl_status_t status) {
  if (status != dnnl_success) {
    fprintf(stderr, "dnnl_products: oneDNN's status %d\n", (int)status);
    exit(1);
  }
}

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A matrix of numbers from -1 to 1, in memory of its own. */
static dnnl_memory_t matrix(const dnnl_memory_desc_t *desc, dnnl_engine_t engine) {
  dnnl_memory_t memory;
  void *data;
  must(dnnl_memory_create(&memory, desc, engine, DNNL_MEMORY_ALLOCATE));
  must(dnnl_memory_get_data_handle(memory, &data));
  uint32_t state = 1;
  for (size_t i = 0; i < dnnl_memory_desc_get_size(desc) / sizeof(float); i++) {
    state = state * 1664525u + 1013904223u;
    ((float *)data)[i] = (float)(state >> 8) * 0x1p-23f - 1;
  }
  return memory;
}

static double time_of(dnnl_primitive_t product, dnnl_stream_t stream, const dnnl_exec_arg_t *args) {
  int n = 0;
  must(dnnl_primitive_execute(product, stream, 3, args));
  double start = seconds();
  do {
    must(dnnl_primitive_execute(product, stream, 3, args));
    must(dnnl_stream_wait(stream));
    n++;
  } while (seconds() - start < LEAST_SECONDS);
  return (seconds() - start) / n;
}

static double measure(dnnl_engine_t engine, dnnl_stream_t stream, long M, long K, long N) {
  dnnl_memory_desc_t x, w, out;
  must(dnnl_memory_desc_init_by_tag(&x, 2, (dnnl_dims_t){M, K}, dnnl_f32, dnnl_ab));
  must(dnnl_memory_desc_init_by_tag(&w, 2, (dnnl_dims_t){K, N}, dnnl_f32, dnnl_ba));
  must(dnnl_memory_desc_init_by_tag(&out, 2, (dnnl_dims_t){M, N}, dnnl_f32, dnnl_ab));
  dnnl_matmul_desc_t desc;
  dnnl_primitive_desc_t description;
  dnnl_primitive_t product;
  must(dnnl_matmul_desc_init(&desc, &x, &w, NULL, &out));
  must(dnnl_primitive_desc_create(&description, &desc, NULL, engine, NULL));
  must(dnnl_primitive_create(&product, description));
  dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, matrix(&x, engine)},
                            {DNNL_ARG_WEIGHTS, matrix(&w, engine)},
                            {DNNL_ARG_DST, matrix(&out, engine)}};
  double took = time_of(product, stream, args);
  for (int i = 0; i < 3; i++)
    dnnl_memory_destroy(args[i].memory);
  dnnl_primitive_destroy(product);
  dnnl_primitive_desc_destroy(description);
  return took;
}

int main(void) {
  dnnl_engine_t engine;
  dnnl_stream_t stream;
  long M, K, N;
  must(dnnl_engine_create(&engine, dnnl_cpu, 0));
  must(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags));
  puts("ready");
  fflush(stdout);
  while (scanf("%ld %ld %ld", &M, &K, &N) == 3) {
    printf("%.9f\n", measure(engine, stream, M, K, N));
    fflush(stdout);
  }
  dnnl_stream_destroy(stream);
  dnnl_engine_destroy(engine);
  return 0;
}

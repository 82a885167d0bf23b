// SPDX-License-Identifier: MIT
/*
 * A decode step is one CUDA graph: while it is captured nothing may wait for the device or take
 * memory from it (CUDA refuses both), and the graph, launched once, gives the bits of the step.
 *
 *   graph DEVICE MODEL [STEPS]     prints the nodes, and the time of a launch of the graph
 *
 * The driver's calls are opened by name: the program is built where there is no CUDA.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "llama/forward.h"
#include "tensor/cuda/plugin.h"

enum { N_PROMPT = 6, WARM_STEPS = 3, GLOBAL_MODE = 0 };

typedef struct driver {
  int (*begin)(void *stream, int mode);
  int (*end)(void *stream, void **graph);
  int (*nodes)(void *graph, void *list, size_t *n);
  int (*instantiate)(void **exec, void *graph, unsigned long long flags);
  int (*launch)(void *exec, void *stream);
  int (*wait)(void *stream);
} driver;

static moon_llama *model;
static moon_session *session;

static void stop(const char *what, const char *why) {
  fprintf(stderr, "graph: FAILED: %s: %s\n", what, why);
  exit(1);
}

static void must(moon_status status, const moon_err *err) {
  if (status)
    stop("moonscope", err->text);
}

static void cuda(int code, const char *what) {
  char text[32];
  snprintf(text, sizeof text, "CUDA error %d", code);
  if (code)
    stop(what, text);
}

static void *find(void *library, const char *name) {
  void *function = library ? dlsym(library, name) : NULL;
  if (!function)
    stop(name, dlerror());
  return function;
}

static driver open_driver(void) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW);
  driver d;
  *(void **)&d.begin = find(library, "cuStreamBeginCapture_v2");
  *(void **)&d.end = find(library, "cuStreamEndCapture");
  *(void **)&d.nodes = find(library, "cuGraphGetNodes");
  *(void **)&d.instantiate = find(library, "cuGraphInstantiateWithFlags");
  *(void **)&d.launch = find(library, "cuGraphLaunch");
  *(void **)&d.wait = find(library, "cuStreamSynchronize");
  return d;
}

/* Enqueues the step of one token; logits are the caller's. */
static void enqueue(moon_tensor *logits, int32_t id, moon_arithmetic arithmetic,
                    const int32_t *prompt, int64_t n) {
  moon_err err;
  moon_pass *pass;
  moon_span span = {.session = session, .n_rows = prompt ? n : 1};
  must(moon_pass_new(&pass, &span, 1, prompt ? prompt : &id, arithmetic, NULL, 0, &err), &err);
  must(moon_pass_run(pass, model->config.n_layers, NULL, &err), &err);
  must(moon_pass_logits(pass, MOON_LOGITS_LAST, logits, &err), &err);
  must(moon_pass_commit(pass, &err), &err);
  moon_pass_free(pass);
}

static void step(moon_tensor *logits, int32_t id) {
  enqueue(logits, id, MOON_ARITHMETIC_F32, NULL, 0);
}

static float *bits_of(moon_tensor *logits) {
  moon_err err;
  float *host = malloc(moon_tensor_size_bytes(logits));
  must(moon_tensor_read(logits, host, &err), &err);
  return host;
}

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The step that follows the prompt, as often as it takes until nothing is allocated any more. */
static float *plain_step(int32_t id) {
  moon_err err;
  float *bits = NULL;
  for (int i = 0; i < WARM_STEPS; i++) {
    moon_tensor logits;
    free(bits);
    step(&logits, id);
    bits = bits_of(&logits);
    moon_tensor_release(&logits);
    must(moon_session_rewind(session, 1, &err), &err);
  }
  return bits;
}

static void check(const driver *d, void *stream, int n_launches) {
  const int32_t prompt[N_PROMPT] = {1, 20, 300, 40, 7, 11}, id = 9;
  moon_err err;
  moon_tensor logits;
  void *graph, *exec;
  size_t n_nodes = 0;
  enqueue(&logits, 0, MOON_ARITHMETIC_F32, prompt, N_PROMPT);
  moon_tensor_release(&logits);
  float *want = plain_step(id);
  cuda(d->begin(stream, GLOBAL_MODE), "begin");
  step(&logits, id);
  cuda(d->end(stream, &graph), "the step waits for the device, or takes memory from it");
  cuda(d->nodes(graph, NULL, &n_nodes), "nodes");
  cuda(d->instantiate(&exec, graph, 0), "instantiate");
  must(moon_op_fill(&logits, -1, &err), &err);
  cuda(d->launch(exec, stream), "launch");
  float *got = bits_of(&logits);
  if (memcmp(got, want, moon_tensor_size_bytes(&logits)) != 0)
    stop("the graph", "its logits are not those of the step");
  double start = seconds();
  for (int i = 0; i < n_launches; i++)
    cuda(d->launch(exec, stream), "launch");
  cuda(d->wait(stream), "wait");
  printf("a step is a graph of %zu nodes with the same bits; %.3f ms a launch\n", n_nodes,
         1e3 * (seconds() - start) / n_launches);
  moon_tensor_release(&logits);
  free(want);
  free(got);
}

int main(int argc, char **argv) {
  moon_err err;
  moon_device *device;
  if (argc < 3)
    return fputs("usage: graph DEVICE MODEL [STEPS]\n", stderr), 2;
  must(moon_device_find(&device, argv[1], &err), &err);
  moon_cuda_stream_fn *stream_of;
  *(void **)&stream_of = find(moon_cuda_plugin(), "moon_cuda_stream");
  must(moon_llama_load(&model, argv[2], device, MOON_FAST, 512, &err), &err);
  must(moon_session_new(&session, model, &err), &err);
  driver d = open_driver();
  check(&d, stream_of(device), argc > 3 ? atoi(argv[3]) : 20);
  moon_session_release(session);
  moon_llama_release(model);
  return 0;
}

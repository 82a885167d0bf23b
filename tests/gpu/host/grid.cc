// SPDX-License-Identifier: MIT
/*
 * A grid on one CPU thread. Each thread of a block is a coroutine with a stack of its own; it runs
 * until it ends or waits at a barrier of its warp or block. Blocks follow one another. Every other
 * launch runs warps and threads in reverse order, so a missing barrier shows as a difference.
 */
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "host.h"

enum {
  MAX_THREADS = 1024,
  LANES = 32,
  STACK_BYTES = 64 << 10,
  MAX_SHARED = 227 << 10,
  MAX_COPIES = 64
};

enum place { RUNNING, AT_WARP, AT_BLOCK, ENDED };

struct late_copy {
  void *to;
  const void *from; /* NULL: zeros */
};

struct coroutine {
  void *stack, *top; /* top: where it goes on */
  place at;
  int turn; /* which half of the warp's exchange its next call uses */
  late_copy copies[MAX_COPIES];
  int n_copies;
};

dim3 threadIdx, blockIdx, blockDim, gridDim;
unsigned char *host_dynamic_shared;

static coroutine all[MAX_THREADS];
static uint64_t exchanged[MAX_THREADS / LANES][2][LANES];
static void *scheduler;
static void (*body)(void *);
static void *body_arguments;

/* Saves the registers that a call keeps, and the stack in *from; goes on at `to`. */
extern "C" void host_switch(void **from, void *to);
asm(R"(
.text
.type host_switch, @function
host_switch:
  endbr64
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size host_switch, . - host_switch
)");

static void pause_at(place where) {
  coroutine *me = &all[threadIdx.x];
  me->at = where;
  host_switch(&me->top, scheduler);
}

static void enter(void) {
  for (;;) {
    body(body_arguments);
    pause_at(ENDED);
  }
}

static void resume(unsigned thread) {
  threadIdx.x = thread;
  host_switch(&scheduler, all[thread].top);
}

void __syncthreads(void) {
  pause_at(AT_BLOCK);
}

void __syncwarp(void) {
  pause_at(AT_WARP);
}

/* Two halves in turn: a lane cannot begin the exchange after the next before all have read this. */
const uint64_t *host_exchange(uint64_t bits) {
  unsigned warp = threadIdx.x / LANES;
  coroutine *me = &all[threadIdx.x];
  uint64_t *half = exchanged[warp][me->turn];
  me->turn = !me->turn;
  half[threadIdx.x % LANES] = bits;
  pause_at(AT_WARP);
  return half;
}

void copy_later(void *to, const void *from, bool there) {
  coroutine *me = &all[threadIdx.x];
  if (me->n_copies == MAX_COPIES) {
    fprintf(stderr, "host grid: a thread began %d copies, expected at most %d\n", MAX_COPIES + 1,
            MAX_COPIES);
    abort();
  }
  me->copies[me->n_copies++] = late_copy{to, there ? from : NULL};
}

void wait_for_copies(void) {
  coroutine *me = &all[threadIdx.x];
  for (int i = 0; i < me->n_copies; i++)
    if (me->copies[i].from)
      memcpy(me->copies[i].to, me->copies[i].from, 16);
    else
      memset(me->copies[i].to, 0, 16);
  me->n_copies = 0;
}

static void begin(unsigned thread) {
  coroutine *c = &all[thread];
  if (!c->stack) {
    c->stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (c->stack == MAP_FAILED)
      abort();
    void **top = (void **)((char *)c->stack + STACK_BYTES) - 8;
    memset(top, 0, 8 * sizeof *top);
    top[6] = (void *)enter; /* above the six registers; the stack is then as after a call */
    c->top = top;
  }
  c->at = RUNNING;
  c->turn = 0;
  c->n_copies = 0;
}

/* Threads [first, first + n) that wait at `where` go on, if all do that have not ended. */
static bool release(unsigned first, unsigned n, place where) {
  unsigned waiting = 0, ended = 0;
  for (unsigned i = first; i < first + n; i++) {
    waiting += all[i].at == where;
    ended += all[i].at == ENDED;
  }
  bool whole = where == AT_BLOCK ? waiting + ended == n : waiting == n; /* a warp needs its lanes */
  for (unsigned i = first; whole && waiting > 0 && i < first + n; i++)
    if (all[i].at == where)
      all[i].at = RUNNING;
  return whole && waiting > 0;
}

/* A warp runs as far as it can before the next one does: what only a barrier of the block would
 * keep in order is out of order. */
static void run_block(bool reverse) {
  unsigned n = blockDim.x;
  for (unsigned i = 0; i < n; i++)
    begin(i);
  do {
    for (unsigned i = 0; i < n; i += LANES) {
      unsigned warp = reverse ? n - LANES - i : i;
      do
        for (unsigned lane = 0; lane < LANES; lane++) {
          unsigned thread = warp + (reverse ? LANES - 1 - lane : lane);
          if (all[thread].at == RUNNING)
            resume(thread);
        }
      while (release(warp, LANES, AT_WARP));
    }
  } while (release(0, n, AT_BLOCK));
  for (unsigned i = 0; i < n; i++)
    if (all[i].at != ENDED) {
      fprintf(stderr, "host grid: threads of a block wait at different barriers\n");
      abort();
    }
}

cudaError_t host_run_grid(const cudaLaunchConfig_t *config, void (*run)(void *), void *arguments) {
  static bool reverse;
  unsigned n = config->blockDim.x;
  if (host_fails())
    return cudaErrorMemoryAllocation;
  host_count_launch();
  if (n == 0 || n > MAX_THREADS || n % LANES || config->dynamicSmemBytes > MAX_SHARED ||
      config->gridDim.y > 65535 || config->gridDim.z > 65535)
    return cudaErrorInvalidValue;
  body = run;
  body_arguments = arguments;
  blockDim = config->blockDim;
  gridDim = config->gridDim;
  host_dynamic_shared = (unsigned char *)aligned_alloc(16, config->dynamicSmemBytes / 16 * 16 + 16);
  host_begin_work();
  for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
      for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++)
        run_block(reverse);
  host_end_work();
  free(host_dynamic_shared);
  reverse = !reverse;
  return cudaSuccess;
}

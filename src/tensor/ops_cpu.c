// SPDX-License-Identifier: MIT
/* The CPU device: one table per instruction set, the best one chosen by cpuid. */
#include "tensor/ops_cpu.h"

#include <omp.h>
#include <pthread.h>
#include <string.h>

enum { N_SETS = 6 };

/* Best first; see prefer_f32. */
static struct {
  const char *name;
  void (*add)(moon_ops *table);
  moon_ops table;
  bool here;
} sets[N_SETS] = {
    {.name = "amx", .add = moon_ops_add_amx},
    {.name = "avx512bf16", .add = moon_ops_add_avx512bf16},
    {.name = "avx512", .add = moon_ops_add_avx512},
    {.name = "avx2", .add = moon_ops_add_avx2},
    {.name = "v2", .add = moon_ops_add_v2},
    {.name = "reference"},
};

static moon_device cpu = {.name = "cpu"};
static atomic_int n_threads;

/* F16C comes with every AVX2; clang cannot ask for it by name. */
static bool has_avx2(void) {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void) {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

/* Intel's cores begin a VDPBF16PS every other cycle and two FMAs in each: half the rate of products
 * in f32, which take bf16 as well. AMD's are twice as fast in bf16. */
static void prefer_f32(void) {
  __typeof__(sets[1]) bf16 = sets[1];
  sets[1] = sets[2];
  sets[2] = bf16;
}

static void init(void) {
  sets[1].here = has_avx512() && __builtin_cpu_supports("avx512bf16");
  sets[0].here = sets[1].here && moon_cpu_has_amx();
  sets[2].here = has_avx512();
  sets[3].here = has_avx2();
  sets[4].here = sets[5].here = true; /* the whole build needs x86-64-v2 */
  if (__builtin_cpu_is("intel"))
    prefer_f32();
  for (int i = 0; i < N_SETS; i++) {
    sets[i].table = moon_ops_reference;
    sets[i].table.name = sets[i].name;
    if (sets[i].here && sets[i].add) /* compiled for the set, as its kernels are */
      sets[i].add(&sets[i].table);
    if (sets[i].here && !cpu.ops)
      cpu.ops = &sets[i].table;
  }
  atomic_store(&n_threads, omp_get_num_procs());
}

moon_device *moon_cpu(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, init);
  return &cpu;
}

const char *moon_cpu_instruction_set_name(int index) {
  moon_cpu();
  for (int i = 0; i < N_SETS; i++)
    if (sets[i].here && index-- == 0)
      return sets[i].name;
  return NULL;
}

const char *moon_cpu_instruction_set(void) {
  return moon_cpu()->ops->name;
}

moon_status moon_cpu_use_instruction_set(const char *name, moon_err *err) {
  moon_cpu();
  for (int i = 0; i < N_SETS; i++)
    if (sets[i].here && !strcmp(sets[i].name, name)) {
      cpu.ops = &sets[i].table;
      return MOON_OK;
    }
  return moon_fail(err, MOON_EDEVICE, "instruction set: this CPU has no \"%s\"; its best is %s",
                   name, moon_cpu_instruction_set_name(0));
}

int moon_cpu_threads(void) {
  moon_cpu();
  return atomic_load(&n_threads);
}

void moon_cpu_set_threads(int n) {
  moon_cpu();
  atomic_store(&n_threads, n);
}

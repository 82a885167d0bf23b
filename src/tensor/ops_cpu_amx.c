// SPDX-License-Identifier: MIT
/*
 * AVX-512 with AMX: products of two bf16 blocks in tiles of 16 rows of 64 bytes. TDPBF16PS rounds
 * to nearest even whatever the mode, and takes and gives denormal numbers as 0. (Intel 64 and IA-32
 * Architectures Software Developer's Manual, volume 1, chapter 18)
 */
#include "tensor/ops_cpu_avx512.h"

#include <cpuid.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HAS_TILES

/* 32 bf16 of two runs of f32, rounded to nearest even. */
static inline vec vec_pair_bf16(vec first, vec second) {
  return (vec)_mm512_cvtne2ps_pbh(second, first);
}

/* n times as many products of tiles as the registers have sums for. */
static double bf16_steps(int64_t n);
#define HAS_BF16_STEPS

#include "tensor/ops_cpu_kernels.h"

static double bf16_steps(int64_t n) {
  tiles_begin();
  for (int64_t i = 0; i < n; i++) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 5, 6);
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return 2.0 * 4 * TILE_EDGE * TILE_EDGE * TILE_K * (double)n;
}

bool moon_cpu_has_amx(void) {
  enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; /* asm/prctl.h of Linux 5.16 */
  enum { HAS_BF16 = 1 << 22, HAS_TILE = 1 << 24 };      /* cpuid 7, edx */
  unsigned a, b, c, d = 0;
  bool here = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & HAS_BF16) && (d & HAS_TILE);
  return here && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

void moon_ops_add_amx(moon_ops *table) {
  add_kernels(table);
}

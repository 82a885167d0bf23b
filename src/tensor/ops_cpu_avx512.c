// SPDX-License-Identifier: MIT
/* AVX-512 without products of bf16: they are made in f32. */
#include "tensor/ops_cpu_avx512.h"
#include "tensor/ops_cpu_kernels.h"

void moon_ops_add_avx512(moon_ops *table) {
  add_kernels(table);
}

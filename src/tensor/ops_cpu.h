// SPDX-License-Identifier: MIT
/*
 * What the CPU's tables share. moon_ops_reference has a plain kernel for every operation: it says
 * what each one means and is kept for ever. An instruction set's table starts as a copy of it, and
 * its file (ops_cpu_v2.c, _avx2.c, _avx512.c, _avx512bf16.c, _amx.c) replaces the entries that it
 * has faster kernels for.
 */
#ifndef MOON_TENSOR_OPS_CPU_H
#define MOON_TENSOR_OPS_CPU_H

#include "tensor/ops.h"
#include "tensor/storage.h"

extern const moon_ops moon_ops_reference; /* ops_cpu_reference.c: plain C, one thread */

void moon_ops_add_v2(moon_ops *table);
void moon_ops_add_avx2(moon_ops *table);
void moon_ops_add_avx512(moon_ops *table);
void moon_ops_add_avx512bf16(moon_ops *table);
void moon_ops_add_amx(moon_ops *table);

/* Whether the processor has tiles of bf16 and Linux lets this process use them. */
bool moon_cpu_has_amx(void);

#endif

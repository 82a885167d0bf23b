// SPDX-License-Identifier: MIT
/* A place where tensors live and operations run in order: the CPU now, GPUs as plugins. */
#ifndef MOON_TENSOR_DEVICE_H
#define MOON_TENSOR_DEVICE_H

#include "moon.h"

typedef struct moon_ops moon_ops; /* ops.h */

/* One object per device for the whole process; never freed. A backend embeds it as its first
 * member. */
typedef struct moon_device {
  const char *name;    /* "cpu", "cuda:0" */
  const moon_ops *ops; /* the table this device runs; may be exchanged while no job runs */
} moon_device;

moon_device *moon_cpu(void);

/* The index-th device of this machine: the CPU, then those with CUDA; NULL after the end. Borrowed.
 */
moon_device *moon_device_at(int index);

/* "cpu", "cuda" (the first one), "cuda:1", or "auto": the first with CUDA, else the CPU. Asking for
 * any but "cpu" opens the CUDA plugin. Borrowed. MOON_EDEVICE says why there is none of this name.
 */
moon_status moon_device_find(moon_device **out, const char *name, moon_err *err);

/* The CPU's instruction sets, best first, that this machine has: "amx", "avx512bf16", "avx512",
 * "avx2", "v2". "reference" (the plain kernels) is always the last. NULL after the end. */
const char *moon_cpu_instruction_set_name(int index);
const char *moon_cpu_instruction_set(void); /* the one in use */
moon_status moon_cpu_use_instruction_set(const char *name,
                                         moon_err *err); /* MOON_EDEVICE: not here */

int moon_cpu_threads(void);       /* that kernels use */
void moon_cpu_set_threads(int n); /* n >= 1 */

#endif

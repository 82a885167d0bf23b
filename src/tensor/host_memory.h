// SPDX-License-Identifier: MIT
/* How much memory the process can still take from the machine. */
#ifndef MOON_TENSOR_HOST_MEMORY_H
#define MOON_TENSOR_HOST_MEMORY_H

#include "moon.h"

/* *free_bytes: what the kernel says can be had without swapping, or what the process's control
 * group (v1 or v2) and those above it leave, whichever is least; pages of files count as free.
 * *total: likewise of all. root goes in front of /proc and /sys, "" but for tests. MOON_EIO:
 * /proc/meminfo cannot be read. */
moon_status moon_host_memory(const char *root, size_t *free_bytes, size_t *total, moon_err *err);

#endif

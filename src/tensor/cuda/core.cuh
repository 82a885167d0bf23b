// SPDX-License-Identifier: MIT
/* The core's C headers for C++, which spells atomics otherwise. */
#ifndef MOON_TENSOR_CUDA_CORE_CUH
#define MOON_TENSOR_CUDA_CORE_CUH

#include <stddef.h>
#include <stdint.h>

#include <atomic>

#define _Atomic(T) std::atomic<T>
using std::atomic_bool;
using std::atomic_int;

extern "C" {
#include "tensor/cuda/plugin.h"
#include "tensor/ops.h"
#include "tensor/storage.h"
}

#endif

// SPDX-License-Identifier: MIT
/* libmoonscope_cuda.so: the CUDA devices of the process. device.c opens it when one is asked for.
 */
#ifndef MOON_TENSOR_CUDA_PLUGIN_H
#define MOON_TENSOR_CUDA_PLUGIN_H

#include "tensor/device.h"

#define MOON_CUDA_PLUGIN "libmoonscope_cuda.so"

/* *devices: the *n >= 1 devices of this machine that the kernels can run on ("cuda:0", ...), an
 * array and objects that live as long as the process. Nothing is initialised on a device before its
 * first allocation. To be called once. MOON_EDEVICE says why there is none: no driver, one that is
 * too old, no device, none that is new enough. */
typedef moon_status moon_cuda_open_fn(moon_device ***devices, int *n, moon_err *err);

#endif

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

/* The stream (a CUstream) that all work of one of those devices goes through, for what times or
 * captures it. Borrowed. NULL before the device's first allocation. */
typedef void *moon_cuda_stream_fn(const moon_device *device);

/* The plugin's handle for dlsym; NULL where it was not opened (device.c). */
void *moon_cuda_plugin(void);

#endif

// SPDX-License-Identifier: MIT
/*
 * What a device can do at best, measured now on the threads that kernels use: a benchmark states
 * its figures beside these. For the CPU; each instruction set measures its own instructions.
 */
#ifndef MOON_TENSOR_LIMITS_H
#define MOON_TENSOR_LIMITS_H

#include "tensor/ops.h"

/* Bytes per second at which a is read, in the best of some manners. a is contiguous f32 and says
 * which memory is meant: larger than every cache, or not. MOON_EUNSUPPORTED: not on this device. */
moon_status moon_limit_read(double *out, const moon_tensor *a, moon_err *err);

/* Operations (a multiply-add is two) per second of the instruction that the device's instruction
 * set has for products of this arithmetic, operands in registers. MOON_EUNSUPPORTED: not on this
 * device. */
moon_status moon_limit_multiply(double *out, const moon_device *device, moon_arithmetic arithmetic,
                                moon_err *err);

#endif

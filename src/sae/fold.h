// SPDX-License-Identifier: MIT
/*
 * What is known of an SAE's formula when it is loaded goes into its weights, in f32 and before they
 * are cast, so that nothing is left to do for it in an encode. Matrices are read in blocks of rows:
 * a second copy in f32 never exists.
 */
#ifndef MOON_SAE_FOLD_H
#define MOON_SAE_FOLD_H

#include "tensor/ops.h"

/* out := w with row j times factors[j], in this dtype, on this device, row-major. w: a matrix of
 * any strides; factors f32 [rows] on the host. Owned by the caller. */
moon_status moon_fold_rows(moon_tensor *out, const moon_tensor *w, const float *factors,
                           moon_device *device, moon_dtype dtype, moon_err *err);

/* norms[j] := |row j of w|; norms f32 [rows] on the host. Computed on the device. */
moon_status moon_fold_norms(float *norms, const moon_tensor *w, moon_device *device, moon_err *err);

/* The n elements of a vector of any float dtype as f32 on the host: *out is to be freed. Where t
 * has one element it is repeated; where it is empty they are 0. */
moon_status moon_fold_read(float **out, const moon_tensor *t, int64_t n, moon_err *err);

#endif

// SPDX-License-Identifier: MIT
#include "sae/fold.h"

#include <math.h>
#include <stdlib.h>

#include "tensor/dtype.h"

enum { BLOCK = 8 << 20 }; /* elements of a matrix at a time: 32 MB of f32 */

static int64_t rows_per_block(const moon_tensor *w) {
  int64_t n = w->shape[1] > 0 ? BLOCK / w->shape[1] : w->shape[0];
  return n > 1 ? n : 1;
}

/* part := rows [first, first + n) of w, f32 on the device. */
static moon_status read_rows(moon_tensor *part, const moon_tensor *w, int64_t first, int64_t n,
                             moon_device *device, moon_err *err) {
  moon_tensor rows = {0};
  moon_status status = moon_tensor_narrow(&rows, w, 0, first, n, err);
  if (status == MOON_OK)
    status = moon_tensor_to(part, &rows, device, MOON_F32, err);
  moon_tensor_release(&rows);
  return status;
}

static moon_status scale_block(const moon_tensor *out, const moon_tensor *w, const float *factors,
                               int64_t first, int64_t n, moon_device *device, moon_err *err) {
  moon_tensor rows = {0}, factor = {0}, scaled = {0}, to = {0};
  moon_status status;
  (void)((status = read_rows(&rows, w, first, n, device, err)) ||
         (status = moon_tensor_from_host(&factor, device, MOON_F32, (int64_t[]){n, 1}, 2,
                                         factors + first, err)) ||
         (status = moon_tensor_new(&scaled, device, MOON_F32, rows.shape, 2, err)) ||
         (status = moon_op_binary(MOON_MUL, &scaled, &rows, &factor, err)) ||
         (status = moon_tensor_narrow(&to, out, 0, first, n, err)) ||
         (status = moon_op_copy(&to, &scaled, err)));
  moon_tensor_release(&rows);
  moon_tensor_release(&factor);
  moon_tensor_release(&scaled);
  moon_tensor_release(&to);
  return status;
}

moon_status moon_fold_rows(moon_tensor *out, const moon_tensor *w, const float *factors,
                           moon_device *device, moon_dtype dtype, moon_err *err) {
  int64_t n_rows = w->shape[0], step = rows_per_block(w);
  moon_status status = moon_tensor_new(out, device, dtype, w->shape, 2, err);
  for (int64_t first = 0; first < n_rows && status == MOON_OK; first += step)
    status = scale_block(out, w, factors, first, n_rows - first < step ? n_rows - first : step,
                         device, err);
  if (status)
    moon_tensor_release(out);
  return status;
}

static moon_status norms_of_block(float *norms, const moon_tensor *w, int64_t first, int64_t n,
                                  moon_device *device, moon_err *err) {
  moon_tensor rows = {0}, squares = {0};
  moon_status status;
  (void)((status = read_rows(&rows, w, first, n, device, err)) ||
         (status = moon_tensor_new(&squares, device, MOON_F32, &n, 1, err)) ||
         (status = moon_op_reduce(MOON_SUM_OF_SQUARES, &squares, &rows, err)) ||
         (status = moon_tensor_read(&squares, norms + first, err)));
  for (int64_t i = first; i < first + n && status == MOON_OK; i++)
    norms[i] = sqrtf(norms[i]);
  moon_tensor_release(&rows);
  moon_tensor_release(&squares);
  return status;
}

moon_status moon_fold_norms(float *norms, const moon_tensor *w, moon_device *device,
                            moon_err *err) {
  int64_t n_rows = w->shape[0], step = rows_per_block(w);
  moon_status status = MOON_OK;
  for (int64_t first = 0; first < n_rows && status == MOON_OK; first += step)
    status =
        norms_of_block(norms, w, first, n_rows - first < step ? n_rows - first : step, device, err);
  return status;
}

moon_status moon_fold_read(float **out, const moon_tensor *t, int64_t n, moon_err *err) {
  size_t found = t->storage ? (size_t)moon_tensor_count(t) : 0;
  float *values = calloc((size_t)n + 1, sizeof *values);
  void *raw = malloc(found * sizeof(double) + 1);
  moon_status status = MOON_OK;
  if (!values || !raw)
    status = moon_fail(err, MOON_ENOMEM, "sae: no memory for a vector of %lld", (long long)n);
  else if (t->storage)
    status = moon_tensor_read(t, raw, err);
  if (status == MOON_OK && t->storage)
    moon_dtype_convert(values, MOON_F32, raw, t->dtype, found < (size_t)n ? found : (size_t)n);
  for (int64_t i = 1; i < n && found == 1 && status == MOON_OK; i++)
    values[i] = values[0];
  free(raw);
  if (status)
    free(values);
  *out = status ? NULL : values;
  return status;
}

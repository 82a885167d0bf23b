// SPDX-License-Identifier: MIT
#include "tensor/limits.h"

#include <time.h>

#include "tensor/storage.h"

enum {
  N_STEPS = 4000000, /* some hundredths of a second */
  MAX_STREAMS = 4    /* per thread; one CPU reads one stream fastest, another several */
};

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static moon_status unsupported(const moon_device *device, moon_err *err) {
  return moon_fail(err, MOON_EUNSUPPORTED, "limits: not measured on %s, only on the CPU",
                   device->name);
}

moon_status moon_limit_read(double *out, const moon_tensor *a, moon_err *err) {
  const moon_device *device = moon_tensor_device(a);
  if (!device->ops->read_all)
    return unsupported(device, err);
  if (a->dtype != MOON_F32 || !moon_tensor_contiguous(a))
    return moon_fail(err, MOON_EDTYPE, "limits: expected a contiguous f32 tensor");
  const float *data = moon_tensor_data(a);
  device->ops->read_all(data, 0, 1); /* the threads are there */
  *out = 0;
  for (int n_streams = 1; n_streams <= MAX_STREAMS; n_streams *= MAX_STREAMS) {
    double start = seconds();
    device->ops->read_all(data, moon_tensor_count(a), n_streams);
    double rate = (double)moon_tensor_size_bytes(a) / (seconds() - start);
    *out = rate > *out ? rate : *out;
  }
  return MOON_OK;
}

moon_status moon_limit_multiply(double *out, const moon_device *device, moon_arithmetic arithmetic,
                                moon_err *err) {
  if (!device->ops->multiply)
    return unsupported(device, err);
  device->ops->multiply(arithmetic, 1);
  double start = seconds(), operations = device->ops->multiply(arithmetic, N_STEPS);
  *out = operations / (seconds() - start);
  return MOON_OK;
}

// SPDX-License-Identifier: MIT
#include "tensor/tensor.h"

#include <stdlib.h>
#include <string.h>

#include "tensor/ops.h"
#include "tensor/storage.h"

static _Atomic int64_t live, live_bytes; /* a mapped storage counts, its bytes are the file's */

int64_t moon_storage_live(void) {
  return atomic_load(&live);
}

int64_t moon_storage_live_bytes(void) {
  return atomic_load(&live_bytes);
}

/* One reference. `data` becomes the storage's own, unless it points into `file`. */
static moon_storage *storage_wrap(moon_device *device, void *data, size_t size, moon_bytes *file) {
  moon_storage *s = malloc(sizeof *s);
  if (!s)
    return NULL;
  *s = (moon_storage){
      .device = device, .data = data, .size = size, .file = file ? moon_bytes_retain(file) : NULL};
  atomic_init(&s->refs, 1);
  atomic_fetch_add(&live, 1);
  atomic_fetch_add(&live_bytes, file ? 0 : (int64_t)size);
  return s;
}

static moon_status storage_new(moon_storage **out, moon_device *device, size_t size,
                               moon_err *err) {
  void *data;
  moon_status status = device->ops->alloc(device, size, &data, err);
  if (status)
    return status;
  *out = storage_wrap(device, data, size, NULL);
  if (!*out) {
    device->ops->free(device, data, size);
    return moon_fail(err, MOON_ENOMEM, "%s: no memory for a tensor", device->name);
  }
  return MOON_OK;
}

static void storage_release(moon_storage *s) {
  if (atomic_fetch_sub(&s->refs, 1) != 1)
    return;
  atomic_fetch_sub(&live, 1);
  atomic_fetch_sub(&live_bytes, s->file ? 0 : (int64_t)s->size);
  if (s->file)
    moon_bytes_release(s->file);
  else
    s->device->ops->free(s->device, s->data, s->size);
  free(s);
}

static void set_row_major(moon_tensor *t) {
  int64_t stride = 1;
  for (int i = t->rank - 1; i >= 0; i--) {
    t->strides[i] = stride;
    stride *= t->shape[i] > 0 ? t->shape[i] : 1;
  }
}

static moon_status shape_error(const int64_t *shape, int rank, moon_err *err) {
  char text[MOON_SHAPE_TEXT];
  if (rank < 0 || rank > MOON_MAX_RANK)
    return moon_fail(err, MOON_ESHAPE, "tensor: rank is %d, expected 0 to %d", rank, MOON_MAX_RANK);
  return moon_fail(err, MOON_ESHAPE, "tensor: shape %s is negative or too large",
                   moon_shape_text(text, sizeof text, shape, rank));
}

/* Shape, row-major strides and the size in bytes of a tensor that has no storage yet. */
static moon_status layout(moon_tensor *out, size_t *size, moon_dtype dtype, const int64_t *shape,
                          int rank, moon_err *err) {
  int64_t count;
  if (rank < 0 || rank > MOON_MAX_RANK || !moon_shape_count(&count, shape, rank) ||
      !moon_size_mul(size, (size_t)count, moon_dtype_size(dtype)) || *size > INT64_MAX)
    return shape_error(shape, rank, err);
  *out = (moon_tensor){.dtype = dtype, .rank = rank};
  for (int i = 0; i < rank; i++)
    out->shape[i] = shape[i];
  set_row_major(out);
  return MOON_OK;
}

moon_status moon_tensor_new(moon_tensor *out, moon_device *device, moon_dtype dtype,
                            const int64_t *shape, int rank, moon_err *err) {
  size_t size = 0;
  moon_tensor t;
  moon_status status = layout(&t, &size, dtype, shape, rank, err);
  if (!status)
    status = storage_new(&t.storage, device, size, err);
  if (!status)
    *out = t;
  return status;
}

/* Row-major numbers of its own: of a deflated or misaligned entry. */
static moon_status copy_entry(moon_tensor *t, const moon_entry *entry, moon_err *err) {
  moon_status status = storage_new(&t->storage, moon_cpu(), entry->size_bytes, err);
  if (status)
    return status;
  set_row_major(t);
  status = moon_entry_read(entry, 0, entry->size_bytes, t->storage->data, err);
  if (status)
    storage_release(t->storage);
  return status;
}

static moon_status map_entry(moon_tensor *t, const moon_entry *entry, moon_err *err) {
  /* The mapping is read-only: whoever writes checks storage->file first. */
  void *data = (void *)(uintptr_t)moon_bytes_data(entry->bytes);
  t->offset_bytes = entry->offset;
  t->storage = storage_wrap(moon_cpu(), data, moon_bytes_size(entry->bytes), entry->bytes);
  return t->storage ? MOON_OK
                    : moon_fail(err, MOON_ENOMEM, "%s: no memory for a tensor", entry->name);
}

moon_status moon_tensor_from_entry(moon_tensor *out, const moon_entry *entry, moon_err *err) {
  if (entry->dtype == MOON_OPAQUE)
    return moon_fail(err, MOON_EDTYPE,
                     "%s: dtype %s can be listed, hashed and copied, not computed with",
                     entry->name, entry->dtype_name);
  moon_tensor t = {.dtype = entry->dtype, .rank = entry->rank};
  memcpy(t.shape, entry->shape, sizeof t.shape);
  memcpy(t.strides, entry->strides, sizeof t.strides);
  bool in_place = !entry->packed && entry->offset % moon_dtype_size(entry->dtype) == 0;
  moon_status status = in_place ? map_entry(&t, entry, err) : copy_entry(&t, entry, err);
  if (!status)
    *out = t;
  return status;
}

moon_tensor moon_tensor_retain(const moon_tensor *t) {
  if (t->storage)
    atomic_fetch_add(&t->storage->refs, 1);
  return *t;
}

void moon_tensor_release(moon_tensor *t) {
  if (t->storage)
    storage_release(t->storage);
  *t = (moon_tensor){0};
}

moon_device *moon_tensor_device(const moon_tensor *t) {
  return t->storage->device;
}

int64_t moon_tensor_count(const moon_tensor *t) {
  int64_t count = 1;
  for (int i = 0; i < t->rank; i++)
    count *= t->shape[i];
  return count;
}

size_t moon_tensor_size_bytes(const moon_tensor *t) {
  return (size_t)moon_tensor_count(t) * moon_dtype_size(t->dtype);
}

bool moon_tensor_contiguous(const moon_tensor *t) {
  int64_t stride = 1;
  bool row_major = true;
  for (int i = t->rank - 1; i >= 0; i--) {
    row_major = row_major && (t->shape[i] == 1 || t->strides[i] == stride);
    stride *= t->shape[i];
  }
  return row_major || stride == 0; /* an empty one has no order */
}

static moon_status check_dim(const char *what, const moon_tensor *t, int dim, moon_err *err) {
  if (dim >= 0 && dim < t->rank)
    return MOON_OK;
  return moon_fail(err, MOON_ERANGE, "%s: dim is %d, expected less than rank %d", what, dim,
                   t->rank);
}

/* A view of t that begins `start` steps along dim. */
static moon_tensor view_from(const moon_tensor *t, int dim, int64_t start) {
  moon_tensor view = moon_tensor_retain(t);
  view.offset_bytes += (size_t)(start * t->strides[dim]) * moon_dtype_size(t->dtype);
  return view;
}

moon_status moon_tensor_narrow(moon_tensor *out, const moon_tensor *t, int dim, int64_t start,
                               int64_t length, moon_err *err) {
  moon_status status = check_dim("narrow", t, dim, err);
  if (status)
    return status;
  if (start < 0 || length < 0 || start > t->shape[dim] || length > t->shape[dim] - start) {
    char text[MOON_SHAPE_TEXT];
    return moon_fail(err, MOON_ERANGE, "narrow: %lld elements from %lld are not in dim %d of %s",
                     (long long)length, (long long)start, dim,
                     moon_shape_text(text, sizeof text, t->shape, t->rank));
  }
  moon_tensor view = view_from(t, dim, start);
  view.shape[dim] = length;
  *out = view;
  return MOON_OK;
}

moon_status moon_tensor_select(moon_tensor *out, const moon_tensor *t, int dim, int64_t index,
                               moon_err *err) {
  moon_status status = check_dim("select", t, dim, err);
  if (status)
    return status;
  if (index < 0 || index >= t->shape[dim]) {
    char text[MOON_SHAPE_TEXT];
    return moon_fail(err, MOON_ERANGE, "select: index %lld is not in dim %d of %s",
                     (long long)index, dim, moon_shape_text(text, sizeof text, t->shape, t->rank));
  }
  moon_tensor view = view_from(t, dim, index);
  view.rank--;
  for (int i = dim; i < view.rank; i++) {
    view.shape[i] = t->shape[i + 1];
    view.strides[i] = t->strides[i + 1];
  }
  *out = view;
  return MOON_OK;
}

moon_status moon_tensor_transpose(moon_tensor *out, const moon_tensor *t, int dim_a, int dim_b,
                                  moon_err *err) {
  moon_status status = check_dim("transpose", t, dim_a, err);
  if (!status)
    status = check_dim("transpose", t, dim_b, err);
  if (status)
    return status;
  moon_tensor view = moon_tensor_retain(t);
  view.shape[dim_a] = t->shape[dim_b];
  view.strides[dim_a] = t->strides[dim_b];
  view.shape[dim_b] = t->shape[dim_a];
  view.strides[dim_b] = t->strides[dim_a];
  *out = view;
  return MOON_OK;
}

/* shape with its -1 replaced by what makes the counts equal; false where nothing does. */
static bool infer_shape(int64_t *inferred, const moon_tensor *t, const int64_t *shape, int rank) {
  int unknown = -1;
  for (int i = 0; i < rank; i++) {
    inferred[i] = shape[i] == -1 && unknown < 0 ? 1 : shape[i];
    if (shape[i] == -1 && unknown < 0)
      unknown = i;
  }
  int64_t known, count = moon_tensor_count(t);
  if (!moon_shape_count(&known, inferred, rank))
    return false;
  if (unknown < 0)
    return known == count;
  if (known == 0 || count % known != 0)
    return false;
  inferred[unknown] = count / known;
  return true;
}

moon_status moon_tensor_reshape(moon_tensor *out, const moon_tensor *t, const int64_t *shape,
                                int rank, moon_err *err) {
  int64_t inferred[MOON_MAX_RANK];
  if (rank < 0 || rank > MOON_MAX_RANK)
    return shape_error(shape, rank, err);
  if (!infer_shape(inferred, t, shape, rank)) {
    char from[MOON_SHAPE_TEXT], to[MOON_SHAPE_TEXT];
    return moon_fail(err, MOON_ESHAPE, "reshape: %s does not fit %s",
                     moon_shape_text(from, sizeof from, t->shape, t->rank),
                     moon_shape_text(to, sizeof to, shape, rank));
  }
  moon_tensor view;
  moon_status status = moon_tensor_to(&view, t, moon_tensor_device(t), t->dtype, err);
  if (status)
    return status;
  view.rank = rank;
  memcpy(view.shape, inferred, (size_t)rank * sizeof *inferred);
  set_row_major(&view);
  *out = view;
  return MOON_OK;
}

/* Row-major t, its bytes moved to another device; one of the two is the CPU or both go through it.
 */
static moon_status move(moon_tensor *out, const moon_tensor *t, moon_device *device,
                        moon_err *err) {
  moon_device *from = moon_tensor_device(t);
  moon_tensor moved = {0}, host = {0};
  moon_status status;
  if (from != moon_cpu() && device != moon_cpu()) {
    status = move(&host, t, moon_cpu(), err);
    if (!status)
      status = move(&moved, &host, device, err);
  } else {
    status = moon_tensor_new(&moved, device, t->dtype, t->shape, t->rank, err);
    if (!status && from == moon_cpu())
      status = moon_tensor_write(&moved, moon_tensor_data(t), err);
    else if (!status)
      status = moon_tensor_read(t, moon_tensor_data(&moved), err);
  }
  moon_tensor_release(&host);
  if (status)
    moon_tensor_release(&moved);
  else
    *out = moved;
  return status;
}

/* A new row-major tensor with t's elements, on t's own device. */
static moon_status copy(moon_tensor *out, const moon_tensor *t, moon_dtype dtype, moon_err *err) {
  moon_tensor copied;
  moon_status status =
      moon_tensor_new(&copied, moon_tensor_device(t), dtype, t->shape, t->rank, err);
  if (status)
    return status;
  status = moon_op_copy(&copied, t, err);
  if (status)
    moon_tensor_release(&copied);
  else
    *out = copied;
  return status;
}

moon_status moon_tensor_to(moon_tensor *out, const moon_tensor *t, moon_device *device,
                           moon_dtype dtype, moon_err *err) {
  moon_tensor here;
  if (t->dtype == dtype && moon_tensor_contiguous(t)) {
    here = moon_tensor_retain(t);
  } else {
    moon_status status = copy(&here, t, dtype, err);
    if (status)
      return status;
  }
  if (moon_tensor_device(t) == device)
    return *out = here, MOON_OK;
  moon_status status = move(out, &here, device, err);
  moon_tensor_release(&here);
  return status;
}

moon_status moon_tensor_read(const moon_tensor *t, void *host, moon_err *err) {
  moon_tensor rows;
  moon_device *device = moon_tensor_device(t);
  moon_status status = moon_tensor_to(&rows, t, device, t->dtype, err);
  if (status)
    return status;
  status = device->ops->download(device, host, moon_tensor_data(&rows),
                                 moon_tensor_size_bytes(&rows), err);
  moon_tensor_release(&rows);
  return status;
}

static moon_status write_strided(const moon_tensor *t, const void *host, moon_err *err) {
  moon_tensor rows;
  moon_status status =
      moon_tensor_new(&rows, moon_tensor_device(t), t->dtype, t->shape, t->rank, err);
  if (status)
    return status;
  status = moon_tensor_write(&rows, host, err);
  if (!status)
    status = moon_op_copy(t, &rows, err);
  moon_tensor_release(&rows);
  return status;
}

moon_status moon_tensor_write(moon_tensor *t, const void *host, moon_err *err) {
  moon_device *device = moon_tensor_device(t);
  if (t->storage->file)
    return moon_fail(err, MOON_EINVAL, "write: the tensor is read-only (it lies in a mapped file)");
  if (!moon_tensor_contiguous(t))
    return write_strided(t, host, err);
  return device->ops->upload(device, moon_tensor_data(t), host, moon_tensor_size_bytes(t), err);
}

moon_status moon_tensor_from_host(moon_tensor *out, moon_device *device, moon_dtype dtype,
                                  const int64_t *shape, int rank, const void *host, moon_err *err) {
  moon_status status = moon_tensor_new(out, device, dtype, shape, rank, err);
  if (status == MOON_OK && (status = moon_tensor_write(out, host, err)))
    moon_tensor_release(out);
  return status;
}

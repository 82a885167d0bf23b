// SPDX-License-Identifier: MIT
#include "sae/features.h"

#include <stdlib.h>
#include <string.h>

/* Dense rows at a time: 8 MB of a 65,536 wide SAE, which a CPU's cache holds; on a GPU 128 MB,
 * enough rows to keep it busy. */
enum { TILE_ROWS = 32, TILE_ROWS_ON_GPU = 512 };

void moon_features_free(moon_features *features) {
  if (!features)
    return;
  moon_tensor_release(&features->rows.starts);
  moon_tensor_release(&features->rows.counts);
  moon_tensor_release(&features->rows.indices);
  moon_tensor_release(&features->rows.values);
  moon_undo_release(&features->undo);
  moon_tensor_release(&features->skipped);
  free(features->offsets);
  free(features->indices);
  free(features->values);
  free(features);
}

/* The device's copy of the host's rows. */
static moon_status upload(moon_features *f, moon_device *device, moon_err *err) {
  int64_t n = f->rows.n_rows, total = f->offsets[n];
  int32_t *counts = malloc((size_t)n * sizeof *counts + 1);
  if (!counts)
    return moon_fail(err, MOON_ENOMEM, "features: no memory for %lld rows", (long long)n);
  for (int64_t t = 0; t < n; t++)
    counts[t] = (int32_t)(f->offsets[t + 1] - f->offsets[t]);
  moon_status status;
  (void)((status =
              moon_tensor_from_host(&f->rows.starts, device, MOON_I64, &n, 1, f->offsets, err)) ||
         (status = moon_tensor_from_host(&f->rows.counts, device, MOON_I32, &n, 1, counts, err)) ||
         (status = moon_tensor_from_host(&f->rows.indices, device, MOON_I32, &total, 1, f->indices,
                                         err)) ||
         (status =
              moon_tensor_from_host(&f->rows.values, device, MOON_F32, &total, 1, f->values, err)));
  free(counts);
  return status;
}

/* Room for n_rows and `room` pairs on the host. */
static moon_status reserve(moon_features *f, int64_t room, moon_err *err) {
  int32_t *indices = realloc(f->indices, (size_t)room * sizeof *indices + 1);
  if (indices)
    f->indices = indices;
  float *values = realloc(f->values, (size_t)room * sizeof *values + 1);
  if (values)
    f->values = values;
  if (indices && values)
    return MOON_OK;
  return moon_fail(err, MOON_ENOMEM, "features: no memory for %lld activations", (long long)room);
}

static moon_status new_empty(moon_features **out, int64_t n_rows, int64_t n_columns,
                             moon_err *err) {
  moon_features *f = calloc(1, sizeof *f);
  if (f)
    f->offsets = calloc((size_t)n_rows + 1, sizeof *f->offsets);
  if (!f || !f->offsets) {
    free(f);
    return moon_fail(err, MOON_ENOMEM, "features: no memory for %lld rows", (long long)n_rows);
  }
  f->rows.n_rows = n_rows;
  f->rows.n_columns = n_columns;
  *out = f;
  return MOON_OK;
}

/* Dense rows, and what is not 0 in them. */
typedef struct tile {
  moon_tensor dense;
  moon_sparse pairs;
} tile;

static void free_tile(tile *t) {
  moon_tensor_release(&t->dense);
  moon_tensor_release(&t->pairs.starts);
  moon_tensor_release(&t->pairs.counts);
  moon_tensor_release(&t->pairs.indices);
  moon_tensor_release(&t->pairs.values);
}

/* offsets [n_rows + 1] of the tile's rows, which begin at offsets[0] already. */
static moon_status count(tile *t, int64_t *offsets, moon_device *device, moon_err *err) {
  int64_t n = t->dense.shape[0];
  int32_t *counts = malloc((size_t)n * sizeof *counts + 1);
  if (!counts)
    return moon_fail(err, MOON_ENOMEM, "features: no memory for %lld rows", (long long)n);
  moon_status status;
  (void)((status = moon_tensor_new(&t->pairs.counts, device, MOON_I32, &n, 1, err)) ||
         (status = moon_op_sae_count(&t->pairs.counts, &t->dense, err)) ||
         (status = moon_tensor_read(&t->pairs.counts, counts, err)));
  for (int64_t i = 0; i < n && status == MOON_OK; i++)
    offsets[i + 1] = offsets[i] + counts[i];
  free(counts);
  return status;
}

/* The tile's pairs, one row after another, behind those that are there. */
static moon_status append(moon_features *f, tile *t, int64_t first, moon_device *device,
                          moon_err *err) {
  int64_t n = t->dense.shape[0], *offsets = f->offsets + first, before = offsets[0];
  moon_status status = count(t, offsets, device, err);
  if (status)
    return status;
  int64_t total = offsets[n] - before, *starts = malloc((size_t)n * sizeof *starts + 1);
  if (!starts)
    return moon_fail(err, MOON_ENOMEM, "features: no memory for %lld rows", (long long)n);
  for (int64_t i = 0; i < n; i++)
    starts[i] = offsets[i] - before;
  (void)((status = reserve(f, offsets[n], err)) ||
         (status = moon_tensor_from_host(&t->pairs.starts, device, MOON_I64, &n, 1, starts, err)) ||
         (status = moon_tensor_new(&t->pairs.indices, device, MOON_I32, &total, 1, err)) ||
         (status = moon_tensor_new(&t->pairs.values, device, MOON_F32, &total, 1, err)) ||
         (status = moon_op_sae_compact(&t->pairs, &t->dense, err)) ||
         (status = moon_tensor_read(&t->pairs.indices, f->indices + before, err)) ||
         (status = moon_tensor_read(&t->pairs.values, f->values + before, err)));
  free(starts);
  return status;
}

static moon_status encode_tile(moon_features *f, const moon_sae *sae, const moon_tensor *x,
                               moon_arithmetic arithmetic, int64_t first, int64_t n,
                               moon_err *err) {
  tile t = {.pairs = {.n_rows = n, .n_columns = sae->d_sae}};
  moon_tensor part = {0};
  moon_status status;
  (void)((status = moon_tensor_new(&t.dense, sae->device, MOON_F32, (int64_t[]){n, sae->d_sae}, 2,
                                   err)) ||
         (status = moon_tensor_narrow(&part, x, 0, first, n, err)) ||
         (status = moon_sae_encode_dense(sae, &part, arithmetic, &t.dense, err)) ||
         (status = append(f, &t, first, sae->device, err)));
  moon_tensor_release(&part);
  free_tile(&t);
  return status;
}

/* What a decode needs of x. */
static moon_status keep(moon_features *f, const moon_sae *sae, const moon_tensor *x,
                        moon_arithmetic arithmetic, moon_err *err) {
  moon_status status = moon_undo_measure(&f->undo, sae, x, err);
  if (status == MOON_OK && sae->skip.storage &&
      (status = moon_tensor_new(&f->skipped, sae->device, MOON_F32, x->shape, 2, err)) == MOON_OK)
    status = moon_op_linear(&f->skipped, x, &sae->skip, NULL, arithmetic, err);
  return status;
}

moon_status moon_features_encode(moon_features **out, const moon_sae *sae, const moon_tensor *x,
                                 moon_arithmetic arithmetic, moon_progress *progress,
                                 moon_err *err) {
  char shape[MOON_SHAPE_TEXT];
  moon_features *f = NULL;
  *out = NULL;
  if (x->rank != 2 || x->shape[1] != sae->d_model)
    return moon_fail(
        err, MOON_ESHAPE, "encode: found shape %s, expected [n_tok, %lld] (the SAE's d_model)",
        moon_shape_text(shape, sizeof shape, x->shape, x->rank), (long long)sae->d_model);
  int64_t n = x->shape[0], most = sae->device == moon_cpu() ? TILE_ROWS : TILE_ROWS_ON_GPU;
  moon_status status = new_empty(&f, n, sae->d_sae, err);
  for (int64_t first = 0; first < n && status == MOON_OK; first += most) {
    int64_t rows = n - first < most ? n - first : most;
    if ((status = encode_tile(f, sae, x, arithmetic, first, rows, err)) == MOON_OK)
      status = moon_progress_add(progress, rows, err);
  }
  (void)(status || (status = upload(f, sae->device, err)) ||
         (status = keep(f, sae, x, arithmetic, err)));
  if (status)
    moon_features_free(f);
  else
    *out = f;
  return status;
}

moon_status moon_features_decode(moon_tensor *out, const moon_sae *sae,
                                 const moon_features *features, moon_err *err) {
  *out = (moon_tensor){0};
  if (features->rows.n_columns != sae->d_sae)
    return moon_fail(err, MOON_ESHAPE,
                     "decode: found features of %lld, expected %lld (the SAE's d_sae)",
                     (long long)features->rows.n_columns, (long long)sae->d_sae);
  moon_status status = moon_tensor_new(out, sae->device, MOON_F32,
                                       (int64_t[]){features->rows.n_rows, sae->d_model}, 2, err);
  (void)(status ||
         (status = moon_op_sae_decode(out, &features->rows, &sae->w_dec, &sae->b_dec, err)) ||
         (status = moon_undo_apply(&features->undo, out, err)) ||
         (features->skipped.storage &&
          (status = moon_op_binary(MOON_ADD, out, out, &features->skipped, err))));
  if (status)
    moon_tensor_release(out);
  return status;
}

moon_status moon_features_dense(moon_tensor *out, const moon_features *features, moon_err *err) {
  int64_t n = features->rows.n_rows, d_sae = features->rows.n_columns, shape[] = {n, d_sae};
  *out = (moon_tensor){0};
  float *dense = calloc((size_t)(n * d_sae) + 1, sizeof *dense);
  if (!dense)
    return moon_fail(err, MOON_ENOMEM, "features: no memory for %lld by %lld values", (long long)n,
                     (long long)d_sae);
  for (int64_t t = 0; t < n; t++)
    for (int64_t i = features->offsets[t]; i < features->offsets[t + 1]; i++)
      dense[t * d_sae + features->indices[i]] = features->values[i];
  moon_status status =
      moon_tensor_new(out, moon_tensor_device(&features->rows.starts), MOON_F32, shape, 2, err);
  if (status == MOON_OK && (status = moon_tensor_write(out, dense, err)))
    moon_tensor_release(out);
  free(dense);
  return status;
}

moon_status moon_features_tally(moon_tensor *out, const moon_features *features, moon_err *err) {
  int64_t d_sae = features->rows.n_columns;
  *out = (moon_tensor){0};
  float *tally = calloc((size_t)d_sae + 1, sizeof *tally);
  if (!tally)
    return moon_fail(err, MOON_ENOMEM, "features: no memory for %lld numbers", (long long)d_sae);
  for (int64_t i = 0; i < features->offsets[features->rows.n_rows]; i++)
    tally[features->indices[i]]++;
  moon_status status = moon_tensor_from_host(out, moon_tensor_device(&features->rows.starts),
                                             MOON_F32, &d_sae, 1, tally, err);
  free(tally);
  return status;
}

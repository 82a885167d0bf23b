// SPDX-License-Identifier: MIT
#include "sae/edit.h"

#include <stdlib.h>
#include <string.h>

enum { TILE_ROWS = 32 };

/* What is encoded; NULL where the capture is not filled. */
static const moon_tensor *source_of(const moon_edit *e, const moon_pass *pass) {
  if (e->reads == 0)
    return &pass->x;
  const moon_tensor *captured =
      e->reads <= pass->n_captures ? &pass->captures[e->reads - 1].out : NULL;
  return captured && captured->storage && captured->rank == 2 ? captured : NULL;
}

static moon_status check(const moon_edit *e, const moon_pass *pass, moon_err *err) {
  if (e->sae->device != pass->model->device)
    return moon_fail(err, MOON_EDEVICE, "edit: the SAE is on %s, the model on %s",
                     e->sae->device->name, pass->model->device->name);
  if (e->sae->d_model != pass->model->config.d_model)
    return moon_fail(err, MOON_ESHAPE, "edit: the SAE's d_model is %lld, the model's %lld",
                     (long long)e->sae->d_model, (long long)pass->model->config.d_model);
  if (pass->layer < 0)
    return moon_fail(err, MOON_EINVAL, "edit: the pass has not begun");
  if (!source_of(e, pass))
    return moon_fail(err, MOON_EINVAL, "edit: the place that the SAE reads was not captured");
  if (e->reads && !e->keep_error)
    return moon_fail(err, MOON_EINVAL, "edit: keep_error: a transcoder does not stand for x");
  for (int64_t i = 0; i < e->n_features; i++)
    if (e->features[i] < 0 || e->features[i] >= e->sae->d_sae)
      return moon_fail(err, MOON_ERANGE, "edit: feature %d: expected 0 to %lld", e->features[i],
                       (long long)e->sae->d_sae - 1);
  return MOON_OK;
}

/* Adding needs no features, unless the error term is dropped. */
static bool only_adds(const moon_edit *e) {
  for (int i = 0; i < e->n_steps; i++)
    if (e->steps[i].op != MOON_EDIT_ADD)
      return false;
  return e->keep_error;
}

/* What is the same for every tile, on the device. */
typedef struct plan {
  const moon_edit *edit;
  const moon_tensor *source; /* [n_rows][d_model] what is encoded */
  moon_arithmetic arithmetic;
  moon_tensor features; /* i32 [n_features] */
  moon_tensor mask;     /* u8 [n_rows][n_steps] */
} plan;

/* x [n][d_model] := decode(f) in the rows that the mask names. */
static moon_status replace_rows(const plan *p, const moon_tensor *x, const moon_tensor *f,
                                const moon_undo *undo, const uint8_t *mask, moon_err *err) {
  const moon_sae *sae = p->edit->sae;
  int64_t n = x->shape[0], room = n * sae->d_sae, starts[TILE_ROWS];
  moon_sparse pairs = {.n_rows = n, .n_columns = sae->d_sae};
  moon_tensor decoded = {0};
  for (int64_t t = 0; t < n; t++)
    starts[t] = t * sae->d_sae;
  moon_status status;
  (void)((status =
              moon_tensor_from_host(&pairs.starts, sae->device, MOON_I64, &n, 1, starts, err)) ||
         (status = moon_tensor_new(&pairs.counts, sae->device, MOON_I32, &n, 1, err)) ||
         (status = moon_tensor_new(&pairs.indices, sae->device, MOON_I32, &room, 1, err)) ||
         (status = moon_tensor_new(&pairs.values, sae->device, MOON_F32, &room, 1, err)) ||
         (status = moon_tensor_new(&decoded, sae->device, MOON_F32, x->shape, 2, err)) ||
         (status = moon_op_sae_count(&pairs.counts, f, err)) ||
         (status = moon_op_sae_compact(&pairs, f, err)) ||
         (status = moon_op_sae_decode(&decoded, &pairs, &sae->w_dec, &sae->b_dec, err)) ||
         (status = moon_undo_apply(undo, &decoded, err)));
  for (int64_t t = 0; t < n && status == MOON_OK; t++) {
    moon_tensor from = {0}, to = {0};
    if (memchr(mask + t * p->edit->n_steps, 1, (size_t)p->edit->n_steps))
      (void)((status = moon_tensor_select(&from, &decoded, 0, t, err)) ||
             (status = moon_tensor_select(&to, x, 0, t, err)) ||
             (status = moon_op_copy(&to, &from, err)));
    moon_tensor_release(&from);
    moon_tensor_release(&to);
  }
  moon_tensor_release(&pairs.starts);
  moon_tensor_release(&pairs.counts);
  moon_tensor_release(&pairs.indices);
  moon_tensor_release(&pairs.values);
  moon_tensor_release(&decoded);
  return status;
}

/* Rows [first, first + n) of the stream. */
static moon_status apply_tile(const plan *p, const moon_tensor *stream, int64_t first, int64_t n,
                              moon_err *err) {
  const moon_edit *e = p->edit;
  moon_tensor x = {0}, input = {0}, mask = {0}, f = {0}, delta = {0};
  moon_undo undo = {0};
  moon_status status;
  (void)((status = moon_tensor_narrow(&x, stream, 0, first, n, err)) ||
         (status = moon_tensor_narrow(&input, p->source, 0, first, n, err)) ||
         (status = moon_undo_measure(&undo, e->sae, &input, err)) ||
         (status = moon_tensor_narrow(&mask, &p->mask, 0, first, n, err)) ||
         (status = moon_tensor_new(&delta, e->sae->device, MOON_F32, (int64_t[]){n, e->n_features},
                                   2, err)));
  if (status == MOON_OK && !only_adds(e))
    (void)((status = moon_tensor_new(&f, e->sae->device, MOON_F32, (int64_t[]){n, e->sae->d_sae}, 2,
                                     err)) ||
           (status = moon_sae_encode_dense(e->sae, &input, p->arithmetic, &f, err)));
  if (status == MOON_OK)
    status = moon_op_sae_edit(&delta, f.storage ? &f : NULL, &p->features, e->steps, e->n_steps,
                              &mask, err);
  if (status == MOON_OK && undo.scale.storage) /* undo(a) - undo(b) = scale (a - b) */
    status = moon_op_binary(MOON_MUL, &delta, &delta, &undo.scale, err);
  if (status == MOON_OK)
    status = e->keep_error ? moon_op_axpy_rows(&x, &delta, &p->features, &e->sae->w_dec, err)
                           : replace_rows(p, &x, &f, &undo, e->mask + first * e->n_steps, err);
  moon_undo_release(&undo);
  moon_tensor_release(&x);
  moon_tensor_release(&input);
  moon_tensor_release(&mask);
  moon_tensor_release(&f);
  moon_tensor_release(&delta);
  return status;
}

moon_status moon_edit_apply(const moon_edit *edit, moon_pass *pass, moon_err *err) {
  moon_status status = check(edit, pass, err);
  if (status || !memchr(edit->mask, 1, (size_t)(pass->n_rows * edit->n_steps)))
    return status;
  plan p = {.edit = edit, .source = source_of(edit, pass), .arithmetic = pass->arithmetic};
  moon_device *device = edit->sae->device;
  (void)((status = moon_tensor_from_host(&p.features, device, MOON_I32, &edit->n_features, 1,
                                         edit->features, err)) ||
         (status =
              moon_tensor_from_host(&p.mask, device, MOON_U8,
                                    (int64_t[]){pass->n_rows, edit->n_steps}, 2, edit->mask, err)));
  for (int64_t first = 0; first < pass->n_rows && status == MOON_OK; first += TILE_ROWS) {
    int64_t n = pass->n_rows - first < TILE_ROWS ? pass->n_rows - first : TILE_ROWS;
    status = apply_tile(&p, &pass->x, first, n, err);
  }
  if (status == MOON_OK)
    status = moon_pass_changed(pass, err);
  moon_tensor_release(&p.features);
  moon_tensor_release(&p.mask);
  return status;
}

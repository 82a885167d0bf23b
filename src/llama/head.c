// SPDX-License-Identifier: MIT
#include "llama/head.h"

static moon_status check(const moon_llama *model, const moon_tensor *x, moon_err *err) {
  char text[MOON_SHAPE_TEXT];
  if (x->rank == 2 && x->shape[1] == model->config.d_model)
    return MOON_OK;
  return moon_fail(err, MOON_ESHAPE, "unembed: found a tensor of shape %s, expected [n, %lld]",
                   moon_shape_text(text, sizeof text, x->shape, x->rank),
                   (long long)model->config.d_model);
}

/* x * norm, whose weight may be of another dtype. */
static moon_status scaled(moon_tensor *out, const moon_llama *m, const moon_tensor *x,
                          moon_err *err) {
  moon_tensor norm = {0};
  moon_status status = moon_tensor_new(&norm, m->device, MOON_F32, m->norm.shape, 1, err);
  (void)(status || (status = moon_op_copy(&norm, &m->norm, err)) ||
         (status = moon_tensor_new(out, m->device, MOON_F32, x->shape, 2, err)) ||
         (status = moon_op_binary(MOON_MUL, out, x, &norm, err)));
  moon_tensor_release(&norm);
  return status;
}

moon_status moon_llama_unembed(const moon_llama *model, const moon_tensor *x, moon_tensor *out,
                               moon_err *err) {
  moon_tensor h = {0};
  *out = (moon_tensor){0};
  moon_status status = check(model, x, err);
  (void)(status || (status = scaled(&h, model, x, err)) ||
         (status = moon_tensor_new(out, model->device, MOON_F32,
                                   (int64_t[]){x->shape[0], model->config.n_vocab}, 2, err)) ||
         (status = moon_op_linear(out, &h, &model->head.w, NULL, MOON_ARITHMETIC_F32, err)));
  moon_tensor_release(&h);
  if (status)
    moon_tensor_release(out);
  return status;
}

// SPDX-License-Identifier: MIT
#include "sae/sae.h"

#include <stdlib.h>

static moon_status check_part(const moon_tensor *t, const char *name, int64_t rows, int64_t columns,
                              moon_err *err) {
  char found[MOON_SHAPE_TEXT], expected[MOON_SHAPE_TEXT];
  int rank = columns ? 2 : 1;
  if (t->rank == rank && t->shape[0] == rows && (rank == 1 || t->shape[1] == columns))
    return MOON_OK;
  return moon_fail(err, MOON_ESHAPE, "sae: %s: found shape %s, expected %s", name,
                   moon_shape_text(found, sizeof found, t->shape, t->rank),
                   moon_shape_text(expected, sizeof expected, (int64_t[]){rows, columns}, rank));
}

static moon_status check_parts(const moon_sae *s, const moon_sae_parts *p, moon_err *err) {
  moon_status status;
  if ((status = check_part(&p->w_enc, "w_enc", s->d_sae, s->d_model, err)) ||
      (status = check_part(&p->b_enc, "b_enc", s->d_sae, 0, err)) ||
      (status = check_part(&p->w_dec, "w_dec", s->d_sae, s->d_model, err)) ||
      (status = check_part(&p->b_dec, "b_dec", s->d_model, 0, err)))
    return status;
  if (p->kind == MOON_ACTIVATION_JUMPRELU && (!p->threshold.storage || p->threshold.shape[0] != 1))
    status = check_part(&p->threshold, "threshold", s->d_sae, 0, err);
  if (p->kind == MOON_ACTIVATION_TOPK && (p->k < 1 || p->k > s->d_sae))
    status = moon_fail(err, MOON_ERANGE, "sae: k: found %lld, expected 1 to %lld", (long long)p->k,
                       (long long)s->d_sae);
  return status;
}

/* [d_sae] f32 on the device; a single threshold is repeated. */
static moon_status make_threshold(moon_sae *s, const moon_tensor *threshold, moon_err *err) {
  moon_tensor wide = {0}, repeated = *threshold;
  moon_status status =
      moon_tensor_new(&s->activation.threshold, s->device, MOON_F32, &s->d_sae, 1, err);
  if (status)
    return status;
  if (threshold->shape[0] == 1) {
    repeated.shape[0] = s->d_sae;
    repeated.strides[0] = 0;
  }
  if ((status = moon_tensor_to(&wide, &repeated, s->device, MOON_F32, err)) == MOON_OK)
    status = moon_op_copy(&s->activation.threshold, &wide, err);
  moon_tensor_release(&wide);
  return status;
}

moon_status moon_sae_new(moon_sae **out, const moon_sae_parts *parts, moon_device *device,
                         moon_dtype dtype, moon_err *err) {
  char shape[MOON_SHAPE_TEXT];
  *out = NULL;
  if (parts->w_enc.rank != 2)
    return moon_fail(err, MOON_ESHAPE, "sae: w_enc: found shape %s, expected [d_sae, d_model]",
                     moon_shape_text(shape, sizeof shape, parts->w_enc.shape, parts->w_enc.rank));
  if (dtype != MOON_F32 && dtype != MOON_F16 && dtype != MOON_BF16)
    return moon_fail(err, MOON_EDTYPE, "sae: found dtype %s, expected f32, f16 or bf16",
                     moon_dtype_name(dtype));
  moon_sae *s = calloc(1, sizeof *s);
  if (!s)
    return moon_fail(err, MOON_ENOMEM, "sae: no memory");
  atomic_store(&s->refs, 1);
  s->device = device;
  s->dtype = dtype;
  s->d_sae = parts->w_enc.shape[0];
  s->d_model = parts->w_enc.shape[1];
  s->activation.kind = parts->kind;
  s->activation.k = parts->k;
  s->subtract_b_dec = parts->subtract_b_dec;
  moon_status status;
  (void)((status = check_parts(s, parts, err)) ||
         (status = moon_tensor_to(&s->w_enc, &parts->w_enc, device, dtype, err)) ||
         (status = moon_tensor_to(&s->b_enc, &parts->b_enc, device, dtype, err)) ||
         (status = moon_tensor_to(&s->w_dec, &parts->w_dec, device, dtype, err)) ||
         (status = moon_tensor_to(&s->b_dec, &parts->b_dec, device, dtype, err)) ||
         (parts->kind == MOON_ACTIVATION_JUMPRELU &&
          (status = make_threshold(s, &parts->threshold, err))));
  if (status) {
    moon_sae_release(s);
    return status;
  }
  moon_log(MOON_LOG_INFO, "sae: %lld features over d_model %lld, %s on %s", (long long)s->d_sae,
           (long long)s->d_model, moon_dtype_name(dtype), device->name);
  *out = s;
  return MOON_OK;
}

moon_sae *moon_sae_retain(moon_sae *sae) {
  atomic_fetch_add(&sae->refs, 1);
  return sae;
}

void moon_sae_release(moon_sae *sae) {
  if (!sae || atomic_fetch_sub(&sae->refs, 1) > 1)
    return;
  moon_tensor_release(&sae->w_enc);
  moon_tensor_release(&sae->b_enc);
  moon_tensor_release(&sae->w_dec);
  moon_tensor_release(&sae->b_dec);
  moon_tensor_release(&sae->activation.threshold);
  free(sae);
}

moon_status moon_sae_encode_dense(const moon_sae *sae, const moon_tensor *x,
                                  moon_arithmetic arithmetic, const moon_tensor *out,
                                  moon_err *err) {
  moon_tensor centred = {0}, bias = {0};
  moon_status status = MOON_OK;
  if (sae->subtract_b_dec)
    (void)((status = moon_tensor_to(&bias, &sae->b_dec, sae->device, MOON_F32, err)) ||
           (status = moon_tensor_new(&centred, sae->device, MOON_F32, x->shape, 2, err)) ||
           (status = moon_op_binary(MOON_SUB, &centred, x, &bias, err)));
  if (status == MOON_OK)
    (void)((status = moon_op_linear(out, sae->subtract_b_dec ? &centred : x, &sae->w_enc,
                                    &sae->b_enc, arithmetic, err)) ||
           (status = moon_op_sae_activate(out, &sae->activation, err)));
  moon_tensor_release(&centred);
  moon_tensor_release(&bias);
  return status;
}

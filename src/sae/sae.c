// SPDX-License-Identifier: MIT
#include "sae/sae.h"

#include <math.h>
#include <stdlib.h>

#include "sae/fold.h"

/* Checks */

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

static bool given(const moon_tensor *t) {
  return t->storage != NULL;
}

static moon_status check_gates(const moon_sae *s, const moon_sae_parts *p, moon_err *err) {
  bool gated = p->kind == MOON_ACTIVATION_GATED;
  moon_status status = MOON_OK;
  if (p->kind == MOON_ACTIVATION_JUMPRELU && (p->threshold.rank != 1 || p->threshold.shape[0] != 1))
    status = check_part(&p->threshold, "threshold", s->d_sae, 0, err);
  (void)(status || !gated || (status = check_part(&p->gate_bias, "gate_bias", s->d_sae, 0, err)) ||
         (status = check_part(&p->mag_bias, "mag_bias", s->d_sae, 0, err)) ||
         (status = check_part(&p->r_mag, "r_mag", s->d_sae, 0, err)));
  if (status == MOON_OK && gated && given(&p->b_enc))
    status = moon_fail(err, MOON_EINVAL, "sae: b_enc: a gated encoder has none");
  return status;
}

static moon_status check_norms(const moon_sae_parts *p, moon_err *err) {
  if (p->decoder_norm == MOON_DECODER_NORM_GATE && p->kind != MOON_ACTIVATION_JUMPRELU)
    return moon_fail(err, MOON_EINVAL, "sae: decoder_norm: there is no threshold to scale");
  if (p->decoder_norm == MOON_DECODER_NORM_FEATURE && p->kind == MOON_ACTIVATION_GATED)
    return moon_fail(err, MOON_EINVAL, "sae: decoder_norm: not with gated features");
  if (p->normalisation != MOON_NORMALISE_NONE && given(&p->skip))
    return moon_fail(err, MOON_EINVAL, "sae: normalisation: not with a skip connection");
  return MOON_OK;
}

static moon_status check_scale(const char *name, double scale, moon_err *err) {
  if (scale == 0 || (scale > 0 && scale < INFINITY))
    return MOON_OK;
  return moon_fail(err, MOON_ERANGE, "sae: %s: found %g, expected a number above 0", name, scale);
}

static moon_status check_parts(const moon_sae *s, const moon_sae_parts *p, moon_err *err) {
  moon_status status;
  if ((status = check_part(&p->w_enc, "w_enc", s->d_sae, s->d_model, err)) ||
      (given(&p->b_enc) && (status = check_part(&p->b_enc, "b_enc", s->d_sae, 0, err))) ||
      (status = check_part(&p->w_dec, "w_dec", s->d_sae, s->d_model, err)) ||
      (status = check_part(&p->b_dec, "b_dec", s->d_model, 0, err)) ||
      (given(&p->skip) && (status = check_part(&p->skip, "skip", s->d_model, s->d_model, err))) ||
      (status = check_gates(s, p, err)) || (status = check_norms(p, err)) ||
      (status = check_scale("input_scale", p->input_scale, err)) ||
      (status = check_scale("output_scale", p->output_scale, err)))
    return status;
  if (p->kind == MOON_ACTIVATION_TOPK && (p->k < 1 || p->k > s->d_sae))
    return moon_fail(err, MOON_ERANGE, "sae: k: found %lld, expected 1 to %lld", (long long)p->k,
                     (long long)s->d_sae);
  return MOON_OK;
}

/*
 * Folding. With the input scale s, the output scale o and the norms n[j] = |w_dec[j]|:
 *
 *   f = act(n (w_enc (s x - b_dec) + b_enc)),  xhat = o (w_dec^T (f / n) + b_dec)
 *
 * is the canonical formula with w_enc[j] s n[j], b_enc[j] n[j], centre b_dec / s, w_dec[j] o / n[j]
 * and b_dec o: every f is the same. Where the norm is the gate's alone, n pre > threshold is
 * pre > threshold / n. A gate w x + gate_bias > 0 is a threshold of -gate_bias, and the magnitude
 * exp(r_mag) w x + mag_bias a gain and an offset. The centre itself stays: folded into b_enc it
 * would leave the difference of two large numbers to the arithmetic of the product.
 */

static moon_status put_vector(moon_tensor *out, const float *values, int64_t n, moon_device *device,
                              moon_dtype dtype, moon_err *err) {
  moon_tensor exact = {0};
  moon_status status = moon_tensor_from_host(&exact, device, MOON_F32, &n, 1, values, err);
  if (status == MOON_OK)
    status = moon_tensor_to(out, &exact, device, dtype, err);
  moon_tensor_release(&exact);
  return status;
}

/* out := t times factors[j], or times `factor` where that is NULL. */
static moon_status scale_vector(moon_tensor *out, const moon_sae *s, const moon_tensor *t,
                                const float *factors, double factor, moon_dtype dtype,
                                moon_err *err) {
  int64_t n = t->shape[0];
  float *values;
  moon_status status = moon_fold_read(&values, t, n, err);
  if (status)
    return status;
  for (int64_t i = 0; i < n; i++)
    values[i] = factors ? values[i] * factors[i] : (float)(values[i] * factor);
  status = put_vector(out, values, n, s->device, dtype, err);
  free(values);
  return status;
}

static moon_status put_threshold(moon_sae *s, const moon_sae_parts *p, const float *norms,
                                 moon_err *err) {
  float *values;
  moon_status status = moon_fold_read(&values, &p->threshold, s->d_sae, err);
  if (status)
    return status;
  for (int64_t i = 0; i < s->d_sae && p->decoder_norm == MOON_DECODER_NORM_GATE; i++)
    values[i] = norms[i] > 0 ? values[i] / norms[i] : copysignf(INFINITY, values[i]);
  status = put_vector(&s->activation.threshold, values, s->d_sae, s->device, MOON_F32, err);
  free(values);
  return status;
}

static moon_status put_gates(moon_sae *s, const moon_sae_parts *p, moon_err *err) {
  float *gains;
  moon_status status = moon_fold_read(&gains, &p->r_mag, s->d_sae, err);
  if (status)
    return status;
  for (int64_t i = 0; i < s->d_sae; i++)
    gains[i] = expf(gains[i]);
  (void)((status = put_vector(&s->activation.gain, gains, s->d_sae, s->device, MOON_F32, err)) ||
         (status = scale_vector(&s->activation.offset, s, &p->mag_bias, NULL, 1, MOON_F32, err)) ||
         (status =
              scale_vector(&s->activation.threshold, s, &p->gate_bias, NULL, -1, MOON_F32, err)));
  free(gains);
  return status;
}

/* Both matrices and b_enc where something is folded into them. */
static moon_status fold_matrices(moon_sae *s, const moon_sae_parts *p, const float *norms,
                                 double in, double out, moon_err *err) {
  bool scales = p->decoder_norm == MOON_DECODER_NORM_FEATURE;
  float *encoder = malloc((size_t)s->d_sae * sizeof *encoder + 1),
        *decoder = malloc((size_t)s->d_sae * sizeof *decoder + 1);
  moon_status status = MOON_OK;
  if (!encoder || !decoder)
    status = moon_fail(err, MOON_ENOMEM, "sae: no memory for %lld factors", (long long)s->d_sae);
  for (int64_t i = 0; i < s->d_sae && status == MOON_OK; i++) {
    float n = scales ? norms[i] : 1;
    encoder[i] = (float)(in * n);
    decoder[i] = n > 0 ? (float)(out / n) : 0; /* a dead row is all zeros */
  }
  (void)(status ||
         (status = moon_fold_rows(&s->w_enc, &p->w_enc, encoder, s->device, s->dtype, err)) ||
         (status = moon_fold_rows(&s->w_dec, &p->w_dec, decoder, s->device, s->dtype, err)) ||
         (given(&p->b_enc) && (status = scale_vector(&s->b_enc, s, &p->b_enc, scales ? norms : NULL,
                                                     1, s->dtype, err))));
  free(encoder);
  free(decoder);
  return status;
}

static moon_status share_matrices(moon_sae *s, const moon_sae_parts *p, moon_err *err) {
  moon_status status;
  (void)((status = moon_tensor_to(&s->w_enc, &p->w_enc, s->device, s->dtype, err)) ||
         (status = moon_tensor_to(&s->w_dec, &p->w_dec, s->device, s->dtype, err)) ||
         (given(&p->b_enc) &&
          (status = moon_tensor_to(&s->b_enc, &p->b_enc, s->device, s->dtype, err))));
  return status;
}

static moon_status fold(moon_sae *s, const moon_sae_parts *p, moon_err *err) {
  double in = p->input_scale == 0 ? 1 : p->input_scale,
         out = p->output_scale == 0 ? 1 : p->output_scale;
  float *norms = NULL;
  moon_status status = MOON_OK;
  if (p->decoder_norm != MOON_DECODER_NORM_NONE) {
    norms = malloc((size_t)s->d_sae * sizeof *norms + 1);
    status =
        norms ? moon_fold_norms(norms, &p->w_dec, s->device, err)
              : moon_fail(err, MOON_ENOMEM, "sae: no memory for %lld norms", (long long)s->d_sae);
  }
  bool plain = in == 1 && out == 1 && p->decoder_norm != MOON_DECODER_NORM_FEATURE;
  (void)(status ||
         (status = plain ? share_matrices(s, p, err) : fold_matrices(s, p, norms, in, out, err)) ||
         (status = out == 1 ? moon_tensor_to(&s->b_dec, &p->b_dec, s->device, s->dtype, err)
                            : scale_vector(&s->b_dec, s, &p->b_dec, NULL, out, s->dtype, err)) ||
         (p->subtract_b_dec &&
          (status = scale_vector(&s->centre, s, &p->b_dec, NULL, 1 / in, MOON_F32, err))) ||
         (given(&p->skip) &&
          (status = moon_tensor_to(&s->skip, &p->skip, s->device, s->dtype, err))) ||
         (p->kind == MOON_ACTIVATION_JUMPRELU && (status = put_threshold(s, p, norms, err))) ||
         (p->kind == MOON_ACTIVATION_GATED && (status = put_gates(s, p, err))));
  free(norms);
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
  s->normalisation = parts->normalisation;
  moon_status status = check_parts(s, parts, err);
  if (status == MOON_OK)
    status = fold(s, parts, err);
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
  moon_tensor_release(&sae->centre);
  moon_tensor_release(&sae->skip);
  moon_tensor_release(&sae->activation.threshold);
  moon_tensor_release(&sae->activation.gain);
  moon_tensor_release(&sae->activation.offset);
  free(sae);
}

/* Normalisation */

static moon_status put_scalar(moon_tensor *out, float value, moon_device *device, moon_err *err) {
  return moon_tensor_from_host(out, device, MOON_F32, (int64_t[]){1}, 1, &value, err);
}

/* out [n][1] := op of each row of x, divided by `by`; its square root where asked for. */
static moon_status measure(moon_tensor *out, moon_reduce op, const moon_tensor *x, double by,
                           bool root, moon_err *err) {
  int64_t n = x->shape[0];
  moon_tensor sums = {0}, divisor = {0};
  moon_status status;
  (void)((status = moon_tensor_new(&sums, moon_tensor_device(x), MOON_F32, &n, 1, err)) ||
         (status = moon_op_reduce(op, &sums, x, err)) ||
         (status = put_scalar(&divisor, (float)by, moon_tensor_device(x), err)) ||
         (status = moon_op_binary(MOON_DIV, &sums, &sums, &divisor, err)) ||
         (root && (status = moon_op_unary(MOON_SQRT, &sums, &sums, err))) ||
         (status = moon_tensor_reshape(out, &sums, (int64_t[]){n, 1}, 2, err)));
  moon_tensor_release(&sums);
  moon_tensor_release(&divisor);
  return status;
}

/* out [n][d_model] := x op y, y [n][1] or [d_model] */
static moon_status combine(moon_tensor *out, moon_binary op, const moon_tensor *x,
                           const moon_tensor *y, moon_err *err) {
  moon_status status = moon_tensor_new(out, moon_tensor_device(x), MOON_F32, x->shape, 2, err);
  return status ? status : moon_op_binary(op, out, x, y, err);
}

moon_status moon_undo_measure(moon_undo *out, const moon_sae *sae, const moon_tensor *x,
                              moon_err *err) {
  double d = (double)sae->d_model;
  moon_tensor centred = {0};
  moon_status status = MOON_OK;
  *out = (moon_undo){0};
  if (sae->normalisation == MOON_NORMALISE_NORM)
    status = measure(&out->scale, MOON_SUM_OF_SQUARES, x, d, true, err);
  if (sae->normalisation == MOON_NORMALISE_LAYER)
    (void)((status = measure(&out->shift, MOON_SUM, x, d, false, err)) ||
           (status = combine(&centred, MOON_SUB, x, &out->shift, err)) ||
           (status = measure(&out->scale, MOON_SUM_OF_SQUARES, &centred, d - 1, true, err)));
  moon_tensor_release(&centred);
  if (status)
    moon_undo_release(out);
  return status;
}

moon_status moon_undo_apply(const moon_undo *undo, const moon_tensor *rows, moon_err *err) {
  moon_status status = MOON_OK;
  if (given(&undo->scale))
    status = moon_op_binary(MOON_MUL, rows, rows, &undo->scale, err);
  if (status == MOON_OK && given(&undo->shift))
    status = moon_op_binary(MOON_ADD, rows, rows, &undo->shift, err);
  return status;
}

void moon_undo_release(moon_undo *undo) {
  moon_tensor_release(&undo->scale);
  moon_tensor_release(&undo->shift);
}

/* x (retained or new) := what the encoder's product reads. */
static moon_status normalise(moon_tensor *x, const moon_sae *sae, moon_err *err) {
  moon_undo undo = {0};
  moon_tensor epsilon = {0}, divisor = {0}, shifted = {0}, scaled = {0};
  moon_status status = moon_undo_measure(&undo, sae, x, err);
  if (status == MOON_OK && sae->normalisation == MOON_NORMALISE_LAYER)
    (void)((status = combine(&shifted, MOON_SUB, x, &undo.shift, err)) ||
           (status = put_scalar(&epsilon, 1e-5f, sae->device, err)) ||
           (status = moon_tensor_new(&divisor, sae->device, MOON_F32, undo.scale.shape, 2, err)) ||
           (status = moon_op_binary(MOON_ADD, &divisor, &undo.scale, &epsilon, err)));
  if (status == MOON_OK)
    status = combine(&scaled, MOON_DIV, given(&shifted) ? &shifted : x,
                     given(&divisor) ? &divisor : &undo.scale, err);
  moon_tensor_release(&epsilon);
  moon_tensor_release(&divisor);
  moon_tensor_release(&shifted);
  moon_undo_release(&undo);
  moon_tensor_release(x);
  *x = scaled;
  return status;
}

moon_status moon_sae_encode_dense(const moon_sae *sae, const moon_tensor *x,
                                  moon_arithmetic arithmetic, const moon_tensor *out,
                                  moon_err *err) {
  moon_tensor input = moon_tensor_retain(x), centred = {0};
  moon_status status = MOON_OK;
  (void)((sae->normalisation != MOON_NORMALISE_NONE && (status = normalise(&input, sae, err))) ||
         (given(&sae->centre) &&
          (status = combine(&centred, MOON_SUB, &input, &sae->centre, err))) ||
         (status = moon_op_linear(out, given(&centred) ? &centred : &input, &sae->w_enc, NULL,
                                  arithmetic, err)) ||
         (status = moon_op_sae_activate(out, given(&sae->b_enc) ? &sae->b_enc : NULL,
                                        &sae->activation, err)));
  moon_tensor_release(&input);
  moon_tensor_release(&centred);
  return status;
}

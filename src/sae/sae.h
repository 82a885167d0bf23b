// SPDX-License-Identifier: MIT
/*
 * The canonical sparse autoencoder, whatever the file's format was:
 *
 *   f    = activation(w_enc (normalise(x) - centre) + b_enc)
 *   xhat = undo(w_dec^T f + b_dec) + skip x
 *
 * Row j of w_dec is feature j's direction, so a sparse decode and an edit read whole rows. Of a
 * transcoder xhat is the output of the place that it writes.
 */
#ifndef MOON_SAE_SAE_H
#define MOON_SAE_SAE_H

#include "tensor/ops.h"

/* What is done to each row before it is encoded, and undone to what is decoded. */
typedef enum moon_normalisation {
  MOON_NORMALISE_NONE,
  MOON_NORMALISE_NORM, /* x sqrt(d_model) / |x|; undone by the inverse */
  MOON_NORMALISE_LAYER /* (x - mean) / (std + 1e-5), std over d_model - 1; undone: std xhat + mean
                        */
} moon_normalisation;

typedef struct moon_sae {
  atomic_int refs;
  moon_device *device;
  moon_dtype dtype; /* of the matrices and b_enc, b_dec */
  int64_t d_model, d_sae;
  moon_tensor w_enc, w_dec; /* [d_sae][d_model], row-major */
  moon_tensor b_enc, b_dec; /* [d_sae] (empty: zero), [d_model] */
  moon_tensor centre;       /* [d_model] f32, or empty */
  moon_tensor skip;         /* [d_model][d_model], or empty */
  moon_activation activation;
  moon_normalisation normalisation;
} moon_sae;

/* The norm of a feature's decoder row, in the formula of a file: it scales the feature (f is what
 * the activation gives for |w_dec[j]| pre[j], and decodes along w_dec[j] / |w_dec[j]|), or what the
 * threshold is compared with alone. */
typedef enum moon_decoder_norm {
  MOON_DECODER_NORM_NONE,
  MOON_DECODER_NORM_FEATURE,
  MOON_DECODER_NORM_GATE
} moon_decoder_norm;

/* What a file says; tensors are borrowed and of any dtype, device and strides. Empty where the file
 * has none: b_enc, threshold, gate_bias, mag_bias, r_mag, skip. */
typedef struct moon_sae_parts {
  moon_tensor w_enc, b_enc, w_dec, b_dec;
  moon_tensor threshold;                  /* JUMPRELU: [1] or [d_sae] */
  moon_tensor gate_bias, mag_bias, r_mag; /* GATED: [d_sae] */
  moon_tensor skip;
  moon_activation_kind kind;
  int64_t k; /* TOPK */
  bool subtract_b_dec;
  double input_scale, output_scale; /* x := input_scale x; xhat := output_scale xhat; 0: 1 */
  moon_decoder_norm decoder_norm;
  moon_normalisation normalisation;
} moon_sae_parts;

/*
 * Brings the parts to device and dtype (a transposed view becomes row-major) and checks that they
 * fit. Parts that fit already are shared, not copied. What the formula of a file has beyond the
 * canonical one is folded into the weights, in f32 before the cast (sae.c says how). Owned by the
 * caller: one reference. MOON_ESHAPE names the part and both shapes; MOON_EDTYPE, MOON_ERANGE (k, a
 * scale), MOON_EINVAL (parts that do not go together), MOON_ENOMEM.
 */
moon_status moon_sae_new(moon_sae **out, const moon_sae_parts *parts, moon_device *device,
                         moon_dtype dtype, moon_err *err);
moon_sae *moon_sae_retain(moon_sae *sae);
void moon_sae_release(moon_sae *sae); /* NULL is fine */

/* Dense features of x [n_tok][d_model] (f32, row-major): out [n_tok][d_sae] f32. Enqueues and
 * returns. */
moon_status moon_sae_encode_dense(const moon_sae *sae, const moon_tensor *x,
                                  moon_arithmetic arithmetic, const moon_tensor *out,
                                  moon_err *err);

/* What the normalisation took from each row: scale, shift f32 [n_tok][1]. Empty where there is
 * nothing to undo. Owned by whoever holds it. */
typedef struct moon_undo {
  moon_tensor scale, shift;
} moon_undo;

/* Of the rows of x [n_tok][d_model], f32. */
moon_status moon_undo_measure(moon_undo *out, const moon_sae *sae, const moon_tensor *x,
                              moon_err *err);
/* rows [n_tok][d_model] := scale rows + shift. */
moon_status moon_undo_apply(const moon_undo *undo, const moon_tensor *rows, moon_err *err);
void moon_undo_release(moon_undo *undo); /* empties it; an empty one is fine */

#endif

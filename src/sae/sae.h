// SPDX-License-Identifier: MIT
/*
 * The canonical sparse autoencoder, whatever the file's format was:
 *
 *   f    = activation(w_enc (x - b_dec if subtract_b_dec) + b_enc)
 *   xhat = w_dec^T f + b_dec
 *
 * Row j of w_dec is feature j's direction, so a sparse decode and an edit read whole rows.
 */
#ifndef MOON_SAE_SAE_H
#define MOON_SAE_SAE_H

#include "tensor/ops.h"

typedef struct moon_sae {
  atomic_int refs;
  moon_device *device;
  moon_dtype dtype; /* of the four tensors */
  int64_t d_model, d_sae;
  moon_tensor w_enc, b_enc, w_dec,
      b_dec; /* [d_sae][d_model], [d_sae], [d_sae][d_model], [d_model]; row-major */
  moon_activation activation;
  bool subtract_b_dec;
} moon_sae;

/*
 * Brings the parts to device and dtype (a transposed view becomes row-major) and checks that they
 * fit. threshold: empty, or [1] or [d_sae] for JumpReLU. Parts that fit already are shared, not
 * copied. Owned by the caller: one reference. MOON_ESHAPE names the part and both shapes;
 * MOON_EDTYPE, MOON_ERANGE (k), MOON_ENOMEM.
 */
typedef struct moon_sae_parts {
  moon_tensor w_enc, b_enc, w_dec, b_dec, threshold; /* borrowed */
  moon_activation_kind kind;
  int64_t k;
  bool subtract_b_dec;
} moon_sae_parts;

moon_status moon_sae_new(moon_sae **out, const moon_sae_parts *parts, moon_device *device,
                         moon_dtype dtype, moon_err *err);
moon_sae *moon_sae_retain(moon_sae *sae);
void moon_sae_release(moon_sae *sae); /* NULL is fine */

/* Dense features of x [n_tok][d_model] (f32, row-major): out [n_tok][d_sae] f32. Enqueues and
 * returns. */
moon_status moon_sae_encode_dense(const moon_sae *sae, const moon_tensor *x,
                                  moon_arithmetic arithmetic, const moon_tensor *out,
                                  moon_err *err);

#endif

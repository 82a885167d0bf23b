// SPDX-License-Identifier: MIT
/* Sparse features of some positions: what an SAE says of them. */
#ifndef MOON_SAE_FEATURES_H
#define MOON_SAE_FEATURES_H

#include "sae/sae.h"

typedef struct moon_features {
  moon_sparse rows; /* on the SAE's device, rows one after another; the tensors are owned */
  /* what a decode needs of x beside them: what was normalised away, and skip x [n_tok][d_model] */
  moon_undo undo;
  moon_tensor skipped; /* empty where the SAE has no skip connection */
  /* the same on the host, since Lua reads one feature at a time */
  int64_t *offsets; /* [n_rows + 1] row t is offsets[t] .. offsets[t + 1] */
  int32_t *indices; /* [offsets[n_rows]] ascending in a row, from 0 */
  float *values;    /* [offsets[n_rows]] */
} moon_features;

/* Encodes x [n_tok][d_model] (f32, row-major, on the SAE's device), a few rows at a time: a dense
 * [n_tok][d_sae] never exists. Owned by the caller. progress counts tokens. MOON_ESHAPE (d_model),
 * MOON_EDTYPE, MOON_EDEVICE, MOON_ENOMEM. */
moon_status moon_features_encode(moon_features **out, const moon_sae *sae, const moon_tensor *x,
                                 moon_arithmetic arithmetic, moon_progress *progress,
                                 moon_err *err);
void moon_features_free(moon_features *features); /* NULL is fine */

/* out [n_tok][d_model] f32, owned by the caller: undo(w_dec^T f + b_dec) + skip x. MOON_ESHAPE when
 * the widths differ. */
moon_status moon_features_decode(moon_tensor *out, const moon_sae *sae,
                                 const moon_features *features, moon_err *err);

/* out [n_tok][d_sae] f32, owned by the caller. */
moon_status moon_features_dense(moon_tensor *out, const moon_features *features, moon_err *err);

/* out [d_sae] f32, owned by the caller: at how many rows each feature fires. */
moon_status moon_features_tally(moon_tensor *out, const moon_features *features, moon_err *err);

#endif

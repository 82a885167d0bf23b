// SPDX-License-Identifier: MIT
/*
 * Changing features inside a forward pass. All edits of one SAE at one place are one group: the
 * stream is encoded once, the steps change f in order to f', and x := x + (f' - f) w_dec (the SAE's
 * error term is kept), or x := decode(f').
 *
 * A transcoder's features are those of another place in the layer, which the pass has captured;
 * what it writes is a term of the stream after the layer, so x changes by the same (f' - f) w_dec.
 */
#ifndef MOON_SAE_EDIT_H
#define MOON_SAE_EDIT_H

#include "llama/forward.h"
#include "sae/features.h"

typedef struct moon_edit {
  moon_sae *sae;           /* borrowed */
  const int32_t *features; /* [n_features] distinct, below d_sae */
  int64_t n_features;
  const moon_edit_step *steps; /* [n_steps] */
  int n_steps;
  const uint8_t *mask; /* [pass->n_rows][n_steps] 1 where the step acts on the row */
  int reads;           /* the pass's capture that is encoded, from 1; 0: the stream itself */
  bool keep_error;
} moon_edit;

/* Applies the group to the pass's residual stream as it is now, in the pass's arithmetic. Rows
 * without a 1 in the mask keep their bits. MOON_EDEVICE, MOON_ESHAPE when the SAE does not fit the
 * model; MOON_ERANGE for a feature; MOON_EINVAL (a capture that is not filled, keep_error). */
moon_status moon_edit_apply(const moon_edit *edit, moon_pass *pass, moon_err *err);

#endif

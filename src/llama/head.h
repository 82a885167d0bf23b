// SPDX-License-Identifier: MIT
/* What the end of a model makes of directions in its residual stream. */
#ifndef MOON_LLAMA_HEAD_H
#define MOON_LLAMA_HEAD_H

#include "llama/weights.h"

/*
 * What each row of x adds to the logits:  out = (x * norm) * head^T
 *
 * x    [n][d_model]  f32, row-major, on the model's device
 * out  [n][n_vocab]  f32; owned by the caller
 *
 * `norm` is the weight of model.norm. Of the norm, the division by the stream's length is left out,
 * since a direction has no stream: logits are right up to one factor, which depends on the text.
 * The head's bias, which no direction changes, is left out too. In f32 whatever the model's
 * precision. MOON_ESHAPE, MOON_EDTYPE, MOON_EDEVICE, MOON_ENOMEM.
 */
moon_status moon_llama_unembed(const moon_llama *model, const moon_tensor *x, moon_tensor *out,
                               moon_err *err);

#endif

// SPDX-License-Identifier: MIT
/* Chooses the next token from logits. */
#ifndef MOON_LLAMA_SAMPLER_H
#define MOON_LLAMA_SAMPLER_H

#include "tensor/tensor.h"

/* temperature 0 is greedy: the largest logit, the first of equals. Otherwise the candidates are
 * narrowed in this order, as transformers does: logits / temperature, the top_k largest, the
 * smallest set whose probability reaches top_p, those with at least min_p times the largest
 * probability; then one is drawn. */
typedef struct moon_sampler {
  float temperature; /* >= 0 */
  int64_t top_k;     /* 0: all */
  float top_p;       /* 0 < top_p <= 1 */
  float min_p;       /* 0 <= min_p <= 1 */
  uint64_t state; /* of the generator: the seed at first. Same seed, same draws on every machine */
} moon_sampler;

/* MOON_ERANGE for a field out of its range (NaN too). */
moon_status moon_sampler_check(const moon_sampler *sampler, moon_err *err);

/* logits f32, n_vocab of them, row-major, on any device; a greedy choice is made there and waits
 * for one number. MOON_ERANGE when they hold a NaN: the model's numbers are broken. MOON_ENOMEM. */
moon_status moon_sampler_next(moon_sampler *sampler, const moon_tensor *logits, int32_t *id,
                              moon_err *err);

#endif

// SPDX-License-Identifier: MIT
#include "llama/sampler.h"

#include <math.h>
#include <stdlib.h>

typedef struct candidate {
  float logit; /* becomes the unnormalised probability */
  int32_t id;
} candidate;

moon_status moon_sampler_check(const moon_sampler *s, moon_err *err) {
  if (!(s->temperature >= 0) || isinf(s->temperature))
    return moon_fail(err, MOON_ERANGE, "temperature: found %g, expected 0 or more",
                     (double)s->temperature);
  if (s->top_k < 0)
    return moon_fail(err, MOON_ERANGE, "top_k: found %lld, expected 0 (all) or more",
                     (long long)s->top_k);
  if (!(s->top_p > 0 && s->top_p <= 1))
    return moon_fail(err, MOON_ERANGE, "top_p: found %g, expected more than 0, at most 1",
                     (double)s->top_p);
  if (!(s->min_p >= 0 && s->min_p <= 1))
    return moon_fail(err, MOON_ERANGE, "min_p: found %g, expected 0 to 1", (double)s->min_p);
  return MOON_OK;
}

/* splitmix64 (Steele, Lea, Flood 2014); 53 bits make a double in [0, 1). */
static double draw(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

/* Largest logit first, ties by lower id. */
static int by_logit(const void *a, const void *b) {
  const candidate *x = a, *y = b;
  if (x->logit != y->logit)
    return x->logit < y->logit ? 1 : -1;
  return (x->id > y->id) - (x->id < y->id);
}

/* Sorted candidates' logits become exp((logit - largest) / temperature); returns how many stay, and
 * their sum. */
static int64_t narrow(candidate *all, int64_t n, const moon_sampler *s, double *sum) {
  float largest = all[0].logit;
  double total = 0, reached = 0;
  int64_t kept = 0;
  if (s->top_k > 0 && s->top_k < n)
    n = s->top_k;
  for (int64_t i = 0; i < n; i++)
    total += all[i].logit = expf((all[i].logit - largest) / s->temperature);
  while (kept < n &&
         (kept == 0 || (reached < (double)s->top_p * total && all[kept].logit >= s->min_p)))
    reached += all[kept++].logit;
  *sum = reached;
  return kept;
}

moon_status moon_sampler_next(moon_sampler *sampler, const float *logits, int64_t n_vocab,
                              int32_t *id, moon_err *err) {
  int64_t best = 0;
  for (int64_t i = 0; i < n_vocab; i++) {
    if (isnan(logits[i]))
      return moon_fail(err, MOON_ERANGE, "sampler: the logit of token %lld is not a number",
                       (long long)i);
    if (logits[i] > logits[best])
      best = i;
  }
  *id = (int32_t)best;
  if (sampler->temperature == 0)
    return MOON_OK;
  candidate *all = malloc((size_t)n_vocab * sizeof *all);
  if (!all)
    return moon_fail(err, MOON_ENOMEM, "sampler: no memory for %lld candidates",
                     (long long)n_vocab);
  for (int64_t i = 0; i < n_vocab; i++)
    all[i] = (candidate){logits[i], (int32_t)i};
  qsort(all, (size_t)n_vocab, sizeof *all, by_logit);
  double sum;
  int64_t n = narrow(all, n_vocab, sampler, &sum), chosen = 0;
  double left = draw(&sampler->state) * sum - all[0].logit;
  while (left >= 0 && chosen + 1 < n)
    left -= all[++chosen].logit;
  *id = all[chosen].id;
  free(all);
  return MOON_OK;
}

// SPDX-License-Identifier: MIT
#include "llama/sampler.h"

#include <math.h>
#include <stdlib.h>

#include "tensor/ops.h"

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

static moon_status refuse_nan(int64_t id, moon_err *err) {
  return moon_fail(
      err, MOON_ERANGE,
      "sampler: the logit of token %lld is not a number: the weights are broken, or an "
      "edit's value took the stream out of f32's range",
      (long long)id);
}

/* NaN comes first in the order of argmax, so the logit of its choice tells of any. */
static moon_status greedy(const moon_tensor *logits, int32_t *id, moon_err *err) {
  moon_tensor row = {0}, best = {0}, at = {0};
  int64_t index = 0;
  float logit = 0;
  moon_status status;
  (void)((status = moon_tensor_reshape(&row, logits, (int64_t[]){1, -1}, 2, err)) ||
         (status = moon_tensor_new(&best, moon_tensor_device(logits), MOON_I64, (int64_t[]){1}, 1,
                                   err)) ||
         (status = moon_op_argmax(&best, &row, err)) ||
         (status = moon_tensor_read(&best, &index, err)) ||
         (status = moon_tensor_select(&at, &row, 1, index, err)) ||
         (status = moon_tensor_read(&at, &logit, err)));
  moon_tensor_release(&row);
  moon_tensor_release(&best);
  moon_tensor_release(&at);
  *id = (int32_t)index;
  return status == MOON_OK && isnan(logit) ? refuse_nan(index, err) : status;
}

/* all [n], logit and id, in the order of the ids. */
static moon_status read_candidates(candidate *all, const moon_tensor *logits, int64_t n,
                                   moon_err *err) {
  float *host = malloc((size_t)n * sizeof *host + 1);
  if (!host)
    return moon_fail(err, MOON_ENOMEM, "sampler: no memory for %lld logits", (long long)n);
  moon_status status = moon_tensor_read(logits, host, err);
  for (int64_t i = 0; i < n && status == MOON_OK; i++) {
    all[i] = (candidate){host[i], (int32_t)i};
    if (isnan(host[i]))
      status = refuse_nan(i, err);
  }
  free(host);
  return status;
}

static int32_t draw_candidate(candidate *all, int64_t n, moon_sampler *sampler) {
  double sum;
  int64_t kept, chosen = 0;
  qsort(all, (size_t)n, sizeof *all, by_logit);
  kept = narrow(all, n, sampler, &sum);
  double left = draw(&sampler->state) * sum - all[0].logit;
  while (left >= 0 && chosen + 1 < kept)
    left -= all[++chosen].logit;
  return all[chosen].id;
}

moon_status moon_sampler_next(moon_sampler *sampler, const moon_tensor *logits, int32_t *id,
                              moon_err *err) {
  if (sampler->temperature == 0)
    return greedy(logits, id, err);
  int64_t n = moon_tensor_count(logits);
  candidate *all = malloc((size_t)n * sizeof *all + 1);
  if (!all)
    return moon_fail(err, MOON_ENOMEM, "sampler: no memory for %lld candidates", (long long)n);
  moon_status status = read_candidates(all, logits, n, err);
  if (status == MOON_OK)
    *id = draw_candidate(all, n, sampler);
  free(all);
  return status;
}

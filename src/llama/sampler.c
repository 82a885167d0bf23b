// SPDX-License-Identifier: MIT
#include "llama/sampler.h"

#include <math.h>
#include <stdlib.h>

#include "tensor/ops.h"

typedef struct candidate {
  float logit;
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

/* Candidates in the order of their logits, taken from a heap as far as they are wanted: few are,
 * and sorting a vocabulary of 128,256 would take longer than a small model's layers. */
typedef struct ranking {
  candidate *all; /* [n]: a heap of n - n_taken, and behind it those taken, the last one first */
  int64_t n, n_taken;
  float largest, temperature;
} ranking;

/* Largest logit first, ties by lower id. */
static bool is_before(const candidate *a, const candidate *b) {
  return a->logit != b->logit ? a->logit > b->logit : a->id < b->id;
}

static void sift_down(candidate *heap, int64_t n, int64_t i) {
  candidate moving = heap[i];
  for (int64_t child; (child = 2 * i + 1) < n; i = child) {
    if (child + 1 < n && is_before(&heap[child + 1], &heap[child]))
      child++;
    if (!is_before(&heap[child], &moving))
      break;
    heap[i] = heap[child];
  }
  heap[i] = moving;
}

static void rank(ranking *r, candidate *all, int64_t n, float temperature) {
  for (int64_t i = n / 2 - 1; i >= 0; i--)
    sift_down(all, n, i);
  *r = (ranking){.all = all, .n = n, .largest = all[0].logit, .temperature = temperature};
}

/* Number i from the front; i is at most the number of those taken already. */
static const candidate *candidate_at(ranking *r, int64_t i) {
  if (i == r->n_taken) {
    int64_t last = r->n - ++r->n_taken;
    candidate top = r->all[0];
    r->all[0] = r->all[last];
    r->all[last] = top;
    sift_down(r->all, last, 0);
  }
  return &r->all[r->n - 1 - i];
}

/* Its unnormalised probability. */
static double weight(const ranking *r, const candidate *c) {
  return expf((c->logit - r->largest) / r->temperature);
}

/* How many candidates stay, and the sum of their weights. */
static int64_t narrow(ranking *r, const moon_sampler *s, double *sum) {
  bool few = s->top_k > 0 && s->top_k < r->n;
  int64_t n = few ? s->top_k : r->n, kept = 0;
  double total = 0, reached = 0;
  for (int64_t i = 0; i < n; i++)
    total += weight(r, few ? candidate_at(r, i) : &r->all[i]);
  *sum = total;
  if (s->top_p == 1 && s->min_p == 0)
    return n;
  for (; kept < n; kept++) {
    double next = weight(r, candidate_at(r, kept));
    if (kept > 0 && !(reached < (double)s->top_p * total && next >= s->min_p))
      break;
    reached += next;
  }
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
  ranking r;
  double sum;
  int64_t chosen = 0;
  rank(&r, all, n, sampler->temperature);
  int64_t kept = narrow(&r, sampler, &sum);
  double left = draw(&sampler->state) * sum - weight(&r, candidate_at(&r, 0));
  while (left >= 0 && chosen + 1 < kept)
    left -= weight(&r, candidate_at(&r, ++chosen));
  return candidate_at(&r, chosen)->id;
}

moon_status moon_sampler_next(moon_sampler *sampler, const moon_tensor *logits, int32_t *id,
                              moon_err *err) {
  if (sampler->temperature == 0)
    return greedy(logits, id, err);
  int64_t n = moon_tensor_count(logits);
  candidate *all = calloc((size_t)n + 1, sizeof *all);
  if (!all)
    return moon_fail(err, MOON_ENOMEM, "sampler: no memory for %lld candidates", (long long)n);
  moon_status status = read_candidates(all, logits, n, err);
  if (status == MOON_OK)
    *id = draw_candidate(all, n, sampler);
  free(all);
  return status;
}

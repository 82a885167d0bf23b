// SPDX-License-Identifier: MIT
/* What the sampler draws, against its definition told with a whole sort. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "llama/sampler.h"
#include "tensor/ops.h"

enum { N = 1000, N_DRAWS = 50 };

static float logits[N];

static uint64_t next_bits(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/* Half of them tie with others. */
static void fill_logits(uint64_t seed) {
  for (int i = 0; i < N; i++) {
    double unit = (double)(next_bits(&seed) >> 11) * 0x1p-53;
    logits[i] = (float)(i % 2 ? floor(unit * 12) : unit * 12);
  }
}

static int by_logit(const void *a, const void *b) {
  int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
  if (logits[i] != logits[j])
    return logits[i] < logits[j] ? 1 : -1;
  return (i > j) - (i < j);
}

/* Draws from all, sorted and cut to size. */
static int32_t expected(const moon_sampler *s, double drawn) {
  int32_t ids[N];
  double weights[N], total = 0, reached = 0;
  int n = s->top_k > 0 && s->top_k < N ? (int)s->top_k : N, kept = 0, chosen = 0;
  for (int32_t i = 0; i < N; i++)
    ids[i] = i;
  qsort(ids, N, sizeof *ids, by_logit);
  for (int i = 0; i < n; i++)
    total += weights[i] = (double)expf((logits[ids[i]] - logits[ids[0]]) / s->temperature);
  while (kept < n &&
         (kept == 0 || (reached < (double)s->top_p * total && weights[kept] >= (double)s->min_p)))
    reached += weights[kept++];
  for (double left = drawn * reached - weights[0]; left >= 0 && chosen + 1 < kept;)
    left -= weights[++chosen];
  return ids[chosen];
}

static void check(moon_sampler sampler) {
  moon_err err;
  moon_tensor t;
  for (uint64_t seed = 1; seed <= N_DRAWS; seed++) {
    uint64_t bits = sampler.state = seed;
    int32_t id;
    fill_logits(seed);
    assert_int_equal(
        moon_tensor_from_host(&t, moon_cpu(), MOON_F32, (int64_t[]){N}, 1, logits, &err), MOON_OK);
    assert_int_equal(moon_sampler_next(&sampler, &t, &id, &err), MOON_OK);
    assert_int_equal(id, expected(&sampler, (double)(next_bits(&bits) >> 11) * 0x1p-53));
    assert_true(sampler.state == bits);
    moon_tensor_release(&t);
  }
}

static void draws_from_all(void **state) {
  (void)state;
  check((moon_sampler){.temperature = 1, .top_p = 1});
  check((moon_sampler){.temperature = 20, .top_p = 1}); /* nearly flat: many are taken */
}

static void draws_from_the_top(void **state) {
  (void)state;
  check((moon_sampler){.temperature = 2, .top_k = 1, .top_p = 1});
  check((moon_sampler){.temperature = 2, .top_k = 40, .top_p = 1});
  check((moon_sampler){.temperature = 2, .top_k = N + 1, .top_p = 1});
}

static void draws_from_the_likely(void **state) {
  (void)state;
  check((moon_sampler){.temperature = 1, .top_p = 0.3f});
  check((moon_sampler){.temperature = 1, .top_p = 1e-6f}); /* the first one stays */
  check((moon_sampler){.temperature = 3, .top_p = 1, .min_p = 0.2f});
  check((moon_sampler){.temperature = 3, .top_k = 60, .top_p = 0.7f, .min_p = 0.05f});
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(draws_from_all),
      cmocka_unit_test(draws_from_the_top),
      cmocka_unit_test(draws_from_the_likely),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

// SPDX-License-Identifier: MIT
#include "llama/session.h"

#include <stdlib.h>

static moon_status new_caches(moon_session *s, moon_err *err) {
  const moon_llama_config *c = &s->model->config;
  moon_dtype dtype = s->model->precision == MOON_EXACT ? MOON_F32 : s->model->dtype;
  int64_t shape[] = {c->n_kv_heads, s->model->n_ctx, c->d_head};
  s->k = calloc((size_t)c->n_layers, sizeof *s->k);
  s->v = calloc((size_t)c->n_layers, sizeof *s->v);
  if (!s->k || !s->v)
    return moon_fail(err, MOON_ENOMEM, "session: no memory for %lld layers",
                     (long long)c->n_layers);
  for (int64_t i = 0; i < c->n_layers; i++) {
    moon_status status;
    if ((status = moon_tensor_new(&s->k[i], s->model->device, dtype, shape, 3, err)) ||
        (status = moon_tensor_new(&s->v[i], s->model->device, dtype, shape, 3, err)))
      return status;
  }
  return MOON_OK;
}

moon_status moon_session_new(moon_session **out, moon_llama *model, moon_err *err) {
  moon_session *s = calloc(1, sizeof *s);
  *out = NULL;
  if (!s)
    return moon_fail(err, MOON_ENOMEM, "session: no memory");
  atomic_store(&s->refs, 1);
  s->model = moon_llama_retain(model);
  s->depth = model->config.n_layers;
  moon_status status = new_caches(s, err);
  if (status)
    moon_session_release(s);
  else
    *out = s;
  return status;
}

moon_session *moon_session_retain(moon_session *session) {
  atomic_fetch_add(&session->refs, 1);
  return session;
}

void moon_session_release(moon_session *session) {
  if (!session || atomic_fetch_sub(&session->refs, 1) > 1)
    return;
  for (int64_t i = 0; i < session->model->config.n_layers; i++) {
    if (session->k)
      moon_tensor_release(&session->k[i]);
    if (session->v)
      moon_tensor_release(&session->v[i]);
  }
  free(session->k);
  free(session->v);
  moon_llama_release(session->model);
  free(session);
}

moon_status moon_session_rewind(moon_session *session, int64_t n, moon_err *err) {
  if (n < 0 || n > session->n_tok)
    return moon_fail(err, MOON_ERANGE,
                     "rewind: found %lld, expected 0 to %lld (the tokens in the session)",
                     (long long)n, (long long)session->n_tok);
  session->n_tok -= n;
  if (session->n_tok == 0)
    session->depth = session->model->config.n_layers;
  return MOON_OK;
}

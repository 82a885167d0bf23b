// SPDX-License-Identifier: MIT
/* A sequence in progress: the keys and values of the tokens that the model has seen. */
#ifndef MOON_LLAMA_SESSION_H
#define MOON_LLAMA_SESSION_H

#include "llama/weights.h"

typedef struct moon_session {
  atomic_int refs;
  moon_llama *model;     /* retained */
  _Atomic int64_t n_tok; /* positions filled; written by jobs and by moon_session_rewind */
  int64_t depth; /* layers whose caches hold all n_tok positions: fewer after a pass that stopped
                    early */
  moon_tensor *k, *v; /* [n_layers] caches [n_kv_heads][n_ctx][d_head]; f32 in exact, the model's
                         dtype in fast */
} moon_session;

/* Owned by the caller: one reference. The caches take memory as they fill. MOON_ENOMEM. */
moon_status moon_session_new(moon_session **out, moon_llama *model, moon_err *err);
moon_session *moon_session_retain(moon_session *session);
void moon_session_release(moon_session *session); /* NULL is fine */

/* Forgets the last n tokens. MOON_ERANGE when there are fewer. */
moon_status moon_session_rewind(moon_session *session, int64_t n, moon_err *err);

#endif

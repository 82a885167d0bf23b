// SPDX-License-Identifier: MIT
/*
 * One forward pass over new tokens of one or several sessions, told once over ops.h, resumable at
 * layer boundaries: a caller may run layers a..b, look at the residual stream, change it, and go
 * on.
 *
 * Two arithmetics (moon_arithmetic): a prefill follows the model's precision, a decode step keeps
 * f32 activations always. The residual stream, norms, softmax and all sums are f32.
 */
#ifndef MOON_LLAMA_FORWARD_H
#define MOON_LLAMA_FORWARD_H

#include "llama/session.h"

/* Where a pass can be read, by Hugging Face's module paths. */
typedef enum moon_place {
  MOON_AT_EMBED, /* model.embed_tokens                      [n_rows][d_model] */
  MOON_AT_INPUT, /* model.layers.N.input: the stream before it */
  MOON_AT_HEADS, /* model.layers.N.self_attn.heads: input of o_proj, [n_rows][n_heads][d_head] */
  MOON_AT_SELF_ATTN,      /* model.layers.N.self_attn: output of o_proj */
  MOON_AT_POST_ATTENTION, /* model.layers.N.post_attention: the stream between attention and MLP */
  MOON_AT_MLP,            /* model.layers.N.mlp: output of down_proj */
  MOON_AT_LAYER,          /* model.layers.N: the stream after it */
  MOON_AT_NORM,           /* model.norm: what the head reads */
} moon_place;

typedef struct moon_capture {
  moon_place place;
  int64_t layer;   /* of MOON_AT_INPUT .. MOON_AT_LAYER */
  moon_tensor out; /* filled by the pass: f32, owned by whoever holds the capture */
} moon_capture;

/* Parses "model.layers.19.mlp". MOON_EINVAL names what there is; MOON_ERANGE for a layer the model
 * has not. */
moon_status moon_capture_parse(moon_capture *out, const char *path, const moon_llama_config *config,
                               moon_err *err);

/* Layers that must run before this capture is filled: 0 for the embeddings, n_layers + 1 for
 * model.norm. */
int64_t moon_capture_depth(const moon_capture *capture, const moon_llama_config *config);

typedef enum moon_logits { MOON_LOGITS_NONE, MOON_LOGITS_LAST, MOON_LOGITS_ALL } moon_logits;

/* The new tokens of one session: ids[n_rows], continuing at its n_tok. */
typedef struct moon_span {
  moon_session *session; /* retained by the pass */
  int64_t n_rows;
  int64_t start; /* set by moon_pass_new: the session's n_tok then */
} moon_span;

typedef struct moon_pass {
  moon_llama *model;
  moon_arithmetic arithmetic;
  moon_span *spans; /* [n_spans] */
  int64_t n_spans, n_rows;
  int32_t *ids;           /* [n_rows] */
  moon_tensor positions;  /* i32 [n_rows] */
  moon_tensor x;          /* [n_rows][d_model] the residual stream before layer `layer` */
  int64_t layer;          /* next to run; -1: not even embedded */
  moon_capture *captures; /* [n_captures], filled as the pass comes by */
  int n_captures;
} moon_pass;

/*
 * Prepares a pass: checks ids and room, computes nothing. All sessions are of one model, and none
 * appears twice. ids [sum of n_rows], span after span; captures (their `out` empty) are copied.
 * Owned by the caller (free it). A pass that is freed before moon_pass_commit leaves the sessions
 * as they were. MOON_ERANGE (an id), MOON_ECONTEXT (no room), MOON_EINVAL.
 */
moon_status moon_pass_new(moon_pass **out, const moon_span *spans, int64_t n_spans,
                          const int32_t *ids, moon_arithmetic arithmetic,
                          const moon_capture *captures, int n_captures, moon_err *err);
void moon_pass_free(moon_pass *pass); /* NULL is fine; releases the captures too */

/* Runs up to (not including) layer `to`, at most n_layers. progress counts layers. MOON_EINVAL when
 * earlier tokens of a session went through fewer layers. */
moon_status moon_pass_run(moon_pass *pass, int64_t to, moon_progress *progress, moon_err *err);

/* To be called after pass->x was changed from outside: captures of the last layer's output see the
 * change. */
moon_status moon_pass_changed(moon_pass *pass, moon_err *err);

/* After the last layer: logits [n_rows][n_vocab] (ALL) or [n_spans][n_vocab] (LAST: of each span's
 * last token), f32, owned by the caller; empty for NONE. Fills captures of model.norm. */
moon_status moon_pass_logits(moon_pass *pass, moon_logits which, moon_tensor *out, moon_err *err);

/* The sessions now hold the new tokens, in the layers that have run: later passes go no further
 * than those. */
moon_status moon_pass_commit(moon_pass *pass, moon_err *err);

#endif

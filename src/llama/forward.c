// SPDX-License-Identifier: MIT
#include "llama/forward.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call)          \
  do {                     \
    moon_status s_ = call; \
    if (s_)                \
      return s_;           \
  } while (0)

static const struct {
  const char *suffix;
  moon_place place;
} layer_places[] = {
    {"", MOON_AT_LAYER},
    {".input", MOON_AT_INPUT},
    {".self_attn.heads", MOON_AT_HEADS},
    {".self_attn", MOON_AT_SELF_ATTN},
    {".post_attention", MOON_AT_POST_ATTENTION},
    {".mlp", MOON_AT_MLP},
};

moon_status moon_capture_parse(moon_capture *out, const char *path, const moon_llama_config *config,
                               moon_err *err) {
  static const char prefix[] = "model.layers.";
  *out = (moon_capture){0};
  if (!strcmp(path, "model.embed_tokens"))
    return out->place = MOON_AT_EMBED, MOON_OK;
  if (!strcmp(path, "model.norm"))
    return out->place = MOON_AT_NORM, MOON_OK;
  const char *digits = path + sizeof prefix - 1;
  if (!strncmp(path, prefix, sizeof prefix - 1) && *digits >= '0' && *digits <= '9') {
    char *end;
    out->layer = strtoll(digits, &end, 10);
    for (size_t i = 0; i < sizeof layer_places / sizeof *layer_places; i++)
      if (!strcmp(end, layer_places[i].suffix)) {
        out->place = layer_places[i].place;
        if (out->layer < config->n_layers)
          return MOON_OK;
        return moon_fail(err, MOON_ERANGE, "capture: %s: the model's layers are 0 to %lld", path,
                         (long long)config->n_layers - 1);
      }
  }
  return moon_fail(err, MOON_EINVAL,
                   "capture: found \"%s\", expected model.embed_tokens, model.norm or "
                   "model.layers.N with nothing, .input, "
                   ".self_attn, .self_attn.heads, .post_attention or .mlp after it",
                   path);
}

int64_t moon_capture_depth(const moon_capture *capture, const moon_llama_config *config) {
  switch (capture->place) {
    case MOON_AT_EMBED:
      return 0;
    case MOON_AT_NORM:
      return config->n_layers + 1;
    case MOON_AT_INPUT:
      return capture->layer;
    default:
      return capture->layer + 1;
  }
}

/* Copies t into every capture that asked for this place. */
static moon_status capture(moon_pass *p, moon_place place, int64_t layer, const moon_tensor *t,
                           moon_err *err) {
  for (int i = 0; i < p->n_captures; i++) {
    moon_capture *c = &p->captures[i];
    if (c->place != place || c->layer != layer)
      continue;
    if (!c->out.storage)
      TRY(moon_tensor_new(&c->out, moon_tensor_device(t), MOON_F32, t->shape, t->rank, err));
    TRY(moon_op_copy(&c->out, t, err));
  }
  return MOON_OK;
}

static moon_status check_spans(const moon_span *spans, int64_t n_spans, const int32_t *ids,
                               moon_err *err) {
  const moon_llama *m = spans[0].session->model;
  for (int64_t i = 0, first = 0; i < n_spans; first += spans[i++].n_rows) {
    const moon_session *s = spans[i].session;
    if (s->model != m)
      return moon_fail(err, MOON_EINVAL, "forward: session %lld belongs to another model",
                       (long long)i + 1);
    for (int64_t j = 0; j < i; j++)
      if (spans[j].session == s)
        return moon_fail(err, MOON_EINVAL, "forward: sessions %lld and %lld are the same one",
                         (long long)j + 1, (long long)i + 1);
    if (spans[i].n_rows < 1)
      return moon_fail(err, MOON_EINVAL, "forward: found no token ids, expected at least one");
    if (spans[i].n_rows > m->n_ctx - s->n_tok)
      return moon_fail(err, MOON_ECONTEXT,
                       "context: %lld tokens and %lld more do not fit into %lld; load the model "
                       "with a larger context (at most %lld)",
                       (long long)s->n_tok, (long long)spans[i].n_rows, (long long)m->n_ctx,
                       (long long)m->config.n_ctx);
    for (int64_t t = 0; t < spans[i].n_rows; t++)
      if (ids[first + t] < 0 || ids[first + t] >= m->config.n_vocab)
        return moon_fail(err, MOON_ERANGE, "token id %d at position %lld: expected 0 to %lld",
                         ids[first + t], (long long)(s->n_tok + t + 1),
                         (long long)m->config.n_vocab - 1);
  }
  return MOON_OK;
}

/* positions and ids as tensors; x := the embeddings. */
static moon_status embed(moon_pass *p, moon_err *err) {
  moon_llama *m = p->model;
  moon_tensor ids = {0};
  int64_t shape[] = {p->n_rows, m->config.d_model};
  int32_t *positions = malloc((size_t)p->n_rows * sizeof *positions);
  moon_status status = MOON_OK;
  if (!positions) {
    status =
        moon_fail(err, MOON_ENOMEM, "forward: no memory for %lld positions", (long long)p->n_rows);
    goto done;
  }
  for (int64_t i = 0, row = 0; i < p->n_spans; i++)
    for (int64_t t = 0; t < p->spans[i].n_rows; t++)
      positions[row++] = (int32_t)(p->spans[i].start + t);
  (void)((status = moon_tensor_from_host(&p->positions, m->device, MOON_I32, shape, 1, positions,
                                         err)) ||
         (status = moon_tensor_from_host(&ids, m->device, MOON_I32, shape, 1, p->ids, err)) ||
         (status = moon_tensor_new(&p->x, m->device, MOON_F32, shape, 2, err)) ||
         (status = moon_op_embed(&p->x, &m->embed, &ids, err)));
done:
  moon_tensor_release(&ids);
  free(positions);
  return status;
}

moon_status moon_pass_new(moon_pass **out, const moon_span *spans, int64_t n_spans,
                          const int32_t *ids, moon_arithmetic arithmetic,
                          const moon_capture *captures, int n_captures, moon_err *err) {
  *out = NULL;
  if (n_spans < 1)
    return moon_fail(err, MOON_EINVAL, "forward: found no session, expected at least one");
  TRY(check_spans(spans, n_spans, ids, err));
  moon_pass *p = calloc(1, sizeof *p);
  if (!p)
    return moon_fail(err, MOON_ENOMEM, "forward: no memory");
  p->model = moon_llama_retain(spans[0].session->model);
  p->arithmetic = arithmetic;
  p->layer = -1;
  for (int64_t i = 0; i < n_spans; i++)
    p->n_rows += spans[i].n_rows;
  p->spans = malloc((size_t)n_spans * sizeof *p->spans);
  p->ids = malloc((size_t)p->n_rows * sizeof *p->ids);
  p->captures = malloc((size_t)n_captures * sizeof *p->captures + 1);
  if (!p->spans || !p->ids || !p->captures) {
    moon_fail(err, MOON_ENOMEM, "forward: no memory for %lld tokens", (long long)p->n_rows);
    moon_pass_free(p);
    return MOON_ENOMEM;
  }
  memcpy(p->ids, ids, (size_t)p->n_rows * sizeof *p->ids);
  for (p->n_spans = 0; p->n_spans < n_spans; p->n_spans++) {
    p->spans[p->n_spans] = spans[p->n_spans];
    p->spans[p->n_spans].start = spans[p->n_spans].session->n_tok;
    moon_session_retain(spans[p->n_spans].session);
  }
  for (; p->n_captures < n_captures; p->n_captures++)
    p->captures[p->n_captures] = captures[p->n_captures];
  *out = p;
  return MOON_OK;
}

void moon_pass_free(moon_pass *pass) {
  if (!pass)
    return;
  for (int64_t i = 0; i < pass->n_spans; i++)
    moon_session_release(pass->spans[i].session);
  moon_tensor_release(&pass->positions);
  moon_tensor_release(&pass->x);
  for (int i = 0; i < pass->n_captures; i++)
    moon_tensor_release(&pass->captures[i].out);
  moon_llama_release(pass->model);
  free(pass->captures);
  free(pass->spans);
  free(pass->ids);
  free(pass);
}

/* The first n_rows rows of a work space tensor, as [n_rows][everything else] where flat. */
static moon_status rows_of(moon_tensor *out, const moon_tensor *t, int64_t first, int64_t n_rows,
                           bool flat, moon_err *err) {
  moon_tensor part = {0};
  TRY(moon_tensor_narrow(&part, t, 0, first, n_rows, err));
  if (!flat) {
    *out = part;
    return MOON_OK;
  }
  int64_t width = 1;
  for (int i = 1; i < t->rank; i++)
    width *= t->shape[i];
  moon_status status = moon_tensor_reshape(out, &part, (int64_t[]){n_rows, width}, 2, err);
  moon_tensor_release(&part);
  return status;
}

static moon_status project(const moon_tensor *out, const moon_tensor *x, const moon_linear *l,
                           moon_arithmetic arithmetic, moon_err *err) {
  return moon_op_linear(out, x, &l->w, l->bias.storage ? &l->bias : NULL, arithmetic, err);
}

static moon_product product(const moon_tensor *out, const moon_linear *l) {
  return (moon_product){*out, l->w, l->bias};
}

/* Whether somebody reads this place of the layer that runs. */
static bool is_captured(const moon_pass *p, moon_place place) {
  for (int i = 0; i < p->n_captures; i++)
    if (p->captures[i].place == place && p->captures[i].layer == p->layer)
      return true;
  return false;
}

/* The stream gets a sublayer's output; where that is captured it is made by itself first. */
static moon_status add_to_stream(moon_pass *p, const moon_tensor *x, const moon_linear *l,
                                 moon_place place, const moon_tensor *h, moon_err *err) {
  if (!is_captured(p, place)) {
    moon_product sum = product(&p->x, l);
    return moon_op_products(&sum, 1, x, MOON_ADD_TO, p->arithmetic, err);
  }
  TRY(project(h, x, l, p->arithmetic, err));
  TRY(capture(p, place, p->layer, h, err));
  return moon_op_binary(MOON_ADD, &p->x, &p->x, h, err);
}

/* One layer's views of the work space, [n_rows] high. */
typedef struct rows {
  moon_tensor h, q, k, v, heads, gate, up;        /* by row and head */
  moon_tensor q_flat, k_flat, v_flat, heads_flat; /* by row */
} rows;

static void release_rows(rows *r) {
  moon_tensor *all[] = {&r->h,  &r->q,      &r->k,      &r->v,      &r->heads,     &r->gate,
                        &r->up, &r->q_flat, &r->k_flat, &r->v_flat, &r->heads_flat};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    moon_tensor_release(all[i]);
}

static moon_status take_rows(rows *r, const moon_workspace *w, int64_t n, moon_err *err) {
  moon_status status;
  (void)((status = rows_of(&r->h, &w->h, 0, n, false, err)) ||
         (status = rows_of(&r->q, &w->q, 0, n, false, err)) ||
         (status = rows_of(&r->k, &w->k, 0, n, false, err)) ||
         (status = rows_of(&r->v, &w->v, 0, n, false, err)) ||
         (status = rows_of(&r->heads, &w->heads, 0, n, false, err)) ||
         (status = rows_of(&r->gate, &w->gate, 0, n, false, err)) ||
         (status = rows_of(&r->up, &w->up, 0, n, false, err)) ||
         (status = rows_of(&r->q_flat, &w->q, 0, n, true, err)) ||
         (status = rows_of(&r->k_flat, &w->k, 0, n, true, err)) ||
         (status = rows_of(&r->v_flat, &w->v, 0, n, true, err)) ||
         (status = rows_of(&r->heads_flat, &w->heads, 0, n, true, err)));
  return status;
}

/* Appends one span's keys and values to its session and lets its queries attend to them. */
static moon_status attend_span(moon_pass *p, const rows *r, const moon_span *span, int64_t first,
                               moon_err *err) {
  const moon_llama_config *c = &p->model->config;
  const moon_tensor *k_cache = &span->session->k[p->layer], *v_cache = &span->session->v[p->layer];
  moon_tensor q = {0}, k = {0}, v = {0}, heads = {0}, positions = {0};
  int64_t window = c->windowed[p->layer] ? c->window : 0;
  float scale = 1.0f / sqrtf((float)c->d_head);
  moon_status status;
  (void)((status = rows_of(&q, &r->q, first, span->n_rows, false, err)) ||
         (status = rows_of(&k, &r->k, first, span->n_rows, false, err)) ||
         (status = rows_of(&v, &r->v, first, span->n_rows, false, err)) ||
         (status = rows_of(&heads, &r->heads, first, span->n_rows, false, err)) ||
         (status = rows_of(&positions, &p->positions, first, span->n_rows, false, err)) ||
         (status = moon_op_kv_append(k_cache, v_cache, &k, &v, &positions, err)) ||
         (status = moon_op_attention(&heads, &q, k_cache, v_cache, &positions, window, scale,
                                     p->arithmetic, err)));
  moon_tensor_release(&q);
  moon_tensor_release(&k);
  moon_tensor_release(&v);
  moon_tensor_release(&heads);
  moon_tensor_release(&positions);
  return status;
}

/* Each head of x [n_rows][heads][d_head] by itself, where the model norms them. */
static moon_status norm_heads(const moon_tensor *x, const moon_tensor *w, float eps,
                              moon_err *err) {
  moon_tensor heads = {0};
  if (!w->storage)
    return MOON_OK;
  TRY(moon_tensor_reshape(&heads, x, (int64_t[]){-1, x->shape[2]}, 2, err));
  moon_status status = moon_op_rms_norm(&heads, &heads, w, eps, err);
  moon_tensor_release(&heads);
  return status;
}

static moon_status run_attention(moon_pass *p, const rows *r, moon_err *err) {
  const moon_llama *m = p->model;
  const moon_layer *l = &m->layers[p->layer];
  TRY(moon_op_rms_norm(&r->h, &p->x, &l->input_norm, m->config.norm_eps, err));
  const moon_product qkv[] = {product(&r->q_flat, &l->q), product(&r->k_flat, &l->k),
                              product(&r->v_flat, &l->v)};
  TRY(moon_op_products(qkv, 3, &r->h, MOON_STORE, p->arithmetic, err));
  TRY(norm_heads(&r->q, &l->q_norm, m->config.norm_eps, err));
  TRY(norm_heads(&r->k, &l->k_norm, m->config.norm_eps, err));
  TRY(moon_op_rope(&r->q, &r->k, &m->cos, &m->sin, &p->positions, err));
  for (int64_t i = 0, first = 0; i < p->n_spans; first += p->spans[i++].n_rows)
    TRY(attend_span(p, r, &p->spans[i], first, err));
  TRY(capture(p, MOON_AT_HEADS, p->layer, &r->heads, err));
  return add_to_stream(p, &r->heads_flat, &l->o, MOON_AT_SELF_ATTN, &r->h, err);
}

static moon_status run_mlp(moon_pass *p, const rows *r, moon_err *err) {
  const moon_llama *m = p->model;
  const moon_layer *l = &m->layers[p->layer];
  TRY(moon_op_rms_norm(&r->h, &p->x, &l->post_norm, m->config.norm_eps, err));
  const moon_product pair[] = {product(&r->gate, &l->gate), product(&r->up, &l->up)};
  TRY(moon_op_products(pair, 2, &r->h, MOON_SWIGLU, p->arithmetic, err));
  return add_to_stream(p, &r->gate, &l->down, MOON_AT_MLP, &r->h, err);
}

static moon_status run_layer(moon_pass *p, const rows *r, moon_err *err) {
  TRY(capture(p, MOON_AT_INPUT, p->layer, &p->x, err));
  TRY(run_attention(p, r, err));
  TRY(capture(p, MOON_AT_POST_ATTENTION, p->layer, &p->x, err));
  TRY(run_mlp(p, r, err));
  TRY(capture(p, MOON_AT_LAYER, p->layer, &p->x, err));
  p->layer++;
  return MOON_OK;
}

/* Another pass or a rewind may have moved a session between two calls: its caches are not this
 * pass's any more. */
static moon_status check_sessions(const moon_pass *p, int64_t to, moon_err *err) {
  for (int64_t i = 0; i < p->n_spans; i++) {
    const moon_session *s = p->spans[i].session;
    if (s->n_tok != p->spans[i].start)
      return moon_fail(
          err, MOON_EINVAL,
          "forward: the session went from %lld to %lld tokens while a pass was under way",
          (long long)p->spans[i].start, (long long)s->n_tok);
    if (to > s->depth)
      return moon_fail(
          err, MOON_EINVAL,
          "forward: earlier tokens of the session went through %lld layers only, expected %lld",
          (long long)s->depth, (long long)to);
  }
  return MOON_OK;
}

moon_status moon_pass_run(moon_pass *pass, int64_t to, moon_progress *progress, moon_err *err) {
  rows r = {0};
  TRY(check_sessions(pass, to, err));
  if (pass->layer < 0) {
    TRY(embed(pass, err));
    TRY(capture(pass, MOON_AT_EMBED, 0, &pass->x, err));
    pass->layer = 0;
  }
  TRY(moon_llama_reserve(pass->model, pass->n_rows, err));
  moon_status status = take_rows(&r, &pass->model->work, pass->n_rows, err);
  while (status == MOON_OK && pass->layer < to && pass->layer < pass->model->config.n_layers)
    if ((status = moon_progress_add(progress, 1, err)) == MOON_OK)
      status = run_layer(pass, &r, err);
  /* the input of the layer where the pass stops is the stream as it is now */
  if (status == MOON_OK)
    status = capture(pass, MOON_AT_INPUT, pass->layer, &pass->x, err);
  release_rows(&r);
  return status;
}

moon_status moon_pass_changed(moon_pass *pass, moon_err *err) {
  TRY(capture(pass, MOON_AT_LAYER, pass->layer - 1, &pass->x, err));
  return capture(pass, MOON_AT_INPUT, pass->layer, &pass->x, err);
}

/* The rows that the head is wanted for: all, or each span's last. */
static moon_status wanted_rows(moon_tensor *out, const moon_pass *p, const moon_tensor *h,
                               moon_logits which, moon_err *err) {
  if (which == MOON_LOGITS_ALL)
    return *out = moon_tensor_retain(h), MOON_OK;
  TRY(moon_tensor_new(out, p->model->device, MOON_F32,
                      (int64_t[]){p->n_spans, p->model->config.d_model}, 2, err));
  moon_status status = MOON_OK;
  for (int64_t i = 0, last = -1; i < p->n_spans && status == MOON_OK; i++) {
    moon_tensor from = {0}, to = {0};
    last += p->spans[i].n_rows;
    (void)((status = moon_tensor_narrow(&from, h, 0, last, 1, err)) ||
           (status = moon_tensor_narrow(&to, out, 0, i, 1, err)) ||
           (status = moon_op_copy(&to, &from, err)));
    moon_tensor_release(&from);
    moon_tensor_release(&to);
  }
  return status;
}

/* A hash (FNV-1a) of the bits: two runs that differ show where they part. */
static moon_status log_logits(const moon_pass *p, const moon_tensor *logits, moon_err *err) {
  uint64_t hash = 0xcbf29ce484222325;
  size_t size = moon_tensor_size_bytes(logits);
  uint8_t *bytes = malloc(size + 1);
  if (!bytes)
    return moon_fail(err, MOON_ENOMEM, "forward: no memory for %zu bytes of logits", size);
  moon_status status = moon_tensor_read(logits, bytes, err);
  for (size_t i = 0; i < size && status == MOON_OK; i++)
    hash = (hash ^ bytes[i]) * 0x100000001b3;
  if (status == MOON_OK)
    moon_log(MOON_LOG_DEBUG, "forward: %lld tokens from position %lld, logits %016llx",
             (long long)p->n_rows, (long long)p->spans[0].start + 1, (unsigned long long)hash);
  free(bytes);
  return status;
}

moon_status moon_pass_logits(moon_pass *pass, moon_logits which, moon_tensor *out, moon_err *err) {
  const moon_llama *m = pass->model;
  moon_tensor h = {0}, wanted = {0};
  *out = (moon_tensor){0};
  moon_status status = moon_tensor_new(&h, m->device, MOON_F32, pass->x.shape, 2, err);
  if (status || (status = moon_op_rms_norm(&h, &pass->x, &m->norm, m->config.norm_eps, err)) ||
      (status = capture(pass, MOON_AT_NORM, 0, &h, err)) || which == MOON_LOGITS_NONE)
    goto done;
  (void)((status = wanted_rows(&wanted, pass, &h, which, err)) ||
         (status = moon_tensor_new(out, m->device, MOON_F32,
                                   (int64_t[]){wanted.shape[0], m->config.n_vocab}, 2, err)) ||
         (status = project(out, &wanted, &m->head, pass->arithmetic, err)) ||
         (moon_log_wants(MOON_LOG_DEBUG) && (status = log_logits(pass, out, err))));
done:
  moon_tensor_release(&h);
  moon_tensor_release(&wanted);
  if (status)
    moon_tensor_release(out);
  return status;
}

moon_status moon_pass_commit(moon_pass *pass, moon_err *err) {
  TRY(check_sessions(pass, pass->layer, err));
  for (int64_t i = 0; i < pass->n_spans; i++) {
    moon_session *s = pass->spans[i].session;
    s->n_tok += pass->spans[i].n_rows;
    s->depth = pass->layer < s->depth ? pass->layer : s->depth;
  }
  return MOON_OK;
}

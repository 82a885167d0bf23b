// SPDX-License-Identifier: MIT
#include "llama/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llama/plan.h"

enum { DEFAULT_CONTEXT = 8192, TOUCHED = 16 << 20 /* bytes at a time */ };

typedef struct loader {
  moon_checkpoint *file;
  moon_device *device;
  int64_t layer; /* its number goes in front of a name; -1: none */
} loader;

static moon_status load_tensor(moon_tensor *out, const loader *from, const char *name,
                               const int64_t *shape, int rank, moon_err *err) {
  char full[256], found[MOON_SHAPE_TEXT], expected[MOON_SHAPE_TEXT];
  if (from->layer >= 0)
    snprintf(full, sizeof full, "model.layers.%lld.%s", (long long)from->layer, name);
  else
    snprintf(full, sizeof full, "%s", name);
  const char *path = moon_checkpoint_path(from->file);
  const moon_entry *entry = moon_checkpoint_find(from->file, full);
  if (!entry)
    return moon_fail(err, MOON_EFORMAT, "%s: has no tensor %s, which config.json asks for", path,
                     full);
  if (entry->rank != rank || memcmp(entry->shape, shape, (size_t)rank * sizeof *shape))
    return moon_fail(err, MOON_ESHAPE, "%s: %s: found shape %s, expected %s by config.json", path,
                     full, moon_shape_text(found, sizeof found, entry->shape, entry->rank),
                     moon_shape_text(expected, sizeof expected, shape, rank));
  if (entry->dtype != MOON_F32 && entry->dtype != MOON_F16 && entry->dtype != MOON_BF16)
    return moon_fail(err, MOON_EDTYPE, "%s: %s: found dtype %s, expected f32, f16 or bf16", path,
                     full, entry->dtype_name);
  moon_tensor mapped = {0};
  moon_status status = moon_tensor_from_entry(&mapped, entry, err);
  if (status == MOON_OK)
    status = moon_tensor_to(out, &mapped, from->device, mapped.dtype, err);
  moon_tensor_release(&mapped);
  return status;
}

static moon_status load_vector(moon_tensor *out, const loader *from, const char *name, int64_t n,
                               moon_err *err) {
  return load_tensor(out, from, name, &n, 1, err);
}

/* name.weight [n_out][n_in] and, with_bias, name.bias [n_out] */
static moon_status load_linear(moon_linear *out, const loader *from, const char *name,
                               int64_t n_out, int64_t n_in, bool with_bias, moon_err *err) {
  char part[128];
  snprintf(part, sizeof part, "%s.weight", name);
  moon_status status = load_tensor(&out->w, from, part, (int64_t[]){n_out, n_in}, 2, err);
  if (status || !with_bias)
    return status;
  snprintf(part, sizeof part, "%s.bias", name);
  return load_vector(&out->bias, from, part, n_out, err);
}

static moon_status load_layer(moon_layer *out, const loader *from, const moon_llama_config *c,
                              moon_err *err) {
  int64_t d = c->d_model, q = c->n_heads * c->d_head, kv = c->n_kv_heads * c->d_head;
  bool ab = c->qkv_bias, mb = c->mlp_bias;
  moon_status status;
  (void)((status = load_vector(&out->input_norm, from, "input_layernorm.weight", d, err)) ||
         (status = load_vector(&out->post_norm, from, "post_attention_layernorm.weight", d, err)) ||
         (status = load_linear(&out->q, from, "self_attn.q_proj", q, d, ab, err)) ||
         (status = load_linear(&out->k, from, "self_attn.k_proj", kv, d, ab, err)) ||
         (status = load_linear(&out->v, from, "self_attn.v_proj", kv, d, ab, err)) ||
         (status = load_linear(&out->o, from, "self_attn.o_proj", d, q, c->o_bias, err)) ||
         (c->qk_norm &&
          (status = load_vector(&out->q_norm, from, "self_attn.q_norm.weight", c->d_head, err))) ||
         (c->qk_norm &&
          (status = load_vector(&out->k_norm, from, "self_attn.k_norm.weight", c->d_head, err))) ||
         (status = load_linear(&out->gate, from, "mlp.gate_proj", c->d_ff, d, mb, err)) ||
         (status = load_linear(&out->up, from, "mlp.up_proj", c->d_ff, d, mb, err)) ||
         (status = load_linear(&out->down, from, "mlp.down_proj", d, c->d_ff, mb, err)));
  return status;
}

static moon_status load_weights(moon_llama *m, loader *from, moon_err *err) {
  const moon_llama_config *c = &m->config;
  moon_status status = load_tensor(&m->embed, from, "model.embed_tokens.weight",
                                   (int64_t[]){c->n_vocab, c->d_model}, 2, err);
  if (status || (status = load_vector(&m->norm, from, "model.norm.weight", c->d_model, err)))
    return status;
  m->dtype = m->embed.dtype;
  if (c->tied)
    m->head.w = moon_tensor_retain(&m->embed);
  else if ((status = load_linear(&m->head, from, "lm_head", c->n_vocab, c->d_model, false, err)))
    return status;
  m->layers = calloc((size_t)c->n_layers, sizeof *m->layers);
  if (!m->layers)
    return moon_fail(err, MOON_ENOMEM, "model: no memory for %lld layers", (long long)c->n_layers);
  for (from->layer = 0; from->layer < c->n_layers; from->layer++)
    if ((status = load_layer(&m->layers[from->layer], from, c, err)))
      return status;
  return MOON_OK;
}

/* cos and sin of every position, in double before they become f32: an f32 angle is off by 1e-3 at
 * position 8192. */
static moon_status make_rope_tables(moon_llama *m, moon_err *err) {
  int64_t half = m->config.d_head / 2, shape[] = {m->n_ctx, half};
  double *frequency = malloc((size_t)half * sizeof *frequency);
  float *cos_table = malloc((size_t)(m->n_ctx * half) * sizeof *cos_table);
  float *sin_table = malloc((size_t)(m->n_ctx * half) * sizeof *sin_table);
  moon_status status = MOON_OK;
  if (!frequency || !cos_table || !sin_table) {
    status = moon_fail(err, MOON_ENOMEM, "model: no memory for RoPE tables of %lld positions",
                       (long long)m->n_ctx);
    goto done;
  }
  moon_llama_inverse_frequencies(&m->config, frequency);
  for (int64_t t = 0; t < m->n_ctx; t++)
    for (int64_t i = 0; i < half; i++) {
      cos_table[t * half + i] = (float)cos((double)t * frequency[i]);
      sin_table[t * half + i] = (float)sin((double)t * frequency[i]);
    }
  (void)((status = moon_tensor_from_host(&m->cos, m->device, MOON_F32, shape, 2, cos_table, err)) ||
         (status = moon_tensor_from_host(&m->sin, m->device, MOON_F32, shape, 2, sin_table, err)));
done:
  free(frequency);
  free(cos_table);
  free(sin_table);
  return status;
}

/* Maps all pages at once, by the team: the first token then finds them there. Not for files that
 * memory cannot hold: their pages would push each other out. */
static void touch_files(const moon_checkpoint *file) {
  size_t n_files;
  moon_bytes *const *files = moon_checkpoint_files(file, &n_files);
  for (size_t i = 0; i < n_files; i++) {
    size_t size = moon_bytes_size(files[i]);
#pragma omp parallel for schedule(dynamic) num_threads(moon_cpu_threads())
    for (size_t first = 0; first < size; first += TOUCHED)
      moon_bytes_touch(files[i], first, size - first < TOUCHED ? size - first : TOUCHED);
  }
}

moon_status moon_llama_context(int64_t *out, const moon_llama_config *config, int64_t n_ctx,
                               moon_err *err) {
  int64_t limit = config->n_ctx;
  if (n_ctx < 0 || n_ctx > limit)
    return moon_fail(
        err, MOON_ERANGE,
        "context: found %lld, expected 1 to %lld (the model's max_position_embeddings)",
        (long long)n_ctx, (long long)limit);
  *out = n_ctx > 0 ? n_ctx : limit < DEFAULT_CONTEXT ? limit : DEFAULT_CONTEXT;
  return MOON_OK;
}

/* The config and the context, if the device has room for what they ask for. *fits: the CPU has
 * memory for all of the mapped weights, too. */
static moon_status check_memory(moon_llama *m, const char *folder, int64_t n_ctx, bool *fits,
                                moon_err *err) {
  size_t free_bytes, total;
  moon_llama_plan *plan = malloc(sizeof *plan);
  if (!plan)
    return moon_fail(err, MOON_ENOMEM, "model: no memory");
  moon_status status = moon_llama_plan_make(plan, folder, m->device, m->precision, n_ctx, err);
  if (status == MOON_OK &&
      (status = moon_op_memory(m->device, &free_bytes, &total, err)) == MOON_OK)
    status = moon_llama_plan_check(plan, m->device->name, free_bytes, err);
  m->config = plan->config;
  m->n_ctx = plan->n_ctx;
  *fits = !status && m->device == moon_cpu() &&
          plan->allocated_bytes + plan->mapped_bytes <= free_bytes;
  free(plan);
  return status;
}

moon_status moon_llama_load(moon_llama **out, const char *folder, moon_device *device,
                            moon_precision precision, int64_t n_ctx, moon_err *err) {
  loader from = {.device = device, .layer = -1};
  moon_llama *m = calloc(1, sizeof *m);
  *out = NULL;
  if (!m)
    return moon_fail(err, MOON_ENOMEM, "model: no memory");
  atomic_store(&m->refs, 1);
  m->device = device;
  m->precision = precision;
  moon_status status;
  bool fits;
  (void)((status = check_memory(m, folder, n_ctx, &fits, err)) ||
         (status = moon_checkpoint_open(&from.file, folder, err)));
  if (status == MOON_OK && fits)
    touch_files(from.file);
  (void)(status || (status = load_weights(m, &from, err)) || (status = make_rope_tables(m, err)));
  moon_checkpoint_release(from.file);
  if (status) {
    moon_llama_release(m);
    return status;
  }
  moon_log(MOON_LOG_INFO, "%s: %lld layers, d_model %lld, %s on %s (%s, %d threads), context %lld",
           folder, (long long)m->config.n_layers, (long long)m->config.d_model,
           moon_dtype_name(m->dtype), device->name, device->ops->name, moon_cpu_threads(),
           (long long)m->n_ctx);
  *out = m;
  return MOON_OK;
}

moon_llama *moon_llama_retain(moon_llama *model) {
  atomic_fetch_add(&model->refs, 1);
  return model;
}

static void release_linear(moon_linear *l) {
  moon_tensor_release(&l->w);
  moon_tensor_release(&l->bias);
}

static void release_layer(moon_layer *l) {
  moon_linear *maps[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
  for (size_t i = 0; i < sizeof maps / sizeof *maps; i++)
    release_linear(maps[i]);
  moon_tensor_release(&l->input_norm);
  moon_tensor_release(&l->post_norm);
  moon_tensor_release(&l->q_norm);
  moon_tensor_release(&l->k_norm);
}

static void release_workspace(moon_workspace *w) {
  moon_tensor *all[] = {&w->h, &w->q, &w->heads, &w->k, &w->v, &w->gate, &w->up};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    moon_tensor_release(all[i]);
  w->n_rows = 0;
}

void moon_llama_release(moon_llama *model) {
  if (!model || atomic_fetch_sub(&model->refs, 1) > 1)
    return;
  for (int64_t i = 0; model->layers && i < model->config.n_layers; i++)
    release_layer(&model->layers[i]);
  free(model->layers);
  release_workspace(&model->work);
  release_linear(&model->head);
  moon_tensor_release(&model->embed);
  moon_tensor_release(&model->norm);
  moon_tensor_release(&model->cos);
  moon_tensor_release(&model->sin);
  free(model);
}

moon_status moon_llama_reserve(moon_llama *model, int64_t n_rows, moon_err *err) {
  const moon_llama_config *c = &model->config;
  moon_workspace *w = &model->work;
  if (n_rows <= w->n_rows)
    return MOON_OK;
  release_workspace(w);
  struct {
    moon_tensor *out;
    int rank;
    int64_t shape[3];
  } all[] = {{&w->h, 2, {n_rows, c->d_model}},
             {&w->q, 3, {n_rows, c->n_heads, c->d_head}},
             {&w->heads, 3, {n_rows, c->n_heads, c->d_head}},
             {&w->k, 3, {n_rows, c->n_kv_heads, c->d_head}},
             {&w->v, 3, {n_rows, c->n_kv_heads, c->d_head}},
             {&w->gate, 2, {n_rows, c->d_ff}},
             {&w->up, 2, {n_rows, c->d_ff}}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    moon_status status =
        moon_tensor_new(all[i].out, model->device, MOON_F32, all[i].shape, all[i].rank, err);
    if (status)
      return status;
  }
  w->n_rows = n_rows;
  return MOON_OK;
}

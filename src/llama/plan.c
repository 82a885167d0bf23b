// SPDX-License-Identifier: MIT
#include "llama/plan.h"

#include <stdio.h>
#include <string.h>

static bool has_prefix(const char *name, const char *prefix) {
  return !strncmp(name, prefix, strlen(prefix));
}

/* Only what the forward pass reads: a head that is tied is not. */
static bool is_weight(const moon_llama_config *c, const char *name) {
  return has_prefix(name, "model.") || (!c->tied && has_prefix(name, "lm_head."));
}

static moon_status count_weights(moon_llama_plan *plan, const moon_checkpoint *file,
                                 const moon_device *device, moon_err *err) {
  const moon_entry *embed = moon_checkpoint_find(file, "model.embed_tokens.weight");
  if (!embed)
    return moon_fail(err, MOON_EFORMAT,
                     "%s: has no tensor model.embed_tokens.weight, which config.json asks for",
                     moon_checkpoint_path(file));
  plan->dtype = embed->dtype;
  for (size_t i = 0; i < moon_checkpoint_count(file); i++) {
    const moon_entry *e = moon_checkpoint_entry(file, i);
    size_t element = moon_dtype_size(e->dtype);
    if (!is_weight(&plan->config, e->name) || element == 0)
      continue;
    plan->weights_bytes += e->size_bytes;
    plan->n_parameters += (int64_t)(e->size_bytes / element);
    bool mapped = device == moon_cpu() && !e->packed && moon_entry_contiguous(e);
    plan->mapped_bytes += mapped ? e->size_bytes : 0;
  }
  return MOON_OK;
}

/* n_ctx and the dims are bounded (config.c): none of these products leaves 64 bits. */
static void count_context(moon_llama_plan *plan, moon_precision precision) {
  const moon_llama_config *c = &plan->config;
  plan->kv_dtype = precision == MOON_EXACT ? MOON_F32 : plan->dtype;
  size_t row = (size_t)(c->n_kv_heads * c->d_head) * moon_dtype_size(plan->kv_dtype);
  plan->token_bytes = 2 * (size_t)c->n_layers * row;
  plan->tables_bytes = (size_t)(plan->n_ctx * c->d_head) * sizeof(float);
  plan->context_bytes = plan->token_bytes * (size_t)plan->n_ctx + plan->tables_bytes;
  plan->allocated_bytes = plan->weights_bytes - plan->mapped_bytes + plan->context_bytes;
}

moon_status moon_llama_plan_make(moon_llama_plan *out, const char *folder, moon_device *device,
                                 moon_precision precision, int64_t n_ctx, moon_err *err) {
  moon_checkpoint *file = NULL;
  memset(out, 0, sizeof *out);
  moon_status status;
  (void)((status = moon_llama_config_load(&out->config, folder, err)) ||
         (status = moon_llama_context(&out->n_ctx, &out->config, n_ctx, err)) ||
         (status = moon_checkpoint_open(&file, folder, err)) ||
         (status = count_weights(out, file, device, err)));
  moon_checkpoint_release(file);
  if (status == MOON_OK)
    count_context(out, precision);
  return status;
}

/* "16.00 GiB" */
static const char *size_text(char *text, size_t size, size_t bytes) {
  bool large = bytes >= (size_t)1 << 30;
  snprintf(text, size, large ? "%.2f GiB" : "%.1f MiB",
           (double)bytes / (large ? 1 << 30 : 1 << 20));
  return text;
}

#define SIZE(bytes) size_text((char[32]){0}, 32, bytes)

moon_status moon_llama_plan_check(const moon_llama_plan *plan, const char *device,
                                  size_t free_bytes, moon_err *err) {
  size_t copied = plan->weights_bytes - plan->mapped_bytes;
  if (plan->allocated_bytes > free_bytes)
    return moon_fail(err, MOON_ENOMEM,
                     "%s: %s are needed (weights %s, a context of %lld tokens %s), %s are free: %s",
                     device, SIZE(plan->allocated_bytes), SIZE(copied), (long long)plan->n_ctx,
                     SIZE(plan->context_bytes), SIZE(free_bytes),
                     copied <= free_bytes ? "make the context smaller (--context), or free some"
                                          : "free some, or take another device (--device cpu)");
  if (plan->allocated_bytes + plan->mapped_bytes > free_bytes)
    moon_log(MOON_LOG_WARN,
             "%s: %s of mapped weights and %s for a context of %lld tokens do not fit into %s of "
             "free memory: weights will be read from the disk again and again",
             device, SIZE(plan->mapped_bytes), SIZE(plan->allocated_bytes), (long long)plan->n_ctx,
             SIZE(free_bytes));
  return MOON_OK;
}

// SPDX-License-Identifier: MIT
#include "llama/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "io/bytes.h"
#include "io/json.h"

/* Far above any published Llama, low enough that products of two fit into 63 bits. */
enum { MAX_DIM = 1 << 24 };

static moon_status bad(moon_err *err, moon_status code, const char *field, const char *expected,
                       const json_t *found) {
  char *text = found ? json_dumps(found, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
  moon_status status = moon_fail(err, code, "%s: found %.80s, expected %s", field,
                                 found ? (text ? text : "?") : "nothing", expected);
  free(text);
  return status;
}

/* A whole number in 1 .. limit; `fallback` where the field is missing or null (0: it is required).
 */
static moon_status get_count(int64_t *out, const json_t *object, const char *field, int64_t limit,
                             int64_t fallback, moon_err *err) {
  const json_t *value = json_object_get(object, field);
  if ((!value || json_is_null(value)) && fallback > 0)
    return *out = fallback, MOON_OK;
  if (json_is_integer(value) && json_integer_value(value) > limit) {
    char expected[48];
    snprintf(expected, sizeof expected, "%lld at most", (long long)limit);
    return bad(err, MOON_EFORMAT, field, expected, value);
  }
  if (!json_is_integer(value) || json_integer_value(value) < 1)
    return bad(err, MOON_EFORMAT, field, "a positive whole number", value);
  return *out = json_integer_value(value), MOON_OK;
}

/* A whole number in 0 .. limit, which must be there. */
static moon_status get_natural(int64_t *out, const json_t *object, const char *field, int64_t limit,
                               moon_err *err) {
  const json_t *value = json_object_get(object, field);
  if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > limit)
    return bad(err, MOON_EFORMAT, field, "a whole number", value);
  return *out = json_integer_value(value), MOON_OK;
}

static moon_status get_positive(double *out, const json_t *object, const char *field,
                                double fallback, moon_err *err) {
  const json_t *value = json_object_get(object, field);
  if (!value && fallback > 0)
    return *out = fallback, MOON_OK;
  if (!json_is_number(value) || !(json_number_value(value) > 0) || isinf(json_number_value(value)))
    return bad(err, MOON_EFORMAT, field, "a positive number", value);
  return *out = json_number_value(value), MOON_OK;
}

static moon_status get_flag(bool *out, const json_t *object, const char *field, moon_err *err) {
  const json_t *value = json_object_get(object, field);
  if (value && !json_is_boolean(value))
    return bad(err, MOON_EFORMAT, field, "true or false", value);
  return *out = json_is_true(value), MOON_OK;
}

/* The members of the family, and what their files need not say. */
typedef struct member {
  const char *architecture, *type;
  bool qkv_bias;  /* always, and never for o; where false, attention_bias decides for all four */
  bool qk_norm;   /* always */
  int64_t d_head; /* where head_dim is missing; 0: hidden_size / num_attention_heads */
} member;

static const member members[] = {
    {"LlamaForCausalLM", "llama", false, false, 0},
    {"MistralForCausalLM", "mistral", false, false, 0},
    {"Qwen2ForCausalLM", "qwen2", true, false, 0},
    {"Qwen3ForCausalLM", "qwen3", false, true, 128},
};

#define FAMILY "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM or Qwen3ForCausalLM"

static moon_status find_member(const member **out, const json_t *config, moon_err *err) {
  const json_t *names = json_object_get(config, "architectures"),
               *type = json_object_get(config, "model_type");
  const char *name = json_string_value(json_array_get(names, 0));
  const char *found = name ? name : json_string_value(type);
  for (size_t i = 0; found && i < sizeof members / sizeof *members; i++)
    if (!strcmp(found, name ? members[i].architecture : members[i].type))
      return *out = &members[i], MOON_OK;
  if (name)
    return moon_fail(err, MOON_EUNSUPPORTED, "architectures: found %.80s, expected " FAMILY, name);
  return bad(err, MOON_EFORMAT, "architectures", "one of " FAMILY, names ? names : type);
}

/* What a file of a known architecture may ask for and this forward pass does not do. */
static moon_status check_shape(const json_t *config, moon_err *err) {
  const json_t *quantized = json_object_get(config, "quantization_config");
  if (quantized && !json_is_null(quantized))
    return bad(err, MOON_EUNSUPPORTED, "quantization_config",
               "none: quantized weights cannot be used", quantized);
  const json_t *rotary = json_object_get(config, "partial_rotary_factor");
  if (rotary && json_number_value(rotary) != 1)
    return bad(err, MOON_EUNSUPPORTED, "partial_rotary_factor", "none or 1", rotary);
  const char *act = json_string_value(json_object_get(config, "hidden_act"));
  if (act && strcmp(act, "silu"))
    return moon_fail(err, MOON_EUNSUPPORTED, "hidden_act: found %s, expected silu", act);
  return MOON_OK;
}

/* Layers whose queries see the last `sliding_window` keys only. Mistral: all of them, 4096 where
 * the file does not say. Qwen: where use_sliding_window is true, by layer_types or from
 * max_window_layers on. */
static moon_status get_window(moon_llama_config *out, const member *who, const json_t *config,
                              moon_err *err) {
  bool mistral = !strcmp(who->type, "mistral"), used = mistral;
  const json_t *size = json_object_get(config, "sliding_window"),
               *types = json_object_get(config, "layer_types");
  int64_t first = 0;
  moon_status status = MOON_OK;
  if (!strncmp(who->type, "qwen", 4))
    status = get_flag(&used, config, "use_sliding_window", err);
  if (status || !used || json_is_null(size))
    return status;
  if ((status = get_count(&out->window, config, "sliding_window", MAX_DIM, 4096, err)))
    return status;
  if (!mistral && !types &&
      (status = get_natural(&first, config, "max_window_layers", MOON_MAX_LAYERS, err)))
    return status;
  for (int64_t i = first; i < out->n_layers; i++) {
    const json_t *type = json_array_get(types, (size_t)i);
    const char *name = json_string_value(type);
    out->windowed[i] = !types || (name && !strcmp(name, "sliding_attention"));
    if (types && !out->windowed[i] && (!name || strcmp(name, "full_attention")))
      return bad(err, MOON_EUNSUPPORTED, "layer_types",
                 "\"full_attention\" or \"sliding_attention\" for each layer", type);
  }
  return MOON_OK;
}

/* `rope_scaling` beside `rope_theta`, or both inside `rope_parameters` as newer files have it. */
static moon_status get_rope(moon_llama_config *out, const json_t *config, moon_err *err) {
  const json_t *newer = json_object_get(config, "rope_parameters"),
               *rope = newer ? newer : json_object_get(config, "rope_scaling");
  moon_status status =
      get_positive(&out->rope_theta, newer ? newer : config, "rope_theta", 10000, err);
  if (status || !rope || json_is_null(rope))
    return status;
  if (!json_is_object(rope))
    return bad(err, MOON_EFORMAT, "rope_scaling", "an object", rope);
  const json_t *type = json_object_get(rope, "rope_type");
  const char *name = json_string_value(type ? type : json_object_get(rope, "type"));
  if (!name)
    return bad(err, MOON_EFORMAT, "rope_scaling.rope_type", "\"llama3\", \"linear\" or \"default\"",
               type);
  if (!strcmp(name, "default"))
    return MOON_OK;
  if (strcmp(name, "linear") && strcmp(name, "llama3"))
    return moon_fail(err, MOON_EUNSUPPORTED,
                     "rope_scaling.rope_type: found %s, expected llama3, linear or default", name);
  if ((status = get_positive(&out->rope_factor, rope, "factor", 0, err)))
    return status;
  if (!strcmp(name, "linear"))
    return out->rope_scaling = MOON_ROPE_LINEAR, MOON_OK;
  out->rope_scaling = MOON_ROPE_LLAMA3;
  if ((status = get_positive(&out->rope_low, rope, "low_freq_factor", 0, err)) ||
      (status = get_positive(&out->rope_high, rope, "high_freq_factor", 0, err)) ||
      (status =
           get_positive(&out->rope_original, rope, "original_max_position_embeddings", 0, err)))
    return status;
  if (out->rope_high <= out->rope_low)
    return moon_fail(err, MOON_EFORMAT,
                     "rope_scaling: high_freq_factor is %g, expected more than low_freq_factor %g",
                     out->rope_high, out->rope_low);
  return MOON_OK;
}

static moon_status get_id(int32_t *out, const json_t *value, const char *field, int64_t n_vocab,
                          moon_err *err) {
  if (!json_is_integer(value) || json_integer_value(value) < 0 ||
      json_integer_value(value) >= n_vocab)
    return bad(err, MOON_EFORMAT, field, "a token id below vocab_size", value);
  return *out = (int32_t)json_integer_value(value), MOON_OK;
}

static moon_status get_eos(moon_llama_config *out, const json_t *object, moon_err *err) {
  const json_t *value = json_object_get(object, "eos_token_id");
  if (!value || json_is_null(value))
    return MOON_OK;
  out->n_eos = 0;
  size_t n = json_is_array(value) ? json_array_size(value) : 1;
  if (n > MOON_MAX_EOS)
    return moon_fail(err, MOON_EFORMAT, "eos_token_id: found %zu ids, expected at most %d", n,
                     MOON_MAX_EOS);
  for (size_t i = 0; i < n; i++) {
    const json_t *id = json_is_array(value) ? json_array_get(value, i) : value;
    moon_status status = get_id(&out->eos[out->n_eos], id, "eos_token_id", out->n_vocab, err);
    if (status)
      return status;
    out->n_eos++;
  }
  return MOON_OK;
}

static moon_status get_fields(moon_llama_config *out, const json_t *config, moon_err *err) {
  moon_status status;
  const member *who = NULL;
  bool bias;
  double eps;
  if ((status = find_member(&who, config, err)) || (status = check_shape(config, err)) ||
      (status = get_count(&out->n_vocab, config, "vocab_size", MAX_DIM, 0, err)) ||
      (status = get_count(&out->d_model, config, "hidden_size", MAX_DIM, 0, err)) ||
      (status = get_count(&out->d_ff, config, "intermediate_size", MAX_DIM, 0, err)) ||
      (status = get_count(&out->n_layers, config, "num_hidden_layers", MOON_MAX_LAYERS, 0, err)) ||
      (status = get_count(&out->n_heads, config, "num_attention_heads", MAX_DIM, 0, err)) ||
      (status = get_count(&out->n_kv_heads, config, "num_key_value_heads", MAX_DIM, out->n_heads,
                          err)) ||
      (status = get_count(&out->d_head, config, "head_dim", MAX_DIM,
                          who->d_head ? who->d_head : out->d_model / out->n_heads, err)) ||
      (status = get_count(&out->n_ctx, config, "max_position_embeddings", MAX_DIM, 2048, err)) ||
      (status = get_positive(&eps, config, "rms_norm_eps", 1e-6, err)) ||
      (status = get_flag(&out->tied, config, "tie_word_embeddings", err)) ||
      (status = get_flag(&bias, config, "attention_bias", err)) ||
      (status = get_flag(&out->mlp_bias, config, "mlp_bias", err)) ||
      (status = get_window(out, who, config, err)) || (status = get_rope(out, config, err)))
    return status;
  out->norm_eps = (float)eps;
  out->qkv_bias = bias || who->qkv_bias;
  out->o_bias = bias && !who->qkv_bias;
  out->qk_norm = who->qk_norm;
  if (out->n_heads % out->n_kv_heads)
    return moon_fail(
        err, MOON_EFORMAT,
        "num_key_value_heads: found %lld, expected a divisor of num_attention_heads %lld",
        (long long)out->n_kv_heads, (long long)out->n_heads);
  if (out->d_head % 2)
    return moon_fail(err, MOON_EFORMAT, "head_dim: found %lld, expected an even number",
                     (long long)out->d_head);
  const json_t *bos = json_object_get(config, "bos_token_id");
  out->bos = -1;
  if (bos && !json_is_null(bos) &&
      (status = get_id(&out->bos, bos, "bos_token_id", out->n_vocab, err)))
    return status;
  return get_eos(out, config, err);
}

static moon_status parse_object(json_t **out, const char *data, size_t size, const char *name,
                                moon_err *err) {
  json_error_t at;
  *out = NULL;
  if (!size)
    return moon_fail(err, MOON_EFORMAT, "%s: empty", name);
  moon_status status = moon_json_load(out, data, size, &at);
  if (status == MOON_ENOMEM)
    return moon_fail(err, status, "%s: no memory to read %zu bytes of JSON", name, size);
  if (status)
    return moon_fail(err, status, "%s: line %d: %s", name, at.line, at.text);
  if (!json_is_object(*out)) {
    json_decref(*out);
    *out = NULL;
    return moon_fail(err, MOON_EFORMAT, "%s: expected a JSON object", name);
  }
  return MOON_OK;
}

moon_status moon_llama_config_parse(moon_llama_config *out, const char *config, size_t config_size,
                                    const char *generation, size_t generation_size, moon_err *err) {
  json_t *object = NULL, *more = NULL;
  memset(out, 0, sizeof *out);
  moon_status status = parse_object(&object, config, config_size, "config.json", err);
  if (status)
    goto done;
  if ((status = get_fields(out, object, err))) {
    moon_fail_in(err, status, "config.json");
    goto done;
  }
  if (!generation)
    goto done;
  if ((status = parse_object(&more, generation, generation_size, "generation_config.json", err)))
    goto done;
  if ((status = get_eos(out, more, err)))
    moon_fail_in(err, status, "generation_config.json");
done:
  json_decref(object);
  json_decref(more);
  return status;
}

/* Not NULL, also where the file is empty. */
static const char *text_of(const moon_bytes *bytes) {
  return moon_bytes_size(bytes) ? (const char *)moon_bytes_data(bytes) : "";
}

moon_status moon_llama_config_load(moon_llama_config *out, const char *folder, moon_err *err) {
  char path[4096];
  moon_bytes *config = NULL, *generation = NULL;
  snprintf(path, sizeof path, "%s/config.json", folder);
  moon_status status = moon_bytes_open(&config, path, err);
  if (status)
    goto done;
  snprintf(path, sizeof path, "%s/generation_config.json", folder);
  status = moon_bytes_open(&generation, path, err);
  if (status && status != MOON_ENOENT)
    goto done;
  status = moon_llama_config_parse(out, text_of(config), moon_bytes_size(config),
                                   generation ? text_of(generation) : NULL,
                                   generation ? moon_bytes_size(generation) : 0, err);
  if (status)
    moon_fail_in(err, status, folder);
  status = moon_bytes_check(config, status, err);
  if (generation)
    status = moon_bytes_check(generation, status, err);
done:
  moon_bytes_release(config);
  moon_bytes_release(generation);
  return status;
}

static double scaled_llama3(const moon_llama_config *c, double frequency) {
  double wavelength = 2 * M_PI / frequency;
  if (wavelength < c->rope_original / c->rope_high)
    return frequency;
  if (wavelength > c->rope_original / c->rope_low)
    return frequency / c->rope_factor;
  double smooth = (c->rope_original / wavelength - c->rope_low) / (c->rope_high - c->rope_low);
  return (1 - smooth) * frequency / c->rope_factor + smooth * frequency;
}

void moon_llama_inverse_frequencies(const moon_llama_config *config, double *out) {
  for (int64_t i = 0; i < config->d_head / 2; i++) {
    double frequency = pow(config->rope_theta, -2.0 * (double)i / (double)config->d_head);
    if (config->rope_scaling == MOON_ROPE_LINEAR)
      frequency /= config->rope_factor;
    else if (config->rope_scaling == MOON_ROPE_LLAMA3)
      frequency = scaled_llama3(config, frequency);
    out[i] = frequency;
  }
}

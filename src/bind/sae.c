// SPDX-License-Identifier: MIT
/* moonscope.Sae and moonscope.Features. */
#include <stdlib.h>
#include <string.h>

#include "bind/llama.h"
#include "bind/tensor.h"

#define SAE      "moonscope.Sae"
#define FEATURES "moonscope.Features"

typedef struct l_sae {
  moon_sae *sae; /* NULL: closed */
} l_sae;

/* Shared with the jobs that decode it; never changed after encode. */
typedef struct shared_features {
  atomic_int refs;
  moon_features *features;
} shared_features;

typedef struct l_features {
  shared_features *shared; /* NULL: closed */
} l_features;

moon_sae *l_sae_check(lua_State *L, int index) {
  l_sae *u = luaL_checkudata(L, index, SAE);
  if (!u->sae)
    luaL_error(L, "sae: closed");
  return u->sae;
}

static shared_features *check_features(lua_State *L, int index) {
  l_features *u = luaL_checkudata(L, index, FEATURES);
  if (!u->shared)
    luaL_error(L, "features: closed");
  return u->shared;
}

static void release_features(shared_features *s) {
  if (!s || atomic_fetch_sub(&s->refs, 1) > 1)
    return;
  moon_features_free(s->features);
  free(s);
}

void l_features_push(lua_State *L, moon_features **features) {
  l_features *u = lua_newuserdatauv(L, sizeof *u, 0);
  u->shared = NULL;
  luaL_setmetatable(L, FEATURES);
  u->shared = calloc(1, sizeof *u->shared);
  if (!u->shared)
    luaL_error(L, "features: not enough memory");
  atomic_store(&u->shared->refs, 1);
  u->shared->features = *features;
  *features = NULL;
}

/* Building */

typedef struct build_task {
  moon_task task;
  moon_sae_parts parts; /* retained */
  moon_device *device;
  moon_dtype dtype;
  moon_sae *sae;
} build_task;

static moon_status run_build(moon_task *task, moon_progress *progress, moon_err *err) {
  build_task *t = (build_task *)task;
  (void)progress;
  return moon_sae_new(&t->sae, &t->parts, t->device, t->dtype, err);
}

static int push_build(lua_State *L, moon_task *task) {
  build_task *t = (build_task *)task;
  l_sae *u = lua_newuserdatauv(L, sizeof *u, 1);
  u->sae = NULL;
  luaL_setmetatable(L, SAE);
  u->sae = t->sae;
  t->sae = NULL;
  return 1;
}

static void drop_build(moon_task *task) {
  build_task *t = (build_task *)task;
  moon_tensor_release(&t->parts.w_enc);
  moon_tensor_release(&t->parts.b_enc);
  moon_tensor_release(&t->parts.w_dec);
  moon_tensor_release(&t->parts.b_dec);
  moon_tensor_release(&t->parts.threshold);
  moon_tensor_release(&t->parts.gate_bias);
  moon_tensor_release(&t->parts.mag_bias);
  moon_tensor_release(&t->parts.r_mag);
  moon_tensor_release(&t->parts.skip);
  moon_sae_release(t->sae);
}

static void take_part(lua_State *L, moon_tensor *out, const char *name, bool needed) {
  if (lua_getfield(L, 1, name) == LUA_TNIL && needed)
    luaL_error(L, "sae: %s is missing", name);
  if (!lua_isnil(L, -1))
    *out = moon_tensor_retain(l_tensor_check(L, -1));
  lua_pop(L, 1);
}

static void take_parts(lua_State *L, moon_sae_parts *parts) {
  take_part(L, &parts->w_enc, "w_enc", true);
  take_part(L, &parts->b_enc, "b_enc", false);
  take_part(L, &parts->w_dec, "w_dec", true);
  take_part(L, &parts->b_dec, "b_dec", true);
  take_part(L, &parts->threshold, "threshold", false);
  take_part(L, &parts->gate_bias, "gate_bias", false);
  take_part(L, &parts->mag_bias, "mag_bias", false);
  take_part(L, &parts->r_mag, "r_mag", false);
  take_part(L, &parts->skip, "skip", false);
}

/* The field `name` of the table at 1: the number of one of `names`, the first where it is nil. */
static int take_option(lua_State *L, const char *name, const char *const *names) {
  lua_getfield(L, 1, name);
  int option = luaL_checkoption(L, -1, names[0], names);
  lua_pop(L, 1);
  return option;
}

static double take_number(lua_State *L, const char *name) {
  lua_getfield(L, 1, name);
  double number = luaL_optnumber(L, -1, 0);
  lua_pop(L, 1);
  return number;
}

static const char *const activations[] = {"relu", "topk", "jumprelu", "gated", "gelu", NULL};
static const char *const norms[] = {"none", "feature", "gate", NULL};
static const char *const normalisations[] = {"none", "constant_norm_rescale", "layer_norm", NULL};

/* core.sae{w_enc=, b_enc=, w_dec=, b_dec=, threshold=, gate_bias=, mag_bias=, r_mag=, skip=,
 * activation=, k=, subtract_b_dec=, input_scale=, output_scale=, decoder_norm=, normalisation=,
 * device=, dtype=} -> job -> Sae */
static int new_sae(lua_State *L) {
  static const l_job_kind kind = {"sae",      sizeof(build_task), run_build,
                                  push_build, drop_build,         .soft = true};
  luaL_checktype(L, 1, LUA_TTABLE);
  build_task *t = l_job_new(L, &kind);
  moon_err err;
  take_parts(L, &t->parts);
  t->parts.kind = (moon_activation_kind)take_option(L, "activation", activations);
  t->parts.decoder_norm = (moon_decoder_norm)take_option(L, "decoder_norm", norms);
  t->parts.normalisation = (moon_normalisation)take_option(L, "normalisation", normalisations);
  t->parts.input_scale = take_number(L, "input_scale");
  t->parts.output_scale = take_number(L, "output_scale");
  lua_getfield(L, 1, "k");
  lua_getfield(L, 1, "subtract_b_dec");
  lua_getfield(L, 1, "device");
  lua_getfield(L, 1, "dtype");
  t->parts.k = luaL_optinteger(L, -4, 0);
  t->parts.subtract_b_dec = lua_toboolean(L, -3);
  const char *dtype = luaL_optstring(L, -1, moon_dtype_name(t->parts.w_enc.dtype));
  if (!moon_dtype_from_name(&t->dtype, dtype))
    return luaL_error(L, "sae: unknown dtype %s", dtype);
  if (moon_device_find(&t->device, luaL_optstring(L, -2, "cpu"), &err))
    return l_throw(L, &err);
  lua_pop(L, 4);
  return l_job_start(L, t);
}

static int sae_info(lua_State *L) {
  const moon_sae *s = l_sae_check(L, 1);
  lua_newtable(L);
  lua_pushinteger(L, s->d_model);
  lua_setfield(L, -2, "d_model");
  lua_pushinteger(L, s->d_sae);
  lua_setfield(L, -2, "d_sae");
  if (s->activation.kind == MOON_ACTIVATION_TOPK) {
    lua_pushinteger(L, s->activation.k);
    lua_setfield(L, -2, "k");
  }
  lua_pushboolean(L, s->centre.storage != NULL);
  lua_setfield(L, -2, "subtract_b_dec");
  return 1;
}

static int sae_device(lua_State *L) {
  lua_pushstring(L, l_sae_check(L, 1)->device->name);
  return 1;
}

static int sae_dtype(lua_State *L) {
  lua_pushstring(L, moon_dtype_name(l_sae_check(L, 1)->dtype));
  return 1;
}

static int sae_close(lua_State *L) {
  l_sae *u = luaL_checkudata(L, 1, SAE);
  moon_sae_release(u->sae);
  u->sae = NULL;
  return 0;
}

static int sae_tostring(lua_State *L) {
  const l_sae *u = luaL_checkudata(L, 1, SAE);
  if (!u->sae)
    lua_pushliteral(L, SAE " (closed)");
  else
    lua_pushfstring(L, SAE " %d features over d_model %d, %s, %s, %s", (int)u->sae->d_sae,
                    (int)u->sae->d_model, activations[u->sae->activation.kind],
                    moon_dtype_name(u->sae->dtype), u->sae->device->name);
  return 1;
}

/* Encode, decode, direction: one task for all three */

typedef struct sae_task {
  moon_task task;
  moon_sae *sae;
  moon_tensor tensor; /* encode: x; decode, direction, dense: the result */
  moon_arithmetic arithmetic;
  int64_t feature;
  moon_features *encoded;
  shared_features *features;
} sae_task;

static void drop_sae_task(moon_task *task) {
  sae_task *t = (sae_task *)task;
  moon_sae_release(t->sae);
  moon_tensor_release(&t->tensor);
  moon_features_free(t->encoded);
  release_features(t->features);
}

static int push_tensor(lua_State *L, moon_task *task) {
  l_tensor_push(L, &((sae_task *)task)->tensor);
  return 1;
}

static int push_encoded(lua_State *L, moon_task *task) {
  l_features_push(L, &((sae_task *)task)->encoded);
  return 1;
}

static moon_status run_encode(moon_task *task, moon_progress *progress, moon_err *err) {
  sae_task *t = (sae_task *)task;
  moon_tensor x = {0};
  if (moon_tensor_device(&t->tensor) != t->sae->device)
    return moon_fail(err, MOON_EDEVICE, "encode: x is on %s, the SAE on %s",
                     moon_tensor_device(&t->tensor)->name, t->sae->device->name);
  moon_status status = moon_tensor_to(&x, &t->tensor, t->sae->device, MOON_F32, err);
  if (status == MOON_OK) {
    atomic_store(&progress->total, x.rank ? x.shape[0] : 0);
    atomic_store(&progress->unit, "tokens");
    status = moon_features_encode(&t->encoded, t->sae, &x, t->arithmetic, progress, err);
  }
  moon_tensor_release(&x);
  return status;
}

/* sae:_encode(x, exact) -> job -> Features */
static int sae_encode(lua_State *L) {
  static const l_job_kind kind = {"encode",     sizeof(sae_task), run_encode,
                                  push_encoded, drop_sae_task,    .soft = true};
  moon_sae *sae = l_sae_check(L, 1);
  moon_tensor *x = l_tensor_check(L, 2);
  sae_task *t = l_job_new(L, &kind);
  t->sae = moon_sae_retain(sae);
  t->tensor = moon_tensor_retain(x);
  t->arithmetic = lua_toboolean(L, 3) ? MOON_ARITHMETIC_F32 : MOON_ARITHMETIC_BF16;
  return l_job_start(L, t);
}

static moon_status run_decode(moon_task *task, moon_progress *progress, moon_err *err) {
  sae_task *t = (sae_task *)task;
  (void)progress;
  return moon_features_decode(&t->tensor, t->sae, t->features->features, err);
}

/* sae:_decode(features) -> job -> [n_tok][d_model] */
static int sae_decode(lua_State *L) {
  static const l_job_kind kind = {"decode",    sizeof(sae_task), run_decode,
                                  push_tensor, drop_sae_task,    .soft = true};
  moon_sae *sae = l_sae_check(L, 1);
  shared_features *features = check_features(L, 2);
  sae_task *t = l_job_new(L, &kind);
  t->sae = moon_sae_retain(sae);
  t->features = features;
  atomic_fetch_add(&features->refs, 1);
  return l_job_start(L, t);
}

static moon_status run_direction(moon_task *task, moon_progress *progress, moon_err *err) {
  sae_task *t = (sae_task *)task;
  moon_tensor row = {0};
  (void)progress;
  moon_status status = moon_tensor_select(&row, &t->sae->w_dec, 0, t->feature, err);
  if (status == MOON_OK)
    status = moon_tensor_new(&t->tensor, t->sae->device, MOON_F32, row.shape, 1, err);
  if (status == MOON_OK)
    status = moon_op_copy(&t->tensor, &row, err);
  moon_tensor_release(&row);
  return status;
}

/* sae:_direction(feature) -> job -> [d_model] f32 */
static int sae_direction(lua_State *L) {
  static const l_job_kind kind = {"direction",   sizeof(sae_task), run_direction, push_tensor,
                                  drop_sae_task, .soft = true,     .quick = true};
  moon_sae *sae = l_sae_check(L, 1);
  lua_Integer feature = luaL_checkinteger(L, 2);
  if (feature < 0 || feature >= sae->d_sae)
    return luaL_error(L, "direction: feature %I: expected 0 to %I", (LUAI_UACINT)feature,
                      (LUAI_UACINT)(sae->d_sae - 1));
  sae_task *t = l_job_new(L, &kind);
  t->sae = moon_sae_retain(sae);
  t->feature = feature;
  return l_job_start(L, t);
}

/* sae:_part(name) -> Tensor: a canonical part (sae/sae.h), the SAE's own, so for reading only; nil
 * where it has none */
static int sae_part(lua_State *L) {
  static const char *const names[] = {"w_enc", "w_dec",     "b_enc", "b_dec",  "centre",
                                      "skip",  "threshold", "gain",  "offset", NULL};
  const moon_sae *s = l_sae_check(L, 1);
  const moon_activation *a = &s->activation;
  const moon_tensor *parts[] = {&s->w_enc, &s->w_dec,     &s->b_enc, &s->b_dec, &s->centre,
                                &s->skip,  &a->threshold, &a->gain,  &a->offset};
  const moon_tensor *part = parts[luaL_checkoption(L, 2, NULL, names)];
  if (part->storage)
    *l_tensor_new(L) = moon_tensor_retain(part);
  else
    lua_pushnil(L);
  return 1;
}

/* Features */

static moon_status run_dense(moon_task *task, moon_progress *progress, moon_err *err) {
  sae_task *t = (sae_task *)task;
  (void)progress;
  return moon_features_dense(&t->tensor, t->features->features, err);
}

/* features:_totensor() -> job -> [n_tok][d_sae] */
static int features_totensor(lua_State *L) {
  static const l_job_kind kind = {"totensor",  sizeof(sae_task), run_dense,
                                  push_tensor, drop_sae_task,    .soft = false};
  shared_features *features = check_features(L, 1);
  sae_task *t = l_job_new(L, &kind);
  t->features = features;
  atomic_fetch_add(&features->refs, 1);
  return l_job_start(L, t);
}

static moon_status run_tally(moon_task *task, moon_progress *progress, moon_err *err) {
  sae_task *t = (sae_task *)task;
  (void)progress;
  return moon_features_tally(&t->tensor, t->features->features, err);
}

/* features:_tally() -> job -> [d_sae] */
static int features_tally(lua_State *L) {
  static const l_job_kind kind = {"tally",     sizeof(sae_task), run_tally,
                                  push_tensor, drop_sae_task,    .soft = true};
  shared_features *features = check_features(L, 1);
  sae_task *t = l_job_new(L, &kind);
  t->features = features;
  atomic_fetch_add(&features->refs, 1);
  return l_job_start(L, t);
}

static int64_t check_row(lua_State *L, const moon_features *f) {
  lua_Integer row = luaL_checkinteger(L, 2);
  if (row < 1 || row > f->rows.n_rows)
    luaL_error(L, "features: row %I: expected 1 to %I", (LUAI_UACINT)row,
               (LUAI_UACINT)f->rows.n_rows);
  return row - 1;
}

static void push_pair(lua_State *L, int32_t index, float activation) {
  lua_createtable(L, 0, 2);
  lua_pushinteger(L, index);
  lua_setfield(L, -2, "index");
  lua_pushnumber(L, (lua_Number)activation);
  lua_setfield(L, -2, "activation");
}

/* features:row(i) -> {{index=, activation=}...} ascending by index */
static int features_row(lua_State *L) {
  const moon_features *f = check_features(L, 1)->features;
  int64_t t = check_row(L, f);
  lua_createtable(L, (int)(f->offsets[t + 1] - f->offsets[t]), 0);
  for (int64_t i = f->offsets[t]; i < f->offsets[t + 1]; i++) {
    push_pair(L, f->indices[i], f->values[i]);
    lua_rawseti(L, -2, i - f->offsets[t] + 1);
  }
  return 1;
}

/* features:count(i): how many fire at row i */
static int features_count(lua_State *L) {
  const moon_features *f = check_features(L, 1)->features;
  int64_t t = check_row(L, f);
  lua_pushinteger(L, f->offsets[t + 1] - f->offsets[t]);
  return 1;
}

static int by_index(const void *key, const void *element) {
  int32_t a = *(const int32_t *)key, b = *(const int32_t *)element;
  return (a > b) - (a < b);
}

/* features:activation(i, feature): 0 where it is silent */
static int features_activation(lua_State *L) {
  const moon_features *f = check_features(L, 1)->features;
  int64_t t = check_row(L, f), n = f->offsets[t + 1] - f->offsets[t];
  lua_Integer feature = luaL_checkinteger(L, 3);
  if (feature < 0 || feature >= f->rows.n_columns)
    return luaL_error(L, "features: feature %I: expected 0 to %I", (LUAI_UACINT)feature,
                      (LUAI_UACINT)(f->rows.n_columns - 1));
  const int32_t key = (int32_t)feature, *row = f->indices + f->offsets[t];
  const int32_t *found = bsearch(&key, row, (size_t)n, sizeof key, by_index);
  lua_pushnumber(L, found ? (lua_Number)f->values[f->offsets[t] + (found - row)] : 0);
  return 1;
}

/* features:l0(): how many fire per row, on average; 0 rows give 0 */
static int features_l0(lua_State *L) {
  const moon_features *f = check_features(L, 1)->features;
  int64_t n = f->rows.n_rows;
  lua_pushnumber(L, n ? (lua_Number)f->offsets[n] / (lua_Number)n : 0);
  return 1;
}

static int features_length(lua_State *L) {
  lua_pushinteger(L, check_features(L, 1)->features->rows.n_rows);
  return 1;
}

static int features_close(lua_State *L) {
  l_features *u = luaL_checkudata(L, 1, FEATURES);
  release_features(u->shared);
  u->shared = NULL;
  return 0;
}

static int features_tostring(lua_State *L) {
  const l_features *u = luaL_checkudata(L, 1, FEATURES);
  if (!u->shared) {
    lua_pushliteral(L, FEATURES " (closed)");
    return 1;
  }
  const moon_features *f = u->shared->features;
  lua_pushfstring(L, FEATURES " %d tokens, %d of %d by %d active", (int)f->rows.n_rows,
                  (int)f->offsets[f->rows.n_rows], (int)f->rows.n_rows, (int)f->rows.n_columns);
  return 1;
}

static const luaL_Reg sae_methods[] = {
    {"_info", sae_info},     {"device", sae_device},  {"dtype", sae_dtype},
    {"_encode", sae_encode}, {"_decode", sae_decode}, {"_direction", sae_direction},
    {"_part", sae_part},     {"close", sae_close},    {NULL, NULL}};
static const luaL_Reg sae_metamethods[] = {
    {"__gc", sae_close}, {"__close", sae_close}, {"__tostring", sae_tostring}, {NULL, NULL}};

static const luaL_Reg features_methods[] = {{"row", features_row},
                                            {"count", features_count},
                                            {"activation", features_activation},
                                            {"l0", features_l0},
                                            {"_totensor", features_totensor},
                                            {"_tally", features_tally},
                                            {"close", features_close},
                                            {NULL, NULL}};
static const luaL_Reg features_metamethods[] = {{"__gc", features_close},
                                                {"__close", features_close},
                                                {"__len", features_length},
                                                {"__tostring", features_tostring},
                                                {NULL, NULL}};

static const luaL_Reg functions[] = {{"sae", new_sae}, {NULL, NULL}};

void l_open_sae(lua_State *L) {
  l_register(L, SAE, sae_methods, sae_metamethods, true);
  l_register(L, FEATURES, features_methods, features_metamethods, false);
  luaL_setfuncs(L, functions, 0);
}

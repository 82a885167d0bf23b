// SPDX-License-Identifier: MIT
/* moonscope.Llama and moonscope.Session, and sampling. */
#include "bind/llama.h"

#include <stdlib.h>
#include <string.h>

#include "llama/head.h"
#include "llama/plan.h"
#include "llama/sampler.h"
#include "tensor/host_memory.h"

#define LLAMA   "moonscope.Llama"
#define SESSION "moonscope.Session"

typedef struct l_llama {
  moon_llama *model; /* NULL: closed */
} l_llama;

typedef struct l_session {
  moon_session *session; /* NULL: closed */
} l_session;

moon_llama *l_llama_check(lua_State *L, int index) {
  l_llama *u = luaL_checkudata(L, index, LLAMA);
  if (!u->model)
    luaL_error(L, "model: closed");
  return u->model;
}

moon_session *l_session_check(lua_State *L, int index) {
  l_session *u = luaL_checkudata(L, index, SESSION);
  if (!u->session)
    luaL_error(L, "session: closed");
  return u->session;
}

/* Loading */

/* What a model is loaded from, or planned with. */
typedef struct model_source {
  char *folder; /* owned */
  moon_device *device;
  moon_precision precision;
  int64_t n_ctx; /* 0: the default */
} model_source;

/* The arguments (folder, device, precision, n_ctx); 0, or what l_fail pushed. */
static int read_source(lua_State *L, model_source *from) {
  static const char *const precisions[] = {"fast", "exact", NULL};
  const char *folder = l_path_check(L, 1);
  moon_err err;
  if (moon_device_find(&from->device, luaL_checkstring(L, 2), &err))
    return l_fail(L, &err);
  from->precision = (moon_precision)luaL_checkoption(L, 3, "fast", precisions);
  from->n_ctx = luaL_checkinteger(L, 4);
  from->folder = strdup(folder);
  return from->folder ? 0 : luaL_error(L, "model: not enough memory");
}

typedef struct load_task {
  moon_task task;
  model_source from;
  moon_llama *model;
} load_task;

static moon_status run_load(moon_task *task, moon_progress *progress, moon_err *err) {
  load_task *t = (load_task *)task;
  const model_source *from = &t->from;
  (void)progress;
  return moon_llama_load(&t->model, from->folder, from->device, from->precision, from->n_ctx, err);
}

static int push_load(lua_State *L, moon_task *task) {
  load_task *t = (load_task *)task;
  l_llama *u = lua_newuserdatauv(L, sizeof *u, 1);
  u->model = NULL;
  luaL_setmetatable(L, LLAMA);
  u->model = t->model;
  t->model = NULL;
  return 1;
}

static void drop_load(moon_task *task) {
  load_task *t = (load_task *)task;
  moon_llama_release(t->model);
  free(t->from.folder);
}

/* core.load_llama(folder, device, precision, n_ctx) -> job -> Llama; n_ctx 0: the default */
static int load_llama(lua_State *L) {
  static const l_job_kind kind = {"load_model", sizeof(load_task), run_load,
                                  push_load,    drop_load,         .soft = true};
  load_task *t = l_job_new(L, &kind);
  int failed = read_source(L, &t->from);
  return failed ? failed : l_job_start(L, t);
}

static void set_integer(lua_State *L, const char *key, int64_t value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, key);
}

static void set_number(lua_State *L, const char *key, double value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, key);
}

static void set_flag(lua_State *L, const char *key, bool value) {
  lua_pushboolean(L, value);
  lua_setfield(L, -2, key);
}

/* What the model is made of, dimensions under the names that they have everywhere here. */
static void push_config(lua_State *L, const moon_llama_config *c) {
  lua_newtable(L);
  set_integer(L, "n_vocab", c->n_vocab);
  set_integer(L, "d_model", c->d_model);
  set_integer(L, "d_ff", c->d_ff);
  set_integer(L, "n_layers", c->n_layers);
  set_integer(L, "n_heads", c->n_heads);
  set_integer(L, "n_kv_heads", c->n_kv_heads);
  set_integer(L, "d_head", c->d_head);
  set_integer(L, "n_ctx", c->n_ctx);
  set_number(L, "norm_eps", c->norm_eps);
  set_number(L, "rope_theta", c->rope_theta);
  set_flag(L, "tied", c->tied);
  if (c->window > 0)
    set_integer(L, "window", c->window);
  if (c->bos >= 0)
    set_integer(L, "bos", c->bos);
  lua_createtable(L, c->n_eos, 0);
  for (int i = 0; i < c->n_eos; i++) {
    lua_pushinteger(L, c->eos[i]);
    lua_rawseti(L, -2, i + 1);
  }
  lua_setfield(L, -2, "eos");
}

static int llama_config(lua_State *L) {
  push_config(L, &l_llama_check(L, 1)->config);
  return 1;
}

typedef struct memory_task {
  moon_task task;
  moon_device *device;
  size_t free_bytes, total;
} memory_task;

static moon_status run_memory(moon_task *task, moon_progress *progress, moon_err *err) {
  memory_task *t = (memory_task *)task;
  (void)progress;
  return moon_op_memory(t->device, &t->free_bytes, &t->total, err);
}

static int push_memory(lua_State *L, moon_task *task) {
  const memory_task *t = (const memory_task *)task;
  lua_pushinteger(L, (lua_Integer)t->free_bytes);
  lua_pushinteger(L, (lua_Integer)t->total);
  return 2;
}

static void drop_memory(moon_task *task) {
  (void)task;
}

/* core.memory(device) -> job -> free bytes, all bytes */
static int memory(lua_State *L) {
  static const l_job_kind kind = {"memory",    sizeof(memory_task), run_memory,
                                  push_memory, drop_memory,         .soft = true};
  const char *device = luaL_checkstring(L, 1);
  memory_task *t = l_job_new(L, &kind);
  moon_err err;
  if (moon_device_find(&t->device, device, &err))
    return l_fail(L, &err);
  return l_job_start(L, t);
}

/* core.host_memory() -> free bytes, all bytes: what the machine or the control group leaves the
 * process; no job, since it only reads what the kernel tells in files */
static int host_memory(lua_State *L) {
  size_t free_bytes, total;
  moon_err err;
  if (moon_host_memory("", &free_bytes, &total, &err))
    return l_fail(L, &err);
  lua_pushinteger(L, (lua_Integer)free_bytes);
  lua_pushinteger(L, (lua_Integer)total);
  return 2;
}

typedef struct plan_task {
  moon_task task;
  model_source from;
  moon_llama_plan plan;
  size_t free_bytes, total;
} plan_task;

static moon_status run_plan(moon_task *task, moon_progress *progress, moon_err *err) {
  plan_task *t = (plan_task *)task;
  const model_source *from = &t->from;
  (void)progress;
  moon_status status = moon_op_memory(from->device, &t->free_bytes, &t->total, err);
  if (status)
    return status;
  return moon_llama_plan_make(&t->plan, from->folder, from->device, from->precision, from->n_ctx,
                              err);
}

static int push_plan(lua_State *L, moon_task *task) {
  const plan_task *t = (const plan_task *)task;
  const moon_llama_plan *p = &t->plan;
  push_config(L, &p->config);
  set_integer(L, "context", p->n_ctx);
  set_integer(L, "parameters", p->n_parameters);
  set_integer(L, "weights_bytes", (int64_t)p->weights_bytes);
  set_integer(L, "mapped_bytes", (int64_t)p->mapped_bytes);
  set_integer(L, "token_bytes", (int64_t)p->token_bytes);
  set_integer(L, "context_bytes", (int64_t)p->context_bytes);
  set_integer(L, "allocated_bytes", (int64_t)p->allocated_bytes);
  set_integer(L, "free_bytes", (int64_t)t->free_bytes);
  set_integer(L, "total_bytes", (int64_t)t->total);
  lua_pushstring(L, moon_dtype_name(p->dtype));
  lua_setfield(L, -2, "dtype");
  lua_pushstring(L, moon_dtype_name(p->kv_dtype));
  lua_setfield(L, -2, "kv_dtype");
  lua_pushstring(L, t->from.device->name);
  lua_setfield(L, -2, "device");
  return 1;
}

static void drop_plan(moon_task *task) {
  free(((plan_task *)task)->from.folder);
}

/* core.plan_llama(folder, device, precision, n_ctx) -> job -> table: the config and what the model
 * takes of the device's memory, in bytes; nothing is loaded */
static int plan_llama(lua_State *L) {
  static const l_job_kind kind = {"plan_model", sizeof(plan_task), run_plan,
                                  push_plan,    drop_plan,         .soft = true};
  plan_task *t = l_job_new(L, &kind);
  int failed = read_source(L, &t->from);
  return failed ? failed : l_job_start(L, t);
}

static int llama_device(lua_State *L) {
  lua_pushstring(L, l_llama_check(L, 1)->device->name);
  return 1;
}

static int llama_dtype(lua_State *L) {
  lua_pushstring(L, moon_dtype_name(l_llama_check(L, 1)->dtype));
  return 1;
}

static int llama_precision(lua_State *L) {
  lua_pushstring(L, l_llama_check(L, 1)->precision == MOON_EXACT ? "exact" : "fast");
  return 1;
}

static int llama_context(lua_State *L) {
  lua_pushinteger(L, l_llama_check(L, 1)->n_ctx);
  return 1;
}

typedef struct unembed_task {
  moon_task task;
  moon_llama *model;
  moon_tensor x, logits;
} unembed_task;

static moon_status run_unembed(moon_task *task, moon_progress *progress, moon_err *err) {
  unembed_task *t = (unembed_task *)task;
  (void)progress;
  return moon_llama_unembed(t->model, &t->x, &t->logits, err);
}

static int push_unembed(lua_State *L, moon_task *task) {
  l_tensor_push(L, &((unembed_task *)task)->logits);
  return 1;
}

static void drop_unembed(moon_task *task) {
  unembed_task *t = (unembed_task *)task;
  moon_tensor_release(&t->x);
  moon_tensor_release(&t->logits);
  moon_llama_release(t->model);
}

/* model:_unembed(x) -> job -> [n][n_vocab] f32 */
static int llama_unembed(lua_State *L) {
  static const l_job_kind kind = {"unembed",    sizeof(unembed_task), run_unembed,
                                  push_unembed, drop_unembed,         .soft = true};
  moon_llama *model = l_llama_check(L, 1);
  moon_tensor *x = l_tensor_check(L, 2);
  unembed_task *t = l_job_new(L, &kind);
  t->model = moon_llama_retain(model);
  t->x = moon_tensor_retain(x);
  return l_job_start(L, t);
}

static int llama_close(lua_State *L) {
  l_llama *u = luaL_checkudata(L, 1, LLAMA);
  moon_llama_release(u->model);
  u->model = NULL;
  return 0;
}

static int llama_tostring(lua_State *L) {
  const l_llama *u = luaL_checkudata(L, 1, LLAMA);
  if (!u->model)
    lua_pushliteral(L, LLAMA " (closed)");
  else
    lua_pushfstring(L, LLAMA " %d layers, d_model %d, %s, %s", (int)u->model->config.n_layers,
                    (int)u->model->config.d_model, moon_dtype_name(u->model->dtype),
                    u->model->device->name);
  return 1;
}

/* Sessions */

static int llama_session(lua_State *L) {
  moon_llama *model = l_llama_check(L, 1);
  l_session *u = lua_newuserdatauv(L, sizeof *u, 1);
  u->session = NULL;
  luaL_setmetatable(L, SESSION);
  moon_err err;
  moon_status status = moon_session_new(&u->session, model, &err);
  if (status == MOON_ENOMEM) { /* the collector sees none of a device's memory: one chance */
    lua_gc(L, LUA_GCCOLLECT);
    status = moon_session_new(&u->session, model, &err);
  }
  return status ? l_throw(L, &err) : 1;
}

static int session_length(lua_State *L) {
  lua_pushinteger(L, l_session_check(L, 1)->n_tok);
  return 1;
}

static int session_context(lua_State *L) {
  lua_pushinteger(L, l_session_check(L, 1)->model->n_ctx);
  return 1;
}

static int session_rewind(lua_State *L) {
  moon_err err;
  if (moon_session_rewind(l_session_check(L, 1), luaL_checkinteger(L, 2), &err))
    return l_throw(L, &err);
  lua_settop(L, 1);
  return 1;
}

static int session_close(lua_State *L) {
  l_session *u = luaL_checkudata(L, 1, SESSION);
  moon_session_release(u->session);
  u->session = NULL;
  return 0;
}

static int session_tostring(lua_State *L) {
  const l_session *u = luaL_checkudata(L, 1, SESSION);
  if (!u->session)
    lua_pushliteral(L, SESSION " (closed)");
  else
    lua_pushfstring(L, SESSION " %d of %d tokens", (int)u->session->n_tok,
                    (int)u->session->model->n_ctx);
  return 1;
}

/* Sampling */

typedef struct sample_task {
  moon_task task;
  moon_sampler sampler;
  moon_tensor logits;
  int32_t id;
} sample_task;

static moon_status run_sample(moon_task *task, moon_progress *progress, moon_err *err) {
  sample_task *t = (sample_task *)task;
  (void)progress;
  return moon_sampler_next(&t->sampler, &t->logits, &t->id, err);
}

/* id, and the generator's state for the next draw */
static int push_sample(lua_State *L, moon_task *task) {
  const sample_task *t = (const sample_task *)task;
  lua_pushinteger(L, t->id);
  lua_pushinteger(L, (lua_Integer)t->sampler.state);
  return 2;
}

static void drop_sample(moon_task *task) {
  moon_tensor_release(&((sample_task *)task)->logits);
}

static lua_Number number_field(lua_State *L, int index, const char *key, lua_Number otherwise) {
  lua_getfield(L, index, key);
  if (!lua_isnil(L, -1) && !lua_isnumber(L, -1))
    luaL_error(L, "%s: found %s, expected a number", key, luaL_typename(L, -1));
  lua_Number value = luaL_optnumber(L, -1, otherwise);
  lua_pop(L, 1);
  return value;
}

static int64_t integer_field(lua_State *L, int index, const char *key) {
  int whole = 1;
  lua_getfield(L, index, key);
  lua_Integer value = lua_isnil(L, -1) ? 0 : lua_tointegerx(L, -1, &whole);
  if (!whole)
    luaL_error(L, "%s: found %s, expected a whole number", key, luaL_tolstring(L, -1, NULL));
  lua_pop(L, 1);
  return value;
}

/* core.sample(logits, {temperature=, top_k=, top_p=, min_p=}, state) -> job -> id, state */
static int sample(lua_State *L) {
  static const l_job_kind kind = {"sample",    sizeof(sample_task), run_sample,
                                  push_sample, drop_sample,         .quick = true};
  moon_tensor *logits = l_tensor_check(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  luaL_argcheck(L, logits->dtype == MOON_F32 && moon_tensor_count(logits) > 0, 1,
                "f32 logits of one position expected");
  sample_task *t = l_job_new(L, &kind);
  t->sampler = (moon_sampler){.temperature = (float)number_field(L, 2, "temperature", 0),
                              .top_k = integer_field(L, 2, "top_k"),
                              .top_p = (float)number_field(L, 2, "top_p", 1),
                              .min_p = (float)number_field(L, 2, "min_p", 0),
                              .state = (uint64_t)luaL_checkinteger(L, 3)};
  moon_err err;
  if (moon_sampler_check(&t->sampler, &err))
    return l_throw(L, &err);
  t->logits = moon_tensor_retain(logits);
  return l_job_start(L, t);
}

static const luaL_Reg llama_methods[] = {
    {"_config", llama_config},   {"_session", llama_session},    {"device", llama_device},
    {"dtype", llama_dtype},      {"precision", llama_precision}, {"context", llama_context},
    {"_unembed", llama_unembed}, {"close", llama_close},         {NULL, NULL}};
static const luaL_Reg llama_metamethods[] = {
    {"__gc", llama_close}, {"__close", llama_close}, {"__tostring", llama_tostring}, {NULL, NULL}};

static const luaL_Reg session_methods[] = {{"length", session_length},
                                           {"context", session_context},
                                           {"rewind", session_rewind},
                                           {"close", session_close},
                                           {NULL, NULL}};
static const luaL_Reg session_metamethods[] = {{"__gc", session_close},
                                               {"__close", session_close},
                                               {"__len", session_length},
                                               {"__tostring", session_tostring},
                                               {NULL, NULL}};

static const luaL_Reg functions[] = {{"load_llama", load_llama}, {"plan_llama", plan_llama},
                                     {"memory", memory},         {"host_memory", host_memory},
                                     {"sample", sample},         {NULL, NULL}};

void l_open_llama(lua_State *L) {
  l_register(L, LLAMA, llama_methods, llama_metamethods, true);
  l_register(L, SESSION, session_methods, session_metamethods, true);
  luaL_setfuncs(L, functions, 0);
  l_open_pass(L);
}

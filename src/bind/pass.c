// SPDX-License-Identifier: MIT
/*
 * moonscope.Pass: one forward pass under way. A run is one job, edits on its way included; a Lua
 * hook splits it: run to the hook's layer, encode, decide in Lua, add the edit, run on.
 */
#include <stdlib.h>
#include <string.h>

#include "bind/llama.h"
#include "sae/edit.h"

#define PASS "moonscope.Pass"

typedef struct group {
  struct group *next;
  int64_t depth;  /* layers that have run when it acts */
  moon_edit edit; /* its arrays are owned here */
} group;

/* Shared by the userdata and its jobs; Lua keeps off while jobs are queued or running (`busy`). */
typedef struct shared_pass {
  atomic_int refs, busy;
  moon_pass *pass;
  group *groups; /* not applied yet, in order */
  char **paths;  /* [pass->n_captures] as asked for */
} shared_pass;

typedef struct l_pass {
  shared_pass *shared; /* NULL: closed */
} l_pass;

static void free_group(group *g) {
  moon_sae_release(g->edit.sae);
  free((void *)g->edit.features);
  free((void *)g->edit.steps);
  free((void *)g->edit.mask);
  free(g);
}

static void release(shared_pass *s) {
  if (!s || atomic_fetch_sub(&s->refs, 1) > 1)
    return;
  while (s->groups) {
    group *next = s->groups->next;
    free_group(s->groups);
    s->groups = next;
  }
  for (int i = 0; s->paths && i < s->pass->n_captures; i++)
    free(s->paths[i]);
  free(s->paths);
  moon_pass_free(s->pass);
  free(s);
}

static shared_pass *check_idle(lua_State *L) {
  l_pass *u = luaL_checkudata(L, 1, PASS);
  if (!u->shared)
    luaL_error(L, "pass: closed");
  if (atomic_load(&u->shared->busy))
    luaL_error(L, "pass: a job is still running on it");
  return u->shared;
}

/* Making one */

static void *scratch(lua_State *L, size_t size) {
  return lua_newuserdatauv(L, size + 1, 0); /* collected by Lua, whatever throws */
}

/* sessions, ids at 1 and 2: two lists of equal length; the ids of all of them in one array. */
static int32_t *read_ids(lua_State *L, moon_span *spans, int64_t n_spans) {
  int64_t total = 0;
  for (int64_t i = 0; i < n_spans; i++) {
    lua_rawgeti(L, 1, i + 1);
    spans[i].session = l_session_check(L, -1);
    lua_pop(L, 1);
    if (lua_rawgeti(L, 2, i + 1) != LUA_TTABLE)
      luaL_error(L, "forward: expected a list of token ids for session %d", (int)i + 1);
    total += spans[i].n_rows = (int64_t)lua_rawlen(L, -1);
    lua_pop(L, 1);
  }
  int32_t *ids = scratch(L, (size_t)total * sizeof *ids);
  int64_t at = 0;
  for (int64_t i = 0; i < n_spans; i++) {
    lua_rawgeti(L, 2, i + 1);
    for (int64_t j = 1; j <= spans[i].n_rows; j++, lua_pop(L, 1)) {
      int whole;
      lua_rawgeti(L, -1, j);
      lua_Integer id = lua_tointegerx(L, -1, &whole);
      if (!whole || lua_type(L, -1) != LUA_TNUMBER)
        luaL_error(L, "token id at position %d: found %s, expected a whole number", (int)j,
                   luaL_tolstring(L, -1, NULL));
      ids[at++] = id < 0 || id > INT32_MAX ? -1 : (int32_t)id;
      if (ids[at - 1] < 0)
        luaL_error(L, "token id %I at position %d: expected 0 to %I", (LUAI_UACINT)id, (int)j,
                   (LUAI_UACINT)(spans[i].session->model->config.n_vocab - 1));
    }
    lua_pop(L, 1);
  }
  return ids;
}

/* Module paths at index 4. */
static moon_capture *read_captures(lua_State *L, const moon_llama_config *config, int *n) {
  luaL_checktype(L, 4, LUA_TTABLE);
  *n = (int)lua_rawlen(L, 4);
  moon_capture *captures = scratch(L, (size_t)*n * sizeof *captures);
  for (int i = 0; i < *n; i++) {
    moon_err err;
    if (lua_rawgeti(L, 4, i + 1) != LUA_TSTRING)
      luaL_error(L, "capture: found %s, expected a module path such as model.layers.0",
                 luaL_typename(L, -1));
    if (moon_capture_parse(&captures[i], lua_tostring(L, -1), config, &err))
      l_throw(L, &err);
    lua_pop(L, 1);
  }
  return captures;
}

static void keep_paths(lua_State *L, shared_pass *s) {
  s->paths = calloc((size_t)s->pass->n_captures + 1, sizeof *s->paths);
  for (int i = 0; s->paths && i < s->pass->n_captures; i++) {
    lua_rawgeti(L, 4, i + 1);
    s->paths[i] = strdup(lua_tostring(L, -1));
    lua_pop(L, 1);
    if (!s->paths[i])
      luaL_error(L, "forward: not enough memory");
  }
  if (!s->paths)
    luaL_error(L, "forward: not enough memory");
}

/* core.pass({session...}, {ids...}, "prefill" | "decode", {path...}) -> Pass */
static int new_pass(lua_State *L) {
  static const char *const kinds[] = {"prefill", "decode", NULL};
  luaL_checktype(L, 1, LUA_TTABLE);
  luaL_checktype(L, 2, LUA_TTABLE);
  bool decode = luaL_checkoption(L, 3, NULL, kinds) == 1;
  int64_t n_spans = (int64_t)lua_rawlen(L, 1);
  luaL_argcheck(L, n_spans > 0 && n_spans == (int64_t)lua_rawlen(L, 2), 2,
                "one list of ids per session expected");
  moon_span *spans = scratch(L, (size_t)n_spans * sizeof *spans);
  const int32_t *ids = read_ids(L, spans, n_spans);
  const moon_llama *model = spans[0].session->model;
  int n_captures;
  const moon_capture *captures = read_captures(L, &model->config, &n_captures);
  l_pass *u = lua_newuserdatauv(L, sizeof *u, 0);
  u->shared = NULL;
  luaL_setmetatable(L, PASS);
  u->shared = calloc(1, sizeof *u->shared);
  if (!u->shared)
    return luaL_error(L, "forward: not enough memory");
  atomic_store(&u->shared->refs, 1);
  moon_err err;
  if (moon_pass_new(
          &u->shared->pass, spans, n_spans, ids,
          decode || model->precision == MOON_EXACT ? MOON_ARITHMETIC_F32 : MOON_ARITHMETIC_BF16,
          captures, n_captures, &err))
    return l_throw(L, &err);
  keep_paths(L, u->shared);
  return 1;
}

/* Edits */

static void *new_list(lua_State *L, int64_t n, size_t size) {
  void *list = calloc((size_t)n + 1, size);
  if (!list)
    luaL_error(L, "edit: not enough memory");
  return list;
}

static void read_steps(lua_State *L, int index, moon_edit_step *steps, int n, int64_t n_features) {
  static const char *const ops[] = {"add", "set", "scale", NULL};
  for (int i = 0; i < n; i++) {
    lua_rawgeti(L, index, i + 1);
    lua_getfield(L, -1, "slot");
    lua_getfield(L, -2, "op");
    lua_getfield(L, -3, "value");
    lua_Integer slot = luaL_checkinteger(L, -3);
    if (slot < 1 || slot > n_features)
      luaL_error(L, "edit: slot %d of %d", (int)slot, (int)n_features);
    steps[i].slot = (int32_t)slot - 1;
    steps[i].op = luaL_checkoption(L, -2, NULL, ops);
    steps[i].value = (float)luaL_checknumber(L, -1);
    lua_pop(L, 4);
  }
}

static void append(shared_pass *s, group *g) {
  group **end = &s->groups;
  while (*end)
    end = &(*end)->next;
  *end = g;
}

/* The number at index of one of the pass's captures, from 1; nil: 0. */
static int read_capture(lua_State *L, int index, const shared_pass *s) {
  lua_Integer number = luaL_optinteger(L, index, 0);
  luaL_argcheck(L, number >= 0 && number <= s->pass->n_captures, index, "no such capture");
  return (int)number;
}

/* pass:add_edit(depth, sae, {feature...}, {{slot=, op=, value=}...}, mask, keep_error, reads): acts
 * when `depth` layers have run. mask: a string of rows * steps bytes 0 or 1. reads: the capture
 * that is encoded instead of the stream. */
static int pass_add_edit(lua_State *L) {
  shared_pass *s = check_idle(L);
  int64_t depth = luaL_checkinteger(L, 2);
  moon_sae *sae = l_sae_check(L, 3);
  luaL_checktype(L, 4, LUA_TTABLE);
  luaL_checktype(L, 5, LUA_TTABLE);
  size_t mask_size;
  int reads = read_capture(L, 8, s);
  const char *mask = luaL_checklstring(L, 6, &mask_size);
  int64_t n_features = (int64_t)lua_rawlen(L, 4);
  int n_steps = (int)lua_rawlen(L, 5);
  luaL_argcheck(L, depth >= s->pass->layer && depth <= s->pass->model->config.n_layers, 2,
                "a layer that is still to come expected");
  luaL_argcheck(L, mask_size == (size_t)(s->pass->n_rows * n_steps), 6,
                "a byte per row and step expected");
  group *g = calloc(1, sizeof *g);
  if (!g)
    return luaL_error(L, "edit: not enough memory");
  append(s, g); /* owned by the pass before anything can throw */
  g->depth = depth;
  g->edit = (moon_edit){.sae = moon_sae_retain(sae),
                        .n_features = n_features,
                        .n_steps = n_steps,
                        .keep_error = lua_toboolean(L, 7),
                        .reads = reads};
  int32_t *features = new_list(L, n_features, sizeof *features);
  g->edit.features = features;
  for (int64_t i = 0; i < n_features; i++, lua_pop(L, 1)) {
    lua_rawgeti(L, 4, i + 1);
    lua_Integer feature = luaL_checkinteger(L, -1);
    features[i] = feature < 0 || feature > INT32_MAX ? -1 : (int32_t)feature;
  }
  moon_edit_step *steps = new_list(L, n_steps, sizeof *steps);
  g->edit.steps = steps;
  read_steps(L, 5, steps, n_steps, n_features);
  uint8_t *bytes = new_list(L, (int64_t)mask_size, 1);
  g->edit.mask = bytes;
  for (size_t i = 0; i < mask_size; i++)
    bytes[i] = mask[i] != 0;
  return 0;
}

/* Jobs */

typedef struct pass_task {
  moon_task task;
  shared_pass *shared;
  int64_t to;
  bool finish; /* after the last layer come logits; the sessions keep the tokens */
  moon_logits which;
  moon_tensor logits;
  bool counted;  /* in shared->busy */
  moon_sae *sae; /* encode */
  int reads;     /* encode: a capture, from 1; 0: the stream */
  moon_features *features;
} pass_task;

/* Once per task: when it ran, or was dropped without running. */
static void count_off(pass_task *t) {
  if (t->counted)
    atomic_fetch_sub(&t->shared->busy, 1);
  t->counted = false;
}

static void drop_pass_task(moon_task *task) {
  pass_task *t = (pass_task *)task;
  if (t->shared)
    count_off(t);
  moon_tensor_release(&t->logits);
  moon_features_free(t->features);
  moon_sae_release(t->sae);
  release(t->shared);
}

static pass_task *new_task(lua_State *L, const l_job_kind *kind) {
  shared_pass *s = check_idle(L);
  pass_task *t = l_job_new(L, kind);
  atomic_fetch_add(&s->refs, 1);
  t->shared = s;
  t->counted = true;
  atomic_fetch_add(&s->busy, 1);
  return t;
}

/* Applies the edits that are due, in order; the depth of the next one, or `to`. */
static moon_status apply_due(shared_pass *s, int64_t to, int64_t *next, moon_err *err) {
  *next = to;
  for (group **at = &s->groups; *at;) {
    group *g = *at;
    if (g->depth != s->pass->layer) {
      *next = g->depth < *next ? g->depth : *next;
      at = &g->next;
      continue;
    }
    moon_status status = moon_edit_apply(&g->edit, s->pass, err);
    if (status)
      return status;
    *at = g->next;
    free_group(g);
  }
  return MOON_OK;
}

static moon_status run_to(shared_pass *s, int64_t to, moon_progress *progress, moon_err *err) {
  int64_t next = 0;
  moon_status status = moon_pass_run(s->pass, 0, progress, err); /* embeds */
  while (status == MOON_OK && (status = apply_due(s, to, &next, err)) == MOON_OK &&
         s->pass->layer < to)
    status = moon_pass_run(s->pass, next, progress, err);
  return status;
}

static moon_status run_pass(moon_task *task, moon_progress *progress, moon_err *err) {
  pass_task *t = (pass_task *)task;
  moon_pass *pass = t->shared->pass;
  atomic_store(&progress->total, t->to);
  moon_status status = run_to(t->shared, t->to, progress, err);
  if (status == MOON_OK && t->finish && pass->layer == pass->model->config.n_layers)
    status = moon_pass_logits(pass, t->which, &t->logits, err);
  if (status == MOON_OK && t->finish)
    status = moon_pass_commit(pass, err);
  count_off(t);
  return status;
}

static int push_logits(lua_State *L, moon_task *task) {
  pass_task *t = (pass_task *)task;
  if (t->logits.storage)
    l_tensor_push(L, &t->logits);
  else
    lua_pushnil(L);
  return 1;
}

/* pass:_run(to, logits) -> job -> logits or nil. With logits "none", "last" or "all" the pass is
 * finished. */
static int pass_run(lua_State *L) {
  static const l_job_kind kind = {"forward",   sizeof(pass_task), run_pass,
                                  push_logits, drop_pass_task,    .quick = false};
  static const char *const whiches[] = {"none", "last", "all", NULL};
  int64_t to = luaL_checkinteger(L, 2);
  bool finish = !lua_isnoneornil(L, 3);
  moon_logits which =
      finish ? (moon_logits)luaL_checkoption(L, 3, NULL, whiches) : MOON_LOGITS_NONE;
  pass_task *t = new_task(L, &kind);
  t->to = to;
  t->finish = finish;
  t->which = which;
  return l_job_start(L, t);
}

static moon_status run_encode(moon_task *task, moon_progress *progress, moon_err *err) {
  pass_task *t = (pass_task *)task;
  const moon_pass *pass = t->shared->pass;
  const moon_tensor *x = t->reads ? &pass->captures[t->reads - 1].out : &pass->x;
  moon_status status =
      moon_features_encode(&t->features, t->sae, x, pass->arithmetic, progress, err);
  count_off(t);
  return status;
}

static int push_features(lua_State *L, moon_task *task) {
  l_features_push(L, &((pass_task *)task)->features);
  return 1;
}

/* pass:_encode(sae, reads) -> job -> Features of the stream as it is now, or of a capture */
static int pass_encode(lua_State *L) {
  static const l_job_kind kind = {"encode",      sizeof(pass_task), run_encode,
                                  push_features, drop_pass_task,    .quick = false};
  moon_sae *sae = l_sae_check(L, 2);
  const shared_pass *s = check_idle(L);
  int reads = read_capture(L, 3, s);
  if (s->pass->layer < 0 || (reads && !s->pass->captures[reads - 1].out.storage))
    return luaL_error(L, "encode: the pass has not come there");
  pass_task *t = new_task(L, &kind);
  t->sae = moon_sae_retain(sae);
  t->reads = reads;
  return l_job_start(L, t);
}

/* path -> tensor, of the captures that are filled */
static int pass_captures(lua_State *L) {
  const shared_pass *s = check_idle(L);
  lua_newtable(L);
  for (int i = 0; i < s->pass->n_captures; i++) {
    if (!s->pass->captures[i].out.storage)
      continue;
    moon_tensor t = moon_tensor_retain(&s->pass->captures[i].out);
    l_tensor_push(L, &t);
    lua_setfield(L, -2, s->paths[i]);
  }
  return 1;
}

static int pass_close(lua_State *L) {
  l_pass *u = luaL_checkudata(L, 1, PASS);
  release(u->shared);
  u->shared = NULL;
  return 0;
}

/* core.capture_depth(model, path): layers that must run before the capture is filled; throws for an
 * unknown path */
static int capture_depth(lua_State *L) {
  const moon_llama *model = l_llama_check(L, 1);
  moon_capture capture;
  moon_err err;
  if (moon_capture_parse(&capture, luaL_checkstring(L, 2), &model->config, &err))
    return l_throw(L, &err);
  lua_pushinteger(L, moon_capture_depth(&capture, &model->config));
  return 1;
}

static const luaL_Reg methods[] = {{"add_edit", pass_add_edit}, {"_run", pass_run},
                                   {"_encode", pass_encode},    {"captures", pass_captures},
                                   {"close", pass_close},       {NULL, NULL}};
static const luaL_Reg metamethods[] = {{"__gc", pass_close}, {"__close", pass_close}, {NULL, NULL}};
static const luaL_Reg functions[] = {
    {"pass", new_pass}, {"capture_depth", capture_depth}, {NULL, NULL}};

void l_open_pass(lua_State *L) {
  l_register(L, PASS, methods, metamethods, false);
  luaL_setfuncs(L, functions, 0);
}

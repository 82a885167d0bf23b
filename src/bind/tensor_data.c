// SPDX-License-Identifier: MIT
/*
 * Numbers in and out of moonscope.Tensor: constructors, tables, byte strings, comparisons. What
 * comes from Lua is gathered in host memory here and moved by the job; what goes to Lua the other
 * way round.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bind/tensor.h"
#include "tensor/dtype.h"
#include "tensor/ops.h"

typedef struct data_task {
  moon_task task;
  moon_tensor a, b; /* what is read; empty for a constructor */
  moon_dtype dtype; /* of what is made */
  moon_device *device;
  int rank;
  int64_t shape[MOON_MAX_RANK];
  double value; /* of full */
  uint64_t seed;
  double atol, rtol;
  void *host; /* row-major elements, owned */
  moon_tensor out;
  bool answer;
} data_task;

static void drop_data(moon_task *task) {
  data_task *t = (data_task *)task;
  moon_tensor_release(&t->a);
  moon_tensor_release(&t->b);
  moon_tensor_release(&t->out);
  free(t->host);
}

static int push_out(lua_State *L, moon_task *task) {
  l_tensor_push(L, &((data_task *)task)->out);
  return 1;
}

static int push_answer(lua_State *L, moon_task *task) {
  lua_pushboolean(L, ((data_task *)task)->answer);
  return 1;
}

static void *host_alloc(size_t size) {
  return malloc(size > 0 ? size : 1);
}

static moon_status no_memory(moon_err *err) {
  return moon_fail(err, MOON_ENOMEM, "tensor: no memory for its elements");
}

/* t's elements in another dtype, in host memory that is the caller's. */
static moon_status read_as(void **host, const moon_tensor *t, moon_dtype dtype, moon_err *err) {
  moon_tensor here;
  moon_status status = moon_tensor_to(&here, t, moon_cpu(), dtype, err);
  if (status)
    return status;
  *host = host_alloc(moon_tensor_size_bytes(&here));
  status = *host ? moon_tensor_read(&here, *host, err) : no_memory(err);
  moon_tensor_release(&here);
  return status;
}

/* A new tensor as the task says, from host memory in `from`. */
static moon_status make_from(data_task *t, const void *host, moon_dtype from, moon_err *err) {
  moon_tensor here;
  moon_status status = moon_tensor_from_host(&here, moon_cpu(), from, t->shape, t->rank, host, err);
  if (status)
    return status;
  status = moon_tensor_to(&t->out, &here, t->device, t->dtype, err);
  moon_tensor_release(&here);
  return status;
}

/* A constructor's task: shape, dtype and device from three arguments. */
static data_task *new_constructor(lua_State *L, const l_job_kind kinds[2], const char *op,
                                  int index) {
  int64_t shape[MOON_MAX_RANK], count;
  int rank = l_shape_check(L, index, op, shape, 0);
  moon_dtype dtype = l_dtype_opt(L, index + 1, op, MOON_F32);
  moon_device *device = l_device_opt(L, index + 2, op, moon_cpu());
  if (!moon_shape_count(&count, shape, rank))
    l_misuse(L, "%s: the shape is too large", op);
  data_task *t = l_job_new(L, l_kind_for(kinds, count));
  t->dtype = dtype;
  t->device = device;
  t->rank = rank;
  memcpy(t->shape, shape, (size_t)rank * sizeof *shape);
  return t;
}

/* Constant */

static moon_status run_full(moon_task *task, moon_progress *progress, moon_err *err) {
  data_task *t = (data_task *)task;
  (void)progress;
  moon_status status = moon_tensor_new(&t->out, t->device, t->dtype, t->shape, t->rank, err);
  return status ? status : moon_op_fill(&t->out, t->value, err);
}

static const l_job_kind full_kinds[] =
    L_TENSOR_KINDS("full", data_task, run_full, push_out, drop_data);

/* _full(value, shape, dtype, device) */
static int full(lua_State *L) {
  if (lua_type(L, 1) != LUA_TNUMBER)
    l_misuse(L, "full: the value is %s, expected a number", l_found(L, 1));
  data_task *t = new_constructor(L, full_kinds, "full", 2);
  t->value = lua_tonumber(L, 1);
  return l_job_start(L, t);
}

/* Random. Element i of a seed is drawn from a splitmix64 stream of its own, so it is the same in
 * every shape, and on every machine. */

static uint64_t mix(uint64_t z) {
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static uint64_t draw(uint64_t *stream) {
  return mix(*stream += 0x9e3779b97f4a7c15u);
}

/* In [0, 1), a multiple of 2^-24. */
static float uniform(uint64_t stream) {
  return (float)(draw(&stream) >> 40) * 0x1p-24f;
}

/* Kinderman and Monahan's ratio of uniforms: only whether a pair is accepted depends on libm. */
static float normal(uint64_t stream) {
  double u, x;
  do {
    u = ((double)(draw(&stream) >> 11) + 0.5) * 0x1p-53;
    double v = (double)(int64_t)draw(&stream) * 0x1p-63 * 0.8577638849607068; /* sqrt(2 / e) */
    x = v / u;
  } while (x * x > -4 * log(u));
  return (float)x;
}

static moon_status run_random(data_task *t, float (*next)(uint64_t stream), moon_err *err) {
  int64_t count;
  size_t size;
  if (!moon_shape_count(&count, t->shape, t->rank) ||
      !moon_size_mul(&size, (size_t)count, sizeof(float)))
    return no_memory(err);
  float *host = t->host = host_alloc(size);
  if (!host)
    return no_memory(err);
  for (int64_t i = 0; i < count; i++)
    host[i] = next(mix(mix(t->seed) + (uint64_t)i));
  return make_from(t, host, MOON_F32, err);
}

static moon_status run_rand(moon_task *task, moon_progress *progress, moon_err *err) {
  (void)progress;
  return run_random((data_task *)task, uniform, err);
}

static moon_status run_randn(moon_task *task, moon_progress *progress, moon_err *err) {
  (void)progress;
  return run_random((data_task *)task, normal, err);
}

static const l_job_kind rand_kinds[] =
    L_TENSOR_KINDS("rand", data_task, run_rand, push_out, drop_data);
static const l_job_kind randn_kinds[] =
    L_TENSOR_KINDS("randn", data_task, run_randn, push_out, drop_data);

static int start_random(lua_State *L, const l_job_kind kinds[2], const char *op) {
  uint64_t seed = (uint64_t)l_whole_check(L, 1, op, "the seed");
  data_task *t = new_constructor(L, kinds, op, 2);
  t->seed = seed;
  return l_job_start(L, t);
}

/* _rand(seed, shape, dtype, device) */
static int rand_uniform(lua_State *L) {
  return start_random(L, rand_kinds, "rand");
}

static int rand_normal(lua_State *L) {
  return start_random(L, randn_kinds, "randn");
}

/* From tables and byte strings */

static moon_status run_from_host(moon_task *task, moon_progress *progress, moon_err *err) {
  data_task *t = (data_task *)task;
  (void)progress;
  return make_from(t, t->host, t->dtype, err);
}

static const l_job_kind from_host_kinds[] =
    L_TENSOR_KINDS("tensor", data_task, run_from_host, push_out, drop_data);

/* Pushes the shape of nested tables, told by the first element of each. */
static void push_table_shape(lua_State *L, int index) {
  lua_newtable(L);
  int shape = lua_gettop(L), rank = 0;
  lua_pushvalue(L, index);
  while (lua_istable(L, -1)) {
    if (rank == MOON_MAX_RANK)
      l_misuse(L, "tensor: tables are nested deeper than %d", MOON_MAX_RANK);
    lua_pushinteger(L, (lua_Integer)lua_rawlen(L, -1));
    lua_rawseti(L, shape, ++rank);
    lua_rawgeti(L, -1, 1);
    lua_remove(L, -2);
  }
  lua_pop(L, 1);
}

/* The value on top as element `at` of t->host. */
static void store_element(lua_State *L, data_task *t, int64_t at) {
  char *to = (char *)t->host + (size_t)at * moon_dtype_size(t->dtype);
  if (lua_isinteger(L, -1) || lua_isboolean(L, -1)) {
    int64_t value = lua_isinteger(L, -1) ? lua_tointeger(L, -1) : lua_toboolean(L, -1);
    moon_dtype_convert(to, t->dtype, &value, MOON_I64, 1);
  } else if (lua_type(L, -1) == LUA_TNUMBER) {
    double value = lua_tonumber(L, -1);
    moon_dtype_convert(to, t->dtype, &value, MOON_F64, 1);
  } else {
    l_misuse(L, "tensor: an element is %s, expected a number", l_found(L, -1));
  }
}

/* The value on top, a table of dims dim.. or an element, from element `at` on; returns the next
 * one. */
static int64_t store_level(lua_State *L, data_task *t, int dim, int64_t at) {
  if (dim == t->rank) {
    store_element(L, t, at);
    return at + 1;
  }
  if (!lua_istable(L, -1) || (int64_t)lua_rawlen(L, -1) != t->shape[dim])
    l_misuse(L, "tensor: dim %d has tables of different lengths or depths", dim + 1);
  for (int64_t i = 1; i <= t->shape[dim]; i++) {
    lua_rawgeti(L, -1, i);
    at = store_level(L, t, dim + 1, at);
    lua_pop(L, 1);
  }
  return at;
}

static void *task_alloc(lua_State *L, data_task *t) {
  int64_t count;
  size_t size;
  if (moon_shape_count(&count, t->shape, t->rank) &&
      moon_size_mul(&size, (size_t)count, moon_dtype_size(t->dtype)))
    t->host = host_alloc(size);
  if (!t->host)
    l_misuse(L, "tensor: no memory for its elements");
  return t->host;
}

/* _from_table(value, dtype, device): numbers and booleans, in tables as deep as the rank */
static int from_table(lua_State *L) {
  lua_settop(L, 3);
  push_table_shape(L, 1);
  lua_insert(L, 2);
  data_task *t = new_constructor(L, from_host_kinds, "tensor", 2);
  task_alloc(L, t);
  lua_pushvalue(L, 1);
  store_level(L, t, 0, 0);
  lua_pop(L, 1);
  return l_job_start(L, t);
}

/* _from_string(bytes, shape, dtype, device): little-endian elements, row-major */
static int from_string(lua_State *L) {
  size_t size;
  if (lua_type(L, 1) != LUA_TSTRING)
    l_misuse(L, "from_string: found %s, expected a string", l_found(L, 1));
  const char *bytes = lua_tolstring(L, 1, &size);
  data_task *t = new_constructor(L, from_host_kinds, "from_string", 2);
  int64_t count = 0;
  size_t expected = 0;
  if (!moon_shape_count(&count, t->shape, t->rank) ||
      !moon_size_mul(&expected, (size_t)count, moon_dtype_size(t->dtype)) || size != expected) {
    char text[MOON_SHAPE_TEXT];
    l_misuse(L, "from_string: found %I bytes, expected %I for %s %s", (lua_Integer)size,
             (lua_Integer)expected, moon_dtype_name(t->dtype),
             moon_shape_text(text, sizeof text, t->shape, t->rank));
  }
  memcpy(task_alloc(L, t), bytes, size);
  return l_job_start(L, t);
}

/* To tables and byte strings */

static data_task *new_reader(lua_State *L, const l_job_kind kinds[2], const moon_tensor *a) {
  data_task *t = l_job_new(L, l_kind_for(kinds, moon_tensor_count(a)));
  t->a = moon_tensor_retain(a);
  return t;
}

static moon_status run_to_string(moon_task *task, moon_progress *progress, moon_err *err) {
  data_task *t = (data_task *)task;
  (void)progress;
  return read_as(&t->host, &t->a, t->a.dtype, err);
}

static int push_string(lua_State *L, moon_task *task) {
  data_task *t = (data_task *)task;
  lua_pushlstring(L, t->host, moon_tensor_size_bytes(&t->a));
  return 1;
}

static const l_job_kind to_string_kinds[] =
    L_TENSOR_KINDS("to_string", data_task, run_to_string, push_string, drop_data);

static int to_string(lua_State *L) {
  return l_job_start(L, new_reader(L, to_string_kinds, l_tensor_operand(L, 1, "to_string")));
}

/* The dtype of 8 bytes that holds every value of `dtype`. */
static moon_dtype wide(moon_dtype dtype) {
  return l_is_float(dtype) ? MOON_F64 : dtype == MOON_U64 ? MOON_U64 : MOON_I64;
}

static moon_status run_to_table(moon_task *task, moon_progress *progress, moon_err *err) {
  data_task *t = (data_task *)task;
  (void)progress;
  return read_as(&t->host, &t->a, wide(t->a.dtype), err);
}

static void push_element(lua_State *L, const data_task *t, int64_t at) {
  int64_t whole = ((int64_t *)t->host)[at];
  if (wide(t->a.dtype) == MOON_F64)
    lua_pushnumber(L, ((double *)t->host)[at]);
  else if (t->a.dtype == MOON_BOOL)
    lua_pushboolean(L, whole != 0);
  else if (t->a.dtype == MOON_U64 && whole < 0) /* above what a Lua integer holds */
    lua_pushnumber(L, (double)(uint64_t)whole);
  else
    lua_pushinteger(L, whole);
}

static int64_t push_level(lua_State *L, const data_task *t, int dim, int64_t at) {
  if (dim == t->a.rank) {
    push_element(L, t, at);
    return at + 1;
  }
  lua_newtable(L);
  for (int64_t i = 1; i <= t->a.shape[dim]; i++) {
    at = push_level(L, t, dim + 1, at);
    lua_rawseti(L, -2, i);
  }
  return at;
}

static int push_table(lua_State *L, moon_task *task) {
  push_level(L, (data_task *)task, 0, 0);
  return 1;
}

static const l_job_kind to_table_kinds[] =
    L_TENSOR_KINDS("totable", data_task, run_to_table, push_table, drop_data);

static int to_table(lua_State *L) {
  return l_job_start(L, new_reader(L, to_table_kinds, l_tensor_operand(L, 1, "totable")));
}

/* Comparisons */

static bool same_shape(const moon_tensor *a, const moon_tensor *b) {
  return a->rank == b->rank && !memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape);
}

static moon_status read_both(void **a, void **b, const data_task *t, moon_dtype dtype,
                             moon_err *err) {
  moon_status status = read_as(a, &t->a, dtype, err);
  return status ? status : read_as(b, &t->b, dtype, err);
}

static moon_status run_equal(moon_task *task, moon_progress *progress, moon_err *err) {
  data_task *t = (data_task *)task;
  (void)progress;
  void *a = NULL, *b = NULL;
  moon_status status = read_both(&a, &b, t, t->a.dtype, err);
  if (!status)
    t->answer = !memcmp(a, b, moon_tensor_size_bytes(&t->a));
  free(a);
  free(b);
  return status;
}

static const l_job_kind equal_kinds[] =
    L_TENSOR_KINDS("equal", data_task, run_equal, push_answer, drop_data);

/* Same dtype, same shape, same bits. */
static int tensor_equal(lua_State *L) {
  moon_tensor *a = l_tensor_operand(L, 1, "equal"), *b = l_tensor_operand(L, 2, "equal");
  if (a->dtype != b->dtype || !same_shape(a, b))
    return lua_pushboolean(L, false), 1;
  data_task *t = new_reader(L, equal_kinds, a);
  t->b = moon_tensor_retain(b);
  return l_job_start(L, t);
}

/* NaN is close to nothing. */
static bool all_close(const double *a, const double *b, int64_t n, double atol, double rtol) {
  for (int64_t i = 0; i < n; i++)
    if (!(a[i] == b[i] || fabs(a[i] - b[i]) <= atol + rtol * fabs(b[i])))
      return false;
  return true;
}

static moon_status run_allclose(moon_task *task, moon_progress *progress, moon_err *err) {
  data_task *t = (data_task *)task;
  (void)progress;
  void *a = NULL, *b = NULL;
  moon_status status = read_both(&a, &b, t, MOON_F64, err);
  if (!status)
    t->answer = all_close(a, b, moon_tensor_count(&t->a), t->atol, t->rtol);
  free(a);
  free(b);
  return status;
}

static const l_job_kind allclose_kinds[] =
    L_TENSOR_KINDS("allclose", data_task, run_allclose, push_answer, drop_data);

/* _allclose(other, atol, rtol): |a - b| <= atol + rtol |b| everywhere; any dtypes */
static int tensor_allclose(lua_State *L) {
  moon_tensor *a = l_tensor_operand(L, 1, "allclose"), *b = l_tensor_operand(L, 2, "allclose");
  double atol = luaL_checknumber(L, 3), rtol = luaL_checknumber(L, 4);
  if (!same_shape(a, b)) {
    char a_text[MOON_SHAPE_TEXT], b_text[MOON_SHAPE_TEXT];
    l_misuse(L, "allclose: %s does not fit %s",
             moon_shape_text(a_text, sizeof a_text, a->shape, a->rank),
             moon_shape_text(b_text, sizeof b_text, b->shape, b->rank));
  }
  data_task *t = new_reader(L, allclose_kinds, a);
  t->b = moon_tensor_retain(b);
  t->atol = atol;
  t->rtol = rtol;
  return l_job_start(L, t);
}

/* Concatenation */

typedef struct cat_task {
  moon_task task;
  moon_tensor *parts; /* owned, and retained */
  int n, dim;
  moon_tensor out;
} cat_task;

static void drop_cat(moon_task *task) {
  cat_task *t = (cat_task *)task;
  for (int i = 0; i < t->n; i++)
    moon_tensor_release(&t->parts[i]);
  free(t->parts);
  moon_tensor_release(&t->out);
}

static int push_cat(lua_State *L, moon_task *task) {
  l_tensor_push(L, &((cat_task *)task)->out);
  return 1;
}

static moon_status copy_part(const cat_task *t, const moon_tensor *part, int64_t start,
                             moon_err *err) {
  moon_tensor place;
  moon_status status = moon_tensor_narrow(&place, &t->out, t->dim, start, part->shape[t->dim], err);
  if (status)
    return status;
  status = moon_op_copy(&place, part, err);
  moon_tensor_release(&place);
  return status;
}

static moon_status run_cat(moon_task *task, moon_progress *progress, moon_err *err) {
  cat_task *t = (cat_task *)task;
  (void)progress;
  moon_tensor like = t->parts[0];
  for (int i = 1; i < t->n; i++)
    like.shape[t->dim] += t->parts[i].shape[t->dim];
  moon_status status =
      moon_tensor_new(&t->out, moon_tensor_device(&like), like.dtype, like.shape, like.rank, err);
  int64_t start = 0;
  for (int i = 0; i < t->n && !status; i++) {
    status = copy_part(t, &t->parts[i], start, err);
    start += t->parts[i].shape[t->dim];
  }
  return status;
}

static const l_job_kind cat_kinds[] = L_TENSOR_KINDS("cat", cat_task, run_cat, push_cat, drop_cat);

/* The others have the first one's dtype, and its shape but for dim. */
static void check_part(lua_State *L, const moon_tensor *first, const moon_tensor *part, int dim) {
  moon_tensor expected = *first;
  if (part->dtype != first->dtype)
    l_misuse(L, "cat: found %s beside %s", moon_dtype_name(part->dtype),
             moon_dtype_name(first->dtype));
  expected.shape[dim] = dim < part->rank ? part->shape[dim] : 0;
  if (!same_shape(&expected, part)) {
    char a_text[MOON_SHAPE_TEXT], b_text[MOON_SHAPE_TEXT];
    l_misuse(L, "cat: %s does not fit %s along dim %d",
             moon_shape_text(a_text, sizeof a_text, part->shape, part->rank),
             moon_shape_text(b_text, sizeof b_text, first->shape, first->rank), dim + 1);
  }
}

/* _cat(list, dim) */
static int cat(lua_State *L) {
  if (!lua_istable(L, 1) || lua_rawlen(L, 1) == 0)
    l_misuse(L, "cat: found %s, expected a table of tensors",
             lua_istable(L, 1) ? "an empty table" : l_found(L, 1));
  int n = (int)lua_rawlen(L, 1);
  luaL_checkstack(L, n + LUA_MINSTACK, "cat");
  lua_settop(L, 2);
  int64_t count = 0;
  for (int i = 1; i <= n; i++) {
    lua_rawgeti(L, 1, i);
    count += moon_tensor_count(l_tensor_operand(L, -1, "cat"));
  }
  moon_tensor *first = lua_touserdata(L, 3);
  int dim = l_dim_check(L, 2, "cat", first);
  for (int i = 1; i < n; i++)
    check_part(L, first, lua_touserdata(L, 3 + i), dim);
  cat_task *t = l_job_new(L, l_kind_for(cat_kinds, count));
  t->parts = calloc((size_t)n + 1, sizeof *t->parts);
  if (!t->parts)
    l_misuse(L, "cat: no memory for %d tensors", n);
  for (t->n = 0; t->n < n; t->n++)
    t->parts[t->n] = moon_tensor_retain(lua_touserdata(L, 3 + t->n));
  t->dim = dim;
  return l_job_start(L, t);
}

static const luaL_Reg functions[] = {{"_full", full},
                                     {"_rand", rand_uniform},
                                     {"_randn", rand_normal},
                                     {"_from_table", from_table},
                                     {"_from_string", from_string},
                                     {"_cat", cat},
                                     {NULL, NULL}};

static const luaL_Reg methods[] = {{"_to_string", to_string},
                                   {"_totable", to_table},
                                   {"_equal", tensor_equal},
                                   {"_allclose", tensor_allclose},
                                   {NULL, NULL}};

void l_open_tensor_data(lua_State *L) {
  luaL_setfuncs(L, methods, 0);
  lua_insert(L, -2);
  luaL_setfuncs(L, functions, 0);
  lua_insert(L, -2);
}

// SPDX-License-Identifier: MIT
/*
 * moonscope.Tensor. Views and questions about shape are answered here and now; whatever touches
 * numbers is a job (tensor_ops.c, tensor_data.c), awaited in lua/moonscope/tensor.lua.
 */
#include <stdarg.h>

#include "bind/tensor.h"

#define TYPE "moonscope.Tensor"

/* The collector sees a small userdata where gigabytes hang on it. So whenever tensors have grown by
 * this much since the last time, what nobody holds any more is collected. */
#define COLLECT_BYTES (64 << 20)

static void collect_if_grown(lua_State *L) {
  static int64_t collected_at; /* live bytes after the last collection; the Lua thread's */
  int64_t bytes = moon_storage_live_bytes();
  if (bytes < collected_at)
    collected_at = bytes;
  if (bytes - collected_at < COLLECT_BYTES)
    return;
  lua_gc(L, LUA_GCCOLLECT);
  collected_at = moon_storage_live_bytes();
}

moon_tensor *l_tensor_new(lua_State *L) {
  moon_tensor *t = lua_newuserdatauv(L, sizeof *t, 0);
  *t = (moon_tensor){0};
  luaL_setmetatable(L, TYPE);
  return t;
}

void l_tensor_push(lua_State *L, moon_tensor *t) {
  collect_if_grown(L);
  moon_tensor *u = l_tensor_new(L);
  *u = *t;
  *t = (moon_tensor){0};
}

int l_misuse(lua_State *L, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  lua_pushvfstring(L, format, arguments);
  va_end(arguments);
  return lua_error(L);
}

const char *l_found(lua_State *L, int index) {
  if (lua_isnoneornil(L, index))
    return "nothing";
  if (luaL_getmetafield(L, index, "__name") == LUA_TSTRING)
    return lua_pushfstring(L, "a %s", lua_tostring(L, -1));
  return lua_pushfstring(L, "a %s", luaL_typename(L, index));
}

static moon_tensor *check_open(lua_State *L, moon_tensor *t, const char *op) {
  if (!t->storage)
    l_misuse(L, "%s: the tensor is closed", op);
  return t;
}

moon_tensor *l_tensor_check(lua_State *L, int index) {
  return check_open(L, luaL_checkudata(L, index, TYPE), TYPE);
}

moon_tensor *l_tensor_operand(lua_State *L, int index, const char *op) {
  moon_tensor *t = luaL_testudata(L, index, TYPE);
  if (!t)
    l_misuse(L, "%s: found %s, expected a " TYPE, op, l_found(L, index));
  return check_open(L, t, op);
}

int64_t l_whole_check(lua_State *L, int index, const char *op, const char *what) {
  int whole;
  lua_Integer value = lua_tointegerx(L, index, &whole);
  if (!whole)
    l_misuse(L, "%s: %s is %s, expected a whole number", op, what,
             lua_type(L, index) == LUA_TNUMBER ? lua_tostring(L, index) : l_found(L, index));
  return value;
}

int l_dim_check(lua_State *L, int index, const char *op, const moon_tensor *t) {
  lua_Integer dim = l_whole_check(L, index, op, "dim");
  if (dim < 1 || dim > t->rank)
    l_misuse(L, "%s: dim is %I, the tensor has %d (the first is 1)", op, dim, t->rank);
  return (int)dim - 1;
}

int l_shape_check(lua_State *L, int index, const char *op, int64_t *shape, int64_t least) {
  if (!lua_istable(L, index))
    l_misuse(L, "%s: the shape is %s, expected a table of whole numbers", op, l_found(L, index));
  lua_Unsigned rank = lua_rawlen(L, index);
  if (rank > MOON_MAX_RANK)
    l_misuse(L, "%s: the shape has %I dims, at most %d are possible", op, (lua_Integer)rank,
             MOON_MAX_RANK);
  for (int i = 0; i < (int)rank; i++) {
    lua_rawgeti(L, index, i + 1);
    shape[i] = l_whole_check(L, -1, op, "a dim of the shape");
    lua_pop(L, 1);
    if (shape[i] < least)
      l_misuse(L, "%s: a dim of the shape is %I", op, (lua_Integer)shape[i]);
  }
  return (int)rank;
}

moon_dtype l_dtype_opt(lua_State *L, int index, const char *op, moon_dtype missing) {
  moon_dtype dtype = missing;
  if (lua_isnoneornil(L, index))
    return missing;
  if (lua_type(L, index) != LUA_TSTRING)
    l_misuse(L, "%s: dtype is %s, expected a name", op, l_found(L, index));
  if (!moon_dtype_from_name(&dtype, lua_tostring(L, index)))
    l_misuse(L, "%s: dtype \"%s\" is unknown", op, lua_tostring(L, index));
  return dtype;
}

moon_device *l_device_opt(lua_State *L, int index, const char *op, moon_device *missing) {
  moon_device *device = missing;
  moon_err err;
  if (lua_isnoneornil(L, index))
    return missing;
  if (lua_type(L, index) != LUA_TSTRING)
    l_misuse(L, "%s: device is %s, expected a name", op, l_found(L, index));
  if (moon_device_find(&device, lua_tostring(L, index), &err))
    l_throw(L, &err);
  return device;
}

bool l_is_float(moon_dtype dtype) {
  switch (dtype) {
    case MOON_F64:
    case MOON_F32:
    case MOON_F16:
    case MOON_BF16:
    case MOON_F8_E4M3:
    case MOON_F8_E5M2:
      return true;
    default:
      return false;
  }
}

#define QUICK_ELEMENTS (1 << 16) /* well below a millisecond */

const l_job_kind *l_kind_for(const l_job_kind kinds[2], int64_t n_elements) {
  return &kinds[n_elements <= QUICK_ELEMENTS];
}

static int tensor_close(lua_State *L) {
  moon_tensor_release(luaL_checkudata(L, 1, TYPE));
  return 0;
}

static int tensor_closed(lua_State *L) {
  moon_tensor *t = luaL_checkudata(L, 1, TYPE);
  lua_pushboolean(L, !t->storage);
  return 1;
}

static int tensor_shape(lua_State *L) {
  moon_tensor *t = l_tensor_check(L, 1);
  lua_createtable(L, t->rank, 0);
  for (int i = 0; i < t->rank; i++) {
    lua_pushinteger(L, t->shape[i]);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

static int tensor_size(lua_State *L) {
  moon_tensor *t = l_tensor_check(L, 1);
  lua_pushinteger(L, t->shape[l_dim_check(L, 2, "size", t)]);
  return 1;
}

static int tensor_len(lua_State *L) {
  moon_tensor *t = l_tensor_check(L, 1);
  if (t->rank == 0)
    l_misuse(L, "length: the tensor has rank 0");
  lua_pushinteger(L, t->shape[0]);
  return 1;
}

static int tensor_numel(lua_State *L) {
  lua_pushinteger(L, moon_tensor_count(l_tensor_check(L, 1)));
  return 1;
}

static int tensor_dtype(lua_State *L) {
  lua_pushstring(L, moon_dtype_name(l_tensor_check(L, 1)->dtype));
  return 1;
}

static int tensor_device(lua_State *L) {
  lua_pushstring(L, moon_tensor_device(l_tensor_check(L, 1))->name);
  return 1;
}

static int push_view(lua_State *L, moon_status status, const moon_err *err) {
  return status ? l_throw(L, err) : 1;
}

static int tensor_narrow(lua_State *L) {
  moon_tensor *t = l_tensor_check(L, 1);
  int dim = l_dim_check(L, 2, "narrow", t);
  int64_t start = l_whole_check(L, 3, "narrow", "start"),
          length = l_whole_check(L, 4, "narrow", "length");
  int64_t size = t->shape[dim];
  if (start < 1 || length < 0 || start - 1 > size || length > size - (start - 1))
    l_misuse(L, "narrow: %I elements from %I are not in dim %d, which has %I", (lua_Integer)length,
             (lua_Integer)start, dim + 1, (lua_Integer)size);
  moon_err err;
  return push_view(L, moon_tensor_narrow(l_tensor_new(L), t, dim, start - 1, length, &err), &err);
}

static int push_selected(lua_State *L, const char *op, moon_tensor *t, int dim, int64_t index) {
  moon_err err;
  if (index < 1 || index > t->shape[dim])
    l_misuse(L, "%s: index %I is not in dim %d, which has %I", op, (lua_Integer)index, dim + 1,
             (lua_Integer)t->shape[dim]);
  return push_view(L, moon_tensor_select(l_tensor_new(L), t, dim, index - 1, &err), &err);
}

static int tensor_select(lua_State *L) {
  moon_tensor *t = l_tensor_check(L, 1);
  int dim = l_dim_check(L, 2, "select", t);
  return push_selected(L, "select", t, dim, l_whole_check(L, 3, "select", "index"));
}

static int tensor_row(lua_State *L) {
  moon_tensor *t = l_tensor_check(L, 1);
  if (t->rank == 0)
    l_misuse(L, "row: the tensor has rank 0");
  return push_selected(L, "row", t, 0, l_whole_check(L, 2, "row", "index"));
}

static int tensor_transpose(lua_State *L) {
  moon_tensor *t = l_tensor_check(L, 1);
  int a = l_dim_check(L, 2, "transpose", t), b = l_dim_check(L, 3, "transpose", t);
  moon_err err;
  return push_view(L, moon_tensor_transpose(l_tensor_new(L), t, a, b, &err), &err);
}

static int tensor_t(lua_State *L) {
  moon_tensor *t = l_tensor_check(L, 1);
  if (t->rank != 2)
    l_misuse(L, "t: the tensor has rank %d, expected 2", t->rank);
  moon_err err;
  return push_view(L, moon_tensor_transpose(l_tensor_new(L), t, 0, 1, &err), &err);
}

static const luaL_Reg methods[] = {{"close", tensor_close},
                                   {"shape", tensor_shape},
                                   {"size", tensor_size},
                                   {"numel", tensor_numel},
                                   {"dtype", tensor_dtype},
                                   {"device", tensor_device},
                                   {"narrow", tensor_narrow},
                                   {"select", tensor_select},
                                   {"row", tensor_row},
                                   {"transpose", tensor_transpose},
                                   {"t", tensor_t},
                                   {"_closed", tensor_closed},
                                   {NULL, NULL}};

static const luaL_Reg metamethods[] = {
    {"__gc", tensor_close}, {"__close", tensor_close}, {"__len", tensor_len}, {NULL, NULL}};

static int storage_live(lua_State *L) {
  lua_pushinteger(L, moon_storage_live());
  lua_pushinteger(L, moon_storage_live_bytes());
  return 2;
}

static int devices(lua_State *L) {
  moon_device *device;
  lua_newtable(L);
  for (int i = 0; (device = moon_device_at(i)); i++) {
    lua_pushstring(L, device->name);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

static int threads(lua_State *L) {
  lua_pushinteger(L, moon_cpu_threads());
  return 1;
}

static int set_threads(lua_State *L) {
  lua_Integer n = l_whole_check(L, 1, "set_threads", "the number");
  if (n < 1 || n > 1024)
    l_misuse(L, "set_threads: found %I, expected 1 to 1024", n);
  moon_cpu_set_threads((int)n);
  return 0;
}

/* instruction_set([name]) -> the one in use. Exchanged while no job runs, as device.h asks. */
static int instruction_set(lua_State *L) {
  moon_err err;
  if (!lua_isnoneornil(L, 1)) {
    const char *name = luaL_checkstring(L, 1);
    moon_queue_wait_idle();
    if (moon_cpu_use_instruction_set(name, &err))
      l_throw(L, &err);
  }
  lua_pushstring(L, moon_cpu_instruction_set());
  return 1;
}

static int instruction_sets(lua_State *L) {
  const char *name;
  lua_newtable(L);
  for (int i = 0; (name = moon_cpu_instruction_set_name(i)); i++) {
    lua_pushstring(L, name);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

static const luaL_Reg functions[] = {{"storage_live", storage_live},
                                     {"devices", devices},
                                     {"threads", threads},
                                     {"set_threads", set_threads},
                                     {"instruction_set", instruction_set},
                                     {"instruction_sets", instruction_sets},
                                     {NULL, NULL}};

void l_open_tensor(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
  l_register(L, TYPE, methods, metamethods, false);
  luaL_getsubtable(L, -1, "metatables");
  luaL_getmetatable(L, TYPE);
  lua_setfield(L, -2, "Tensor");
  lua_pop(L, 1);
  lua_getfield(L, -1, "types");
  lua_getfield(L, -1, "Tensor");
  lua_remove(L, -2);
  l_open_tensor_ops(L);
  l_open_tensor_data(L);
  lua_pop(L, 1);
}

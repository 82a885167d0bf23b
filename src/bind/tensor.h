// SPDX-License-Identifier: MIT
/* What the files of moonscope.Tensor share: tensor.c (the type and its views), tensor_ops.c
 * (arithmetic), tensor_data.c (numbers in and out). `op` is the name that starts an error. */
#ifndef MOON_BIND_TENSOR_H
#define MOON_BIND_TENSOR_H

#include "bind/bind.h"

/* Pushes a closed tensor, to be filled with an owned view. */
moon_tensor *l_tensor_new(lua_State *L);
/* As l_tensor_check, with an error that begins with op. */
moon_tensor *l_tensor_operand(lua_State *L, int index, const char *op);

/* Throws the text as it is: where in Lua's own files it came up helps nobody. Never returns. */
int l_misuse(lua_State *L, const char *format, ...) L_THROWS;
/* "a table", "nothing", "a moonscope.Sae": what the argument is, for an error. */
const char *l_found(lua_State *L, int index);

/* An argument that is a whole number; `what` names it in the error. */
int64_t l_whole_check(lua_State *L, int index, const char *op, const char *what);
/* The dim of t that an argument names, counted from 1 in Lua and from 0 here. */
int l_dim_check(lua_State *L, int index, const char *op, const moon_tensor *t);
/* A table of dims into shape; returns the rank. Dims below `least` are refused. */
int l_shape_check(lua_State *L, int index, const char *op, int64_t *shape, int64_t least);
/* Names of a dtype and a device, or nil for the default. */
moon_dtype l_dtype_opt(lua_State *L, int index, const char *op, moon_dtype missing);
moon_device *l_device_opt(lua_State *L, int index, const char *op, moon_device *missing);

bool l_is_float(moon_dtype dtype);

/* Two kinds for one job: awaiting the second, for few elements, is not worth a yield. */
#define L_TENSOR_KIND(NAME, TYPE, RUN, PUSH, DROP, QUICK) \
  { (NAME), sizeof(TYPE), (RUN), (PUSH), (DROP), .soft = true, .quick = (QUICK) }
#define L_TENSOR_KINDS(NAME, TYPE, RUN, PUSH, DROP)      \
  {                                                      \
    L_TENSOR_KIND(NAME, TYPE, RUN, PUSH, DROP, false),   \
        L_TENSOR_KIND(NAME, TYPE, RUN, PUSH, DROP, true) \
  }
const l_job_kind *l_kind_for(const l_job_kind kinds[2], int64_t n_elements);

/* Add their functions to the module table and the method table, which are below and on top. */
void l_open_tensor_ops(lua_State *L);
void l_open_tensor_data(lua_State *L);

#endif

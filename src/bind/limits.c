// SPDX-License-Identifier: MIT
/* What the CPU can do at best, for `moonscope bench`. */
#include "tensor/limits.h"
#include "bind/bind.h"

typedef struct limit_task {
  moon_task task;
  moon_tensor memory; /* of read_rate */
  moon_arithmetic arithmetic;
  double rate;
} limit_task;

static void drop_limit(moon_task *task) {
  moon_tensor_release(&((limit_task *)task)->memory);
}

static int push_rate(lua_State *L, moon_task *task) {
  lua_pushnumber(L, ((limit_task *)task)->rate);
  return 1;
}

static moon_status run_read(moon_task *task, moon_progress *progress, moon_err *err) {
  limit_task *t = (limit_task *)task;
  (void)progress;
  return moon_limit_read(&t->rate, &t->memory, err);
}

/* core.read_rate(tensor) -> job -> bytes per second */
static int read_rate(lua_State *L) {
  static const l_job_kind kind = {"read_rate", sizeof(limit_task), run_read,
                                  push_rate,   drop_limit,         .soft = false};
  const moon_tensor *memory = l_tensor_check(L, 1);
  limit_task *t = l_job_new(L, &kind);
  t->memory = moon_tensor_retain(memory);
  return l_job_start(L, t);
}

static moon_status run_multiply(moon_task *task, moon_progress *progress, moon_err *err) {
  limit_task *t = (limit_task *)task;
  (void)progress;
  return moon_limit_multiply(&t->rate, moon_cpu(), t->arithmetic, err);
}

/* core.multiply_rate("f32" | "bf16") -> job -> operations per second */
static int multiply_rate(lua_State *L) {
  static const l_job_kind kind = {"multiply_rate", sizeof(limit_task), run_multiply,
                                  push_rate,       drop_limit,         .soft = false};
  static const char *const names[] = {"f32", "bf16", NULL};
  int arithmetic = luaL_checkoption(L, 1, NULL, names);
  limit_task *t = l_job_new(L, &kind);
  t->arithmetic = arithmetic == 1 ? MOON_ARITHMETIC_BF16 : MOON_ARITHMETIC_F32;
  return l_job_start(L, t);
}

static const luaL_Reg functions[] = {
    {"read_rate", read_rate}, {"multiply_rate", multiply_rate}, {NULL, NULL}};

void l_open_limits(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
}

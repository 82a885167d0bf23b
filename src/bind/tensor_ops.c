// SPDX-License-Identifier: MIT
/*
 * Arithmetic on moonscope.Tensor. Each method makes a job: operands are retained by its task, `run`
 * computes on the compute thread, the result is pushed once it is done. Tensors of any float dtype
 * take part; they are read as f32 and the result is f32.
 */
#include <string.h>

#include "bind/tensor.h"
#include "tensor/ops.h"

#define PIECE ((int64_t)1 << 30) /* multiply-adds: some hundredths of a second */

/* A tensor, or a number where the tensor is empty. */
typedef struct operand {
  moon_tensor tensor;
  double number;
} operand;

typedef struct op_task {
  moon_task task;
  operand a, b;
  int op;  /* moon_binary, moon_unary, moon_reduce or ARGMAX */
  int dim; /* from 0, or WHOLE */
  int rank;
  int64_t shape[MOON_MAX_RANK]; /* of reshape */
  int64_t k;                    /* of topk */
  moon_dtype dtype;             /* of to */
  moon_device *device;
  moon_tensor out, indices;
} op_task;

enum { WHOLE = -1 }; /* no dim: over the whole tensor */

static void drop_op(moon_task *task) {
  op_task *t = (op_task *)task;
  moon_tensor_release(&t->a.tensor);
  moon_tensor_release(&t->b.tensor);
  moon_tensor_release(&t->out);
  moon_tensor_release(&t->indices);
}

static int push_out(lua_State *L, moon_task *task) {
  l_tensor_push(L, &((op_task *)task)->out);
  return 1;
}

static int push_out_and_indices(lua_State *L, moon_task *task) {
  push_out(L, task);
  l_tensor_push(L, &((op_task *)task)->indices);
  return 2;
}

static moon_tensor *check_float(lua_State *L, int index, const char *op) {
  moon_tensor *t = l_tensor_operand(L, index, op);
  if (!l_is_float(t->dtype))
    l_misuse(L, "%s: the tensor is %s, expected floats (t:to{dtype = \"f32\"} makes them)", op,
             moon_dtype_name(t->dtype));
  return t;
}

/* In f32, with the strides that it has. */
static moon_status as_f32(moon_tensor *out, const moon_tensor *t, moon_err *err) {
  if (t->dtype == MOON_F32)
    return *out = moon_tensor_retain(t), MOON_OK;
  return moon_tensor_to(out, t, moon_tensor_device(t), MOON_F32, err);
}

/* Binary */

static moon_status scalar(moon_tensor *out, double value, moon_device *device, moon_err *err) {
  moon_status status = moon_tensor_new(out, device, MOON_F32, NULL, 0, err);
  return status ? status : moon_op_fill(out, value, err);
}

static moon_status load_operand(moon_tensor *out, const operand *o, moon_device *device,
                                moon_err *err) {
  return o->tensor.storage ? as_f32(out, &o->tensor, err) : scalar(out, o->number, device, err);
}

/* Dim i, counted from the last, of a shape that has 1 in front of its first. */
static int64_t dim_from_end(const moon_tensor *t, int i) {
  return i < t->rank ? t->shape[t->rank - 1 - i] : 1;
}

static moon_status broadcast_shape(int64_t *shape, int *rank, const moon_tensor *a,
                                   const moon_tensor *b, const char *op, moon_err *err) {
  *rank = a->rank > b->rank ? a->rank : b->rank;
  for (int i = 0; i < *rank; i++) {
    int64_t m = dim_from_end(a, i), n = dim_from_end(b, i);
    if (m != n && m != 1 && n != 1) {
      char a_text[MOON_SHAPE_TEXT], b_text[MOON_SHAPE_TEXT];
      return moon_fail(err, MOON_ESHAPE, "%s: %s does not fit %s", op,
                       moon_shape_text(a_text, sizeof a_text, a->shape, a->rank),
                       moon_shape_text(b_text, sizeof b_text, b->shape, b->rank));
    }
    shape[*rank - 1 - i] = m == 1 ? n : m;
  }
  return MOON_OK;
}

static const char *const binary_names[] = {"add", "sub", "mul", "div", "maximum"};

static moon_status run_binary(moon_task *task, moon_progress *progress, moon_err *err) {
  op_task *t = (op_task *)task;
  (void)progress;
  moon_device *device = moon_tensor_device(t->a.tensor.storage ? &t->a.tensor : &t->b.tensor);
  moon_tensor a = {0}, b = {0};
  int64_t shape[MOON_MAX_RANK];
  int rank;
  moon_status status = load_operand(&a, &t->a, device, err);
  if (!status)
    status = load_operand(&b, &t->b, device, err);
  if (!status)
    status = broadcast_shape(shape, &rank, &a, &b, binary_names[t->op], err);
  if (!status)
    status = moon_tensor_new(&t->out, device, MOON_F32, shape, rank, err);
  if (!status)
    status = moon_op_binary((moon_binary)t->op, &t->out, &a, &b, err);
  moon_tensor_release(&a);
  moon_tensor_release(&b);
  return status;
}

static const l_job_kind binary_kinds[] =
    L_TENSOR_KINDS("binary", op_task, run_binary, push_out, drop_op);

static bool is_number(lua_State *L, int index) {
  return lua_type(L, index) == LUA_TNUMBER;
}

/* Elements of the argument, which is a number or a tensor of floats. */
static int64_t check_operand(lua_State *L, int index, const char *op) {
  return is_number(L, index) ? 1 : moon_tensor_count(check_float(L, index, op));
}

static void retain_operand(lua_State *L, operand *o, int index) {
  if (is_number(L, index))
    o->number = lua_tonumber(L, index);
  else
    o->tensor = moon_tensor_retain(lua_touserdata(L, index));
}

static int tensor_binary(lua_State *L) {
  int op = (int)lua_tointeger(L, lua_upvalueindex(1));
  const char *name = binary_names[op];
  int64_t m = check_operand(L, 1, name), n = check_operand(L, 2, name);
  if (is_number(L, 1) && is_number(L, 2))
    l_misuse(L, "%s: found two numbers, expected a tensor", name);
  op_task *t = l_job_new(L, l_kind_for(binary_kinds, m > n ? m : n));
  t->op = op;
  retain_operand(L, &t->a, 1);
  retain_operand(L, &t->b, 2);
  return l_job_start(L, t);
}

/* A job over the tensor in argument 1 and nothing else yet. */
static op_task *new_task(lua_State *L, const l_job_kind kinds[2], const moon_tensor *a) {
  op_task *t = l_job_new(L, l_kind_for(kinds, moon_tensor_count(a)));
  t->a.tensor = moon_tensor_retain(a);
  return t;
}

/* Unary */

static const char *const unary_names[] = {"neg", "abs", "exp", "log", "sqrt", "relu"};

static moon_status run_unary(moon_task *task, moon_progress *progress, moon_err *err) {
  op_task *t = (op_task *)task;
  const moon_tensor *a = &t->a.tensor;
  (void)progress;
  moon_tensor rows;
  moon_status status = moon_tensor_to(&rows, a, moon_tensor_device(a), MOON_F32, err);
  if (status)
    return status;
  status = moon_tensor_new(&t->out, moon_tensor_device(a), MOON_F32, a->shape, a->rank, err);
  if (!status)
    status = moon_op_unary((moon_unary)t->op, &t->out, &rows, err);
  moon_tensor_release(&rows);
  return status;
}

static const l_job_kind unary_kinds[] =
    L_TENSOR_KINDS("unary", op_task, run_unary, push_out, drop_op);

static int tensor_unary(lua_State *L) {
  int op = (int)lua_tointeger(L, lua_upvalueindex(1));
  op_task *t = new_task(L, unary_kinds, check_float(L, 1, unary_names[op]));
  t->op = op;
  return l_job_start(L, t);
}

/* Along a dim */

enum { ARGMAX = MOON_SUM_OF_SQUARES + 1 };

static const char *const reduce_names[] = {"sum", "max", "sum_of_squares", "argmax"};

/* t with dim as its last; borrowed, as t is. */
static moon_tensor with_dim_last(const moon_tensor *t, int dim) {
  moon_tensor view = *t;
  for (int i = dim; i < t->rank - 1; i++) {
    view.shape[i] = t->shape[i + 1];
    view.strides[i] = t->strides[i + 1];
  }
  view.shape[t->rank - 1] = t->shape[dim];
  view.strides[t->rank - 1] = t->strides[dim];
  return view;
}

/* t as row-major f32 [rows][n], where n goes along dim. */
static moon_status as_rows(moon_tensor *out, const moon_tensor *t, int dim, moon_err *err) {
  moon_tensor view = dim == WHOLE ? *t : with_dim_last(t, dim), rows;
  int64_t shape[2] = {1, dim == WHOLE ? moon_tensor_count(t) : t->shape[dim]};
  for (int i = 0; dim != WHOLE && i < view.rank - 1; i++)
    shape[0] *= view.shape[i];
  moon_status status = moon_tensor_to(&rows, &view, moon_tensor_device(t), MOON_F32, err);
  if (status)
    return status;
  status = moon_tensor_reshape(out, &rows, shape, 2, err);
  moon_tensor_release(&rows);
  return status;
}

/* out := flat in the shape of t without dim. */
static moon_status shape_result(moon_tensor *out, const moon_tensor *flat, const moon_tensor *t,
                                int dim, moon_err *err) {
  int64_t shape[MOON_MAX_RANK];
  int rank = 0;
  for (int i = 0; dim != WHOLE && i < t->rank; i++)
    if (i != dim)
      shape[rank++] = t->shape[i];
  return moon_tensor_reshape(out, flat, shape, rank, err);
}

static moon_status run_reduce(moon_task *task, moon_progress *progress, moon_err *err) {
  op_task *t = (op_task *)task;
  const moon_tensor *a = &t->a.tensor;
  (void)progress;
  moon_tensor rows = {0}, flat = {0};
  moon_status status = as_rows(&rows, a, t->dim, err);
  if (!status)
    status = moon_tensor_new(&flat, moon_tensor_device(a), t->op == ARGMAX ? MOON_I64 : MOON_F32,
                             rows.shape, 1, err);
  if (!status)
    status = t->op == ARGMAX ? moon_op_argmax(&flat, &rows, err)
                             : moon_op_reduce((moon_reduce)t->op, &flat, &rows, err);
  if (!status)
    status = shape_result(&t->out, &flat, a, t->dim, err);
  moon_tensor_release(&rows);
  moon_tensor_release(&flat);
  return status;
}

static const l_job_kind reduce_kinds[] =
    L_TENSOR_KINDS("reduce", op_task, run_reduce, push_out, drop_op);

static int tensor_reduce(lua_State *L) {
  int op = (int)lua_tointeger(L, lua_upvalueindex(1));
  moon_tensor *a = check_float(L, 1, reduce_names[op]);
  int dim = lua_isnoneornil(L, 2) ? WHOLE : l_dim_check(L, 2, reduce_names[op], a);
  op_task *t = new_task(L, reduce_kinds, a);
  t->op = op;
  t->dim = dim;
  return l_job_start(L, t);
}

/* The last dim, from 0. */
static int last_dim(lua_State *L, const moon_tensor *t, const char *op) {
  if (t->rank == 0)
    l_misuse(L, "%s: the tensor has rank 0, expected at least 1", op);
  return t->rank - 1;
}

static moon_status run_softmax(moon_task *task, moon_progress *progress, moon_err *err) {
  op_task *t = (op_task *)task;
  const moon_tensor *a = &t->a.tensor;
  (void)progress;
  moon_tensor rows = {0}, flat = {0};
  moon_status status = as_rows(&rows, a, a->rank - 1, err);
  if (!status)
    status = moon_tensor_new(&flat, moon_tensor_device(a), MOON_F32, rows.shape, 2, err);
  if (!status)
    status = moon_op_softmax(&flat, &rows, err);
  if (!status)
    status = moon_tensor_reshape(&t->out, &flat, a->shape, a->rank, err);
  moon_tensor_release(&rows);
  moon_tensor_release(&flat);
  return status;
}

static const l_job_kind softmax_kinds[] =
    L_TENSOR_KINDS("softmax", op_task, run_softmax, push_out, drop_op);

static int tensor_softmax(lua_State *L) {
  moon_tensor *a = check_float(L, 1, "softmax");
  last_dim(L, a, "softmax");
  return l_job_start(L, new_task(L, softmax_kinds, a));
}

static moon_status run_topk(moon_task *task, moon_progress *progress, moon_err *err) {
  op_task *t = (op_task *)task;
  const moon_tensor *a = &t->a.tensor;
  (void)progress;
  moon_device *device = moon_tensor_device(a);
  moon_tensor rows = {0}, values = {0}, indices = {0}, shaped = *a;
  shaped.shape[a->rank - 1] = t->k;
  moon_status status = as_rows(&rows, a, a->rank - 1, err);
  int64_t flat[2] = {rows.shape[0], t->k};
  if (!status)
    status = moon_tensor_new(&values, device, MOON_F32, flat, 2, err);
  if (!status)
    status = moon_tensor_new(&indices, device, MOON_I64, flat, 2, err);
  if (!status)
    status = moon_op_topk(&values, &indices, &rows, err);
  if (!status)
    status = moon_tensor_reshape(&t->out, &values, shaped.shape, a->rank, err);
  if (!status)
    status = moon_tensor_reshape(&t->indices, &indices, shaped.shape, a->rank, err);
  moon_tensor_release(&rows);
  moon_tensor_release(&values);
  moon_tensor_release(&indices);
  return status;
}

static const l_job_kind topk_kinds[] =
    L_TENSOR_KINDS("topk", op_task, run_topk, push_out_and_indices, drop_op);

static int tensor_topk(lua_State *L) {
  moon_tensor *a = check_float(L, 1, "topk");
  int64_t n = a->shape[last_dim(L, a, "topk")], k = l_whole_check(L, 2, "topk", "k");
  if (k < 0 || k > n)
    l_misuse(L, "topk: k is %I, expected 0 to %I, the size of the last dim", (lua_Integer)k,
             (lua_Integer)n);
  op_task *t = new_task(L, topk_kinds, a);
  t->k = k;
  return l_job_start(L, t);
}

/* Matrix product */

/* t [K] as [1][K]; [M][K] as it is. In a dtype that linear takes, row-major. */
static moon_status as_matrix(moon_tensor *out, const moon_tensor *t, moon_dtype dtype,
                             moon_err *err) {
  moon_tensor rows;
  moon_status status = moon_tensor_to(&rows, t, moon_tensor_device(t), dtype, err);
  if (status)
    return status;
  int64_t shape[2] = {t->rank == 2 ? t->shape[0] : 1, t->shape[t->rank - 1]};
  status = moon_tensor_reshape(out, &rows, shape, 2, err);
  moon_tensor_release(&rows);
  return status;
}

static moon_dtype weight_dtype(moon_dtype dtype) {
  return dtype == MOON_F16 || dtype == MOON_BF16 ? dtype : MOON_F32;
}

/* b [K][N] as the weight [N][K]; where it is a transposed view of one, nothing is copied. */
static moon_status as_weight(moon_tensor *out, const moon_tensor *b, moon_err *err) {
  moon_tensor view;
  if (b->rank == 1)
    return as_matrix(out, b, weight_dtype(b->dtype), err);
  moon_status status = moon_tensor_transpose(&view, b, 0, 1, err);
  if (status)
    return status;
  status = as_matrix(out, &view, weight_dtype(b->dtype), err);
  moon_tensor_release(&view);
  return status;
}

/* y := x w^T some rows at a time (their bits do not depend on that), so that a cancel is heard. */
static moon_status multiply(const moon_tensor *y, const moon_tensor *x, const moon_tensor *w,
                            moon_progress *progress, moon_err *err) {
  int64_t M = x->shape[0], per_row = w->shape[0] * w->shape[1] + 1;
  int64_t step = PIECE / per_row > 0 ? PIECE / per_row : 1;
  moon_status status = MOON_OK;
  atomic_store(&progress->total, M);
  for (int64_t first = 0; first < M && !status; first += step) {
    int64_t n = M - first < step ? M - first : step;
    moon_tensor rows = {0}, out = {0};
    (void)((status = moon_progress_add(progress, n, err)) ||
           (status = moon_tensor_narrow(&rows, x, 0, first, n, err)) ||
           (status = moon_tensor_narrow(&out, y, 0, first, n, err)) ||
           (status = moon_op_linear(&out, &rows, w, NULL, MOON_ARITHMETIC_F32, err)));
    moon_tensor_release(&rows);
    moon_tensor_release(&out);
  }
  return status;
}

static moon_status run_matmul(moon_task *task, moon_progress *progress, moon_err *err) {
  op_task *t = (op_task *)task;
  const moon_tensor *a = &t->a.tensor, *b = &t->b.tensor;
  moon_tensor x = {0}, w = {0}, y = {0};
  moon_status status = as_matrix(&x, a, MOON_F32, err);
  if (!status)
    status = as_weight(&w, b, err);
  int64_t full[2] = {x.shape[0], w.shape[0]}, shape[2];
  int rank = 0;
  if (a->rank == 2)
    shape[rank++] = full[0];
  if (b->rank == 2)
    shape[rank++] = full[1];
  if (!status)
    status = moon_tensor_new(&y, moon_tensor_device(a), MOON_F32, full, 2, err);
  if (!status)
    status = multiply(&y, &x, &w, progress, err);
  if (!status)
    status = moon_tensor_reshape(&t->out, &y, shape, rank, err);
  moon_tensor_release(&x);
  moon_tensor_release(&w);
  moon_tensor_release(&y);
  return status;
}

static const l_job_kind matmul_kind = {.name = "matmul",
                                       .size = sizeof(op_task),
                                       .run = run_matmul,
                                       .push = push_out,
                                       .drop = drop_op,
                                       .soft = true};

static void check_matrices(lua_State *L, const moon_tensor *a, const moon_tensor *b) {
  char a_text[MOON_SHAPE_TEXT], b_text[MOON_SHAPE_TEXT];
  moon_shape_text(a_text, sizeof a_text, a->shape, a->rank);
  moon_shape_text(b_text, sizeof b_text, b->shape, b->rank);
  if (a->rank < 1 || a->rank > 2 || b->rank < 1 || b->rank > 2)
    l_misuse(L, "matmul: found %s and %s, expected matrices or vectors", a_text, b_text);
  int64_t m = a->shape[a->rank - 1], n = b->shape[0];
  if (m != n)
    l_misuse(L, "matmul: %s does not fit %s: K is %I and %I", a_text, b_text, (lua_Integer)m,
             (lua_Integer)n);
}

static int tensor_matmul(lua_State *L) {
  moon_tensor *a = check_float(L, 1, "matmul"), *b = check_float(L, 2, "matmul");
  check_matrices(L, a, b);
  op_task *t = l_job_new(L, &matmul_kind);
  t->a.tensor = moon_tensor_retain(a);
  t->b.tensor = moon_tensor_retain(b);
  return l_job_start(L, t);
}

/* Copies; any dtype */

static moon_status run_to(moon_task *task, moon_progress *progress, moon_err *err) {
  op_task *t = (op_task *)task;
  (void)progress;
  return moon_tensor_to(&t->out, &t->a.tensor, t->device, t->dtype, err);
}

static const l_job_kind to_kinds[] = L_TENSOR_KINDS("to", op_task, run_to, push_out, drop_op);

/* _to(dtype or nil, device or nil) */
static int tensor_to(lua_State *L) {
  moon_tensor *a = l_tensor_operand(L, 1, "to");
  moon_dtype dtype = l_dtype_opt(L, 2, "to", a->dtype);
  moon_device *device = l_device_opt(L, 3, "to", moon_tensor_device(a));
  op_task *t = new_task(L, to_kinds, a);
  t->dtype = dtype;
  t->device = device;
  return l_job_start(L, t);
}

static moon_status clone(moon_tensor *out, const moon_tensor *a, moon_err *err) {
  moon_status status =
      moon_tensor_new(out, moon_tensor_device(a), a->dtype, a->shape, a->rank, err);
  return status ? status : moon_op_copy(out, a, err);
}

static moon_status run_clone(moon_task *task, moon_progress *progress, moon_err *err) {
  op_task *t = (op_task *)task;
  (void)progress;
  return clone(&t->out, &t->a.tensor, err);
}

static const l_job_kind clone_kinds[] =
    L_TENSOR_KINDS("clone", op_task, run_clone, push_out, drop_op);

static int tensor_clone(lua_State *L) {
  return l_job_start(L, new_task(L, clone_kinds, l_tensor_operand(L, 1, "clone")));
}

static moon_status run_reshape(moon_task *task, moon_progress *progress, moon_err *err) {
  op_task *t = (op_task *)task;
  (void)progress;
  return moon_tensor_reshape(&t->out, &t->a.tensor, t->shape, t->rank, err);
}

static const l_job_kind reshape_kinds[] =
    L_TENSOR_KINDS("reshape", op_task, run_reshape, push_out, drop_op);

/* _reshape(shape): a view here and now, or a job where the elements must be moved. */
static int tensor_reshape(lua_State *L) {
  moon_tensor *a = l_tensor_operand(L, 1, "reshape");
  int64_t shape[MOON_MAX_RANK];
  int rank = l_shape_check(L, 2, "reshape", shape, -1);
  moon_err err;
  if (moon_tensor_contiguous(a))
    return moon_tensor_reshape(l_tensor_new(L), a, shape, rank, &err) ? l_throw(L, &err) : 1;
  op_task *t = new_task(L, reshape_kinds, a);
  t->rank = rank;
  memcpy(t->shape, shape, sizeof shape);
  return l_job_start(L, t);
}

/* In place */

static int push_nothing(lua_State *L, moon_task *task) {
  (void)L, (void)task;
  return 0;
}

static moon_status run_fill(moon_task *task, moon_progress *progress, moon_err *err) {
  op_task *t = (op_task *)task;
  (void)progress;
  return moon_op_fill(&t->a.tensor, t->b.number, err);
}

static const l_job_kind fill_kinds[] =
    L_TENSOR_KINDS("fill_", op_task, run_fill, push_nothing, drop_op);

static int tensor_fill(lua_State *L) {
  moon_tensor *a = l_tensor_operand(L, 1, "fill_");
  if (!is_number(L, 2))
    l_misuse(L, "fill_: found %s, expected a number", l_found(L, 2));
  op_task *t = new_task(L, fill_kinds, a);
  t->b.number = lua_tonumber(L, 2);
  return l_job_start(L, t);
}

/* A source that shares the storage may overlap the destination, so it is cloned first. */
static moon_status run_copy(moon_task *task, moon_progress *progress, moon_err *err) {
  op_task *t = (op_task *)task;
  moon_tensor *a = &t->a.tensor, *b = &t->b.tensor, source = {0};
  (void)progress;
  moon_status status = a->storage == b->storage
                           ? clone(&source, b, err)
                           : moon_tensor_to(&source, b, moon_tensor_device(a), b->dtype, err);
  if (!status)
    status = moon_op_copy(a, &source, err);
  moon_tensor_release(&source);
  return status;
}

static const l_job_kind copy_kinds[] =
    L_TENSOR_KINDS("copy_", op_task, run_copy, push_nothing, drop_op);

static int tensor_copy(lua_State *L) {
  moon_tensor *a = l_tensor_operand(L, 1, "copy_"), *b = l_tensor_operand(L, 2, "copy_");
  op_task *t = new_task(L, copy_kinds, a);
  t->b.tensor = moon_tensor_retain(b);
  return l_job_start(L, t);
}

static const luaL_Reg methods[] = {
    {"_softmax", tensor_softmax}, {"_topk", tensor_topk},   {"_matmul", tensor_matmul},
    {"_to", tensor_to},           {"_clone", tensor_clone}, {"_reshape", tensor_reshape},
    {"_fill_", tensor_fill},      {"_copy_", tensor_copy},  {NULL, NULL}};

/* methods["_" .. names[op]] = function, with op as its upvalue */
static void set_family(lua_State *L, const char *const *names, int n, lua_CFunction function) {
  for (int op = 0; op < n; op++) {
    lua_pushfstring(L, "_%s", names[op]);
    lua_pushinteger(L, op);
    lua_pushcclosure(L, function, 1);
    lua_rawset(L, -3);
  }
}

#define COUNT(list) (int)(sizeof(list) / sizeof *(list))

void l_open_tensor_ops(lua_State *L) {
  luaL_setfuncs(L, methods, 0);
  set_family(L, binary_names, COUNT(binary_names), tensor_binary);
  set_family(L, unary_names, COUNT(unary_names), tensor_unary);
  set_family(L, reduce_names, COUNT(reduce_names), tensor_reduce);
}

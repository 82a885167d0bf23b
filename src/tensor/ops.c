// SPDX-License-Identifier: MIT
/*
 * The checked front of each operation. An operation lists its operands: role, tensor, what dtypes
 * it takes and what its dims are called; dims of one name must be equal. What a list cannot say
 * follows it.
 */
#include "tensor/ops.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "tensor/storage.h"

#define DTYPE(id) (1u << MOON_##id)

enum {
  F32 = DTYPE(F32),
  I32 = DTYPE(I32),
  I64 = DTYPE(I64),
  U8 = DTYPE(U8),
  WEIGHT = DTYPE(F32) | DTYPE(F16) | DTYPE(BF16),
  DTYPES = (1u << MOON_DTYPE_COUNT) - 1,
  WRITTEN = 1u << 28,    /* must not lie in a mapped file */
  STRIDED = 1u << 29,    /* need not be row-major */
  SAME_SHAPE = 1u << 30, /* any rank; shape equal to the first operand's */
};

typedef struct operand {
  const char *role;
  const moon_tensor *tensor; /* NULL: an optional one that is not there */
  unsigned needs;
  const char *dims[4]; /* names; NULL after the last */
} operand;

#define N_OPERANDS(list) (sizeof(list) / sizeof *(list))
#define CHECK(op, list)  check(op, list, N_OPERANDS(list), err)

static int rank_of(const operand *o) {
  int rank = 0;
  while (rank < 4 && o->dims[rank])
    rank++;
  return rank;
}

static char *shape_of(char *text, const moon_tensor *t) {
  return moon_shape_text(text, MOON_SHAPE_TEXT, t->shape, t->rank);
}

/* "f32, f16 or bf16" */
static char *dtypes_text(char *text, size_t size, unsigned dtypes) {
  text[0] = 0;
  for (int i = 1; i < MOON_DTYPE_COUNT; i++)
    if (dtypes & 1u << i) {
      size_t used = strlen(text);
      const char *joint = !used ? "" : dtypes >> (i + 1) ? ", " : " or ";
      snprintf(text + used, size - used, "%s%s", joint, moon_dtype_name((moon_dtype)i));
    }
  return text;
}

static moon_status check_dtype(const char *op, const operand *o, moon_err *err) {
  unsigned dtypes = o->needs & DTYPES;
  char text[MOON_SHAPE_TEXT];
  if (dtypes & 1u << o->tensor->dtype)
    return MOON_OK;
  return moon_fail(err, MOON_EDTYPE, "%s: %s is %s, expected %s", op, o->role,
                   moon_dtype_name(o->tensor->dtype), dtypes_text(text, sizeof text, dtypes));
}

static moon_status check_layout(const char *op, const operand *o, moon_err *err) {
  char text[MOON_SHAPE_TEXT];
  if (o->needs & WRITTEN && o->tensor->storage->file)
    return moon_fail(err, MOON_EINVAL, "%s: %s is read-only (it lies in a mapped file)", op,
                     o->role);
  if (!(o->needs & STRIDED) && !moon_tensor_contiguous(o->tensor))
    return moon_fail(err, MOON_ESHAPE, "%s: %s %s is a strided view, expected row-major", op,
                     o->role, shape_of(text, o->tensor));
  return MOON_OK;
}

static moon_status check_device(const char *op, const operand *first, const operand *o,
                                moon_err *err) {
  moon_device *device = moon_tensor_device(first->tensor), *other = moon_tensor_device(o->tensor);
  if (device == other)
    return MOON_OK;
  return moon_fail(err, MOON_EDEVICE, "%s: %s is on %s, %s on %s", op, first->role, device->name,
                   o->role, other->name);
}

static moon_status check_rank(const char *op, const operand *o, moon_err *err) {
  char found[MOON_SHAPE_TEXT], expected[MOON_SHAPE_TEXT] = "";
  if (o->tensor->rank == rank_of(o))
    return MOON_OK;
  for (int i = 0; i < rank_of(o); i++) {
    size_t used = strlen(expected);
    snprintf(expected + used, sizeof expected - used, i ? ", %s" : "%s", o->dims[i]);
  }
  return moon_fail(err, MOON_ESHAPE, "%s: %s is %s, expected [%s]", op, o->role,
                   shape_of(found, o->tensor), expected);
}

static moon_status misfit(const char *op, const operand *a, const operand *b, const char *why,
                          moon_err *err) {
  char a_shape[MOON_SHAPE_TEXT], b_shape[MOON_SHAPE_TEXT];
  return moon_fail(err, MOON_ESHAPE, "%s: %s %s does not fit %s %s%s", op, a->role,
                   shape_of(a_shape, a->tensor), b->role, shape_of(b_shape, b->tensor), why);
}

/* Dims of one name are equal in a and b. */
static moon_status check_dims(const char *op, const operand *a, const operand *b, moon_err *err) {
  for (int i = 0; i < rank_of(a); i++)
    for (int j = 0; j < rank_of(b); j++)
      if (!strcmp(a->dims[i], b->dims[j]) && a->tensor->shape[i] != b->tensor->shape[j]) {
        char why[MOON_SHAPE_TEXT];
        snprintf(why, sizeof why, ": %s is %lld and %lld", a->dims[i],
                 (long long)a->tensor->shape[i], (long long)b->tensor->shape[j]);
        return misfit(op, a, b, why, err);
      }
  return MOON_OK;
}

static moon_status check_same_shape(const char *op, const operand *a, const operand *b,
                                    moon_err *err) {
  size_t size = (size_t)a->tensor->rank * sizeof *a->tensor->shape;
  if (a->tensor->rank == b->tensor->rank && !memcmp(a->tensor->shape, b->tensor->shape, size))
    return MOON_OK;
  return misfit(op, a, b, "", err);
}

static moon_status check_one(const char *op, const operand *o, moon_err *err) {
  assert(o->tensor->storage);
  moon_status status = check_dtype(op, o, err);
  if (!status)
    status = check_layout(op, o, err);
  if (!status && !(o->needs & SAME_SHAPE))
    status = check_rank(op, o, err);
  return status;
}

static moon_status check_pair(const char *op, const operand *a, const operand *b, moon_err *err) {
  moon_status status = check_device(op, a, b, err);
  if (status)
    return status;
  return b->needs & SAME_SHAPE ? check_same_shape(op, a, b, err) : check_dims(op, a, b, err);
}

static moon_status check(const char *op, const operand *list, size_t n, moon_err *err) {
  moon_status status = MOON_OK;
  for (size_t i = 0; i < n && !status; i++) {
    if (!list[i].tensor)
      continue;
    status = check_one(op, &list[i], err);
    for (size_t j = 0; j < i && !status; j++)
      if (list[j].tensor)
        status = check_pair(op, &list[j], &list[i], err);
  }
  return status;
}

static const moon_ops *ops_of(const moon_tensor *t) {
  return moon_tensor_device(t)->ops;
}

moon_status moon_op_sync(moon_device *device, moon_err *err) {
  return device->ops->sync(device, err);
}

moon_status moon_op_memory(moon_device *device, size_t *free_bytes, size_t *total, moon_err *err) {
  return device->ops->memory(device, free_bytes, total, err);
}

moon_status moon_op_copy(const moon_tensor *out, const moon_tensor *a, moon_err *err) {
  const operand operands[] = {{"source", a, DTYPES | STRIDED | SAME_SHAPE, {0}},
                              {"destination", out, DTYPES | STRIDED | SAME_SHAPE | WRITTEN, {0}}};
  moon_status status = CHECK("copy", operands);
  return status ? status : ops_of(out)->copy(out, a, err);
}

moon_status moon_op_fill(const moon_tensor *out, double value, moon_err *err) {
  const operand operands[] = {{"tensor", out, DTYPES | STRIDED | SAME_SHAPE | WRITTEN, {0}}};
  moon_status status = CHECK("fill", operands);
  return status ? status : ops_of(out)->fill(out, value, err);
}

/* a as a view of out's shape, with stride 0 along the axes that it repeats; false where it does not
 * fit. */
static bool broadcast(moon_tensor *view, const moon_tensor *a, const moon_tensor *out) {
  int added = out->rank - a->rank;
  *view = *a;
  view->rank = out->rank;
  for (int i = 0; i < out->rank; i++) {
    int64_t dim = i < added ? 1 : a->shape[i - added];
    if (dim != 1 && dim != out->shape[i])
      return false;
    view->shape[i] = out->shape[i];
    view->strides[i] = dim == 1 ? 0 : a->strides[i - added];
  }
  return added >= 0;
}

moon_status moon_op_binary(moon_binary op, const moon_tensor *out, const moon_tensor *a,
                           const moon_tensor *b, moon_err *err) {
  static const char *const names[] = {"add", "sub", "mul", "div", "maximum"};
  const operand result = {"out", out, F32 | SAME_SHAPE | WRITTEN, {0}};
  const operand inputs[] = {{"a", a, F32 | STRIDED | SAME_SHAPE, {0}},
                            {"b", b, F32 | STRIDED | SAME_SHAPE, {0}}};
  moon_tensor views[2];
  moon_status status = check_one(names[op], &result, err);
  for (int i = 0; i < 2 && !status; i++) {
    status = check_one(names[op], &inputs[i], err);
    if (!status)
      status = check_device(names[op], &inputs[i], &result, err);
    if (!status && !broadcast(&views[i], inputs[i].tensor, out))
      status = misfit(names[op], &inputs[i], &result, "", err);
  }
  return status ? status : ops_of(out)->binary(op, out, &views[0], &views[1], err);
}

moon_status moon_op_unary(moon_unary op, const moon_tensor *out, const moon_tensor *a,
                          moon_err *err) {
  static const char *const names[] = {"neg", "abs", "exp", "log", "sqrt", "relu"};
  const operand operands[] = {{"a", a, F32 | SAME_SHAPE, {0}},
                              {"out", out, F32 | SAME_SHAPE | WRITTEN, {0}}};
  moon_status status = CHECK(names[op], operands);
  return status ? status : ops_of(out)->unary(op, out, a, err);
}

/* The largest of no elements is no number. */
static moon_status check_columns(const char *op, const moon_tensor *a, moon_err *err) {
  char text[MOON_SHAPE_TEXT];
  if (a->shape[1] > 0 || a->shape[0] == 0)
    return MOON_OK;
  return moon_fail(err, MOON_ESHAPE, "%s: a is %s, expected at least one column", op,
                   shape_of(text, a));
}

moon_status moon_op_reduce(moon_reduce op, const moon_tensor *out, const moon_tensor *a,
                           moon_err *err) {
  static const char *const names[] = {"sum", "max", "sum of squares"};
  const operand operands[] = {{"a", a, F32, {"rows", "n"}}, {"out", out, F32 | WRITTEN, {"rows"}}};
  moon_status status = CHECK(names[op], operands);
  if (!status && op == MOON_MAX)
    status = check_columns(names[op], a, err);
  return status ? status : ops_of(out)->reduce(op, out, a, err);
}

moon_status moon_op_argmax(const moon_tensor *out, const moon_tensor *a, moon_err *err) {
  const operand operands[] = {{"a", a, F32, {"rows", "n"}}, {"out", out, I64 | WRITTEN, {"rows"}}};
  moon_status status = CHECK("argmax", operands);
  if (!status)
    status = check_columns("argmax", a, err);
  return status ? status : ops_of(out)->argmax(out, a, err);
}

moon_status moon_op_topk(const moon_tensor *values, const moon_tensor *indices,
                         const moon_tensor *a, moon_err *err) {
  const operand operands[] = {{"a", a, F32, {"rows", "n"}},
                              {"values", values, F32 | WRITTEN, {"rows", "k"}},
                              {"indices", indices, I64 | WRITTEN, {"rows", "k"}}};
  moon_status status = CHECK("topk", operands);
  if (!status && values->shape[1] > a->shape[1]) {
    char text[MOON_SHAPE_TEXT];
    status = moon_fail(err, MOON_ERANGE, "topk: k is %lld, expected at most %lld (a is %s)",
                       (long long)values->shape[1], (long long)a->shape[1], shape_of(text, a));
  }
  return status ? status : ops_of(a)->topk(values, indices, a, err);
}

moon_status moon_op_softmax(const moon_tensor *out, const moon_tensor *a, moon_err *err) {
  const operand operands[] = {{"a", a, F32, {"rows", "n"}},
                              {"out", out, F32 | WRITTEN, {"rows", "n"}}};
  moon_status status = CHECK("softmax", operands);
  return status ? status : ops_of(out)->softmax(out, a, err);
}

static moon_status check_product(const moon_product *p, const moon_tensor *x, moon_err *err) {
  const operand operands[] = {{"x", x, F32, {"M", "K"}},
                              {"w", &p->w, WEIGHT, {"N", "K"}},
                              {"bias", p->bias.storage ? &p->bias : NULL, WEIGHT, {"N"}},
                              {"out", &p->out, F32 | WRITTEN, {"M", "N"}}};
  return CHECK("linear", operands);
}

moon_status moon_op_products(const moon_product *list, int n, const moon_tensor *x,
                             moon_epilogue epilogue, moon_arithmetic arithmetic, moon_err *err) {
  moon_status status = MOON_OK;
  assert(n >= 1 && n <= MOON_MAX_PRODUCTS && (epilogue != MOON_SWIGLU || n == 2));
  for (int i = 0; i < n && !status; i++)
    status = check_product(&list[i], x, err);
  if (!status && epilogue == MOON_SWIGLU) {
    const operand pair[] = {{"gate", &list[0].w, WEIGHT, {"d_ff", "d_model"}},
                            {"up", &list[1].w, WEIGHT, {"d_ff", "d_model"}}};
    status = CHECK("swiglu", pair);
  }
  return status ? status : ops_of(x)->products(list, n, x, epilogue, arithmetic, err);
}

moon_status moon_op_linear(const moon_tensor *out, const moon_tensor *x, const moon_tensor *w,
                           const moon_tensor *bias, moon_arithmetic arithmetic, moon_err *err) {
  moon_product one = {.out = *out, .w = *w};
  if (bias)
    one.bias = *bias;
  return moon_op_products(&one, 1, x, MOON_STORE, arithmetic, err);
}

moon_status moon_op_embed(const moon_tensor *out, const moon_tensor *table, const moon_tensor *ids,
                          moon_err *err) {
  const operand operands[] = {{"table", table, WEIGHT, {"n_vocab", "d_model"}},
                              {"ids", ids, I32, {"n_tok"}},
                              {"out", out, F32 | WRITTEN, {"n_tok", "d_model"}}};
  moon_status status = CHECK("embed", operands);
  return status ? status : ops_of(out)->embed(out, table, ids, err);
}

moon_status moon_op_rms_norm(const moon_tensor *out, const moon_tensor *x, const moon_tensor *w,
                             float eps, moon_err *err) {
  const operand operands[] = {{"x", x, F32, {"n_tok", "d_model"}},
                              {"w", w, WEIGHT, {"d_model"}},
                              {"out", out, F32 | WRITTEN, {"n_tok", "d_model"}}};
  moon_status status = CHECK("rms_norm", operands);
  return status ? status : ops_of(out)->rms_norm(out, x, w, eps, err);
}

moon_status moon_op_rope(const moon_tensor *q, const moon_tensor *k, const moon_tensor *cos,
                         const moon_tensor *sin, const moon_tensor *positions, moon_err *err) {
  const operand operands[] = {{"q", q, F32 | WRITTEN, {"n_tok", "n_heads", "d_head"}},
                              {"k", k, F32 | WRITTEN, {"n_tok", "n_kv_heads", "d_head"}},
                              {"cos", cos, F32, {"n_ctx", "d_head / 2"}},
                              {"sin", sin, F32, {"n_ctx", "d_head / 2"}},
                              {"positions", positions, I32, {"n_tok"}}};
  moon_status status = CHECK("rope", operands);
  if (!status && q->shape[2] != 2 * cos->shape[1])
    status =
        misfit("rope", &operands[0], &operands[2], ": d_head is not twice the columns of cos", err);
  return status ? status : ops_of(q)->rope(q, k, cos, sin, positions, err);
}

moon_status moon_op_kv_append(const moon_tensor *k_cache, const moon_tensor *v_cache,
                              const moon_tensor *k, const moon_tensor *v,
                              const moon_tensor *positions, moon_err *err) {
  const operand operands[] = {
      {"k", k, F32, {"n_tok", "n_kv_heads", "d_head"}},
      {"v", v, F32, {"n_tok", "n_kv_heads", "d_head"}},
      {"k cache", k_cache, WEIGHT | WRITTEN, {"n_kv_heads", "n_ctx", "d_head"}},
      {"v cache", v_cache, 1u << k_cache->dtype | WRITTEN, {"n_kv_heads", "n_ctx", "d_head"}},
      {"positions", positions, I32, {"n_tok"}}};
  moon_status status = CHECK("kv_append", operands);
  return status ? status : ops_of(k)->kv_append(k_cache, v_cache, k, v, positions, err);
}

moon_status moon_op_attention(const moon_tensor *out, const moon_tensor *q, const moon_tensor *k,
                              const moon_tensor *v, const moon_tensor *positions, int64_t window,
                              float scale, moon_arithmetic arithmetic, moon_err *err) {
  const operand operands[] = {{"q", q, F32, {"n_tok", "n_heads", "d_head"}},
                              {"k", k, WEIGHT, {"n_kv_heads", "n_ctx", "d_head"}},
                              {"v", v, 1u << k->dtype, {"n_kv_heads", "n_ctx", "d_head"}},
                              {"positions", positions, I32, {"n_tok"}},
                              {"out", out, F32 | WRITTEN, {"n_tok", "n_heads", "d_head"}}};
  assert(window >= 0);
  moon_status status = CHECK("attention", operands);
  if (!status && (k->shape[0] == 0 || q->shape[1] % k->shape[0] != 0))
    status = misfit("attention", &operands[0], &operands[1],
                    ": n_heads is no multiple of n_kv_heads", err);
  if (window == 0)
    window = INT64_MAX;
  return status ? status
                : ops_of(out)->attention(out, q, k, v, positions, window, scale, arithmetic, err);
}

moon_status moon_op_sae_activate(const moon_tensor *f, const moon_tensor *bias,
                                 const moon_activation *activation, moon_err *err) {
  bool gated = activation->kind == MOON_ACTIVATION_GATED,
       gates = gated || activation->kind == MOON_ACTIVATION_JUMPRELU;
  const operand operands[] = {{"f", f, F32 | WRITTEN, {"n_tok", "d_sae"}},
                              {"bias", bias, WEIGHT, {"d_sae"}},
                              {"threshold", gates ? &activation->threshold : NULL, F32, {"d_sae"}},
                              {"gain", gated ? &activation->gain : NULL, F32, {"d_sae"}},
                              {"offset", gated ? &activation->offset : NULL, F32, {"d_sae"}}};
  moon_status status = CHECK("sae_activate", operands);
  if (!status && activation->kind == MOON_ACTIVATION_TOPK &&
      (activation->k < 1 || activation->k > f->shape[1]))
    status = moon_fail(err, MOON_ERANGE, "sae_activate: k is %lld, expected 1 to d_sae %lld",
                       (long long)activation->k, (long long)f->shape[1]);
  return status ? status : ops_of(f)->sae_activate(f, bias, activation, err);
}

moon_status moon_op_sae_count(const moon_tensor *counts, const moon_tensor *f, moon_err *err) {
  const operand operands[] = {{"f", f, F32, {"n_tok", "d_sae"}},
                              {"counts", counts, I32 | WRITTEN, {"n_tok"}}};
  moon_status status = CHECK("sae_count", operands);
  return status ? status : ops_of(f)->sae_count(counts, f, err);
}

static moon_status check_sparse(const char *op, const moon_sparse *f, unsigned written,
                                moon_err *err) {
  const operand operands[] = {{"starts", &f->starts, I64, {"n_rows"}},
                              {"counts", &f->counts, I32, {"n_rows"}},
                              {"indices", &f->indices, I32 | written, {"room"}},
                              {"values", &f->values, F32 | written, {"room"}}};
  moon_status status = CHECK(op, operands);
  if (!status && f->starts.shape[0] != f->n_rows)
    status = moon_fail(err, MOON_ESHAPE, "%s: starts has %lld rows, expected %lld", op,
                       (long long)f->starts.shape[0], (long long)f->n_rows);
  return status;
}

/* The tensor in this role is as wide as the sparse rows. */
static moon_status check_columns_of(const char *op, const moon_sparse *f, const char *role,
                                    int64_t found, moon_err *err) {
  if (found == f->n_columns)
    return MOON_OK;
  return moon_fail(err, MOON_ESHAPE, "%s: %s has d_sae %lld, the features have %lld", op, role,
                   (long long)found, (long long)f->n_columns);
}

moon_status moon_op_sae_compact(const moon_sparse *out, const moon_tensor *f, moon_err *err) {
  const operand operands[] = {{"f", f, F32, {"n_tok", "d_sae"}},
                              {"starts", &out->starts, I64, {"n_tok"}}};
  moon_status status = check_sparse("sae_compact", out, WRITTEN, err);
  if (!status)
    status = CHECK("sae_compact", operands);
  if (!status)
    status = check_columns_of("sae_compact", out, "f", f->shape[1], err);
  return status ? status : ops_of(f)->sae_compact(out, f, err);
}

moon_status moon_op_sae_decode(const moon_tensor *out, const moon_sparse *f,
                               const moon_tensor *w_dec, const moon_tensor *b_dec, moon_err *err) {
  const operand operands[] = {{"w_dec", w_dec, WEIGHT, {"d_sae", "d_model"}},
                              {"b_dec", b_dec, WEIGHT, {"d_model"}},
                              {"starts", &f->starts, I64, {"n_tok"}},
                              {"out", out, F32 | WRITTEN, {"n_tok", "d_model"}}};
  moon_status status = check_sparse("sae_decode", f, 0, err);
  if (!status)
    status = CHECK("sae_decode", operands);
  if (!status)
    status = check_columns_of("sae_decode", f, "w_dec", w_dec->shape[0], err);
  return status ? status : ops_of(out)->sae_decode(out, f, w_dec, b_dec, err);
}

static moon_status check_steps(const moon_edit_step *steps, int n_steps,
                               const moon_tensor *features, const moon_tensor *mask,
                               moon_err *err) {
  char text[MOON_SHAPE_TEXT];
  if (mask->shape[1] != n_steps)
    return moon_fail(err, MOON_ESHAPE,
                     "sae_edit: mask is %s, expected one column for each of %d steps",
                     shape_of(text, mask), n_steps);
  for (int i = 0; i < n_steps; i++)
    if (steps[i].slot < 0 || steps[i].slot >= features->shape[0])
      return moon_fail(err, MOON_ERANGE, "sae_edit: step %d has slot %d, expected 0 to %lld", i,
                       (int)steps[i].slot, (long long)features->shape[0] - 1);
  return MOON_OK;
}

moon_status moon_op_sae_edit(const moon_tensor *delta, const moon_tensor *f,
                             const moon_tensor *features, const moon_edit_step *steps, int n_steps,
                             const moon_tensor *mask, moon_err *err) {
  const operand operands[] = {{"delta", delta, F32 | WRITTEN, {"n_tok", "n_features"}},
                              {"f", f, F32 | WRITTEN, {"n_tok", "d_sae"}},
                              {"features", features, I32, {"n_features"}},
                              {"mask", mask, U8, {"n_tok", "n_steps"}}};
  moon_status status = CHECK("sae_edit", operands);
  if (!status)
    status = check_steps(steps, n_steps, features, mask, err);
  for (int i = 0; !f && i < n_steps && !status; i++)
    if (steps[i].op != MOON_EDIT_ADD)
      status = moon_fail(err, MOON_EINVAL, "sae_edit: step %d is no add and needs the features", i);
  return status ? status : ops_of(delta)->sae_edit(delta, f, features, steps, n_steps, mask, err);
}

moon_status moon_op_axpy_rows(const moon_tensor *x, const moon_tensor *coefficients,
                              const moon_tensor *rows, const moon_tensor *w, moon_err *err) {
  const operand operands[] = {{"x", x, F32 | WRITTEN, {"n_tok", "d_model"}},
                              {"coefficients", coefficients, F32, {"n_tok", "n_rows"}},
                              {"rows", rows, I32, {"n_rows"}},
                              {"w", w, WEIGHT, {"d_sae", "d_model"}}};
  moon_status status = CHECK("axpy_rows", operands);
  return status ? status : ops_of(x)->axpy_rows(x, coefficients, rows, w, err);
}

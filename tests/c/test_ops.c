// SPDX-License-Identifier: MIT
/*
 * Conformance of a backend: every operation on random shapes and dtypes against the reference
 * kernels, and the row rule (rows computed alone, in blocks of 7 and all at once, with 1 to 3
 * threads, have the same bits). Numbers go in and out by moon_tensor_read and _write alone.
 *
 *   test_ops [BACKEND...] [only=OP] [seed=N] [trials=N]     BACKEND: an instruction set or a
 * device; default: every instruction set that this CPU has
 */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/dtype.h"
#include "tensor/ops.h"

enum { MAX_OPERANDS = 10, MAX_REPORTS = 3 };

/* How the elements of an operand begin. */
typedef enum filling {
  ZERO,
  NORMAL,    /* roughly normal */
  SPECIAL,   /* small whole numbers (many ties), infinities, zeros of both signs, NaN */
  LARGE,     /* their squares are beyond f32 */
  POSITIVE,  /* 0.1 to 1.1 */
  INDEX,     /* 0 .. trial.limit - 1 */
  DISTINCT,  /* k, k + 1, ... */
  STARTS,    /* 0, limit, 2 limit, ... */
  COUNTS,    /* 0 .. limit */
  ASCENDING, /* 0, 1, ... limit - 1, 0, 1, ... */
} filling;

enum { ROWS = 1, OUT = 2 }; /* dim 0 is the rows; compared */

typedef struct operand {
  const char *role;
  unsigned flags;
  moon_tensor initial; /* on the CPU */
} operand;

typedef struct trial {
  operand operands[MAX_OPERANDS];
  int n_operands, op, variant;
  int64_t limit, k, window;
  moon_edit_step steps[4];
  int n_steps;
  double atol, rtol; /* NaN matches NaN alone */
  moon_status (*call)(const moon_tensor *t, const struct trial *trial, moon_err *err);
} trial;

static uint64_t random_state;
static int n_failures;
static int n_trials = 60; /* of each operation */

static uint64_t random_bits(void) {
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static int64_t random_below(int64_t n) {
  return (int64_t)(random_bits() % (uint64_t)n);
}

static double random_unit(void) {
  return (double)(random_bits() >> 11) * 0x1p-53;
}

static double random_normal(void) {
  double sum = -6;
  for (int i = 0; i < 12; i++)
    sum += random_unit();
  return sum;
}

static double random_special(void) {
  static const double values[] = {0.0, -0.0, INFINITY, -INFINITY, NAN};
  int64_t i = random_below(60);
  return i < 5 ? values[i] : (double)random_below(9) - 4;
}

static double element(filling how, int64_t i, const trial *t) {
  switch (how) {
    case NORMAL:
      return random_normal();
    case SPECIAL:
      return random_special();
    case LARGE:
      return random_normal() * 1e20;
    case POSITIVE:
      return random_unit() + 0.1;
    case INDEX:
      return (double)random_below(t->limit);
    case DISTINCT:
      return (double)(t->k + i);
    case STARTS:
      return (double)(i * t->limit);
    case COUNTS:
      return (double)random_below(t->limit + 1);
    case ASCENDING:
      return (double)(i % t->limit);
    default:
      return 0;
  }
}

static void must(moon_status status, const moon_err *err) {
  if (status) {
    printf("FAILED: %s\n", err->text);
    exit(1);
  }
}

static void add(trial *t, const char *role, unsigned flags, moon_dtype dtype, filling how, int rank,
                ...) {
  moon_err err;
  operand *o = &t->operands[t->n_operands++];
  int64_t shape[MOON_MAX_RANK];
  va_list dims;
  va_start(dims, rank);
  for (int i = 0; i < rank; i++)
    shape[i] = va_arg(dims, int64_t);
  va_end(dims);
  o->role = role;
  o->flags = flags;
  must(moon_tensor_new(&o->initial, moon_cpu(), dtype, shape, rank, &err), &err);
  int64_t n = moon_tensor_count(&o->initial);
  size_t size = moon_dtype_size(dtype);
  char *host = malloc((size_t)n * size + 1);
  for (int64_t i = 0; i < n; i++) {
    double value = element(how, i, t);
    moon_dtype_convert(host + (size_t)i * size, dtype, &value, MOON_F64, 1);
  }
  must(moon_tensor_write(&o->initial, host, &err), &err);
  free(host);
}

static void drop(trial *t) {
  for (int i = 0; i < t->n_operands; i++)
    moon_tensor_release(&t->operands[i].initial);
}

static int64_t pick_rows(void) {
  static const int64_t rows[] = {0, 1, 2, 3, 4, 5, 8, 15, 33};
  return rows[random_below(9)];
}

/* Now and then enough for several threads. */
static int64_t pick_many_rows(void) {
  return random_below(8) ? pick_rows() : 300;
}

static int64_t pick_width(void) {
  static const int64_t widths[] = {1, 2, 3, 7, 16, 17, 31, 64, 65, 100, 128, 257};
  return widths[random_below(12)];
}

/* Now and then a row that a kernel takes in several pieces. */
static int64_t pick_length(void) {
  return random_below(8) ? pick_width() : 1000 + random_below(500);
}

static moon_dtype pick_weight(void) {
  static const moon_dtype dtypes[] = {MOON_F32, MOON_F16, MOON_BF16};
  return dtypes[random_below(3)];
}

static moon_dtype pick_dtype(void) {
  return (moon_dtype)(1 + random_below(MOON_DTYPE_COUNT - 1));
}

/* Operations. Each makes a trial: operands in the order in which its call takes them. */

static moon_status call_copy(const moon_tensor *t, const trial *p, moon_err *err) {
  moon_tensor out, a;
  must(moon_tensor_transpose(&out, &t[0], 1, p->variant & 1 ? 2 : 1, err), err);
  must(moon_tensor_transpose(&a, &t[1], 1, p->variant & 1 ? 2 : 1, err), err);
  moon_tensor dense;
  must(p->variant & 2 ? moon_tensor_to(&dense, &a, moon_tensor_device(&a), a.dtype, err) : MOON_OK,
       err);
  moon_status status = moon_op_copy(&out, p->variant & 2 ? &dense : &a, err);
  if (p->variant & 2)
    moon_tensor_release(&dense);
  moon_tensor_release(&out);
  moon_tensor_release(&a);
  return status;
}

static void copy(trial *t) {
  int64_t M = pick_rows(), K = pick_width(), N = 1 + random_below(5);
  moon_dtype to = pick_dtype(), from = pick_dtype();
  t->variant = (int)random_below(4);
  add(t, "out", ROWS | OUT, to, ZERO, 3, M, N, K);
  add(t, "a", ROWS, from, random_below(2) ? SPECIAL : NORMAL, 3, M, N, K);
  t->call = call_copy;
}

static moon_status call_transpose(const moon_tensor *t, const trial *p, moon_err *err) {
  (void)p;
  moon_tensor turned;
  must(moon_tensor_transpose(&turned, &t[1], 0, 1, err), err);
  moon_status status = moon_op_copy(&t[0], &turned, err);
  moon_tensor_release(&turned);
  return status;
}

/* A matrix, large enough now and then for kernels that work in tiles; all of it at once. */
static void transpose(trial *t) {
  bool large = random_below(10) == 0;
  int64_t M = large ? 500 + random_below(300) : pick_rows(), K = large ? 650 : pick_width();
  add(t, "out", OUT, pick_dtype(), ZERO, 2, M, K);
  add(t, "a", 0, pick_dtype(), NORMAL, 2, K, M);
  t->call = call_transpose;
}

static moon_status call_fill(const moon_tensor *t, const trial *p, moon_err *err) {
  moon_tensor column;
  must(moon_tensor_select(&column, &t[0], 1, 0, err), err);
  moon_status status = moon_op_fill(p->variant ? &column : &t[0], 2.7, err);
  moon_tensor_release(&column);
  return status;
}

static void fill(trial *t) {
  t->variant = (int)random_below(2);
  add(t, "out", ROWS | OUT, pick_dtype(), ZERO, 2, pick_rows(), pick_width());
  t->call = call_fill;
}

static moon_status call_binary(const moon_tensor *t, const trial *p, moon_err *err) {
  return moon_op_binary((moon_binary)p->op, &t[0], &t[1], &t[2], err);
}

static void binary(trial *t) {
  int64_t M = pick_rows(), K = pick_width(), one = 1;
  t->op = (int)random_below(5);
  add(t, "out", ROWS | OUT, MOON_F32, ZERO, 2, M, K);
  add(t, "a", ROWS, MOON_F32, t->op == MOON_MAXIMUM ? SPECIAL : NORMAL, 2, M, K);
  switch (random_below(4)) {
    case 0:
      add(t, "b", 0, MOON_F32, NORMAL, 1, K);
      break;
    case 1:
      add(t, "b", ROWS, MOON_F32, NORMAL, 2, M, one);
      break;
    case 2:
      add(t, "b", 0, MOON_F32, NORMAL, 0);
      break;
    default:
      add(t, "b", ROWS, MOON_F32, NORMAL, 2, M, K);
  }
  t->call = call_binary;
}

static moon_status call_unary(const moon_tensor *t, const trial *p, moon_err *err) {
  return moon_op_unary((moon_unary)p->op, &t[0], &t[1], err);
}

static void unary(trial *t) {
  int64_t M = pick_rows(), K = pick_width();
  t->op = (int)random_below(6);
  bool exact = t->op == MOON_NEG || t->op == MOON_ABS || t->op == MOON_RELU;
  add(t, "out", ROWS | OUT, MOON_F32, ZERO, 2, M, K);
  add(t, "a", ROWS, MOON_F32, exact ? SPECIAL : POSITIVE, 2, M, K);
  t->atol = t->rtol = exact ? 0 : 1e-6;
  t->call = call_unary;
}

static moon_status call_reduce(const moon_tensor *t, const trial *p, moon_err *err) {
  return moon_op_reduce((moon_reduce)p->op, &t[0], &t[1], err);
}

static void reduce(trial *t) {
  int64_t M = pick_rows(), K = pick_width();
  t->op = (int)random_below(3);
  add(t, "out", ROWS | OUT, MOON_F32, ZERO, 1, M);
  add(t, "a", ROWS, MOON_F32, t->op == MOON_MAX ? SPECIAL : NORMAL, 2, M, K);
  if (t->op != MOON_MAX) {
    t->atol = 4e-7 * (double)(K + 1);
    t->rtol = 1e-6;
  }
  t->call = call_reduce;
}

static moon_status call_argmax(const moon_tensor *t, const trial *p, moon_err *err) {
  (void)p;
  return moon_op_argmax(&t[0], &t[1], err);
}

static void argmax(trial *t) {
  int64_t M = pick_rows(), K = pick_width();
  add(t, "out", ROWS | OUT, MOON_I64, ZERO, 1, M);
  add(t, "a", ROWS, MOON_F32, SPECIAL, 2, M, K);
  t->call = call_argmax;
}

static moon_status call_topk(const moon_tensor *t, const trial *p, moon_err *err) {
  (void)p;
  return moon_op_topk(&t[0], &t[1], &t[2], err);
}

static void topk(trial *t) {
  int64_t M = pick_rows(), K = pick_length(), k = random_below(K + 1);
  add(t, "values", ROWS | OUT, MOON_F32, ZERO, 2, M, k);
  add(t, "indices", ROWS | OUT, MOON_I64, ZERO, 2, M, k);
  add(t, "a", ROWS, MOON_F32, SPECIAL, 2, M, K);
  t->call = call_topk;
}

static moon_status call_softmax(const moon_tensor *t, const trial *p, moon_err *err) {
  return moon_op_softmax(&t[0], &t[p->variant], err);
}

static void softmax(trial *t) {
  int64_t M = pick_rows(), K = pick_width();
  t->variant = (int)random_below(2); /* 0: in place */
  add(t, "out", ROWS | OUT, MOON_F32, NORMAL, 2, M, K);
  add(t, "a", ROWS, MOON_F32, NORMAL, 2, M, K);
  t->atol = 1e-7;
  t->rtol = 1e-5;
  t->call = call_softmax;
}

/* x, then out, w and bias of each product. */
static moon_status call_products(const moon_tensor *t, const trial *p, moon_err *err) {
  moon_product list[MOON_MAX_PRODUCTS];
  memset(list, 0, sizeof list);
  int n = (p->n_operands - 1) / 3;
  for (int i = 0; i < n; i++) {
    list[i].out = t[1 + 3 * i];
    list[i].w = t[2 + 3 * i];
    if (p->variant)
      list[i].bias = t[3 + 3 * i];
  }
  return moon_op_products(list, n, &t[0], (moon_epilogue)p->k, (moon_arithmetic)p->op, err);
}

/* Now and then so deep that a sum is made in pieces. */
static int64_t pick_depth(void) {
  if (random_below(20) == 0)
    return 0;
  if (random_below(12) == 0)
    return 1020 + random_below(1100);
  return random_below(8) ? pick_width() : 8 * (60 + random_below(60));
}

static void products(trial *t) {
  int64_t M = random_below(16) ? pick_rows() : 150, K = pick_depth(), N = pick_width();
  t->op = (int)random_below(2);
  t->variant = (int)random_below(2); /* 1: with biases */
  t->k = random_below(3);            /* the epilogue */
  int n = t->k == MOON_SWIGLU ? 2 : 1 + (int)random_below(MOON_MAX_PRODUCTS);
  moon_dtype dtype = pick_weight();
  add(t, "x", ROWS, MOON_F32, NORMAL, 2, M, K);
  for (int i = 0; i < n; i++) {
    unsigned is_work = t->k == MOON_SWIGLU && i == 1 ? 0 : OUT;
    add(t, "out", ROWS | is_work, MOON_F32, NORMAL, 2, M, N);
    add(t, "w", 0, random_below(4) ? dtype : pick_weight(), NORMAL, 2, N, K);
    add(t, "bias", 0, pick_weight(), NORMAL, 1, N);
    N = t->k == MOON_SWIGLU ? N : pick_width();
  }
  t->atol = 4e-7 * (double)(K + 1) * (t->k == MOON_SWIGLU ? 1 + sqrt((double)K) : 1);
  t->rtol = 1e-5;
  t->call = call_products;
}

static moon_status call_embed(const moon_tensor *t, const trial *p, moon_err *err) {
  (void)p;
  return moon_op_embed(&t[0], &t[1], &t[2], err);
}

static void embed(trial *t) {
  int64_t M = pick_rows(), K = pick_width(), N = t->limit = pick_width();
  add(t, "out", ROWS | OUT, MOON_F32, ZERO, 2, M, K);
  add(t, "table", 0, pick_weight(), NORMAL, 2, N, K);
  add(t, "ids", ROWS, MOON_I32, INDEX, 1, M);
  t->call = call_embed;
}

static moon_status call_rms_norm(const moon_tensor *t, const trial *p, moon_err *err) {
  return moon_op_rms_norm(&t[0], &t[p->variant], &t[2], 1e-5f, err);
}

static void rms_norm(trial *t) {
  int64_t M = pick_rows(), K = pick_width();
  filling how = random_below(4) ? NORMAL : LARGE;
  t->variant = (int)random_below(2); /* 0: in place */
  add(t, "out", ROWS | OUT, MOON_F32, how, 2, M, K);
  add(t, "x", ROWS, MOON_F32, how, 2, M, K);
  add(t, "w", 0, pick_weight(), NORMAL, 1, K);
  t->atol = 1e-6;
  t->rtol = 1e-5;
  t->call = call_rms_norm;
}

static moon_status call_rope(const moon_tensor *t, const trial *p, moon_err *err) {
  (void)p;
  return moon_op_rope(&t[0], &t[1], &t[2], &t[3], &t[4], err);
}

static void rope(trial *t) {
  int64_t M = pick_many_rows(), heads = 1 + random_below(5), half = 1 + random_below(40);
  int64_t n_ctx = t->limit = 50;
  add(t, "q", ROWS | OUT, MOON_F32, NORMAL, 3, M, heads, 2 * half);
  add(t, "k", ROWS | OUT, MOON_F32, NORMAL, 3, M, 1 + random_below(heads), 2 * half);
  add(t, "cos", 0, MOON_F32, NORMAL, 2, n_ctx, half);
  add(t, "sin", 0, MOON_F32, NORMAL, 2, n_ctx, half);
  add(t, "positions", ROWS, MOON_I32, INDEX, 1, M);
  t->atol = t->rtol = 1e-6;
  t->call = call_rope;
}

static moon_status call_kv_append(const moon_tensor *t, const trial *p, moon_err *err) {
  (void)p;
  return moon_op_kv_append(&t[0], &t[1], &t[2], &t[3], &t[4], err);
}

static void kv_append(trial *t) {
  int64_t M = pick_many_rows(), heads = 1 + random_below(5), d_head = pick_width(), n_ctx = M + 7;
  moon_dtype dtype = pick_weight();
  add(t, "k cache", OUT, dtype, NORMAL, 3, heads, n_ctx, d_head);
  add(t, "v cache", OUT, dtype, NORMAL, 3, heads, n_ctx, d_head);
  add(t, "k", ROWS, MOON_F32, NORMAL, 3, M, heads, d_head);
  add(t, "v", ROWS, MOON_F32, NORMAL, 3, M, heads, d_head);
  add(t, "positions", ROWS, MOON_I32, DISTINCT, 1, M);
  t->call = call_kv_append;
}

static moon_status call_attention(const moon_tensor *t, const trial *p, moon_err *err) {
  return moon_op_attention(&t[0], &t[1], &t[2], &t[3], &t[4], p->window, 0.25f,
                           (moon_arithmetic)p->op, err);
}

/* The sum of two bf16 leaves 2^-17 of a query, so more of its scores. */
static void tolerate_attention(trial *t, int64_t d_head) {
  t->atol = (t->op == MOON_ARITHMETIC_BF16 ? 3e-6 : 1e-6) * (1 + sqrt((double)d_head));
  t->rtol = 2e-5;
}

/* 0: none; else from one key to more than there are. */
static int64_t pick_window(int64_t n_ctx) {
  return random_below(2) ? 0 : 1 + random_below(n_ctx + 3);
}

static void attention(trial *t) {
  int64_t M = pick_rows(), kv_heads = 1 + random_below(3), group = 1 + random_below(4);
  int64_t d_head = pick_width(), n_ctx = t->limit = 1 + random_below(random_below(3) ? 60 : 700);
  moon_dtype dtype = pick_weight();
  t->op = (int)random_below(2);
  t->window = pick_window(n_ctx);
  add(t, "out", ROWS | OUT, MOON_F32, ZERO, 3, M, kv_heads * group, d_head);
  add(t, "q", ROWS, MOON_F32, NORMAL, 3, M, kv_heads * group, d_head);
  add(t, "k", 0, dtype, NORMAL, 3, kv_heads, n_ctx, d_head);
  add(t, "v", 0, dtype, NORMAL, 3, kv_heads, n_ctx, d_head);
  add(t, "positions", ROWS, MOON_I32, INDEX, 1, M);
  tolerate_attention(t, d_head);
  t->call = call_attention;
}

/* No numbers in row `first` of a cache, if there is one; now and then in all from there on. */
static void poison(operand *cache, int64_t first) {
  moon_err err;
  moon_tensor rows;
  int64_t left = cache->initial.shape[1] - first, n = left && random_below(2) ? 1 : left;
  must(moon_tensor_narrow(&rows, &cache->initial, 1, first, n, &err), &err);
  must(moon_op_fill(&rows, NAN, &err), &err);
  moon_tensor_release(&rows);
}

/* A span of a prompt, somewhere in its session. Some row of the cache, now and then one that the
 * span's last rows see, has NaN, which no row before may notice, nor one whose window begins later.
 */
static void prefill(trial *t) {
  static const int64_t rows[] = {1, 7, 64, 130}, groups[] = {1, 2, 4, 8};
  int64_t M = rows[random_below(4)], group = groups[random_below(M > 64 ? 2 : 4)];
  int64_t kv_heads = random_below(4) ? 1 : 2, d_head = 16 * (1 + random_below(8));
  t->k = random_below(2) ? random_below(150) : 0;
  int64_t n_ctx = t->k + M + random_below(80);
  t->window = pick_window(random_below(2) ? n_ctx : 40);
  int64_t n_clean = random_below(2) ? t->k + M : t->k + random_below(M + 1);
  add(t, "out", ROWS | OUT, MOON_F32, ZERO, 3, M, kv_heads * group, d_head);
  add(t, "q", ROWS, MOON_F32, NORMAL, 3, M, kv_heads * group, d_head);
  add(t, "k", 0, MOON_BF16, NORMAL, 3, kv_heads, n_ctx, d_head);
  add(t, "v", 0, MOON_BF16, NORMAL, 3, kv_heads, n_ctx, d_head);
  add(t, "positions", ROWS, MOON_I32, DISTINCT, 1, M);
  if (random_below(2))
    poison(&t->operands[2], n_clean);
  poison(&t->operands[3], n_clean);
  t->op = MOON_ARITHMETIC_BF16;
  tolerate_attention(t, d_head);
  t->call = call_attention;
}

static moon_status call_sae_activate(const moon_tensor *t, const trial *p, moon_err *err) {
  moon_activation activation = {.kind = (moon_activation_kind)p->op,
                                .k = p->k,
                                .threshold = t[1],
                                .gain = t[2],
                                .offset = t[3]};
  return moon_op_sae_activate(&t[0], p->variant ? &t[4] : NULL, &activation, err);
}

static void sae_activate(trial *t) {
  int64_t M = pick_rows(), K = pick_length();
  bool gelu = (t->op = (int)random_below(5)) == MOON_ACTIVATION_GELU;
  t->k = 1 + random_below(K);
  add(t, "f", ROWS | OUT, MOON_F32, gelu ? NORMAL : SPECIAL, 2, M, K);
  add(t, "threshold", 0, MOON_F32, NORMAL, 1, K);
  add(t, "gain", 0, MOON_F32, POSITIVE, 1, K);
  add(t, "offset", 0, MOON_F32, NORMAL, 1, K);
  add(t, "bias", 0, pick_weight(), NORMAL, 1, K);
  t->variant = (int)random_below(2); /* 1: with a bias */
  t->atol = gelu ? 1e-7 : 0;
  t->rtol = gelu ? 1e-5 : 0;
  t->call = call_sae_activate;
}

static moon_sparse sparse_of(const moon_tensor *t, int64_t n_columns) {
  return (moon_sparse){.n_rows = t[0].shape[0],
                       .n_columns = n_columns,
                       .starts = t[0],
                       .counts = t[1],
                       .indices = t[2],
                       .values = t[3]};
}

static moon_status call_sae_count(const moon_tensor *t, const trial *p, moon_err *err) {
  (void)p;
  return moon_op_sae_count(&t[0], &t[1], err);
}

static void sae_count(trial *t) {
  int64_t M = pick_rows(), K = pick_length();
  add(t, "counts", ROWS | OUT, MOON_I32, ZERO, 1, M);
  add(t, "f", ROWS, MOON_F32, SPECIAL, 2, M, K);
  t->call = call_sae_count;
}

static moon_status call_sae_compact(const moon_tensor *t, const trial *p, moon_err *err) {
  moon_sparse out = sparse_of(t, p->limit);
  return moon_op_sae_compact(&out, &t[4], err);
}

static void sae_compact(trial *t) {
  int64_t M = pick_rows(), K = t->limit = pick_length(), room = M * K;
  add(t, "starts", ROWS, MOON_I64, STARTS, 1, M);
  add(t, "counts", ROWS, MOON_I32, ZERO, 1, M);
  add(t, "indices", OUT, MOON_I32, ZERO, 1, room);
  add(t, "values", OUT, MOON_F32, ZERO, 1, room);
  add(t, "f", ROWS, MOON_F32, SPECIAL, 2, M, K);
  t->call = call_sae_compact;
}

static moon_status call_sae_decode(const moon_tensor *t, const trial *p, moon_err *err) {
  moon_sparse f = sparse_of(t, p->limit);
  return moon_op_sae_decode(&t[4], &f, &t[5], &t[6], err);
}

static void sae_decode(trial *t) {
  int64_t M = pick_rows(), K = t->limit = pick_width(), N = pick_width(), room = M * K;
  add(t, "starts", ROWS, MOON_I64, STARTS, 1, M);
  add(t, "counts", ROWS, MOON_I32, COUNTS, 1, M);
  add(t, "indices", 0, MOON_I32, ASCENDING, 1, room);
  add(t, "values", 0, MOON_F32, NORMAL, 1, room);
  add(t, "out", ROWS | OUT, MOON_F32, ZERO, 2, M, N);
  add(t, "w_dec", 0, pick_weight(), NORMAL, 2, K, N);
  add(t, "b_dec", 0, pick_weight(), NORMAL, 1, N);
  t->atol = 4e-7 * (double)(K + 1);
  t->rtol = 1e-5;
  t->call = call_sae_decode;
}

static moon_status call_sae_edit(const moon_tensor *t, const trial *p, moon_err *err) {
  return moon_op_sae_edit(&t[0], p->variant ? NULL : &t[1], &t[2], p->steps, p->n_steps, &t[3],
                          err);
}

static void sae_edit(trial *t) {
  int64_t M = pick_rows(), K = pick_width(), m = 1 + random_below(K < 4 ? K : 4);
  t->n_steps = (int)random_below(5);
  t->variant = (int)random_below(2); /* 1: additions, which need no features */
  for (int i = 0; i < t->n_steps; i++)
    t->steps[i] = (moon_edit_step){.slot = (int32_t)random_below(m),
                                   .op = t->variant ? MOON_EDIT_ADD : (int32_t)random_below(3),
                                   .value = (float)random_normal()};
  t->limit = 2;
  add(t, "delta", ROWS | OUT, MOON_F32, ZERO, 2, M, m);
  add(t, "f", ROWS | OUT, MOON_F32, SPECIAL, 2, M, K);
  add(t, "features", 0, MOON_I32, DISTINCT, 1, m);
  add(t, "mask", ROWS, MOON_U8, INDEX, 2, M, (int64_t)t->n_steps);
  t->call = call_sae_edit;
}

static moon_status call_axpy_rows(const moon_tensor *t, const trial *p, moon_err *err) {
  (void)p;
  return moon_op_axpy_rows(&t[0], &t[1], &t[2], &t[3], err);
}

static void axpy_rows(trial *t) {
  int64_t M = pick_rows(), K = pick_width(), N = t->limit = pick_width(), m = random_below(5);
  add(t, "x", ROWS | OUT, MOON_F32, NORMAL, 2, M, K);
  add(t, "coefficients", ROWS, MOON_F32, random_below(4) ? NORMAL : ZERO, 2, M, m);
  add(t, "rows", 0, MOON_I32, INDEX, 1, m);
  add(t, "w", 0, pick_weight(), NORMAL, 2, N, K);
  t->atol = 2e-6;
  t->rtol = 1e-5;
  t->call = call_axpy_rows;
}

static const struct {
  const char *name;
  void (*make)(trial *t);
} ops[] = {
#define OP(name) \
  { #name, name }
    OP(copy),        OP(transpose),  OP(fill),      OP(binary),    OP(unary),        OP(reduce),
    OP(argmax),      OP(topk),       OP(softmax),   OP(products),  OP(embed),        OP(rms_norm),
    OP(rope),        OP(kv_append),  OP(attention), OP(prefill),   OP(sae_activate), OP(sae_count),
    OP(sae_compact), OP(sae_decode), OP(sae_edit),  OP(axpy_rows),
#undef OP
};

/* Runs */

typedef struct backend {
  const char *name;
  const char *instruction_set; /* NULL: not the CPU */
  moon_device *device;
} backend;

static void use(const char *instruction_set) {
  moon_err err;
  if (instruction_set)
    must(moon_cpu_use_instruction_set(instruction_set, &err), &err);
}

/* Operands as they begin, on a device, for one run. */
static void load(moon_tensor *t, const trial *p, moon_device *device) {
  moon_err err;
  for (int i = 0; i < p->n_operands; i++) {
    const moon_tensor *from = &p->operands[i].initial;
    void *host = malloc(moon_tensor_size_bytes(from) + 1);
    must(moon_tensor_read(from, host, &err), &err);
    must(moon_tensor_from_host(&t[i], device, from->dtype, from->shape, from->rank, host, &err),
         &err);
    free(host);
  }
}

static void unload(moon_tensor *t, int n) {
  for (int i = 0; i < n; i++)
    moon_tensor_release(&t[i]);
}

static int64_t n_rows(const trial *p) {
  for (int i = 0; i < p->n_operands; i++)
    if (p->operands[i].flags & ROWS)
      return p->operands[i].initial.shape[0];
  return 1; /* all of it is one row */
}

static void call_rows(const moon_tensor *t, const trial *p, int64_t first, int64_t count) {
  moon_err err;
  moon_tensor part[MAX_OPERANDS];
  for (int i = 0; i < p->n_operands; i++)
    if (p->operands[i].flags & ROWS)
      must(moon_tensor_narrow(&part[i], &t[i], 0, first, count, &err), &err);
    else
      part[i] = moon_tensor_retain(&t[i]);
  must(p->call(part, p, &err), &err);
  unload(part, p->n_operands);
}

/* The call over all rows, `block` at a time; 0: all at once. */
static void run(moon_tensor *t, const trial *p, const backend *b, int64_t block) {
  int64_t n = n_rows(p);
  use(b->instruction_set);
  load(t, p, b->device);
  if (block == 0)
    call_rows(t, p, 0, n);
  for (int64_t first = 0; block > 0 && first < n; first += block)
    call_rows(t, p, first, n - first < block ? n - first : block);
}

static double *values_of(const moon_tensor *t) {
  moon_err err;
  size_t n = (size_t)moon_tensor_count(t);
  void *host = malloc(n * moon_dtype_size(t->dtype) + 1);
  double *values = malloc(n * sizeof *values + 1);
  must(moon_tensor_read(t, host, &err), &err);
  moon_dtype_convert(values, MOON_F64, host, t->dtype, n);
  free(host);
  return values;
}

static bool matches(double got, double want, const trial *p) {
  if (isnan(want))
    return isnan(got);
  return got == want || fabs(got - want) <= p->atol + p->rtol * fabs(want);
}

static void report(const char *op, const char *what, const trial *p, int i, int64_t at, double got,
                   double want) {
  char text[MOON_SHAPE_TEXT];
  const operand *o = &p->operands[i];
  printf("FAILED %s, %s: %s %s %s at %" PRId64 " is %.9g, expected %.9g\n", op, what, o->role,
         moon_dtype_name(o->initial.dtype),
         moon_shape_text(text, sizeof text, o->initial.shape, o->initial.rank), at, got, want);
}

static void compare(const char *op, const char *what, const trial *p, const moon_tensor *got,
                    const moon_tensor *want, bool bits) {
  int reports = 0;
  for (int i = 0; i < p->n_operands; i++) {
    if (!(p->operands[i].flags & OUT))
      continue;
    double *g = values_of(&got[i]), *w = values_of(&want[i]);
    for (int64_t at = 0; at < moon_tensor_count(&got[i]); at++)
      if (bits ? memcmp(&g[at], &w[at], sizeof *g) != 0 : !matches(g[at], w[at], p)) {
        n_failures++;
        if (reports++ < MAX_REPORTS)
          report(op, what, p, i, at, g[at], w[at]);
      }
    free(g);
    free(w);
  }
}

static void check_rows(const char *op, const trial *p, const backend *b,
                       const moon_tensor *at_once) {
  static const int64_t blocks[] = {0, 1, 7};
  for (int threads = 1; threads <= 3; threads++)
    for (int i = 0; i < 3; i++) {
      char what[64];
      moon_tensor t[MAX_OPERANDS];
      snprintf(what, sizeof what, "%s, %d threads, blocks of %d rows", b->name, threads,
               (int)blocks[i]);
      moon_cpu_set_threads(threads);
      run(t, p, b, blocks[i]);
      compare(op, what, p, t, at_once, true);
      unload(t, p->n_operands);
    }
}

static void check_trial(const char *op, const trial *p, const backend *b) {
  const backend reference = {"reference", "reference", moon_cpu()};
  moon_tensor want[MAX_OPERANDS], got[MAX_OPERANDS];
  run(want, p, &reference, 0);
  run(got, p, b, 0);
  compare(op, b->name, p, got, want, false);
  check_rows(op, p, b, got);
  unload(want, p->n_operands);
  unload(got, p->n_operands);
}

static void check_backend(const backend *b, const char *only, uint64_t seed) {
  int failures = n_failures;
  for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
    if (only && strcmp(only, ops[i].name) != 0)
      continue;
    random_state = seed + i;
    for (int n = 0; n < n_trials; n++) {
      trial t = {.limit = 1};
      ops[i].make(&t);
      check_trial(ops[i].name, &t, b);
      drop(&t);
    }
  }
  printf("%s: %d failures\n", b->name, n_failures - failures);
}

static backend find_backend(const char *name) {
  moon_err err;
  moon_device *device;
  for (int i = 0; moon_cpu_instruction_set_name(i); i++)
    if (!strcmp(name, moon_cpu_instruction_set_name(i)))
      return (backend){name, name, moon_cpu()};
  must(moon_device_find(&device, name, &err), &err);
  return (backend){name, NULL, device};
}

int main(int argc, char **argv) {
  const char *only = NULL, *names[16] = {0};
  uint64_t seed = 1;
  int n = 0;
  for (int i = 1; i < argc; i++)
    if (!strncmp(argv[i], "only=", 5))
      only = argv[i] + 5;
    else if (!strncmp(argv[i], "seed=", 5))
      seed = strtoull(argv[i] + 5, NULL, 10);
    else if (!strncmp(argv[i], "trials=", 7))
      n_trials = atoi(argv[i] + 7);
    else if (n < 16)
      names[n++] = argv[i];
  if (n == 0)
    for (; n < 16 && moon_cpu_instruction_set_name(n); n++)
      names[n] = moon_cpu_instruction_set_name(n);
  printf("seed %" PRIu64 "\n", seed);
  for (int i = 0; i < n; i++) {
    backend b = find_backend(names[i]);
    check_backend(&b, only, seed);
  }
  if (moon_storage_live() != 0)
    printf("FAILED: %" PRId64 " storages are left\n", moon_storage_live());
  return n_failures > 0 || moon_storage_live() != 0;
}

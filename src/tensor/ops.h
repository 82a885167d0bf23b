// SPDX-License-Identifier: MIT
/*
 * The table that a backend fills in, and the checked front of each operation.
 *
 * moon_op_<name> (ops.c) checks shapes, dtypes and devices, allocates nothing, and calls the
 * device's table; a table function may rely on what the front has checked. Operations are enqueued
 * in order on the device and may return before they are done; a fault inside a kernel shows at the
 * next moon_tensor_read or moon_op_sync. Tensors are f32 and row-major unless said otherwise.
 *
 * One row, one result: a row of an output depends on that row of the input alone, never on the
 * number of rows, their order or the number of threads. A kernel may be chosen by K, N, dtype and
 * instruction set, never by the number of rows, and the order of a sum over K is fixed.
 */
#ifndef MOON_TENSOR_OPS_H
#define MOON_TENSOR_OPS_H

#include "tensor/tensor.h"

typedef enum moon_binary { MOON_ADD, MOON_SUB, MOON_MUL, MOON_DIV, MOON_MAXIMUM } moon_binary;
typedef enum moon_unary { MOON_NEG, MOON_ABS, MOON_EXP, MOON_LOG, MOON_SQRT, MOON_RELU } moon_unary;
typedef enum moon_reduce { MOON_SUM, MOON_MAX, MOON_SUM_OF_SQUARES } moon_reduce;

/* How a product treats its activations. BF16 rounds them to bf16 (nearest even) where the weight is
 * bf16, products are exact and sums f32; F32 keeps them. A weight of another dtype always gets F32.
 */
typedef enum moon_arithmetic { MOON_ARITHMETIC_F32, MOON_ARITHMETIC_BF16 } moon_arithmetic;

typedef enum moon_activation_kind {
  MOON_ACTIVATION_RELU,
  MOON_ACTIVATION_TOPK,
  MOON_ACTIVATION_JUMPRELU,
  MOON_ACTIVATION_GATED,
  MOON_ACTIVATION_GELU
} moon_activation_kind;

/* The tensors are [d_sae] f32, those that the kind does not have empty. */
typedef struct moon_activation {
  moon_activation_kind kind;
  int64_t k;             /* TOPK: relu, then the k largest of a row; ties go to the lower index */
  moon_tensor threshold; /* JUMPRELU: x stays where x > threshold and x > 0. GATED: see gain */
  moon_tensor gain, offset; /* GATED: relu(gain x + offset), rounded once, where x > threshold */
} moon_activation;

/* One of several products of the same x: w [N][K] and bias [N] (storage NULL: none) in f32, f16 or
 * bf16, out [M][N]. */
typedef struct moon_product {
  moon_tensor out, w, bias;
} moon_product;

/* What becomes of y_i = x w_i^T + bias_i. One pass over x and the weights whatever it is, with the
 * same bits as the steps one by one. */
typedef enum moon_epilogue {
  MOON_STORE,  /* out_i := y_i */
  MOON_ADD_TO, /* out_i := out_i + y_i */
  MOON_SWIGLU, /* two products: out_0 := y_0 / (1 + exp(-y_0)) * y_1; out_1 is work space */
} moon_epilogue;

enum { MOON_MAX_PRODUCTS = 3 };

/* Rows of (index, value) pairs: row t is indices[starts[t] .. starts[t] + counts[t]), ascending. */
typedef struct moon_sparse {
  int64_t n_rows, n_columns;
  moon_tensor starts;  /* i64 [n_rows] */
  moon_tensor counts;  /* i32 [n_rows] */
  moon_tensor indices; /* i32 [room] */
  moon_tensor values;  /* f32 [room] */
} moon_sparse;

typedef enum moon_edit_op {
  MOON_EDIT_ADD,
  MOON_EDIT_SET,
  MOON_EDIT_SCALE
} moon_edit_op; /* ablate is set 0 */

/* One change of one feature: f + value, value, or f * value. */
typedef struct moon_edit_step {
  int32_t slot; /* index into the list of edited features */
  int32_t op;   /* moon_edit_op */
  float value;
} moon_edit_step;

struct moon_ops {
  const char *name; /* "reference", "v2", "avx2", "avx512", "avx512bf16", "amx", "cuda" */

  /* Memory. `data` is the backend's address: never read through it outside the backend. */
  moon_status (*alloc)(moon_device *device, size_t size, void **data, moon_err *err);
  void (*free)(moon_device *device, void *data, size_t size);
  moon_status (*upload)(moon_device *device, void *data, const void *host, size_t size,
                        moon_err *err);
  moon_status (*download)(moon_device *device, void *host, const void *data, size_t size,
                          moon_err *err); /* waits */
  moon_status (*sync)(moon_device *device, moon_err *err);
  moon_status (*memory)(moon_device *device, size_t *free_bytes, size_t *total, moon_err *err);

  /* Tensors */
  moon_status (*copy)(const moon_tensor *out, const moon_tensor *a, moon_err *err);
  moon_status (*fill)(const moon_tensor *out, double value, moon_err *err);
  moon_status (*binary)(moon_binary op, const moon_tensor *out, const moon_tensor *a,
                        const moon_tensor *b, moon_err *err);
  moon_status (*unary)(moon_unary op, const moon_tensor *out, const moon_tensor *a, moon_err *err);
  moon_status (*reduce)(moon_reduce op, const moon_tensor *out, const moon_tensor *a,
                        moon_err *err);
  moon_status (*argmax)(const moon_tensor *out, const moon_tensor *a, moon_err *err);
  moon_status (*topk)(const moon_tensor *values, const moon_tensor *indices, const moon_tensor *a,
                      moon_err *err);
  moon_status (*softmax)(const moon_tensor *out, const moon_tensor *a, moon_err *err);
  moon_status (*products)(const moon_product *list, int n, const moon_tensor *x,
                          moon_epilogue epilogue, moon_arithmetic arithmetic, moon_err *err);

  /* Llama */
  moon_status (*embed)(const moon_tensor *out, const moon_tensor *table, const moon_tensor *ids,
                       moon_err *err);
  moon_status (*rms_norm)(const moon_tensor *out, const moon_tensor *x, const moon_tensor *w,
                          float eps, moon_err *err);
  moon_status (*rope)(const moon_tensor *q, const moon_tensor *k, const moon_tensor *cos,
                      const moon_tensor *sin, const moon_tensor *positions, moon_err *err);
  moon_status (*kv_append)(const moon_tensor *k_cache, const moon_tensor *v_cache,
                           const moon_tensor *k, const moon_tensor *v, const moon_tensor *positions,
                           moon_err *err);
  moon_status (*attention)(const moon_tensor *out, const moon_tensor *q, const moon_tensor *k,
                           const moon_tensor *v, const moon_tensor *positions, int64_t window,
                           float scale, moon_arithmetic arithmetic, moon_err *err);

  /* Sparse autoencoder */
  moon_status (*sae_activate)(const moon_tensor *f, const moon_tensor *bias,
                              const moon_activation *activation, moon_err *err);
  moon_status (*sae_count)(const moon_tensor *counts, const moon_tensor *f, moon_err *err);
  moon_status (*sae_compact)(const moon_sparse *out, const moon_tensor *f, moon_err *err);
  moon_status (*sae_decode)(const moon_tensor *out, const moon_sparse *f, const moon_tensor *w_dec,
                            const moon_tensor *b_dec, moon_err *err);
  moon_status (*sae_edit)(const moon_tensor *delta, const moon_tensor *f,
                          const moon_tensor *features, const moon_edit_step *steps, int n_steps,
                          const moon_tensor *mask, moon_err *err);
  moon_status (*axpy_rows)(const moon_tensor *x, const moon_tensor *coefficients,
                           const moon_tensor *rows, const moon_tensor *w, moon_err *err);

  /* Limits (limits.h): reads n floats, at n_streams places at once; makes n_steps times some
   * operations of an arithmetic's innermost instruction on each thread and returns how many. The
   * CPU's only. */
  void (*read_all)(const float *data, int64_t n, int n_streams);
  double (*multiply)(moon_arithmetic arithmetic, int64_t n_steps);
};

/* Waits until everything enqueued on the device is done and reports the first fault. MOON_ELOST: no
 * operation on the device will succeed in this process. */
moon_status moon_op_sync(moon_device *device, moon_err *err);

/* Bytes that can be allocated on the device now, and all that it has. */
moon_status moon_op_memory(moon_device *device, size_t *free_bytes, size_t *total, moon_err *err);

/* out := a, element by element; same shape, any strides, any dtypes. To an integer: truncated,
 * saturated, NaN -> 0. */
moon_status moon_op_copy(const moon_tensor *out, const moon_tensor *a, moon_err *err);
/* out := value; any strides, any dtype. */
moon_status moon_op_fill(const moon_tensor *out, double value, moon_err *err);
/* out := a op b. out is row-major; a and b broadcast to its shape (trailing dims equal or 1, any
 * strides). out may be a or b. */
moon_status moon_op_binary(moon_binary op, const moon_tensor *out, const moon_tensor *a,
                           const moon_tensor *b, moon_err *err);
/* out := op(a), same shape; out may be a. */
moon_status moon_op_unary(moon_unary op, const moon_tensor *out, const moon_tensor *a,
                          moon_err *err);
/* out [rows] := reduction of each row of a [rows][n]; n >= 1 for MAX. NaN wins MAX. Sums run in a
 * fixed order. */
moon_status moon_op_reduce(moon_reduce op, const moon_tensor *out, const moon_tensor *a,
                           moon_err *err);
/* out i64 [rows] := column of the largest of each row of a [rows][n], n >= 1; the first of equals;
 * NaN wins. */
moon_status moon_op_argmax(const moon_tensor *out, const moon_tensor *a, moon_err *err);
/* values [rows][k], indices i64 [rows][k] := the k largest of each row of a [rows][n], descending,
 * ties by lower index, NaN first; k <= n. */
moon_status moon_op_topk(const moon_tensor *values, const moon_tensor *indices,
                         const moon_tensor *a, moon_err *err);
/* out [rows][n] := exp(a - max) / sum of it, per row; out may be a. */
moon_status moon_op_softmax(const moon_tensor *out, const moon_tensor *a, moon_err *err);
/* out [M][N] := x [M][K] w^T + bias, w [N][K] and bias [N] (or NULL) in f32, f16 or bf16; sums in
 * f32. */
moon_status moon_op_linear(const moon_tensor *out, const moon_tensor *x, const moon_tensor *w,
                           const moon_tensor *bias, moon_arithmetic arithmetic, moon_err *err);
/* 1 to MOON_MAX_PRODUCTS products of x [M][K] at once. MOON_SWIGLU takes two of equal N. */
moon_status moon_op_products(const moon_product *list, int n, const moon_tensor *x,
                             moon_epilogue epilogue, moon_arithmetic arithmetic, moon_err *err);

/* out [n][d] := rows ids i32 [n] of table [n_vocab][d] (f32, f16, bf16). Ids are the caller's to
 * check. */
moon_status moon_op_embed(const moon_tensor *out, const moon_tensor *table, const moon_tensor *ids,
                          moon_err *err);
/* out [n][d] := w * x / sqrt(mean(x^2) + eps), w [d] f32, f16 or bf16; out may be x. NaN in a row
 * whose squares leave f32's range: it would be all zeros, which looks like a result. */
moon_status moon_op_rms_norm(const moon_tensor *out, const moon_tensor *x, const moon_tensor *w,
                             float eps, moon_err *err);
/* Rotates q [n][n_heads][d_head] and k [n][n_kv_heads][d_head] in place, halves paired as in
 * Hugging Face's rotate_half: (a, b) -> (a cos - b sin, b cos + a sin) with row positions[t] (i32
 * [n]) of cos and sin [n_ctx][d_head / 2]. */
moon_status moon_op_rope(const moon_tensor *q, const moon_tensor *k, const moon_tensor *cos,
                         const moon_tensor *sin, const moon_tensor *positions, moon_err *err);
/* The caches [n_kv_heads][n_ctx][d_head] (f32, f16, bf16, both the same) get k and v
 * [n][n_kv_heads][d_head] at rows positions i32 [n]. */
moon_status moon_op_kv_append(const moon_tensor *k_cache, const moon_tensor *v_cache,
                              const moon_tensor *k, const moon_tensor *v,
                              const moon_tensor *positions, moon_err *err);
/* out, q [n][n_heads][d_head]; k, v caches as above. Query t sees rows 0 .. positions[t], or with a
 * window >= 1 the last `window` of those (0: all); head h reads kv head h / (n_heads / n_kv_heads).
 * out[t][h] := softmax(scale q k^T) v, everything in f32.
 * Where the cache is bf16, BF16 lets a backend take scale q and the softmax weights each as the sum
 * of two bf16, within 2^-17 of it, for its tensor cores; the CPU's do not. */
moon_status moon_op_attention(const moon_tensor *out, const moon_tensor *q, const moon_tensor *k,
                              const moon_tensor *v, const moon_tensor *positions, int64_t window,
                              float scale, moon_arithmetic arithmetic, moon_err *err);

/* f [n][d_sae] in place: f + bias (bias [d_sae] f32, f16 or bf16, or NULL), then pre-activations to
 * features, >= 0 but for GELU (the exact one, by erf). NaN stays NaN. */
moon_status moon_op_sae_activate(const moon_tensor *f, const moon_tensor *bias,
                                 const moon_activation *activation, moon_err *err);
/* counts i32 [n] := how many elements of each row of f [n][d_sae] are not 0 (NaN is not). */
moon_status moon_op_sae_count(const moon_tensor *counts, const moon_tensor *f, moon_err *err);
/* Those elements of f [n_rows][n_columns] into rows that begin at out->starts, where there is room
 * for out->counts (by moon_op_sae_count) of them. */
moon_status moon_op_sae_compact(const moon_sparse *out, const moon_tensor *f, moon_err *err);
/* out [n][d_model] := b_dec + sum of value * w_dec[index] in row order; w_dec [d_sae][d_model],
 * b_dec [d_model] in f32, f16, bf16. */
moon_status moon_op_sae_decode(const moon_tensor *out, const moon_sparse *f,
                               const moon_tensor *w_dec, const moon_tensor *b_dec, moon_err *err);
/* delta [n][m] := f' - f at features i32 [m], where f' is f [n][d_sae] after steps, in order; step
 * e acts on row t only where mask u8 [n][n_steps] is 1. f' is written into f. An add changes delta
 * by its value exactly, so f may be NULL where every step is one. */
moon_status moon_op_sae_edit(const moon_tensor *delta, const moon_tensor *f,
                             const moon_tensor *features, const moon_edit_step *steps, int n_steps,
                             const moon_tensor *mask, moon_err *err);
/* x [n][d] += sum over j of coefficients [n][m] * w[rows[j]]; rows i32 [m], w [any][d] in f32, f16,
 * bf16. A zero coefficient leaves x untouched. */
moon_status moon_op_axpy_rows(const moon_tensor *x, const moon_tensor *coefficients,
                              const moon_tensor *rows, const moon_tensor *w, moon_err *err);

#endif

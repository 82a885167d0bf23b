// SPDX-License-Identifier: MIT
/*
 * Products of bf16 matrices with f32 sums by cuBLASLt.
 *
 * Its algorithm is asked for once per (K, N) and kept: for ALGORITHM_ROWS rows, without a workspace
 * and without a reduction over parts of K. So a row has the same bits whatever stands beside it.
 *
 * The library is half a gigabyte and takes 0.1 s to open, so that waits for the first product.
 */
#include <cublasLt.h>
#include <dlfcn.h>
#include <stdlib.h>

#include "tensor/cuda/device.cuh"

#define LIBRARY "libcublasLt.so.13"

enum { ALGORITHM_ROWS = 2048, N_CANDIDATES = 8 };

#define FUNCTIONS(X)                      \
  X(cublasLtCreate)                       \
  X(cublasLtMatmulDescCreate)             \
  X(cublasLtMatmulDescDestroy)            \
  X(cublasLtMatmulDescSetAttribute)       \
  X(cublasLtMatrixLayoutCreate)           \
  X(cublasLtMatrixLayoutDestroy)          \
  X(cublasLtMatmulPreferenceCreate)       \
  X(cublasLtMatmulPreferenceDestroy)      \
  X(cublasLtMatmulPreferenceSetAttribute) \
  X(cublasLtMatmulAlgoGetHeuristic)       \
  X(cublasLtMatmulAlgoConfigGetAttribute) \
  X(cublasLtMatmul)

/* The library's functions, by the names and types of its header. */
static struct {
#define X(name) decltype(&::name) name;
  FUNCTIONS(X)
#undef X
} lt;

static moon_status open_library(moon_err *err) {
  void *library = lt.cublasLtMatmul ? NULL : dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
  if (lt.cublasLtMatmul)
    return MOON_OK;
  if (!library)
    return moon_fail(err, MOON_EDEVICE, "linear: %s", dlerror());
#define X(name)                               \
  *(void **)&lt.name = dlsym(library, #name); \
  if (!lt.name)                               \
    return moon_fail(err, MOON_EDEVICE, "linear: %s", dlerror());
  FUNCTIONS(X)
#undef X
  return MOON_OK;
}

static moon_status check_cublas(cuda_device *d, cublasStatus_t status, moon_err *err) {
  if (status == CUBLAS_STATUS_SUCCESS)
    return MOON_OK;
  if (status == CUBLAS_STATUS_ALLOC_FAILED)
    return check_cuda(d, cudaErrorMemoryAllocation, "linear", 0, err);
  return moon_fail(err, MOON_EDEVICE, "%s: linear: cuBLASLt fails with status %d", d->name,
                   (int)status);
}

static moon_status start_cublas(cuda_device *d, moon_err *err) {
  if (d->cublas)
    return MOON_OK;
  TRY(open_library(err));
  return check_cublas(d, lt.cublasLtCreate((cublasLtHandle_t *)&d->cublas), err);
}

/* How a product of these dims is done. */
struct product {
  int64_t K, N;
  cublasLtMatmulAlgo_t algorithm;
  product *next;
};

/* A row-major [rows][columns] is column-major [columns][rows], which is how cuBLAS thinks:
 * out^T = w x^T. */
struct plan {
  cublasLtMatmulDesc_t operation;
  cublasLtMatrixLayout_t w, x, out;
};

static void free_plan(plan *p) {
  if (p->operation)
    lt.cublasLtMatmulDescDestroy(p->operation);
  cublasLtMatrixLayout_t layouts[] = {p->w, p->x, p->out};
  for (int i = 0; i < 3; i++)
    if (layouts[i])
      lt.cublasLtMatrixLayoutDestroy(layouts[i]);
}

static cublasStatus_t make_plan(plan *p, int64_t M, int64_t N, int64_t K) {
  cublasOperation_t transposed = CUBLAS_OP_T;
  cublasStatus_t s;
  if ((s = lt.cublasLtMatmulDescCreate(&p->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F)) ||
      (s = lt.cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                             sizeof transposed)) ||
      (s = lt.cublasLtMatrixLayoutCreate(&p->w, CUDA_R_16BF, (uint64_t)K, (uint64_t)N, K)) ||
      (s = lt.cublasLtMatrixLayoutCreate(&p->x, CUDA_R_16BF, (uint64_t)K, (uint64_t)M, K)))
    return s;
  return lt.cublasLtMatrixLayoutCreate(&p->out, CUDA_R_32F, (uint64_t)N, (uint64_t)M, N);
}

/* No split of K, whose parts would be added in an order of their own. */
static bool keeps_order(const cublasLtMatmulAlgo_t *algorithm) {
  int32_t parts = 0;
  uint32_t reduction = 0;
  size_t written;
  return !lt.cublasLtMatmulAlgoConfigGetAttribute(algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM,
                                                  &parts, sizeof parts, &written) &&
         !lt.cublasLtMatmulAlgoConfigGetAttribute(algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
                                                  &reduction, sizeof reduction, &written) &&
         parts <= 1 && reduction == CUBLASLT_REDUCTION_SCHEME_NONE;
}

static cublasStatus_t ask_for_algorithm(cuda_device *d, product *out, const plan *p,
                                        cublasLtMatmulPreference_t wishes) {
  const size_t no_workspace = 0;
  const uint32_t no_reduction = CUBLASLT_REDUCTION_SCHEME_NONE, alignment = 16;
  cublasLtMatmulHeuristicResult_t found[N_CANDIDATES];
  int n = 0;
  cublasStatus_t s;
  if ((s = lt.cublasLtMatmulPreferenceSetAttribute(wishes, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                   &no_workspace, sizeof no_workspace)) ||
      (s = lt.cublasLtMatmulPreferenceSetAttribute(wishes,
                                                   CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                   &no_reduction, sizeof no_reduction)) ||
      (s = lt.cublasLtMatmulPreferenceSetAttribute(
           wishes, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &alignment, sizeof alignment)) ||
      (s = lt.cublasLtMatmulPreferenceSetAttribute(
           wishes, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &alignment, sizeof alignment)) ||
      (s = lt.cublasLtMatmulPreferenceSetAttribute(
           wishes, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &alignment, sizeof alignment)) ||
      (s = lt.cublasLtMatmulAlgoGetHeuristic((cublasLtHandle_t)d->cublas, p->operation, p->w, p->x,
                                             p->out, p->out, wishes, N_CANDIDATES, found, &n)))
    return s;
  for (int i = 0; i < n; i++)
    if (found[i].state == CUBLAS_STATUS_SUCCESS && keeps_order(&found[i].algo)) {
      out->algorithm = found[i].algo;
      return CUBLAS_STATUS_SUCCESS;
    }
  return CUBLAS_STATUS_NOT_SUPPORTED;
}

static cublasStatus_t choose_algorithm(cuda_device *d, product *out) {
  plan p = {};
  cublasLtMatmulPreference_t wishes = NULL;
  cublasStatus_t s = make_plan(&p, ALGORITHM_ROWS, out->N, out->K);
  if (!s)
    s = lt.cublasLtMatmulPreferenceCreate(&wishes);
  if (!s)
    s = ask_for_algorithm(d, out, &p, wishes);
  if (wishes)
    lt.cublasLtMatmulPreferenceDestroy(wishes);
  free_plan(&p);
  return s;
}

static moon_status find_product(product **out, cuda_device *d, int64_t K, int64_t N,
                                moon_err *err) {
  for (product *p = d->products; p; p = p->next)
    if (p->K == K && p->N == N)
      return *out = p, MOON_OK;
  product *p = (product *)calloc(1, sizeof *p);
  if (!p)
    return moon_fail(err, MOON_ENOMEM, "linear: no memory");
  p->K = K;
  p->N = N;
  moon_status status = check_cublas(d, choose_algorithm(d, p), err);
  if (status) {
    free(p);
    return status;
  }
  p->next = d->products;
  *out = d->products = p;
  return MOON_OK;
}

moon_status cublas_product(cuda_device *d, float *out, const void *x, const void *w, bool add,
                           int64_t M, int64_t N, int64_t K, moon_err *err) {
  const float one = 1, before = add ? 1 : 0;
  plan p = {};
  product *chosen = NULL;
  TRY(check_cuda(d, cudaSetDevice(d->index), "linear", 0, err));
  TRY(start_cublas(d, err));
  TRY(find_product(&chosen, d, K, N, err));
  cublasStatus_t s = make_plan(&p, M, N, K);
  if (!s)
    s = lt.cublasLtMatmul((cublasLtHandle_t)d->cublas, p.operation, &one, w, p.w, x, p.x, &before,
                          out, p.out, out, p.out, &chosen->algorithm, NULL, 0, d->stream);
  free_plan(&p);
  return check_cublas(d, s, err);
}

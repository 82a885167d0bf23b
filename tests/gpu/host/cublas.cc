// SPDX-License-Identifier: MIT
/* Products in plain loops. The first algorithm that is offered splits K, which is to be refused. */
#include <assert.h>
#include <cublasLt.h>
#include <stdlib.h>

#include "host.h"

struct host_operation {
  cublasOperation_t a;
};
struct host_matrix {
  cudaDataType dtype;
  int64_t rows, columns, leading;
};
struct host_preference {
  size_t workspace;
};

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
  *handle = (cublasLtHandle_t)handle; /* anything but NULL */
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t,
                                        cudaDataType) {
  *out = new host_operation{CUBLAS_OP_N};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
  delete operation;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation,
                                              cublasLtMatmulDescAttributes_t, const void *value,
                                              size_t size) {
  assert(size == sizeof operation->a);
  memcpy(&operation->a, value, size);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType dtype,
                                          uint64_t rows, uint64_t columns, int64_t leading) {
  *out = new host_matrix{dtype, (int64_t)rows, (int64_t)columns, leading};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out) {
  *out = new host_preference{1 << 20};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t wishes) {
  delete wishes;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t wishes,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t size) {
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
    memcpy(&wishes->workspace, value, size);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t wishes, int most,
                                              cublasLtMatmulHeuristicResult_t *found, int *n) {
  assert(most >= 2 && wishes->workspace == 0);
  found[0] = {{4}, CUBLAS_STATUS_SUCCESS};
  found[1] = {{1}, CUBLAS_STATUS_SUCCESS};
  *n = 2;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algorithm,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute,
                                                    void *value, size_t size, size_t *written) {
  int32_t answer = attribute == CUBLASLT_ALGO_CONFIG_SPLITK_NUM ? algorithm->parts : 0;
  memcpy(value, &answer, *written = size);
  return CUBLAS_STATUS_SUCCESS;
}

static float element(const void *data, const host_matrix *m, int64_t row, int64_t column) {
  uint32_t bits = (uint32_t)((const uint16_t *)data)[column * m->leading + row] << 16;
  float value;
  assert(m->dtype == CUDA_R_16BF && row < m->rows && column < m->columns);
  memcpy(&value, &bits, sizeof value);
  return value;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t, void *d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *algorithm, void *, size_t, cudaStream_t) {
  assert(operation->a == CUBLAS_OP_T && d_layout->dtype == CUDA_R_32F && algorithm->parts == 1);
  bool add = *(const float *)beta == 1;
  assert(*(const float *)alpha == 1 && (add || *(const float *)beta == 0) && c == d);
  assert((uintptr_t)a % 16 == 0 && (uintptr_t)b % 16 == 0 && (uintptr_t)d % 16 == 0);
  if (host_fails())
    return CUBLAS_STATUS_ALLOC_FAILED;
  host_begin_work();
  for (int64_t column = 0; column < d_layout->columns; column++)
    for (int64_t row = 0; row < d_layout->rows; row++) {
      float sum = 0;
      for (int64_t k = 0; k < a_layout->rows; k++)
        sum += element(a, a_layout, k, row) * element(b, b_layout, k, column);
      float *place = (float *)d + column * d_layout->leading + row;
      *place = add ? *place + sum : sum;
    }
  host_end_work();
  return CUBLAS_STATUS_SUCCESS;
}

// SPDX-License-Identifier: MIT
/* Copies, element-wise operations and reductions. All of them are bound by memory. */
#include "tensor/cuda/convert.cuh"

/* Where the elements of a tensor lie. */
struct layout {
  int rank;
  int64_t shape[MOON_MAX_RANK], strides[MOON_MAX_RANK];
};

static layout layout_of(const moon_tensor *t) {
  layout l = {};
  l.rank = t->rank;
  for (int i = 0; i < t->rank; i++) {
    l.shape[i] = t->shape[i];
    l.strides[i] = t->strides[i];
  }
  return l;
}

static int64_t count_of(const moon_tensor *t) {
  int64_t n = 1;
  for (int i = 0; i < t->rank; i++)
    n *= t->shape[i];
  return n;
}

static bool is_contiguous(const moon_tensor *t) {
  int64_t stride = 1;
  bool row_major = true;
  for (int i = t->rank - 1; i >= 0; i--) {
    row_major = row_major && (t->shape[i] == 1 || t->strides[i] == stride);
    stride *= t->shape[i];
  }
  return row_major || stride == 0;
}

static int size_of(moon_dtype dtype) {
  static const int sizes[] = {0,
#define X(id, name, file_name, size) size,
                              MOON_DTYPE_LIST(X)
#undef X
  };
  return sizes[dtype];
}

/* Place of element i in row-major order. */
__device__ __forceinline__ int64_t place_of(const layout &l, int64_t i) {
  int64_t place = 0;
  for (int dim = l.rank - 1; dim >= 0; dim--) {
    place += i % l.shape[dim] * l.strides[dim];
    i /= l.shape[dim];
  }
  return place;
}

/* Copy */

/* Same dtype, any strides; T has the element's size. */
template <typename T>
static __global__ void move_kernel(T *out, layout to, const T *a, layout from, int64_t n) {
  for (int64_t i = first_element(); i < n; i += element_step())
    out[place_of(to, i)] = a[place_of(from, i)];
}

/* Row-major weights: what moves gigabytes. */
template <typename To, typename From>
static __global__ void convert_kernel(To *out, const From *a, int64_t n) {
  for (int64_t i = first_element(); i < n; i += element_step())
    from_f32(out + i, to_f32(a[i]));
}

/* Any strides, any dtypes. */
static __global__ void copy_kernel(void *out, moon_dtype to_dtype, layout to, const void *a,
                                   moon_dtype from_dtype, layout from, int64_t n) {
  for (int64_t i = first_element(); i < n; i += element_step())
    store_wide(to_dtype, out, place_of(to, i), load_wide(from_dtype, a, place_of(from, i)));
}

static __global__ void fill_kernel(void *out, moon_dtype dtype, layout to, double value,
                                   int64_t n) {
  for (int64_t i = first_element(); i < n; i += element_step())
    store_wide(dtype, out, place_of(to, i), wide{false, false, 0, value});
}

template <typename T>
static moon_status move(const moon_tensor *out, const moon_tensor *a, moon_err *err) {
  int64_t n = count_of(out);
  return launch(device_of(out), "copy", err, move_kernel<T>, blocks_for(n, THREADS), THREADS, 0,
                (T *)moon_tensor_data(out), layout_of(out), (const T *)moon_tensor_data(a),
                layout_of(a), n);
}

static moon_status copy_same(const moon_tensor *out, const moon_tensor *a, moon_err *err) {
  cuda_device *d = device_of(out);
  size_t size = (size_t)count_of(out) * (size_t)size_of(out->dtype);
  if (is_contiguous(out) && is_contiguous(a)) {
    cudaError_t code = cudaSetDevice(d->index);
    if (code == cudaSuccess && size > 0)
      code = cudaMemcpyAsync(moon_tensor_data(out), moon_tensor_data(a), size,
                             cudaMemcpyDeviceToDevice, d->stream);
    return check_cuda(d, code, "copy", 0, err);
  }
  switch (size_of(out->dtype)) {
    case 1:
      return move<uint8_t>(out, a, err);
    case 2:
      return move<uint16_t>(out, a, err);
    case 4:
      return move<uint32_t>(out, a, err);
    default:
      return move<uint64_t>(out, a, err);
  }
}

static bool is_weight(const moon_tensor *t) {
  return t->dtype == MOON_F32 || t->dtype == MOON_F16 || t->dtype == MOON_BF16;
}

template <typename From>
static moon_status convert(const moon_tensor *out, const moon_tensor *a, moon_err *err) {
  int64_t n = count_of(out);
  WITH_WEIGHT(
      out->dtype,
      return launch(device_of(out), "copy", err, convert_kernel<T, From>, blocks_for(n, THREADS),
                    THREADS, 0, (T *)moon_tensor_data(out), (const From *)moon_tensor_data(a), n));
}

static moon_status copy(const moon_tensor *out, const moon_tensor *a, moon_err *err) {
  int64_t n = count_of(out);
  if (out->dtype == a->dtype)
    return copy_same(out, a, err);
  if (is_weight(out) && is_weight(a) && is_contiguous(out) && is_contiguous(a))
    WITH_WEIGHT(a->dtype, return convert<T>(out, a, err));
  return launch(device_of(out), "copy", err, copy_kernel, blocks_for(n, THREADS), THREADS, 0,
                moon_tensor_data(out), out->dtype, layout_of(out), moon_tensor_data(a), a->dtype,
                layout_of(a), n);
}

static moon_status fill(const moon_tensor *out, double value, moon_err *err) {
  int64_t n = count_of(out);
  return launch(device_of(out), "fill", err, fill_kernel, blocks_for(n, THREADS), THREADS, 0,
                moon_tensor_data(out), out->dtype, layout_of(out), value, n);
}

/* Element-wise */

__device__ __forceinline__ float binary_of(moon_binary op, float a, float b) {
  switch (op) {
    case MOON_ADD:
      return a + b;
    case MOON_SUB:
      return a - b;
    case MOON_MUL:
      return a * b;
    case MOON_DIV:
      return a / b;
    default:
      return above(a, b) ? a : b;
  }
}

static __global__ void binary_kernel(moon_binary op, float *out, const float *a, const float *b,
                                     int64_t n) {
  for (int64_t i = first_element(); i < n; i += element_step())
    out[i] = binary_of(op, a[i], b[i]);
}

/* a and b with strides over out's shape, 0 along the axes that they repeat. */
static __global__ void broadcast_kernel(moon_binary op, float *out, const float *a, layout a_layout,
                                        const float *b, layout b_layout, int64_t n) {
  for (int64_t i = first_element(); i < n; i += element_step())
    out[i] = binary_of(op, a[place_of(a_layout, i)], b[place_of(b_layout, i)]);
}

static moon_status binary(moon_binary op, const moon_tensor *out, const moon_tensor *a,
                          const moon_tensor *b, moon_err *err) {
  int64_t n = count_of(out);
  cuda_device *d = device_of(out);
  float *y = (float *)moon_tensor_data(out);
  const float *as = (const float *)moon_tensor_data(a), *bs = (const float *)moon_tensor_data(b);
  if (is_contiguous(a) && is_contiguous(b))
    return launch(d, "binary", err, binary_kernel, blocks_for(n, THREADS), THREADS, 0, op, y, as,
                  bs, n);
  return launch(d, "binary", err, broadcast_kernel, blocks_for(n, THREADS), THREADS, 0, op, y, as,
                layout_of(a), bs, layout_of(b), n);
}

__device__ __forceinline__ float unary_of(moon_unary op, float a) {
  switch (op) {
    case MOON_NEG:
      return -a;
    case MOON_ABS:
      return fabsf(a);
    case MOON_EXP:
      return expf(a);
    case MOON_LOG:
      return logf(a);
    case MOON_SQRT:
      return sqrtf(a);
    default:
      return above(a, 0) ? a : 0; /* relu; NaN stays */
  }
}

static __global__ void unary_kernel(moon_unary op, float *out, const float *a, int64_t n) {
  for (int64_t i = first_element(); i < n; i += element_step())
    out[i] = unary_of(op, a[i]);
}

static moon_status unary(moon_unary op, const moon_tensor *out, const moon_tensor *a,
                         moon_err *err) {
  int64_t n = count_of(out);
  return launch(device_of(out), "unary", err, unary_kernel, blocks_for(n, THREADS), THREADS, 0, op,
                (float *)moon_tensor_data(out), (const float *)moon_tensor_data(a), n);
}

/* Reductions: one block per row, so the order of a sum depends on the row's length alone. */

static __global__ void sum_kernel(float *out, const float *a, int64_t n, bool squares) {
  const float *row = a + (int64_t)blockIdx.x * n;
  double sum = 0; /* a row may be a whole tensor */
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
    sum += squares ? (double)row[i] * row[i] : row[i];
  sum = block_reduce(sum, 0.0, sum_of());
  if (threadIdx.x == 0)
    out[blockIdx.x] = (float)sum;
}

static __global__ void max_kernel(float *out, const float *a, int64_t n) {
  const float *row = a + (int64_t)blockIdx.x * n;
  unsigned long long best = block_largest(row, n);
  if (threadIdx.x == 0)
    out[blockIdx.x] = row[index_of_key(best)];
}

static __global__ void argmax_kernel(int64_t *out, const float *a, int64_t n) {
  unsigned long long best = block_largest(a + (int64_t)blockIdx.x * n, n);
  if (threadIdx.x == 0)
    out[blockIdx.x] = index_of_key(best);
}

/* exp(a - max) / sum. Reads the row three times; out may be a. */
static __global__ void softmax_kernel(float *out, const float *a, int64_t n) {
  const float *row = a + (int64_t)blockIdx.x * n;
  float *y = out + (int64_t)blockIdx.x * n;
  float top = row[index_of_key(block_largest(row, n))], sum = 0;
  __syncthreads(); /* out may be a: everybody has read the largest before anybody writes */
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
    sum += y[i] = expf(row[i] - top);
  sum = block_reduce(sum, 0.0f, sum_of());
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
    y[i] /= sum;
}

static moon_status check_columns(const char *op, const moon_tensor *a, moon_err *err) {
  if (a->shape[1] <= UINT32_MAX && a->shape[0] <= INT32_MAX)
    return MOON_OK;
  return moon_fail(err, MOON_ESHAPE,
                   "%s: found %lld rows of %lld columns, expected less than 2^31 "
                   "rows and 2^32 columns on a GPU",
                   op, (long long)a->shape[0], (long long)a->shape[1]);
}

static moon_status reduce(moon_reduce op, const moon_tensor *out, const moon_tensor *a,
                          moon_err *err) {
  cuda_device *d = device_of(out);
  float *y = (float *)moon_tensor_data(out);
  const float *x = (const float *)moon_tensor_data(a);
  dim3 rows((unsigned)a->shape[0]);
  TRY(check_columns("reduce", a, err));
  if (op == MOON_MAX)
    return launch(d, "max", err, max_kernel, rows, THREADS, 0, y, x, a->shape[1]);
  return launch(d, "sum", err, sum_kernel, rows, THREADS, 0, y, x, a->shape[1],
                op == MOON_SUM_OF_SQUARES);
}

static moon_status argmax(const moon_tensor *out, const moon_tensor *a, moon_err *err) {
  TRY(check_columns("argmax", a, err));
  return launch(device_of(out), "argmax", err, argmax_kernel, dim3((unsigned)a->shape[0]),
                MOST_THREADS, 0, (int64_t *)moon_tensor_data(out),
                (const float *)moon_tensor_data(a), a->shape[1]);
}

static moon_status softmax(const moon_tensor *out, const moon_tensor *a, moon_err *err) {
  TRY(check_columns("softmax", a, err));
  if (a->shape[1] == 0)
    return MOON_OK;
  return launch(device_of(out), "softmax", err, softmax_kernel, dim3((unsigned)a->shape[0]),
                THREADS, 0, (float *)moon_tensor_data(out), (const float *)moon_tensor_data(a),
                a->shape[1]);
}

void add_tensor_ops(moon_ops *table) {
  table->copy = copy;
  table->fill = fill;
  table->binary = binary;
  table->unary = unary;
  table->reduce = reduce;
  table->argmax = argmax;
  table->softmax = softmax;
}

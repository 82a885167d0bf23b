// SPDX-License-Identifier: MIT
/*
 * One CUDA device. All work of a device goes through one stream, in order, so memory that is freed
 * may be handed out again at once: what still reads it was enqueued before what will write it.
 *
 * Tables are called by the compute thread; alloc and free by any thread.
 */
#ifndef MOON_TENSOR_CUDA_DEVICE_CUH
#define MOON_TENSOR_CUDA_DEVICE_CUH

#include <cuda_runtime.h>
#include <pthread.h>

#include "tensor/cuda/core.cuh"

#define TRY(call)          \
  do {                     \
    moon_status s_ = call; \
    if (s_)                \
      return s_;           \
  } while (0)

enum { N_CLASSES = 512, N_SLOTS = 4 };

struct block {
  void *data;
  block *next;
};

/* Blocks that were freed, by size class (memory.cu). */
struct pool {
  pthread_mutex_t lock;
  block *cached[N_CLASSES];
  size_t cached_bytes; /* of them all */
};

/* Pinned host memory on its way to the device: small pieces share a slot, and a slot is used again
 * when the copies out of it are done (memory.cu). */
struct staging {
  struct {
    char *data;
    cudaEvent_t copied;
  } slots[N_SLOTS];
  int current;
  size_t used; /* bytes of the current slot */
};

struct product; /* cublas.cu */

struct cuda_device {
  moon_device base;
  int index;
  char name[16];
  bool overlaps; /* runs sm_90 code: a kernel may begin before the one in front of it has ended */
  bool started;  /* stream and staging are there */
  cudaStream_t stream;
  pool memory;
  staging upload;
  void *cublas;      /* its handle, from the first product on */
  product *products; /* algorithms that were chosen */
  void *scratch;     /* of the operation that runs now */
  size_t scratch_size;
};

static inline cuda_device *device_of(const moon_tensor *t) {
  return (cuda_device *)t->storage->device;
}

/* MOON_OK, or what CUDA says went wrong in `what` (an op's name): MOON_ENOMEM with the bytes needed
 * and free, MOON_ELOST after a fault that stays, else MOON_EDEVICE. */
moon_status check_cuda(cuda_device *d, cudaError_t code, const char *what, size_t needed,
                       moon_err *err);

/* memory.cu */
moon_status cuda_alloc(moon_device *device, size_t size, void **data, moon_err *err);
void cuda_free(moon_device *device, void *data, size_t size);
moon_status cuda_upload(moon_device *device, void *data, const void *host, size_t size,
                        moon_err *err);
moon_status cuda_download(moon_device *device, void *host, const void *data, size_t size,
                          moon_err *err);
moon_status cuda_sync(moon_device *device, moon_err *err);
moon_status cuda_memory(moon_device *device, size_t *free_bytes, size_t *total, moon_err *err);
/* Device memory of the calling operation until the next one asks. */
moon_status take_scratch(cuda_device *d, size_t size, void **data, moon_err *err);
moon_status start_staging(cuda_device *d, moon_err *err);

/* out [M][N] := x [M][K] w [N][K]^T, or `add` to what is there, all row-major; x and w in bf16, out
 * f32; rows begin at multiples of 16 bytes (cublas.cu). */
moon_status cublas_product(cuda_device *d, float *out, const void *x, const void *w, bool add,
                           int64_t M, int64_t N, int64_t K, moon_err *err);

/* device.cu */
moon_status start_device(cuda_device *d, moon_err *err);

void add_tensor_ops(moon_ops *table);    /* tensor_ops.cu */
void add_selection_ops(moon_ops *table); /* selection.cu */
void add_matmul_ops(moon_ops *table);    /* matmul.cu */
void add_llama_ops(moon_ops *table);     /* llama.cu */
void add_attention_ops(moon_ops *table); /* attention.cu */
void add_sae_ops(moon_ops *table);       /* sae.cu */

enum { DEFAULT_SHARED = 48 << 10 }; /* bytes; a kernel asks for more */

template <typename... P, typename... A>
moon_status launch_with(cuda_device *d, bool early, const char *op, moon_err *err,
                        void (*kernel)(P...), dim3 grid, unsigned threads, size_t shared,
                        A... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0)
    return MOON_OK;
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = early && d->overlaps;
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = d->stream;
  cudaError_t code = cudaSetDevice(d->index);
  if (code == cudaSuccess && shared > DEFAULT_SHARED)
    code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
  if (code == cudaSuccess)
    code = cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
  return check_cuda(d, code, op, 0, err);
}

/* Enqueues a kernel; an empty grid is nothing to do. `shared`: bytes of dynamic shared memory. */
template <typename... P, typename... A>
moon_status launch(cuda_device *d, const char *op, moon_err *err, void (*kernel)(P...), dim3 grid,
                   unsigned threads, size_t shared, A... arguments) {
  return launch_with(d, false, op, err, kernel, grid, threads, shared, arguments...);
}

/* The same for a kernel that calls wait_for_inputs() (kernel.cuh) before it touches what others
 * write: its blocks are set up, and weights on their way, while the kernel in front of it ends. For
 * the many short kernels of a decode step. */
template <typename... P, typename... A>
moon_status launch_early(cuda_device *d, const char *op, moon_err *err, void (*kernel)(P...),
                         dim3 grid, unsigned threads, size_t shared, A... arguments) {
  return launch_with(d, true, op, err, kernel, grid, threads, shared, arguments...);
}

/* Enough blocks for n elements; a kernel's threads stride over what is left. */
static inline dim3 blocks_for(int64_t n, unsigned threads) {
  const int64_t most = 8192;
  int64_t blocks = (n + threads - 1) / threads;
  return dim3((unsigned)(blocks < most ? blocks : most));
}

#endif

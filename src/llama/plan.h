// SPDX-License-Identifier: MIT
/* What a model will take of a device's memory, known from its config and its files' headers. */
#ifndef MOON_LLAMA_PLAN_H
#define MOON_LLAMA_PLAN_H

#include "llama/weights.h"

typedef struct moon_llama_plan {
  moon_llama_config config;
  int64_t n_ctx;          /* positions of a session */
  moon_dtype dtype;       /* of the embeddings */
  int64_t n_parameters;   /* elements of the weights */
  size_t weights_bytes;   /* of all, */
  size_t mapped_bytes;    /* and of those that stay in the mapped files: they can be evicted */
  moon_dtype kv_dtype;    /* of a session's keys and values */
  size_t token_bytes;     /* of keys and values of one position */
  size_t tables_bytes;    /* of RoPE, which grow with n_ctx */
  size_t context_bytes;   /* of one full session and the tables */
  size_t allocated_bytes; /* weights that are copied, and the context */
} moon_llama_plan;

/* n_ctx as for moon_llama_load. The work space, which is small, is not counted. The codes of
 * moon_llama_load for what the config and the headers show. */
moon_status moon_llama_plan_make(moon_llama_plan *out, const char *folder, moon_device *device,
                                 moon_precision precision, int64_t n_ctx, moon_err *err);

/* MOON_ENOMEM with both numbers and the remedy where what must be allocated exceeds free_bytes;
 * where only mapped weights do not fit beside it, a warning goes to the log. */
moon_status moon_llama_plan_check(const moon_llama_plan *plan, const char *device,
                                  size_t free_bytes, moon_err *err);

#endif

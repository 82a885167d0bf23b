// SPDX-License-Identifier: MIT
/* Conversions between dtypes on the host. */
#ifndef MOON_TENSOR_DTYPE_H
#define MOON_TENSOR_DTYPE_H

#include <string.h>

#include "moon.h"

/* n elements from src to dst, which do not overlap; unaligned is fine. Floats round to nearest
 * even; f8_e4m3 (the "fn" form, no infinity) saturates to NaN above its range as PyTorch does; to
 * an integer: truncated, saturated, NaN -> 0; to bool: not 0. Neither dtype may be MOON_OPAQUE. */
void moon_dtype_convert(void *dst, moon_dtype to, const void *src, moon_dtype from, size_t n);

/* The first of n floats that is finite in src, and in dst, converted from it, is not; -1: none. */
int64_t moon_dtype_overflow(const void *dst, moon_dtype to, const void *src, moon_dtype from,
                            size_t n);

static inline float moon_bf16_to_f32(uint16_t bits) {
  uint32_t wide = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &wide, sizeof value);
  return value;
}

/* Nearest even; NaN stays a quiet NaN. */
static inline uint16_t moon_bf16_from_f32(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000)
    return (uint16_t)(bits >> 16 | 0x40);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float moon_f16_to_f32(uint16_t bits);
uint16_t moon_f16_from_f32(float value); /* nearest even; overflow gives infinity */

#endif

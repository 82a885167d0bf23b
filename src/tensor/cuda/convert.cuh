// SPDX-License-Identifier: MIT
/*
 * Any dtype to any other with one rounding, as moon_dtype_convert does it on the host. The host
 * goes through long double; here a value is a double, or sign and magnitude where it is whole and a
 * double would round it.
 */
#ifndef MOON_TENSOR_CUDA_CONVERT_CUH
#define MOON_TENSOR_CUDA_CONVERT_CUH

#include "tensor/cuda/kernel.cuh"

struct wide {
  bool whole; /* magnitude counts, else number */
  bool negative;
  uint64_t magnitude;
  double number;
};

/* A float of sign, exponent and fraction in 8 or 16 bits: see dtype.c. */
struct format {
  int fraction_bits, bias;
  unsigned sign, largest, overflow, nan;
};

__device__ __forceinline__ format format_of(moon_dtype dtype) {
  switch (dtype) {
    case MOON_F16:
      return format{10, 15, 0x8000, 0x7bff, 0x7c00, 0x7e00};
    case MOON_BF16:
      return format{7, 127, 0x8000, 0x7f7f, 0x7f80, 0x7fc0};
    case MOON_F8_E4M3:
      return format{3, 7, 0x80, 0x7e, 0x7f, 0x7f};
    default:
      return format{2, 15, 0x80, 0x7b, 0x7c, 0x7f};
  }
}

__device__ inline double decode(format f, unsigned bits) {
  unsigned magnitude = bits & (f.sign - 1), fraction = magnitude & ((1u << f.fraction_bits) - 1);
  int exponent = (int)(magnitude >> f.fraction_bits);
  double value;
  if (magnitude > f.largest)
    value = magnitude == f.overflow && f.overflow != f.nan ? (double)INFINITY : (double)NAN;
  else if (exponent == 0)
    value = ldexp((double)fraction, 1 - f.bias - f.fraction_bits);
  else
    value =
        ldexp((double)(fraction + (1u << f.fraction_bits)), exponent - f.bias - f.fraction_bits);
  return bits & f.sign ? -value : value;
}

__device__ inline unsigned encode(format f, double value) {
  unsigned sign = signbit(value) ? f.sign : 0;
  if (isnan(value))
    return sign | f.nan;
  if (isinf(value))
    return sign | f.overflow;
  int exponent = value == 0 ? 1 - f.bias : ilogb(value);
  if (exponent < 1 - f.bias)
    exponent = 1 - f.bias;
  if (exponent > f.bias + 1)
    return sign | f.overflow;
  unsigned steps = (unsigned)rint(ldexp(fabs(value), f.fraction_bits - exponent));
  unsigned bits = steps + ((unsigned)(exponent + f.bias - 1) << f.fraction_bits);
  return sign | (bits > f.largest ? f.overflow : bits);
}

__device__ __forceinline__ wide whole_of(bool negative, uint64_t magnitude) {
  return wide{true, negative, magnitude, 0};
}

__device__ __forceinline__ wide signed_of(int64_t value) {
  return whole_of(value < 0, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

__device__ inline wide load_wide(moon_dtype dtype, const void *p, int64_t i) {
  switch (dtype) {
    case MOON_F64:
      return wide{false, false, 0, ((const double *)p)[i]};
    case MOON_F32:
      return wide{false, false, 0, ((const float *)p)[i]};
    case MOON_F16:
    case MOON_BF16:
      return wide{false, false, 0, decode(format_of(dtype), ((const uint16_t *)p)[i])};
    case MOON_F8_E4M3:
    case MOON_F8_E5M2:
      return wide{false, false, 0, decode(format_of(dtype), ((const uint8_t *)p)[i])};
    case MOON_I64:
      return signed_of(((const int64_t *)p)[i]);
    case MOON_I32:
      return signed_of(((const int32_t *)p)[i]);
    case MOON_I16:
      return signed_of(((const int16_t *)p)[i]);
    case MOON_I8:
      return signed_of(((const int8_t *)p)[i]);
    case MOON_U64:
      return whole_of(false, ((const uint64_t *)p)[i]);
    case MOON_U32:
      return whole_of(false, ((const uint32_t *)p)[i]);
    case MOON_U16:
      return whole_of(false, ((const uint16_t *)p)[i]);
    case MOON_U8:
      return whole_of(false, ((const uint8_t *)p)[i]);
    default:
      return whole_of(false, ((const uint8_t *)p)[i] != 0);
  }
}

/* A double that rounds to f32 and narrower as the value does: what a double cannot hold sets its
 * last bit. */
__device__ inline double narrow(wide v) {
  if (!v.whole)
    return v.number;
  uint64_t m = v.magnitude;
  if (m >> 53)
    m = (m >> 11 | ((m & 0x7ff) != 0)) << 11;
  return v.negative ? -(double)m : (double)m;
}

/* Truncated and saturated to [-low, high]; NaN is 0. */
__device__ inline uint64_t to_whole(wide v, uint64_t low, uint64_t high) {
  uint64_t m = v.magnitude;
  bool negative = v.negative;
  if (!v.whole) {
    double magnitude = isnan(v.number) ? 0 : trunc(fabs(v.number));
    m = magnitude >= 0x1p64 ? UINT64_MAX : (uint64_t)magnitude;
    negative = v.number < 0;
  }
  uint64_t most = negative ? low : high;
  m = m < most ? m : most;
  return negative ? 0 - m : m;
}

__device__ inline void store_wide(moon_dtype dtype, void *p, int64_t i, wide v) {
  switch (dtype) {
    case MOON_F64:
      ((double *)p)[i] = !v.whole     ? v.number
                         : v.negative ? -(double)v.magnitude
                                      : (double)v.magnitude;
      return;
    case MOON_F32:
      ((float *)p)[i] = (float)narrow(v);
      return;
    case MOON_F16:
    case MOON_BF16:
      ((uint16_t *)p)[i] = (uint16_t)encode(format_of(dtype), narrow(v));
      return;
    case MOON_F8_E4M3:
    case MOON_F8_E5M2:
      ((uint8_t *)p)[i] = (uint8_t)encode(format_of(dtype), narrow(v));
      return;
    case MOON_I64:
      ((uint64_t *)p)[i] = to_whole(v, (uint64_t)1 << 63, INT64_MAX);
      return;
    case MOON_I32:
      ((uint32_t *)p)[i] = (uint32_t)to_whole(v, (uint64_t)1 << 31, INT32_MAX);
      return;
    case MOON_I16:
      ((uint16_t *)p)[i] = (uint16_t)to_whole(v, 1 << 15, INT16_MAX);
      return;
    case MOON_I8:
      ((uint8_t *)p)[i] = (uint8_t)to_whole(v, 1 << 7, INT8_MAX);
      return;
    case MOON_U64:
      ((uint64_t *)p)[i] = to_whole(v, 0, UINT64_MAX);
      return;
    case MOON_U32:
      ((uint32_t *)p)[i] = (uint32_t)to_whole(v, 0, UINT32_MAX);
      return;
    case MOON_U16:
      ((uint16_t *)p)[i] = (uint16_t)to_whole(v, 0, UINT16_MAX);
      return;
    case MOON_U8:
      ((uint8_t *)p)[i] = (uint8_t)to_whole(v, 0, UINT8_MAX);
      return;
    default:
      ((uint8_t *)p)[i] = v.whole ? v.magnitude != 0 : v.number != 0;
  }
}

#endif

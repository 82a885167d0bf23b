// SPDX-License-Identifier: MIT
/*
 * The pairs that move gigabytes (among f32, bf16 and f16, and f32 with f64) have loops of their
 * own. All others go through long double, whose 64-bit mantissa holds every i64, u64 and f64
 * exactly, so that there is one rounding whatever the pair.
 */
#include "tensor/dtype.h"

#include <float.h>
#include <math.h>

_Static_assert(LDBL_MANT_DIG >= 64,
               "conversions need a long double that holds every 64-bit integer");

static uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* Shifted into place, exponent and fraction are those of a float 2^112 too small; a subnormal lands
 * on a subnormal, so the same exact product serves both. */
static inline float f16_to_f32(uint16_t bits) {
  uint32_t magnitude = bits & 0x7fffu, sign = (uint32_t)(bits & 0x8000u) << 16;
  if (magnitude >= 0x7c00)
    return float_of(sign | 0x7f800000 | magnitude << 13 | (magnitude > 0x7c00 ? 0x400000 : 0));
  return float_of(sign | bits_of(float_of(magnitude << 13) * 0x1p112f));
}

static inline uint16_t f16_from_f32(float value) {
  uint32_t magnitude = bits_of(value) & 0x7fffffff, sign = bits_of(value) >> 16 & 0x8000;
  if (magnitude > 0x7f800000)
    return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
  if (magnitude >= 0x47800000) /* 2^16 */
    return (uint16_t)(sign | 0x7c00);
  if (magnitude < 0x38800000) /* 2^-14: at 0.5 a float's last place is 2^-24, f16's smallest step */
    return (uint16_t)(sign | (bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f)));
  uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return (uint16_t)(sign | (rounded - (112u << 23)) >> 13);
}

float moon_f16_to_f32(uint16_t bits) {
  return f16_to_f32(bits);
}

uint16_t moon_f16_from_f32(float value) {
  return f16_from_f32(value);
}

/* A float of sign, exponent and fraction in 8 or 16 bits. */
typedef struct format {
  int fraction_bits, bias;
  unsigned sign, largest, overflow,
      nan; /* bit patterns: the largest finite one, what is above it */
} format;

static const format f16 = {10, 15, 0x8000, 0x7bff, 0x7c00, 0x7e00};
static const format bf16 = {7, 127, 0x8000, 0x7f7f, 0x7f80, 0x7fc0};
static const format f8_e4m3 = {3, 7, 0x80, 0x7e, 0x7f, 0x7f};
static const format f8_e5m2 = {2, 15, 0x80, 0x7b, 0x7c, 0x7f};

static long double decode(const format *f, unsigned bits) {
  unsigned magnitude = bits & (f->sign - 1);
  int exponent = (int)(magnitude >> f->fraction_bits);
  unsigned fraction = magnitude & ((1u << f->fraction_bits) - 1);
  long double value;
  if (magnitude > f->largest)
    value = magnitude == f->overflow && f->overflow != f->nan ? INFINITY : NAN;
  else if (exponent == 0)
    value = ldexpl(fraction, 1 - f->bias - f->fraction_bits);
  else
    value = ldexpl(fraction + (1u << f->fraction_bits), exponent - f->bias - f->fraction_bits);
  return bits & f->sign ? -value : value;
}

/* In units of the last place the value is an integer after rounding; added to the exponent field it
 * carries into the next exponent by itself. */
static unsigned encode(const format *f, long double value) {
  unsigned sign = signbit(value) ? f->sign : 0;
  if (isnan(value))
    return sign | f->nan;
  if (isinf(value))
    return sign | f->overflow;
  int exponent = value == 0 ? 1 - f->bias : ilogbl(value);
  if (exponent < 1 - f->bias)
    exponent = 1 - f->bias;
  if (exponent > f->bias + 1)
    return sign | f->overflow;
  unsigned steps = (unsigned)rintl(ldexpl(fabsl(value), f->fraction_bits - exponent));
  unsigned bits = steps + ((unsigned)(exponent + f->bias - 1) << f->fraction_bits);
  return sign | (bits > f->largest ? f->overflow : bits);
}

static long double clamp(long double value, long double low, long double high) {
  if (isnan(value))
    return 0;
  return value < low ? low : value > high ? high : value;
}

/* n elements of `in` to `out`, both of which may be unaligned. */
#define CONVERT(out_type, out, in_type, in, expression)      \
  for (size_t i = 0; i < n; i++) {                           \
    in_type v;                                               \
    memcpy(&v, (const char *)(in) + i * sizeof v, sizeof v); \
    out_type w = (out_type)(expression);                     \
    memcpy((char *)(out) + i * sizeof w, &w, sizeof w);      \
  }

static void load(long double *values, moon_dtype from, const void *src, size_t n) {
  switch (from) {
#define CASE(id, type, expression) \
  case MOON_##id:                  \
    CONVERT(long double, values, type, src, expression) break;
    CASE(F64, double, v)
    CASE(F32, float, v)
    CASE(F16, uint16_t, f16_to_f32(v))
    CASE(BF16, uint16_t, moon_bf16_to_f32(v))
    CASE(F8_E4M3, uint8_t, decode(&f8_e4m3, v))
    CASE(F8_E5M2, uint8_t, decode(&f8_e5m2, v))
    CASE(I64, int64_t, v)
    CASE(I32, int32_t, v)
    CASE(I16, int16_t, v)
    CASE(I8, int8_t, v)
    CASE(U64, uint64_t, v)
    CASE(U32, uint32_t, v)
    CASE(U16, uint16_t, v)
    CASE(U8, uint8_t, v)
    CASE(BOOL, uint8_t, v != 0)
#undef CASE
    case MOON_OPAQUE:
    case MOON_DTYPE_COUNT:
      break;
  }
}

static void store(void *dst, moon_dtype to, const long double *values, size_t n) {
  switch (to) {
#define CASE(id, type, expression) \
  case MOON_##id:                  \
    CONVERT(type, dst, long double, values, expression) break;
    CASE(F64, double, v)
    CASE(F32, float, v)
    CASE(F16, uint16_t, encode(&f16, v))
    CASE(BF16, uint16_t, encode(&bf16, v))
    CASE(F8_E4M3, uint8_t, encode(&f8_e4m3, v))
    CASE(F8_E5M2, uint8_t, encode(&f8_e5m2, v))
    CASE(I64, int64_t, clamp(v, INT64_MIN, INT64_MAX))
    CASE(I32, int32_t, clamp(v, INT32_MIN, INT32_MAX))
    CASE(I16, int16_t, clamp(v, INT16_MIN, INT16_MAX))
    CASE(I8, int8_t, clamp(v, INT8_MIN, INT8_MAX))
    CASE(U64, uint64_t, clamp(v, 0, UINT64_MAX))
    CASE(U32, uint32_t, clamp(v, 0, UINT32_MAX))
    CASE(U16, uint16_t, clamp(v, 0, UINT16_MAX))
    CASE(U8, uint8_t, clamp(v, 0, UINT8_MAX))
    CASE(BOOL, uint8_t, v != 0)
#undef CASE
    case MOON_OPAQUE:
    case MOON_DTYPE_COUNT:
      break;
  }
}

/* false: not a pair with a loop of its own */
static bool convert_directly(void *dst, moon_dtype to, const void *src, moon_dtype from, size_t n) {
  switch (from * MOON_DTYPE_COUNT + to) {
#define CASE(from_id, from_type, to_id, to_type, expression) \
  case MOON_##from_id *MOON_DTYPE_COUNT + MOON_##to_id:      \
    CONVERT(to_type, dst, from_type, src, expression) return true;
    CASE(F32, float, BF16, uint16_t, moon_bf16_from_f32(v))
    CASE(F32, float, F16, uint16_t, f16_from_f32(v))
    CASE(F32, float, F64, double, v)
    CASE(BF16, uint16_t, F32, float, moon_bf16_to_f32(v))
    CASE(F16, uint16_t, F32, float, f16_to_f32(v))
    CASE(F64, double, F32, float, v)
    CASE(BF16, uint16_t, F16, uint16_t, f16_from_f32(moon_bf16_to_f32(v)))
    CASE(F16, uint16_t, BF16, uint16_t, moon_bf16_from_f32(f16_to_f32(v)))
#undef CASE
    default:
      return false;
  }
}

#define BLOCK 256

void moon_dtype_convert(void *dst, moon_dtype to, const void *src, moon_dtype from, size_t n) {
  size_t to_size = moon_dtype_size(to), from_size = moon_dtype_size(from);
  if (n == 0)
    return;
  if (to == from) {
    memcpy(dst, src, n * to_size);
    return;
  }
  if (convert_directly(dst, to, src, from, n))
    return;
  long double values[BLOCK];
  for (size_t done = 0; done < n; done += BLOCK) {
    size_t count = n - done < BLOCK ? n - done : BLOCK;
    load(values, from, (const char *)src + done * from_size, count);
    store((char *)dst + done * to_size, to, values, count);
  }
}

int64_t moon_dtype_overflow(const void *dst, moon_dtype to, const void *src, moon_dtype from,
                            size_t n) {
  size_t to_size = moon_dtype_size(to), from_size = moon_dtype_size(from);
  float converted[BLOCK];
  if (to == MOON_F64) /* holds every float, and an f32 what the others hold */
    return -1;
  for (size_t first = 0; first < n; first += BLOCK) {
    size_t count = n - first < BLOCK ? n - first : BLOCK;
    moon_dtype_convert(converted, MOON_F32, (const char *)dst + first * to_size, to, count);
    for (size_t i = 0; i < count; i++) {
      double before;
      if (isfinite(converted[i]))
        continue;
      moon_dtype_convert(&before, MOON_F64, (const char *)src + (first + i) * from_size, from, 1);
      if (isfinite(before))
        return (int64_t)(first + i);
    }
  }
  return -1;
}

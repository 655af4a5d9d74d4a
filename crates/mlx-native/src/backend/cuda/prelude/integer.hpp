// <metal_integer>, <metal_pack> and <metal_limits>.
#pragma once

namespace metal {

#define MSL_INTEGER(T, U, W)                                                                        \
  MSL_INLINE T popcount(T x) { return (T)__popcll((ulong)(U)x); }                                   \
  MSL_INLINE T clz(T x) { return (T)(__clzll((long)(ulong)(U)x) - (64 - W)); }                      \
  MSL_INLINE T ctz(T x) { return (U)x ? (T)(__ffsll((long)(ulong)(U)x) - 1) : (T)W; }               \
  MSL_INLINE T reverse_bits(T x) { return (T)(U)(__brevll((ulong)(U)x) >> (64 - W)); }              \
  MSL_INLINE T rotate(T x, T n) {                                                                   \
    const U u = (U)x;                                                                               \
    const int k = (int)n & (W - 1);                                                                 \
    return (T)(k ? (U)((U)(u << k) | (U)(u >> (W - k))) : u);                                       \
  }                                                                                                 \
  MSL_INLINE T extract_bits(T x, uint offset, uint bits) {                                          \
    return bits ? (T)((T)((U)x << (W - bits - offset)) >> (W - bits)) : T(0);                       \
  }                                                                                                 \
  MSL_INLINE T insert_bits(T base, T insert, uint offset, uint bits) {                              \
    const U ones = bits >= W ? (U) ~(U)0 : (U)(((U)1 << bits) - 1);                                 \
    const U mask = bits ? (U)(ones << offset) : (U)0;                                               \
    return (T)((U)((U)base & (U)~mask) | (U)((U)((U)insert << offset) & mask));                     \
  }                                                                                                 \
  MSL_INLINE T absdiff(T a, T b) { return a < b ? T(b - a) : T(a - b); }
MSL_INTEGER(char, uchar, 8)
MSL_INTEGER(uchar, uchar, 8)
MSL_INTEGER(short, ushort, 16)
MSL_INTEGER(ushort, ushort, 16)
MSL_INTEGER(int, uint, 32)
MSL_INTEGER(uint, uint, 32)
MSL_INTEGER(long, ulong, 64)
MSL_INTEGER(ulong, ulong, 64)
#undef MSL_INTEGER

#define MSL_MULHI(T, WIDE, W) \
  MSL_INLINE T mulhi(T a, T b) { return (T)(((WIDE)a * (WIDE)b) >> W); }
MSL_MULHI(char, int, 8)
MSL_MULHI(uchar, uint, 8)
MSL_MULHI(short, int, 16)
MSL_MULHI(ushort, uint, 16)
#undef MSL_MULHI
MSL_INLINE int mulhi(int a, int b) { return __mulhi(a, b); }
MSL_INLINE uint mulhi(uint a, uint b) { return __umulhi(a, b); }
MSL_INLINE long mulhi(long a, long b) { return __mul64hi(a, b); }
MSL_INLINE ulong mulhi(ulong a, ulong b) { return __umul64hi(a, b); }

MSL_INLINE int mad24(int a, int b, int c) { return a * b + c; }
MSL_INLINE uint mad24(uint a, uint b, uint c) { return a * b + c; }
MSL_INLINE int mul24(int a, int b) { return a * b; }
MSL_INLINE uint mul24(uint a, uint b) { return a * b; }

MSL_INLINE float4 unpack_unorm4x8_to_float(uint x) {
  return float4(x & 255u, (x >> 8) & 255u, (x >> 16) & 255u, x >> 24) / 255.0f;
}
MSL_INLINE float4 unpack_snorm4x8_to_float(uint x) {
  return max(float4((int8_t)x, (int8_t)(x >> 8), (int8_t)(x >> 16), (int8_t)(x >> 24)) / 127.0f, float4(-1.0f));
}

template <class T>
struct numeric_limits {
  static constexpr bool is_specialized = false;
};
#define MSL_INTEGER_LIMITS(T)                                                                              \
  template <>                                                                                              \
  struct numeric_limits<T> {                                                                               \
    static constexpr bool is_specialized = true, is_integer = true, is_signed = T(-1) < T(0);              \
    static constexpr bool has_infinity = false;                                                            \
    static constexpr int digits = 8 * sizeof(T) - is_signed;                                               \
    static constexpr T max() { return is_signed ? (T)((1UL << (8 * sizeof(T) - 1)) - 1) : (T)~0UL; }       \
    static constexpr T min() { return is_signed ? (T)(1UL << (8 * sizeof(T) - 1)) : T(0); }                \
    static constexpr T lowest() { return min(); }                                                          \
    static constexpr T infinity() { return T(0); }                                                         \
  };
MSL_INTEGER_LIMITS(char)
MSL_INTEGER_LIMITS(int8_t)
MSL_INTEGER_LIMITS(uchar)
MSL_INTEGER_LIMITS(short)
MSL_INTEGER_LIMITS(ushort)
MSL_INTEGER_LIMITS(int)
MSL_INTEGER_LIMITS(uint)
MSL_INTEGER_LIMITS(long)
MSL_INTEGER_LIMITS(ulong)
#undef MSL_INTEGER_LIMITS
template <>
struct numeric_limits<bool> {
  static constexpr bool is_specialized = true, is_integer = true, is_signed = false, has_infinity = false;
  static constexpr bool max() { return true; }
  static constexpr bool min() { return false; }
  static constexpr bool lowest() { return false; }
  static constexpr bool infinity() { return false; }
};
#define MSL_FLOAT_LIMITS(T, MAX, MIN, EPSILON, DENORM, DIGITS)                                              \
  template <>                                                                                               \
  struct numeric_limits<T> {                                                                                \
    static constexpr bool is_specialized = true, is_integer = false, is_signed = true, has_infinity = true; \
    static constexpr int digits = DIGITS;                                                                   \
    static constexpr T max() { return T(MAX); }                                                             \
    static constexpr T min() { return T(MIN); }                                                             \
    static constexpr T lowest() { return T(-(MAX)); }                                                       \
    static constexpr T infinity() { return T(__builtin_bit_cast(float, 0x7f800000u)); }                     \
    static constexpr T quiet_NaN() { return T(__builtin_bit_cast(float, 0x7fc00000u)); }                    \
    static constexpr T epsilon() { return T(EPSILON); }                                                     \
    static constexpr T denorm_min() { return T(DENORM); }                                                   \
  };
MSL_FLOAT_LIMITS(float, 0x1.fffffep127f, 0x1p-126f, 0x1p-23f, 0x1p-149f, 24)
MSL_FLOAT_LIMITS(half, 65504.0f, 0x1p-14f, 0x1p-10f, 0x1p-24f, 11)
MSL_FLOAT_LIMITS(bfloat, 0x1.fep127f, 0x1p-126f, 0x1p-7f, 0x1p-133f, 8)
#undef MSL_FLOAT_LIMITS

}  // namespace metal

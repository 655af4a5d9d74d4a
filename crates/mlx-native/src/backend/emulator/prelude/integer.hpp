// <metal_integer>, <metal_pack> and <metal_limits>.
#pragma once

namespace metal {

#define EMU_INTEGER(T, U, W)                                                                        \
  EMU_INLINE T popcount(T x) { return (T)__builtin_popcountl((U)x); }                               \
  EMU_INLINE T clz(T x) { return x ? (T)(__builtin_clzl((ulong)(U)x) - (64 - W)) : (T)W; }          \
  EMU_INLINE T ctz(T x) { return x ? (T)__builtin_ctzl((ulong)(U)x) : (T)W; }                       \
  EMU_INLINE T reverse_bits(T x) {                                                                  \
    U u = (U)x, r = 0;                                                                              \
    for (int i = 0; i < W; i++) r = (U)((U)(r << 1) | ((u >> i) & 1));                              \
    return (T)r;                                                                                    \
  }                                                                                                 \
  EMU_INLINE T rotate(T x, T n) {                                                                   \
    const U u = (U)x;                                                                               \
    const int k = (int)n & (W - 1);                                                                 \
    return (T)(k ? (U)((U)(u << k) | (U)(u >> (W - k))) : u);                                       \
  }                                                                                                 \
  EMU_INLINE T extract_bits(T x, uint offset, uint bits) {                                          \
    return bits ? (T)((T)((U)x << (W - bits - offset)) >> (W - bits)) : T(0);                       \
  }                                                                                                 \
  EMU_INLINE T insert_bits(T base, T insert, uint offset, uint bits) {                              \
    const U ones = bits >= W ? (U)~(U)0 : (U)(((U)1 << bits) - 1);                                  \
    const U mask = bits ? (U)(ones << offset) : (U)0;                                               \
    return (T)((U)((U)base & (U)~mask) | (U)((U)((U)insert << offset) & mask));                     \
  }                                                                                                 \
  EMU_INLINE T mulhi(T a, T b) { return (T)(((__int128)a * (__int128)b) >> W); }                    \
  EMU_INLINE T absdiff(T a, T b) { return a < b ? T(b - a) : T(a - b); }
EMU_INTEGER(char, uchar, 8)
EMU_INTEGER(uchar, uchar, 8)
EMU_INTEGER(short, ushort, 16)
EMU_INTEGER(ushort, ushort, 16)
EMU_INTEGER(int, uint, 32)
EMU_INTEGER(uint, uint, 32)
EMU_INTEGER(long, ulong, 64)
EMU_INTEGER(ulong, ulong, 64)
#undef EMU_INTEGER

EMU_INLINE int mad24(int a, int b, int c) { return a * b + c; }
EMU_INLINE uint mad24(uint a, uint b, uint c) { return a * b + c; }
EMU_INLINE int mul24(int a, int b) { return a * b; }
EMU_INLINE uint mul24(uint a, uint b) { return a * b; }

EMU_INLINE float4 unpack_unorm4x8_to_float(uint x) {
  return float4(x & 255u, (x >> 8) & 255u, (x >> 16) & 255u, x >> 24) / 255.0f;
}
EMU_INLINE float4 unpack_snorm4x8_to_float(uint x) {
  return max(float4((char)x, (char)(x >> 8), (char)(x >> 16), (char)(x >> 24)) / 127.0f, float4(-1.0f));
}

template <class T>
struct numeric_limits {
  static constexpr bool is_specialized = false;
};
#define EMU_INTEGER_LIMITS(T)                                                                              \
  template <>                                                                                              \
  struct numeric_limits<T> {                                                                               \
    static constexpr bool is_specialized = true, is_integer = true, is_signed = __is_signed(T);            \
    static constexpr bool has_infinity = false;                                                            \
    static constexpr int digits = 8 * sizeof(T) - __is_signed(T);                                          \
    static constexpr T max() { return is_signed ? (T)((1UL << (8 * sizeof(T) - 1)) - 1) : (T)~0UL; }       \
    static constexpr T min() { return is_signed ? (T)(1UL << (8 * sizeof(T) - 1)) : T(0); }                \
    static constexpr T lowest() { return min(); }                                                          \
    static constexpr T infinity() { return T(0); }                                                         \
  };
EMU_INTEGER_LIMITS(char)
EMU_INTEGER_LIMITS(int8_t)
EMU_INTEGER_LIMITS(uchar)
EMU_INTEGER_LIMITS(short)
EMU_INTEGER_LIMITS(ushort)
EMU_INTEGER_LIMITS(int)
EMU_INTEGER_LIMITS(uint)
EMU_INTEGER_LIMITS(long)
EMU_INTEGER_LIMITS(ulong)
#undef EMU_INTEGER_LIMITS
template <>
struct numeric_limits<bool> {
  static constexpr bool is_specialized = true, is_integer = true, is_signed = false, has_infinity = false;
  static constexpr bool max() { return true; }
  static constexpr bool min() { return false; }
  static constexpr bool lowest() { return false; }
  static constexpr bool infinity() { return false; }
};
#define EMU_FLOAT_LIMITS(T, MAX, MIN, EPSILON, DENORM, DIGITS)                                              \
  template <>                                                                                               \
  struct numeric_limits<T> {                                                                                \
    static constexpr bool is_specialized = true, is_integer = false, is_signed = true, has_infinity = true; \
    static constexpr int digits = DIGITS;                                                                   \
    static constexpr T max() { return T(MAX); }                                                             \
    static constexpr T min() { return T(MIN); }                                                             \
    static constexpr T lowest() { return T(-(MAX)); }                                                       \
    static constexpr T infinity() { return T(__builtin_inff()); }                                           \
    static constexpr T quiet_NaN() { return T(__builtin_nanf("")); }                                        \
    static constexpr T epsilon() { return T(EPSILON); }                                                     \
    static constexpr T denorm_min() { return T(DENORM); }                                                   \
  };
EMU_FLOAT_LIMITS(float, 0x1.fffffep127f, 0x1p-126f, 0x1p-23f, 0x1p-149f, 24)
EMU_FLOAT_LIMITS(half, 65504.0f, 0x1p-14f, 0x1p-10f, 0x1p-24f, 11)
EMU_FLOAT_LIMITS(bfloat, 0x1.fep127f, 0x1p-126f, 0x1p-7f, 0x1p-133f, 8)
#undef EMU_FLOAT_LIMITS

}  // namespace metal

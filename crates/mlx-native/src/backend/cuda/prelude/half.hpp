// half and bfloat as classes: a conversion is one instruction, every operation is done in float and rounded once, which
// for +, -, * and / gives what arithmetic in 16 bits gives.
//
// As in MSL, both become float by themselves; half also comes of a float by itself, bfloat only when told to.
#pragma once

namespace on_cuda {

MSL_INLINE ushort half_bits(float f) {
  ushort bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(f));
  return bits;
}
MSL_INLINE float half_value(ushort bits) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(bits));
  return f;
}
MSL_INLINE ushort bfloat_bits(float f) {
  ushort bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(f));
  return bits;
}

// The same where the compiler computes: constants of a kernel's text.
constexpr ushort constant_bfloat_bits(float f) {
  const uint u = __builtin_bit_cast(uint, f);
  const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
  return nan ? (ushort)((u >> 16) | 0x40u) : (ushort)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
// `x` / 2^`n`, rounded to nearest, halves to even.
constexpr uint shift_rounded(uint x, int n) {
  if (n > 25) return 0;
  const uint half_way = n > 0 ? 1u << (n - 1) : 0, kept = x >> n, rest = x & ((1u << n) - 1);
  return n > 0 && (rest > half_way || (rest == half_way && (kept & 1))) ? kept + 1 : kept;
}
constexpr ushort constant_half_bits(float f) {
  const uint u = __builtin_bit_cast(uint, f), sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return (ushort)(sign | 0x7e00u);
  const int exponent = (int)(magnitude >> 23) - 127;
  if (exponent > 15) return (ushort)(sign | 0x7c00u);
  const uint mantissa = (magnitude & 0x7fffffu) | (magnitude >> 23 ? 0x800000u : 0u);
  // A carry out of the mantissa raises the exponent, up to infinity: the fields lie in a row.
  if (exponent >= -14) return (ushort)(sign | (((uint)(exponent + 14) << 10) + shift_rounded(mantissa, 13)));
  return (ushort)(sign | shift_rounded(mantissa, -1 - exponent));
}
constexpr float constant_half_value(ushort bits) {
  const uint sign = (uint)(bits & 0x8000u) << 16, exponent = (bits >> 10) & 31u, mantissa = bits & 0x3ffu;
  if (exponent == 31) return __builtin_bit_cast(float, sign | 0x7f800000u | mantissa << 13);
  if (exponent) return __builtin_bit_cast(float, sign | (exponent + 112) << 23 | mantissa << 13);
  const float tiny = (float)mantissa * 0x1p-24f;
  return sign ? -tiny : tiny;
}

template <class I> using if_integer = metal::enable_if_t<metal::is_integral<I>::value>;

}  // namespace on_cuda

struct half {
  ushort bits;

  half() = default;
  MSL_INLINE constexpr half(float f)
      : bits(__builtin_is_constant_evaluated() ? on_cuda::constant_half_bits(f) : on_cuda::half_bits(f)) {}
  MSL_INLINE explicit constexpr half(bfloat b);
  template <class I, class = on_cuda::if_integer<I>>
  MSL_INLINE constexpr half(I i) : half((float)i) {}
  MSL_INLINE constexpr operator float() const {
    return __builtin_is_constant_evaluated() ? on_cuda::constant_half_value(bits) : on_cuda::half_value(bits);
  }
  MSL_INLINE constexpr half operator-() const { return half(-(float)*this); }
  MSL_INLINE constexpr half operator+() const { return *this; }
  MSL_INLINE half& operator++() { return *this = half((float)*this + 1.0f); }
  MSL_INLINE half& operator--() { return *this = half((float)*this - 1.0f); }
};

struct bfloat {
  ushort bits;

  bfloat() = default;
  MSL_INLINE explicit constexpr bfloat(float f)
      : bits(__builtin_is_constant_evaluated() ? on_cuda::constant_bfloat_bits(f) : on_cuda::bfloat_bits(f)) {}
  MSL_INLINE explicit constexpr bfloat(half h) : bfloat((float)h) {}
  template <class I, class = on_cuda::if_integer<I>>
  MSL_INLINE constexpr bfloat(I i) : bfloat((float)i) {}
  MSL_INLINE constexpr operator float() const { return __builtin_bit_cast(float, (uint)bits << 16); }
  MSL_INLINE constexpr bfloat operator-() const { return bfloat(-(float)*this); }
  MSL_INLINE constexpr bfloat operator+() const { return *this; }
  MSL_INLINE bfloat& operator++() { return *this = bfloat((float)*this + 1.0f); }
  MSL_INLINE bfloat& operator--() { return *this = bfloat((float)*this - 1.0f); }
};

MSL_INLINE constexpr half::half(bfloat b) : half((float)b) {}

static_assert(half(1.0f).bits == 0x3c00 && half(65519.0f).bits == 0x7bff && half(65520.0f).bits == 0x7c00, "half");
static_assert(half(0x1p-24f).bits == 1 && half(0x1.8p-25f).bits == 1 && half(0x1p-25f).bits == 0, "subnormal half");
static_assert((float)half(0x1.554p-2f) == 0x1.554p-2f && (float)half(-0x1.8p-20f) == -0x1.8p-20f, "half to float");
static_assert(bfloat(1.0f).bits == 0x3f80 && bfloat(0x1.01p0f).bits == 0x3f80 && bfloat(0x1.03p0f).bits == 0x3f82, "bfloat");

#define MSL_INTEGER class I, class = on_cuda::if_integer<I>
#define MSL_ARITHMETIC(T, OP)                                                                                       \
  MSL_INLINE constexpr T operator OP(T a, T b) { return T((float)a OP (float)b); }                                  \
  MSL_INLINE constexpr float operator OP(T a, float b) { return (float)a OP b; }                                    \
  MSL_INLINE constexpr float operator OP(float a, T b) { return a OP (float)b; }                                    \
  template <MSL_INTEGER> MSL_INLINE constexpr T operator OP(T a, I b) { return a OP T(b); }                         \
  template <MSL_INTEGER> MSL_INLINE constexpr T operator OP(I a, T b) { return T(a) OP b; }                         \
  template <class S> MSL_INLINE constexpr T& operator OP##=(T& a, S b) { return a = T(a OP b); }
#define MSL_COMPARISON(T, OP)                                                                                       \
  MSL_INLINE constexpr bool operator OP(T a, T b) { return (float)a OP (float)b; }                                  \
  MSL_INLINE constexpr bool operator OP(T a, float b) { return (float)a OP b; }                                     \
  MSL_INLINE constexpr bool operator OP(float a, T b) { return a OP (float)b; }                                     \
  template <MSL_INTEGER> MSL_INLINE constexpr bool operator OP(T a, I b) { return (float)a OP (float)b; }           \
  template <MSL_INTEGER> MSL_INLINE constexpr bool operator OP(I a, T b) { return (float)a OP (float)b; }
#define MSL_BOTH(F, OP)                                                                                             \
  F(half, OP) F(bfloat, OP)                                                                                         \
  MSL_INLINE constexpr auto operator OP(half a, bfloat b) { return (float)a OP (float)b; }                          \
  MSL_INLINE constexpr auto operator OP(bfloat a, half b) { return (float)a OP (float)b; }
MSL_BOTH(MSL_ARITHMETIC, +)
MSL_BOTH(MSL_ARITHMETIC, -)
MSL_BOTH(MSL_ARITHMETIC, *)
MSL_BOTH(MSL_ARITHMETIC, /)
MSL_BOTH(MSL_COMPARISON, <)
MSL_BOTH(MSL_COMPARISON, >)
MSL_BOTH(MSL_COMPARISON, <=)
MSL_BOTH(MSL_COMPARISON, >=)
MSL_BOTH(MSL_COMPARISON, ==)
MSL_BOTH(MSL_COMPARISON, !=)
#undef MSL_BOTH
#undef MSL_COMPARISON
#undef MSL_ARITHMETIC
#undef MSL_INTEGER

// <metal_math>, <metal_geometric>, <metal_relational>. The names exist in `metal`, `metal::fast` and `metal::precise`.
// `fast` takes the hardware's approximations where CUDA has them, the others CUDA's functions of one to two units in the
// last place; `precise` rounds divisions and roots correctly.
//
// There is none for bfloat, as in MSL: a bfloat argument becomes a float, and so is the result. Scalar overloads are plain
// functions, not templates, so that mixed argument types are ambiguous as they are in MSL.
#pragma once

namespace on_cuda {
MSL_INLINE float fract(float x) {
  const float f = x - ::floorf(x);
  return f < 0x1.fffffep-1f ? f : 0x1.fffffep-1f;
}
MSL_INLINE float sign(float x) { return x > 0 ? 1.0f : (x < 0 ? -1.0f : (x == 0 ? x : 0.0f)); }
MSL_INLINE float tanpi(float x) { return ::sinpif(x) / ::cospif(x); }
MSL_INLINE float divide(float x, float y) { return __fdiv_rn(x, y); }
MSL_INLINE float step(float edge, float x) { return x < edge ? 0.0f : 1.0f; }
MSL_INLINE float fast_exp10(float x) { return ::exp2f(x * 3.32192809488736234787f); }
MSL_INLINE half fma(half a, half b, half c) {
  half r;
  asm("fma.rn.f16 %0, %1, %2, %3;" : "=h"(r.bits) : "h"(a.bits), "h"(b.bits), "h"(c.bits));
  return r;
}
}  // namespace on_cuda

namespace metal {

#define MSL_UNARY_IN(NAME, F)                                             \
  MSL_INLINE float NAME(float x) { return F(x); }                         \
  MSL_INLINE half NAME(half x) { return half(F((float)x)); }              \
  template <class T, int N>                                               \
  MSL_INLINE vec<T, N> NAME(const vec<T, N>& v) {                         \
    vec<T, N> r = v;                                                      \
    MSL_EACH(N) r[i] = T(NAME(v[i]));                                     \
    return r;                                                             \
  }
#define MSL_BINARY_IN(NAME, F)                                            \
  MSL_INLINE float NAME(float x, float y) { return F(x, y); }             \
  MSL_INLINE half NAME(half x, half y) { return half(F((float)x, (float)y)); } \
  template <class T, int N>                                               \
  MSL_INLINE vec<T, N> NAME(const vec<T, N>& v, const vec<T, N>& w) {     \
    vec<T, N> r = v;                                                      \
    MSL_EACH(N) r[i] = T(NAME(v[i], w[i]));                               \
    return r;                                                             \
  }
#define MSL_UNARY2(NAME, F, FAST)            \
  namespace precise { MSL_UNARY_IN(NAME, F) } \
  namespace fast { MSL_UNARY_IN(NAME, FAST) } \
  MSL_UNARY_IN(NAME, F)
#define MSL_UNARY(NAME, F) MSL_UNARY2(NAME, F, F)
#define MSL_BINARY2(NAME, F, FAST)             \
  namespace precise { MSL_BINARY_IN(NAME, F) } \
  namespace fast { MSL_BINARY_IN(NAME, FAST) } \
  MSL_BINARY_IN(NAME, F)
#define MSL_BINARY_FUNCTION(NAME, F) MSL_BINARY2(NAME, F, F)

MSL_UNARY2(exp, ::expf, __expf)
MSL_UNARY(exp2, ::exp2f)
MSL_UNARY2(exp10, ::exp10f, on_cuda::fast_exp10)
MSL_UNARY2(log, ::logf, __logf)
MSL_UNARY2(log2, ::log2f, __log2f)
MSL_UNARY2(log10, ::log10f, __log10f)
MSL_UNARY(sqrt, __fsqrt_rn)
MSL_UNARY2(rsqrt, __frsqrt_rn, ::rsqrtf)
MSL_UNARY2(sin, ::sinf, __sinf)
MSL_UNARY2(cos, ::cosf, __cosf)
MSL_UNARY2(tan, ::tanf, __tanf)
MSL_UNARY(asin, ::asinf)
MSL_UNARY(acos, ::acosf)
MSL_UNARY(atan, ::atanf)
MSL_UNARY(sinh, ::sinhf)
MSL_UNARY(cosh, ::coshf)
MSL_UNARY(tanh, ::tanhf)
MSL_UNARY(asinh, ::asinhf)
MSL_UNARY(acosh, ::acoshf)
MSL_UNARY(atanh, ::atanhf)
MSL_UNARY(floor, ::floorf)
MSL_UNARY(ceil, ::ceilf)
MSL_UNARY(rint, ::rintf)
MSL_UNARY(round, ::roundf)
MSL_UNARY(trunc, ::truncf)
MSL_UNARY(fabs, ::fabsf)
MSL_UNARY(fract, on_cuda::fract)
MSL_UNARY(sign, on_cuda::sign)
MSL_UNARY(saturate, __saturatef)
MSL_UNARY(sinpi, ::sinpif)
MSL_UNARY(cospi, ::cospif)
MSL_UNARY(tanpi, on_cuda::tanpi)
MSL_BINARY2(pow, ::powf, __powf)
MSL_BINARY2(powr, ::powf, __powf)
MSL_BINARY_FUNCTION(fmod, ::fmodf)
MSL_BINARY_FUNCTION(atan2, ::atan2f)
MSL_BINARY_FUNCTION(copysign, ::copysignf)
MSL_BINARY_FUNCTION(fmax, ::fmaxf)
MSL_BINARY_FUNCTION(fmin, ::fminf)
MSL_BINARY_FUNCTION(fdim, ::fdimf)
MSL_BINARY_FUNCTION(nextafter, ::nextafterf)
MSL_BINARY2(divide, on_cuda::divide, __fdividef)
MSL_BINARY_FUNCTION(step, on_cuda::step)

// Each of the three namespaces needs the whole of what follows: its overloads on vectors call those on scalars.
#define MSL_IN_ALL(...)                \
  namespace precise { __VA_ARGS__ }    \
  namespace fast { __VA_ARGS__ }       \
  __VA_ARGS__

#define MSL_FMA                                                                                  \
  MSL_INLINE float fma(float a, float b, float c) { return ::fmaf(a, b, c); }                    \
  MSL_INLINE half fma(half a, half b, half c) { return on_cuda::fma(a, b, c); }                  \
  template <class T, int N>                                                                      \
  MSL_INLINE vec<T, N> fma(const vec<T, N>& a, const vec<T, N>& b, const vec<T, N>& c) {         \
    vec<T, N> r = a;                                                                             \
    MSL_EACH(N) r[i] = T(fma(a[i], b[i], c[i]));                                                 \
    return r;                                                                                    \
  }
MSL_IN_ALL(MSL_FMA)

// ---- min, max, abs, clamp, select ----------------------------------------------------------------------------------
#define MSL_FLOAT_RANGE(T)                                                                       \
  MSL_INLINE T max(T a, T b) { return T(::fmaxf((float)a, (float)b)); }                          \
  MSL_INLINE T min(T a, T b) { return T(::fminf((float)a, (float)b)); }                          \
  MSL_INLINE T abs(T a) { return T(::fabsf((float)a)); }                                         \
  MSL_INLINE T clamp(T x, T lo, T hi) { return min(max(x, lo), hi); }
MSL_IN_ALL(MSL_FLOAT_RANGE(float) MSL_FLOAT_RANGE(half))

#define MSL_INTEGER_RANGE(T)                                                                     \
  MSL_INLINE constexpr T max(T a, T b) { return a < b ? b : a; }                                 \
  MSL_INLINE constexpr T min(T a, T b) { return b < a ? b : a; }                                 \
  MSL_INLINE constexpr T clamp(T x, T lo, T hi) { return min(max(x, lo), hi); }
MSL_IN_ALL(MSL_INTEGER_RANGE(char) MSL_INTEGER_RANGE(int8_t) MSL_INTEGER_RANGE(uchar) MSL_INTEGER_RANGE(short)
           MSL_INTEGER_RANGE(ushort) MSL_INTEGER_RANGE(int) MSL_INTEGER_RANGE(uint) MSL_INTEGER_RANGE(long)
           MSL_INTEGER_RANGE(ulong))
#define MSL_SIGNED_ABS(T) MSL_INLINE constexpr T abs(T a) { return a < 0 ? T(-a) : a; }
MSL_SIGNED_ABS(char)
MSL_SIGNED_ABS(int8_t)
MSL_SIGNED_ABS(short)
MSL_SIGNED_ABS(int)
MSL_SIGNED_ABS(long)
#define MSL_UNSIGNED_ABS(T) MSL_INLINE constexpr T abs(T a) { return a; }
MSL_UNSIGNED_ABS(uchar)
MSL_UNSIGNED_ABS(ushort)
MSL_UNSIGNED_ABS(uint)
MSL_UNSIGNED_ABS(ulong)

#define MSL_SELECT(T) MSL_INLINE constexpr T select(T a, T b, bool c) { return c ? b : a; }
MSL_SELECT(bool)
MSL_SELECT(char)
MSL_SELECT(int8_t)
MSL_SELECT(uchar)
MSL_SELECT(short)
MSL_SELECT(ushort)
MSL_SELECT(int)
MSL_SELECT(uint)
MSL_SELECT(long)
MSL_SELECT(ulong)
MSL_SELECT(half)
MSL_SELECT(bfloat)
MSL_SELECT(float)

#define MSL_VECTOR_OF_TWO(NAME, B, PICK)                                                         \
  template <class T, int N>                                                                      \
  MSL_INLINE vec<T, N> NAME(const vec<T, N>& a, B b) {                                           \
    vec<T, N> r = a;                                                                             \
    MSL_EACH(N) r[i] = T(NAME(a[i], PICK));                                                      \
    return r;                                                                                    \
  }
#define MSL_VECTOR_OF_THREE(NAME, B, PICK_B, PICK_C)                                             \
  template <class T, int N>                                                                      \
  MSL_INLINE vec<T, N> NAME(const vec<T, N>& a, B b, B c) {                                      \
    vec<T, N> r = a;                                                                             \
    MSL_EACH(N) r[i] = T(NAME(a[i], PICK_B, PICK_C));                                            \
    return r;                                                                                    \
  }
#define MSL_VECTOR_ABS                                                                           \
  template <class T, int N>                                                                      \
  MSL_INLINE vec<T, N> abs(const vec<T, N>& a) {                                                 \
    vec<T, N> r = a;                                                                             \
    MSL_EACH(N) r[i] = T(abs(a[i]));                                                             \
    return r;                                                                                    \
  }
#define MSL_VEC_T const vec<T, N>&
MSL_IN_ALL(MSL_VECTOR_ABS MSL_VECTOR_OF_TWO(max, MSL_VEC_T, b[i]) MSL_VECTOR_OF_TWO(min, MSL_VEC_T, b[i])
           MSL_VECTOR_OF_TWO(max, T, b) MSL_VECTOR_OF_TWO(min, T, b)
           MSL_VECTOR_OF_THREE(clamp, MSL_VEC_T, b[i], c[i]) MSL_VECTOR_OF_THREE(clamp, T, b, c))

template <class T, int N>
MSL_INLINE vec<T, N> select(const vec<T, N>& a, const vec<T, N>& b, const vec<bool, N>& c) {
  vec<T, N> r = a;
  MSL_EACH(N) r[i] = c[i] ? b[i] : a[i];
  return r;
}

#define MSL_OF_THREE(T)                                                                          \
  MSL_INLINE T max3(T a, T b, T c) { return max(a, max(b, c)); }                                 \
  MSL_INLINE T min3(T a, T b, T c) { return min(a, min(b, c)); }                                 \
  MSL_INLINE T median3(T a, T b, T c) { return max(min(a, b), min(max(a, b), c)); }
MSL_OF_THREE(float)
MSL_OF_THREE(half)
MSL_OF_THREE(int)
MSL_OF_THREE(uint)
MSL_OF_THREE(short)
MSL_OF_THREE(ushort)

// ---- geometry ------------------------------------------------------------------------------------------------------
template <class T, int N>
MSL_INLINE T dot(const vec<T, N>& a, const vec<T, N>& b) {
  T s = a[0] * b[0];
  _Pragma("unroll") for (int i = 1; i < N; i++) s += a[i] * b[i];
  return s;
}
template <class T, int N> MSL_INLINE T length_squared(const vec<T, N>& a) { return dot(a, a); }
template <class T, int N> MSL_INLINE T length(const vec<T, N>& a) { return sqrt(dot(a, a)); }
template <class T, int N> MSL_INLINE T distance(const vec<T, N>& a, const vec<T, N>& b) { return length(a - b); }
template <class T, int N> MSL_INLINE vec<T, N> normalize(const vec<T, N>& a) { return a * vec<T, N>(rsqrt(dot(a, a))); }
template <class T>
MSL_INLINE vec<T, 3> cross(const vec<T, 3>& a, const vec<T, 3>& b) {
  return vec<T, 3>(a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x);
}
MSL_INLINE float mix(float a, float b, float t) { return a + (b - a) * t; }
MSL_INLINE half mix(half a, half b, half t) { return a + (b - a) * t; }
template <class T, int N>
MSL_INLINE vec<T, N> mix(const vec<T, N>& a, const vec<T, N>& b, const vec<T, N>& t) { return a + (b - a) * t; }
template <class T, int N>
MSL_INLINE vec<T, N> mix(const vec<T, N>& a, const vec<T, N>& b, T t) { return a + (b - a) * vec<T, N>(t); }
MSL_INLINE float smoothstep(float a, float b, float x) {
  const float t = saturate((x - a) / (b - a));
  return t * t * (3.0f - 2.0f * t);
}

// ---- predicates ----------------------------------------------------------------------------------------------------
MSL_INLINE bool all(bool a) { return a; }
MSL_INLINE bool any(bool a) { return a; }
template <int N>
MSL_INLINE bool all(const vec<bool, N>& a) {
  bool r = true;
  MSL_EACH(N) r = r && a[i];
  return r;
}
template <int N>
MSL_INLINE bool any(const vec<bool, N>& a) {
  bool r = false;
  MSL_EACH(N) r = r || a[i];
  return r;
}
MSL_INLINE uint magnitude_bits(float x) { return __float_as_uint(x) & 0x7fffffffu; }
#define MSL_PREDICATE(NAME, TEST)                          \
  MSL_INLINE bool NAME(float x) {                          \
    const uint m = magnitude_bits(x);                      \
    return TEST;                                           \
  }                                                        \
  MSL_INLINE bool NAME(half x) { return NAME((float)x); }  \
  template <class T, int N>                                \
  MSL_INLINE vec<bool, N> NAME(const vec<T, N>& v) {       \
    vec<bool, N> r(false);                                 \
    MSL_EACH(N) r[i] = NAME(v[i]);                         \
    return r;                                              \
  }
MSL_PREDICATE(isnan, m > 0x7f800000u)
MSL_PREDICATE(isinf, m == 0x7f800000u)
MSL_PREDICATE(isfinite, m < 0x7f800000u)
MSL_PREDICATE(signbit, (m != __float_as_uint(x)))
MSL_INLINE bool isnormal(float x) { return magnitude_bits(x) >= 0x00800000u && magnitude_bits(x) < 0x7f800000u; }
MSL_INLINE bool isnormal(half x) { return ((x.bits >> 10) & 31u) % 31u != 0; }

// ---- exponent and mantissa -----------------------------------------------------------------------------------------
#define MSL_EXPONENT                                                           \
  MSL_INLINE float ldexp(float x, int e) { return ::ldexpf(x, e); }            \
  MSL_INLINE half ldexp(half x, int e) { return half(::ldexpf((float)x, e)); } \
  MSL_INLINE float frexp(float x, int& e) { return ::frexpf(x, &e); }          \
  MSL_INLINE int ilogb(float x) { return ::ilogbf(x); }                        \
  MSL_INLINE float modf(float x, float& whole) {                               \
    whole = ::truncf(x);                                                       \
    return ::copysignf(isinf(x) ? 0.0f : x - whole, x);                        \
  }                                                                            \
  MSL_INLINE float sincos(float x, float& c) {                                 \
    float s;                                                                   \
    ::sincosf(x, &s, &c);                                                      \
    return s;                                                                  \
  }
MSL_IN_ALL(MSL_EXPONENT)

}  // namespace metal

// <metal_math>, <metal_geometric>, <metal_relational>. The names exist in `metal`, `metal::fast` and `metal::precise`
// and compute the same thing here: what fast math really gives is Apple's secret, tests allow for it.
//
// There is none for bfloat, as in MSL: a bfloat argument becomes a float, and so is the result.
//
// Scalar overloads are plain functions, not templates, so that mixed argument types are ambiguous as they are in MSL.
#pragma once

namespace metal {

#define EMU_MATH_SCOPE(...)              \
  namespace precise { __VA_ARGS__ }      \
  namespace fast { __VA_ARGS__ }         \
  __VA_ARGS__

#define EMU_UNARY_FUNCTIONS(NAME, F)                                                    \
  EMU_INLINE float NAME(float x) { return F(x); }                                       \
  EMU_INLINE half NAME(half x) { return (half)F((float)x); }                            \
  template <class T, int N>                                                             \
  EMU_INLINE vec<T, N> NAME(const vec<T, N>& v) {                                       \
    vec<T, N> r = v;                                                                    \
    EMU_EACH(N) r.d[i] = T(NAME(v.d[i]));                                              \
    return r;                                                                           \
  }
#define EMU_UNARY(NAME, F) EMU_MATH_SCOPE(EMU_UNARY_FUNCTIONS(NAME, F))

#define EMU_BINARY_FUNCTIONS(NAME, F)                                                   \
  EMU_INLINE float NAME(float x, float y) { return F(x, y); }                           \
  EMU_INLINE half NAME(half x, half y) { return (half)F((float)x, (float)y); }          \
  template <class T, int N>                                                             \
  EMU_INLINE vec<T, N> NAME(const vec<T, N>& v, const vec<T, N>& w) {                   \
    vec<T, N> r = v;                                                                    \
    EMU_EACH(N) r.d[i] = T(NAME(v.d[i], w.d[i]));                                      \
    return r;                                                                           \
  }
#define EMU_BINARY(NAME, F) EMU_MATH_SCOPE(EMU_BINARY_FUNCTIONS(NAME, F))

}  // namespace metal

namespace emu {
EMU_INLINE float rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
EMU_INLINE float fract(float x) {
  const float f = x - __builtin_floorf(x);
  return f < 0x1.fffffep-1f ? f : 0x1.fffffep-1f;
}
EMU_INLINE float sign(float x) { return x > 0 ? 1.0f : (x < 0 ? -1.0f : (x == 0 ? x : 0.0f)); }
EMU_INLINE float saturate(float x) { return __builtin_fminf(__builtin_fmaxf(x, 0.0f), 1.0f); }
EMU_INLINE float exp10(float x) { return __builtin_powf(10.0f, x); }
EMU_INLINE float sinpi(float x) { return (float)__builtin_sin(3.14159265358979323846 * (double)x); }
EMU_INLINE float cospi(float x) { return (float)__builtin_cos(3.14159265358979323846 * (double)x); }
EMU_INLINE float tanpi(float x) { return (float)__builtin_tan(3.14159265358979323846 * (double)x); }
EMU_INLINE float divide(float x, float y) { return x / y; }
EMU_INLINE float step(float edge, float x) { return x < edge ? 0.0f : 1.0f; }
}  // namespace emu

namespace metal {

EMU_UNARY(exp, __builtin_expf)
EMU_UNARY(exp2, __builtin_exp2f)
EMU_UNARY(exp10, emu::exp10)
EMU_UNARY(log, __builtin_logf)
EMU_UNARY(log2, __builtin_log2f)
EMU_UNARY(log10, __builtin_log10f)
EMU_UNARY(sqrt, __builtin_sqrtf)
EMU_UNARY(rsqrt, emu::rsqrt)
EMU_UNARY(sin, __builtin_sinf)
EMU_UNARY(cos, __builtin_cosf)
EMU_UNARY(tan, __builtin_tanf)
EMU_UNARY(asin, __builtin_asinf)
EMU_UNARY(acos, __builtin_acosf)
EMU_UNARY(atan, __builtin_atanf)
EMU_UNARY(sinh, __builtin_sinhf)
EMU_UNARY(cosh, __builtin_coshf)
EMU_UNARY(tanh, __builtin_tanhf)
EMU_UNARY(asinh, __builtin_asinhf)
EMU_UNARY(acosh, __builtin_acoshf)
EMU_UNARY(atanh, __builtin_atanhf)
EMU_UNARY(floor, __builtin_floorf)
EMU_UNARY(ceil, __builtin_ceilf)
EMU_UNARY(rint, __builtin_rintf)
EMU_UNARY(round, __builtin_roundf)
EMU_UNARY(trunc, __builtin_truncf)
EMU_UNARY(fabs, __builtin_fabsf)
EMU_UNARY(fract, emu::fract)
EMU_UNARY(sign, emu::sign)
EMU_UNARY(saturate, emu::saturate)
EMU_UNARY(sinpi, emu::sinpi)
EMU_UNARY(cospi, emu::cospi)
EMU_UNARY(tanpi, emu::tanpi)
EMU_BINARY(pow, __builtin_powf)
EMU_BINARY(powr, __builtin_powf)
EMU_BINARY(fmod, __builtin_fmodf)
EMU_BINARY(atan2, __builtin_atan2f)
EMU_BINARY(copysign, __builtin_copysignf)
EMU_BINARY(fmax, __builtin_fmaxf)
EMU_BINARY(fmin, __builtin_fminf)
EMU_BINARY(fdim, __builtin_fdimf)
EMU_BINARY(nextafter, __builtin_nextafterf)
EMU_BINARY(divide, emu::divide)
EMU_BINARY(step, emu::step)

#define EMU_FMA_FUNCTIONS                                                                              \
  EMU_INLINE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }                  \
  EMU_INLINE half fma(half a, half b, half c) {                                                        \
    return (half)__builtin_fma((double)a, (double)b, (double)c);                                       \
  }                                                                                                    \
  template <class T, int N>                                                                            \
  EMU_INLINE vec<T, N> fma(const vec<T, N>& a, const vec<T, N>& b, const vec<T, N>& c) {               \
    vec<T, N> r = a;                                                                                   \
    EMU_EACH(N) r.d[i] = T(fma(a.d[i], b.d[i], c.d[i]));                                              \
    return r;                                                                                          \
  }
EMU_MATH_SCOPE(EMU_FMA_FUNCTIONS)

// ---- min, max, abs, clamp, select ----------------------------------------------------------------------------------
#define EMU_FLOAT_RANGE(T)                                                                    \
  EMU_INLINE T max(T a, T b) { return (T)__builtin_fmaxf((float)a, (float)b); }               \
  EMU_INLINE T min(T a, T b) { return (T)__builtin_fminf((float)a, (float)b); }               \
  EMU_INLINE T abs(T a) { return (T)__builtin_fabsf((float)a); }                              \
  EMU_INLINE T clamp(T x, T lo, T hi) { return min(max(x, lo), hi); }
EMU_MATH_SCOPE(EMU_FLOAT_RANGE(float) EMU_FLOAT_RANGE(half))

#define EMU_INTEGER_RANGE(T)                                              \
  EMU_INLINE constexpr T max(T a, T b) { return a < b ? b : a; }          \
  EMU_INLINE constexpr T min(T a, T b) { return b < a ? b : a; }          \
  EMU_INLINE constexpr T clamp(T x, T lo, T hi) { return min(max(x, lo), hi); }
EMU_MATH_SCOPE(EMU_INTEGER_RANGE(char) EMU_INTEGER_RANGE(int8_t) EMU_INTEGER_RANGE(uchar) EMU_INTEGER_RANGE(short)
               EMU_INTEGER_RANGE(ushort) EMU_INTEGER_RANGE(int) EMU_INTEGER_RANGE(uint) EMU_INTEGER_RANGE(long)
               EMU_INTEGER_RANGE(ulong))
#define EMU_SIGNED_ABS(T) EMU_INLINE constexpr T abs(T a) { return a < 0 ? T(-a) : a; }
EMU_SIGNED_ABS(char)
EMU_SIGNED_ABS(int8_t)
EMU_SIGNED_ABS(short)
EMU_SIGNED_ABS(int)
EMU_SIGNED_ABS(long)
#define EMU_UNSIGNED_ABS(T) EMU_INLINE constexpr T abs(T a) { return a; }
EMU_UNSIGNED_ABS(uchar)
EMU_UNSIGNED_ABS(ushort)
EMU_UNSIGNED_ABS(uint)
EMU_UNSIGNED_ABS(ulong)

#define EMU_SELECT(T) EMU_INLINE constexpr T select(T a, T b, bool c) { return c ? b : a; }
EMU_SELECT(bool)
EMU_SELECT(char)
EMU_SELECT(int8_t)
EMU_SELECT(uchar)
EMU_SELECT(short)
EMU_SELECT(ushort)
EMU_SELECT(int)
EMU_SELECT(uint)
EMU_SELECT(long)
EMU_SELECT(ulong)
EMU_SELECT(half)
EMU_SELECT(bfloat)
EMU_SELECT(float)

// Element by element, never through another overload on vectors: those of `metal` would be found as well as those of
// `precise`.
#define EMU_VECTOR_RANGE                                                                                           \
  template <class T, int N> EMU_INLINE vec<T, N> max(const vec<T, N>& a, const vec<T, N>& b) {                     \
    vec<T, N> r = a;                                                                                               \
    EMU_EACH(N) r.d[i] = T(max(a.d[i], b.d[i]));                                                                  \
    return r;                                                                                                      \
  }                                                                                                                \
  template <class T, int N> EMU_INLINE vec<T, N> min(const vec<T, N>& a, const vec<T, N>& b) {                     \
    vec<T, N> r = a;                                                                                               \
    EMU_EACH(N) r.d[i] = T(min(a.d[i], b.d[i]));                                                                  \
    return r;                                                                                                      \
  }                                                                                                                \
  template <class T, int N> EMU_INLINE vec<T, N> max(const vec<T, N>& a, T b) {                                    \
    vec<T, N> r = a;                                                                                               \
    EMU_EACH(N) r.d[i] = T(max(a.d[i], b));                                                                       \
    return r;                                                                                                      \
  }                                                                                                                \
  template <class T, int N> EMU_INLINE vec<T, N> min(const vec<T, N>& a, T b) {                                    \
    vec<T, N> r = a;                                                                                               \
    EMU_EACH(N) r.d[i] = T(min(a.d[i], b));                                                                       \
    return r;                                                                                                      \
  }                                                                                                                \
  template <class T, int N> EMU_INLINE vec<T, N> abs(const vec<T, N>& a) {                                         \
    vec<T, N> r = a;                                                                                               \
    EMU_EACH(N) r.d[i] = T(abs(a.d[i]));                                                                          \
    return r;                                                                                                      \
  }                                                                                                                \
  template <class T, int N>                                                                                        \
  EMU_INLINE vec<T, N> clamp(const vec<T, N>& x, const vec<T, N>& lo, const vec<T, N>& hi) {                       \
    vec<T, N> r = x;                                                                                               \
    EMU_EACH(N) r.d[i] = T(clamp(x.d[i], lo.d[i], hi.d[i]));                                                      \
    return r;                                                                                                      \
  }                                                                                                                \
  template <class T, int N> EMU_INLINE vec<T, N> clamp(const vec<T, N>& x, T lo, T hi) {                           \
    vec<T, N> r = x;                                                                                               \
    EMU_EACH(N) r.d[i] = T(clamp(x.d[i], lo, hi));                                                                \
    return r;                                                                                                      \
  }
EMU_MATH_SCOPE(EMU_VECTOR_RANGE)

template <class T, int N>
EMU_INLINE vec<T, N> select(const vec<T, N>& a, const vec<T, N>& b, const vec<bool, N>& c) {
  vec<T, N> r = a;
  EMU_EACH(N) r.d[i] = c.d[i] ? b.d[i] : a.d[i];
  return r;
}

#define EMU_OF_THREE(T)                                                                            \
  EMU_INLINE T max3(T a, T b, T c) { return max(a, max(b, c)); }                                   \
  EMU_INLINE T min3(T a, T b, T c) { return min(a, min(b, c)); }                                   \
  EMU_INLINE T median3(T a, T b, T c) { return max(min(a, b), min(max(a, b), c)); }
EMU_OF_THREE(float)
EMU_OF_THREE(half)
EMU_OF_THREE(int)
EMU_OF_THREE(uint)
EMU_OF_THREE(short)
EMU_OF_THREE(ushort)

// ---- geometry ------------------------------------------------------------------------------------------------------
template <class T, int N>
EMU_INLINE T dot(const vec<T, N>& a, const vec<T, N>& b) {
  T s = a.d[0] * b.d[0];
  for (int i = 1; i < N; i++) s += a.d[i] * b.d[i];
  return s;
}
template <class T, int N>
EMU_INLINE T length_squared(const vec<T, N>& a) { return dot(a, a); }
template <class T, int N>
EMU_INLINE T length(const vec<T, N>& a) { return sqrt(dot(a, a)); }
template <class T, int N>
EMU_INLINE T distance(const vec<T, N>& a, const vec<T, N>& b) { return length(a - b); }
template <class T, int N>
EMU_INLINE vec<T, N> normalize(const vec<T, N>& a) { return a * rsqrt(dot(a, a)); }
template <class T>
EMU_INLINE vec<T, 3> cross(const vec<T, 3>& a, const vec<T, 3>& b) {
  return vec<T, 3>(a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x);
}
EMU_INLINE float mix(float a, float b, float t) { return a + (b - a) * t; }
EMU_INLINE half mix(half a, half b, half t) { return a + (b - a) * t; }
template <class T, int N>
EMU_INLINE vec<T, N> mix(const vec<T, N>& a, const vec<T, N>& b, const vec<T, N>& t) { return a + (b - a) * t; }
template <class T, int N>
EMU_INLINE vec<T, N> mix(const vec<T, N>& a, const vec<T, N>& b, T t) { return a + (b - a) * vec<T, N>(t); }
EMU_INLINE float smoothstep(float a, float b, float x) {
  const float t = saturate((x - a) / (b - a));
  return t * t * (3.0f - 2.0f * t);
}

// ---- predicates ----------------------------------------------------------------------------------------------------
EMU_INLINE bool all(bool a) { return a; }
EMU_INLINE bool any(bool a) { return a; }
template <int N>
EMU_INLINE bool all(const vec<bool, N>& a) {
  EMU_EACH(N) if (!a.d[i]) return false;
  return true;
}
template <int N>
EMU_INLINE bool any(const vec<bool, N>& a) {
  EMU_EACH(N) if (a.d[i]) return true;
  return false;
}
#define EMU_PREDICATE(NAME, F)                                         \
  EMU_INLINE bool NAME(float x) { return F(x); }                       \
  EMU_INLINE bool NAME(half x) { return F((float)x); }                 \
  template <class T, int N>                                            \
  EMU_INLINE vec<bool, N> NAME(const vec<T, N>& v) {                   \
    vec<bool, N> r(false);                                             \
    EMU_EACH(N) r.d[i] = NAME(v.d[i]);                             \
    return r;                                                          \
  }
EMU_PREDICATE(isnan, __builtin_isnan)
EMU_PREDICATE(isinf, __builtin_isinf)
EMU_PREDICATE(isfinite, __builtin_isfinite)
EMU_PREDICATE(isnormal, __builtin_isnormal)
EMU_PREDICATE(signbit, __builtin_signbit)

// ---- exponents -----------------------------------------------------------------------------------------------------
#define EMU_EXPONENT_FUNCTIONS                                                                        \
  EMU_INLINE float ldexp(float x, int e) { return __builtin_ldexpf(x, e); }                           \
  EMU_INLINE half ldexp(half x, int e) { return (half)__builtin_ldexpf((float)x, e); }                \
  EMU_INLINE float frexp(float x, int& e) { return __builtin_frexpf(x, &e); }                         \
  EMU_INLINE int ilogb(float x) { return __builtin_ilogbf(x); }                                       \
  EMU_INLINE float modf(float x, float& whole) { return __builtin_modff(x, &whole); }                 \
  EMU_INLINE float sincos(float x, float& c) {                                                        \
    c = __builtin_cosf(x);                                                                            \
    return __builtin_sinf(x);                                                                         \
  }
EMU_MATH_SCOPE(EMU_EXPONENT_FUNCTIONS)

}  // namespace metal

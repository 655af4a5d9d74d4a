// The compiler's own names behind the library. Headers in the wild define bfloat overloads of the library with them, as
// the library itself has none.
#pragma once

#define __METAL_MAYBE_FAST_MATH__ 0
#define __METAL_FAST_MATH__ 1
#define __METAL_PRECISE_MATH__ 0

#define EMU_INTRINSIC_UNARY(NAME) \
  EMU_INLINE float __metal_##NAME(float x, int = 0) { return metal::precise::NAME(x); }
EMU_INTRINSIC_UNARY(fabs)
EMU_INTRINSIC_UNARY(acos)
EMU_INTRINSIC_UNARY(acosh)
EMU_INTRINSIC_UNARY(asin)
EMU_INTRINSIC_UNARY(asinh)
EMU_INTRINSIC_UNARY(atan)
EMU_INTRINSIC_UNARY(atanh)
EMU_INTRINSIC_UNARY(ceil)
EMU_INTRINSIC_UNARY(cos)
EMU_INTRINSIC_UNARY(cosh)
EMU_INTRINSIC_UNARY(cospi)
EMU_INTRINSIC_UNARY(exp)
EMU_INTRINSIC_UNARY(exp10)
EMU_INTRINSIC_UNARY(exp2)
EMU_INTRINSIC_UNARY(floor)
EMU_INTRINSIC_UNARY(fract)
EMU_INTRINSIC_UNARY(log)
EMU_INTRINSIC_UNARY(log10)
EMU_INTRINSIC_UNARY(log2)
EMU_INTRINSIC_UNARY(rint)
EMU_INTRINSIC_UNARY(round)
EMU_INTRINSIC_UNARY(rsqrt)
EMU_INTRINSIC_UNARY(sin)
EMU_INTRINSIC_UNARY(sinh)
EMU_INTRINSIC_UNARY(sinpi)
EMU_INTRINSIC_UNARY(sqrt)
EMU_INTRINSIC_UNARY(tan)
EMU_INTRINSIC_UNARY(tanh)
EMU_INTRINSIC_UNARY(tanpi)
EMU_INTRINSIC_UNARY(trunc)
#undef EMU_INTRINSIC_UNARY

#define EMU_INTRINSIC_BINARY(NAME) \
  EMU_INLINE float __metal_##NAME(float x, float y, int = 0) { return metal::precise::NAME(x, y); }
EMU_INTRINSIC_BINARY(atan2)
EMU_INTRINSIC_BINARY(divide)
EMU_INTRINSIC_BINARY(fmax)
EMU_INTRINSIC_BINARY(fmin)
EMU_INTRINSIC_BINARY(fmod)
EMU_INTRINSIC_BINARY(nextafter)
EMU_INTRINSIC_BINARY(pow)
EMU_INTRINSIC_BINARY(powr)
#undef EMU_INTRINSIC_BINARY

EMU_INLINE float __metal_fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
EMU_INLINE float __metal_ldexp(float x, int e, int = 0) { return __builtin_ldexpf(x, e); }
EMU_INLINE float __metal_frexp(float x, int* e) { return __builtin_frexpf(x, e); }
EMU_INLINE float __metal_fmax3(float a, float b, float c, int = 0) { return metal::max3(a, b, c); }
EMU_INLINE float __metal_fmin3(float a, float b, float c, int = 0) { return metal::min3(a, b, c); }
EMU_INLINE float __metal_fmedian3(float a, float b, float c, int = 0) { return metal::median3(a, b, c); }
EMU_INLINE ushort __metal_get_simdgroup_size(ushort = 0) { return 32; }
EMU_INLINE ushort __metal_get_thread_index_in_simdgroup(ushort = 0) { return (ushort)emu::lane_index(); }

#define EMU_INTRINSIC_REDUCTION(NAME) \
  template <class T>                  \
  EMU_INLINE T __metal_simd_##NAME(T x, EMU_HERE) { return metal::simd_##NAME(x, line_, file_); }
EMU_INTRINSIC_REDUCTION(sum)
EMU_INTRINSIC_REDUCTION(product)
EMU_INTRINSIC_REDUCTION(max)
EMU_INTRINSIC_REDUCTION(min)
EMU_INTRINSIC_REDUCTION(xor)
EMU_INTRINSIC_REDUCTION(prefix_inclusive_sum)
EMU_INTRINSIC_REDUCTION(prefix_exclusive_sum)
EMU_INTRINSIC_REDUCTION(prefix_inclusive_product)
EMU_INTRINSIC_REDUCTION(prefix_exclusive_product)
#undef EMU_INTRINSIC_REDUCTION

#define EMU_INTRINSIC_SHUFFLE(NAME) \
  template <class T>                \
  EMU_INLINE T __metal_simd_##NAME(T x, ushort k, EMU_HERE) { return metal::simd_##NAME(x, k, line_, file_); }
EMU_INTRINSIC_SHUFFLE(shuffle)
EMU_INTRINSIC_SHUFFLE(shuffle_xor)
EMU_INTRINSIC_SHUFFLE(shuffle_up)
EMU_INTRINSIC_SHUFFLE(shuffle_down)
EMU_INTRINSIC_SHUFFLE(shuffle_rotate_up)
EMU_INTRINSIC_SHUFFLE(shuffle_rotate_down)
EMU_INTRINSIC_SHUFFLE(broadcast)
#undef EMU_INTRINSIC_SHUFFLE
template <class T>
EMU_INLINE T __metal_simd_shuffle_and_fill_up(T x, T fill, ushort k, ushort modulo = 32, EMU_HERE) {
  return metal::simd_shuffle_and_fill_up(x, fill, k, modulo, line_, file_);
}
template <class T>
EMU_INLINE T __metal_simd_shuffle_and_fill_down(T x, T fill, ushort k, ushort modulo = 32, EMU_HERE) {
  return metal::simd_shuffle_and_fill_down(x, fill, k, modulo, line_, file_);
}

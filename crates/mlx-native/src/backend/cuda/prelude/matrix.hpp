// <metal_simdgroup_matrix> on the tensor cores.
//
// MSL leaves open which elements a lane holds. Here lane l holds row l/4, columns 2(l%4) and the next: that is how
// `mma.m16n8k8` wants its operand A and its sums C. Operand B it wants the other way round, so a load fetches both, and
// what the kernel does not use of the two is removed as dead code. Rows 8 to 15 of A are zero for 16-bit types.
//
// Sums of floats: a float has more bits than a tensor core takes (11), so each is split in two, and the tensor cores
// truncate what they add, so every product starts from zero and is added to the sum by an ordinary addition. The parts lie
// in rows 0 to 7 (upper) and 8 to 15 (lower) of A. Where the product of the upper parts is not finite it is the result:
// the lower parts of an infinity mean nothing.
#pragma once

namespace metal {

template <class T, int Rows = 8, int Columns = 8>
struct simdgroup_matrix {
  static_assert(Rows == 8 && Columns == 8, "simdgroup matrices are 8x8");
  typedef vec<T, 2> storage_type;
  // As A and C want it, and as B does; the latter is out of date once `thread_elements` was lent for writing.
  vec<T, 2> along, across;
  bool has_across;

  simdgroup_matrix() = default;
  MSL_INLINE explicit simdgroup_matrix(T diagonal) {
    const uint row = on_cuda::lane_index() >> 2, column = (on_cuda::lane_index() & 3) * 2;
    along = vec<T, 2>(row == column ? diagonal : T(0), row == column + 1 ? diagonal : T(0));
    across = along;
    has_across = true;
  }
  MSL_INLINE vec<T, 2>& thread_elements() {
    has_across = false;
    return along;
  }
  MSL_INLINE const vec<T, 2>& thread_elements() const { return along; }
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

template <class T, int Rows, int Columns>
MSL_INLINE simdgroup_matrix<T, Rows, Columns> make_filled_simdgroup_matrix(T value) {
  simdgroup_matrix<T, Rows, Columns> m;
  m.along = m.across = vec<T, 2>(value, value);
  m.has_across = true;
  return m;
}

// `origin` counts columns, then rows.
template <class T>
MSL_INLINE void simdgroup_load(simdgroup_matrix<T, 8, 8>& m, const T* p, ulong elements_per_row = 8,
                               ulong2 origin = ulong2(0ul), bool transpose = false) {
  const uint lane = on_cuda::lane_index(), row = lane >> 2, column = (lane & 3) * 2;
  p += origin.y * elements_per_row + origin.x;
  const vec<T, 2> in_rows(p[row * elements_per_row + column], p[row * elements_per_row + column + 1]);
  const vec<T, 2> in_columns(p[column * elements_per_row + row], p[(column + 1) * elements_per_row + row]);
  m.along = transpose ? in_columns : in_rows;
  m.across = transpose ? in_rows : in_columns;
  m.has_across = true;
}
template <class T>
MSL_INLINE void simdgroup_store(const simdgroup_matrix<T, 8, 8>& m, T* p, ulong elements_per_row = 8,
                                ulong2 origin = ulong2(0ul), bool transpose = false) {
  const uint lane = on_cuda::lane_index(), row = lane >> 2, column = (lane & 3) * 2;
  p += origin.y * elements_per_row + origin.x;
  p[transpose ? column * elements_per_row + row : row * elements_per_row + column] = m.along.x;
  p[transpose ? (column + 1) * elements_per_row + row : row * elements_per_row + column + 1] = m.along.y;
}

}  // namespace metal

namespace on_cuda {

// What of `m` operand B wants: elements (2(l%4), l/4) and the one below.
template <class T>
MSL_INLINE metal::vec<T, 2> across(const metal::simdgroup_matrix<T, 8, 8>& m) {
  if (m.has_across) return m.across;
  if constexpr (sizeof(T) == 2) {
    uint out;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(bits_as<uint>(m.along)));
    return bits_as<metal::vec<T, 2>>(out);
  } else {
    // Row r, column c is component c%2 of lane 4r + c/2.
    const uint lane = lane_index(), from = (lane & 3) * 8 + (lane >> 3);
    const metal::vec<T, 2> upper = of_lane(m.along, from), lower = of_lane(m.along, from + 4);
    return lane >> 2 & 1 ? metal::vec<T, 2>(upper.y, lower.y) : metal::vec<T, 2>(upper.x, lower.x);
  }
}

// Sums of a product: rows 0 to 7 and 8 to 15 of one lane.
struct sums {
  float a0, a1, b0, b1;
};
MSL_INLINE void multiply(sums& d, uint a, uint b, half) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
               : "+f"(d.a0), "+f"(d.a1), "+f"(d.b0), "+f"(d.b1) : "r"(a), "r"(0), "r"(b));
}
MSL_INLINE void multiply(sums& d, uint a, uint b, bfloat) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
               : "+f"(d.a0), "+f"(d.a1), "+f"(d.b0), "+f"(d.b1) : "r"(a), "r"(0), "r"(b));
}
// Rounded to the 11 bits that a tensor core takes of a float.
MSL_INLINE float rounded(float x) {
  uint r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
  return __uint_as_float(r);
}
// A float in two parts of 11 bits, which leave out 2^-23 of it at most.
struct parts {
  float upper, lower;
  template <class T>
  MSL_INLINE explicit parts(T value) {
    const float x = (float)value;
    upper = rounded(x);
    // The largest floats would round to infinity: cut, they stay finite.
    if (metal::isinf(upper) && metal::isfinite(x)) upper = __uint_as_float(__float_as_uint(x) & 0xffffe000u);
    // What is missing of an infinity is not a number.
    lower = metal::isfinite(x) ? rounded(x - upper) : 0.0f;
  }
};
// Columns of A and rows of B are numbered 0 2 4 6 1 3 5 7, in which the lanes' elements are the operands: the same sum.
MSL_INLINE sums multiply(float a0, float a1, float low0, float low1, float b0, float b1) {
  sums d = {0.0f, 0.0f, 0.0f, 0.0f};
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(d.a0), "+f"(d.a1), "+f"(d.b0), "+f"(d.b1)
               : "r"(__float_as_uint(a0)), "r"(__float_as_uint(low0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(low1)),
                 "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
  return d;
}
MSL_INLINE float corrected(float product, float correction) {
  return metal::isfinite(product) ? product + correction : product;
}

}  // namespace on_cuda

namespace metal {

template <class D, class A, class B, class C>
MSL_INLINE void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                              const simdgroup_matrix<B, 8, 8>& b, const simdgroup_matrix<C, 8, 8>& c) {
  const vec<A, 2> x = a.along;
  const vec<B, 2> y = on_cuda::across(b);
  float s0 = (float)c.along.x, s1 = (float)c.along.y;
  if constexpr (sizeof(A) == 2 && is_same<A, B>::value) {
    on_cuda::sums s = {s0, s1, 0.0f, 0.0f};
    on_cuda::multiply(s, on_cuda::bits_as<uint>(x), on_cuda::bits_as<uint>(y), A());
    s0 = s.a0;
    s1 = s.a1;
  } else {
    const on_cuda::parts x0(x.x), x1(x.y), y0(y.x), y1(y.y);
    const on_cuda::sums upper = on_cuda::multiply(x0.upper, x1.upper, x0.lower, x1.lower, y0.upper, y1.upper);
    float low0 = upper.b0, low1 = upper.b1;
    // Types of 16 bits have no lower part.
    if constexpr (sizeof(B) > 2) {
      const on_cuda::sums lower = on_cuda::multiply(x0.upper, x1.upper, x0.lower, x1.lower, y0.lower, y1.lower);
      low0 += lower.a0 + lower.b0;
      low1 += lower.a1 + lower.b1;
    }
    s0 += on_cuda::corrected(upper.a0, low0);
    s1 += on_cuda::corrected(upper.a1, low1);
  }
  d.along = vec<D, 2>(D(s0), D(s1));
  d.has_across = false;
}
template <class D, class A, class B>
MSL_INLINE void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                   const simdgroup_matrix<B, 8, 8>& b) {
  simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<D, 8, 8>(D(0)));
}
template <class T>
MSL_INLINE simdgroup_matrix<T, 8, 8> operator*(const simdgroup_matrix<T, 8, 8>& a, const simdgroup_matrix<T, 8, 8>& b) {
  simdgroup_matrix<T, 8, 8> d;
  simdgroup_multiply(d, a, b);
  return d;
}

}  // namespace metal

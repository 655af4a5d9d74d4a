// <metal_simdgroup_matrix>: an 8x8 tile in the registers of 32 lanes, two neighbours of a row each, in Apple's layout.
#pragma once

namespace emu {

constexpr int tile_row(uint lane) { return (int)((lane >> 2 & 4) + (lane >> 1 & 3)); }
constexpr int tile_column(uint lane) { return (int)((lane >> 3 & 1) * 4 + (lane & 1) * 2); }

template <class A, class B, class C>
struct tile_operands {
  metal::vec<A, 2> a;
  metal::vec<B, 2> b;
  metal::vec<C, 2> c;
};
// Products and sums in float, whatever the operands: rounded once at the end.
struct tile_multiply {
  template <class In, class Out>
  EMU_UNCHECKED static void run(In in, Out out, uint mask, ulong) {
    float a[8][8], b[8][8], c[8][8];
    for (uint l = 0; l < 32; l++) {
      const auto x = in((int)l);
      const int r = tile_row(l), k = tile_column(l);
      for (int i = 0; i < 2; i++) {
        a[r][k + i] = (float)x.a.d[i];
        b[r][k + i] = (float)x.b.d[i];
        c[r][k + i] = (float)x.c.d[i];
      }
    }
    for (int i = 0; i < 8; i++)
      for (int k = 0; k < 8; k++)
        for (int j = 0; j < 8; j++) c[i][j] += a[i][k] * b[k][j];
    typedef decltype(in(0).c) R;
    EMU_EACH_LANE(l, mask) out(l, R(c[tile_row(l)][tile_column(l)], c[tile_row(l)][tile_column(l) + 1]));
  }
};

}  // namespace emu

namespace metal {

template <class T, int Rows = 8, int Columns = 8>
struct simdgroup_matrix {
  static_assert(Rows == 8 && Columns == 8, "simdgroup matrices are 8x8");
  typedef vec<T, 2> storage_type;
  vec<T, 2> elements;

  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T diagonal) {
    const int r = emu::tile_row(emu::lane_index()), c = emu::tile_column(emu::lane_index());
    elements = vec<T, 2>(r == c ? diagonal : T(0), r == c + 1 ? diagonal : T(0));
  }
  vec<T, 2>& thread_elements() { return elements; }
  const vec<T, 2>& thread_elements() const { return elements; }
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

template <class T, int Rows, int Columns>
EMU_INLINE simdgroup_matrix<T, Rows, Columns> make_filled_simdgroup_matrix(T value) {
  simdgroup_matrix<T, Rows, Columns> m;
  m.elements = vec<T, 2>(value, value);
  return m;
}

// `origin` counts columns, then rows. Each lane moves its own two elements.
template <class T>
EMU_INLINE ulong simdgroup_element(int i, ulong elements_per_row, ulong2 origin, bool transpose) {
  const ulong r = emu::tile_row(emu::lane_index()), c = emu::tile_column(emu::lane_index()) + i;
  return transpose ? (origin.y + c) * elements_per_row + origin.x + r : (origin.y + r) * elements_per_row + origin.x + c;
}
template <class T>
EMU_INLINE void simdgroup_load(simdgroup_matrix<T, 8, 8>& m, const T* p, ulong elements_per_row = 8,
                               ulong2 origin = ulong2(0ul), bool transpose = false) {
  for (int i = 0; i < 2; i++) m.elements.d[i] = p[simdgroup_element<T>(i, elements_per_row, origin, transpose)];
}
template <class T>
EMU_INLINE void simdgroup_store(const simdgroup_matrix<T, 8, 8>& m, T* p, ulong elements_per_row = 8,
                                ulong2 origin = ulong2(0ul), bool transpose = false) {
  for (int i = 0; i < 2; i++) p[simdgroup_element<T>(i, elements_per_row, origin, transpose)] = m.elements.d[i];
}

template <class D, class A, class B, class C>
EMU_INLINE void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                              const simdgroup_matrix<B, 8, 8>& b, const simdgroup_matrix<C, 8, 8>& c,
                                              EMU_HERE) {
  const emu::tile_operands<A, B, D> x{a.elements, b.elements, vec<D, 2>((D)c.elements.d[0], (D)c.elements.d[1])};
  d.elements = emu::simd_call<emu::tile_multiply, vec<D, 2>>(x, line_, file_, true);
}
template <class D, class A, class B>
EMU_INLINE void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                   const simdgroup_matrix<B, 8, 8>& b, EMU_HERE) {
  simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<D, 8, 8>(D(0)), line_, file_);
}
template <class T>
EMU_INLINE simdgroup_matrix<T, 8, 8> operator*(const simdgroup_matrix<T, 8, 8>& a, const simdgroup_matrix<T, 8, 8>& b) {
  simdgroup_matrix<T, 8, 8> d;
  simdgroup_multiply(d, a, b);
  return d;
}

}  // namespace metal

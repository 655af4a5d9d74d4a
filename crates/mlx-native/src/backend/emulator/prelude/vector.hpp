// Vectors. Clang's own (`ext_vector_type`) lack MSL's constructors and bool results; a class has both, and properties
// make every swizzle an exactly typed value. The swizzles come from `swizzle.rs`.
#pragma once

namespace metal {

template <class T, int N>
struct vec;

template <class T>
struct is_vec : false_type {
  static constexpr int size = 1;
  typedef T element;
};
template <class T, int N>
struct is_vec<vec<T, N>> : true_type {
  static constexpr int size = N;
  typedef T element;
};
template <class S>
using if_scalar = enable_if_t<is_arithmetic<remove_cv_t<S>>::value>;

#define EMU_EACH(N) for (int i = 0; i < (N); i++)

#define EMU_VEC_BINARY(N, OP)                                                         \
  friend constexpr vec operator OP(const vec& a, const vec& b) {                      \
    vec r = a;                                                                        \
    EMU_EACH(N) r.d[i] = T(a.d[i] OP b.d[i]);                                         \
    return r;                                                                         \
  }                                                                                   \
  constexpr vec& operator OP##=(const vec& b) {                                       \
    EMU_EACH(N) d[i] = T(d[i] OP b.d[i]);                                             \
    return *this;                                                                     \
  }
#define EMU_VEC_COMPARE(N, OP)                                                        \
  friend constexpr vec<bool, N> operator OP(const vec& a, const vec& b) {             \
    vec<bool, N> r(false);                                                            \
    EMU_EACH(N) r.d[i] = (a.d[i] OP b.d[i]);                                          \
    return r;                                                                         \
  }
#define EMU_VEC_MEMBERS(N)                                                            \
  typedef T value_type;                                                               \
  vec() = default;                                                                    \
  constexpr vec(const vec& o) = default;                                              \
  vec& operator=(const vec& o) = default;                                             \
  template <class S, class = if_scalar<S>>                                            \
  constexpr vec(S s) : d{} {                                                          \
    EMU_EACH(N) d[i] = (T)s;                                                          \
  }                                                                                   \
  template <class U, class = enable_if_t<!__is_same(U, T)>>                           \
  explicit constexpr vec(const vec<U, N>& o) : d{} {                                  \
    EMU_EACH(N) d[i] = (T)o.d[i];                                                     \
  }                                                                                   \
  constexpr vec(std::initializer_list<T> l) : d{} {                                   \
    int i = 0;                                                                        \
    for (const T* q = l.begin(); q != l.end() && i < N; ++q) d[i++] = *q;             \
  }                                                                                   \
  constexpr T& operator[](int i) { return d[i]; }                                     \
  constexpr const T& operator[](int i) const { return d[i]; }                         \
  friend constexpr vec operator+(const vec& a) { return a; }                          \
  friend constexpr vec operator-(const vec& a) {                                      \
    vec r = a;                                                                        \
    EMU_EACH(N) r.d[i] = T(-a.d[i]);                                                  \
    return r;                                                                         \
  }                                                                                   \
  friend constexpr vec operator~(const vec& a) {                                      \
    vec r = a;                                                                        \
    EMU_EACH(N) r.d[i] = T(~a.d[i]);                                                  \
    return r;                                                                         \
  }                                                                                   \
  friend constexpr vec<bool, N> operator!(const vec& a) {                             \
    vec<bool, N> r(false);                                                            \
    EMU_EACH(N) r.d[i] = !a.d[i];                                                     \
    return r;                                                                         \
  }                                                                                   \
  constexpr vec& operator++() { return *this += vec(T(1)); }                          \
  constexpr vec& operator--() { return *this -= vec(T(1)); }                          \
  EMU_VEC_BINARY(N, +) EMU_VEC_BINARY(N, -) EMU_VEC_BINARY(N, *) EMU_VEC_BINARY(N, /) \
  EMU_VEC_BINARY(N, %) EMU_VEC_BINARY(N, &) EMU_VEC_BINARY(N, |) EMU_VEC_BINARY(N, ^) \
  EMU_VEC_BINARY(N, <<) EMU_VEC_BINARY(N, >>)                                         \
  EMU_VEC_COMPARE(N, ==) EMU_VEC_COMPARE(N, !=) EMU_VEC_COMPARE(N, <)                 \
  EMU_VEC_COMPARE(N, >) EMU_VEC_COMPARE(N, <=) EMU_VEC_COMPARE(N, >=)                 \
  EMU_VEC_COMPARE(N, &&) EMU_VEC_COMPARE(N, ||)

template <class T>
struct vec<T, 1> {
  T d[1];
  vec() = default;
  constexpr vec(T a) : d{a} {}
  constexpr operator T() const { return d[0]; }
  constexpr T& operator[](int i) { return d[i]; }
  constexpr const T& operator[](int i) const { return d[i]; }
};

template <class T>
struct alignas(2 * sizeof(T)) vec<T, 2> {
  union {
    T d[2];
    struct { T x, y; };
    struct { T r, g; };
  };
  EMU_VEC_MEMBERS(2)
  template <class A, class B, class = if_scalar<A>, class = if_scalar<B>>
  constexpr vec(A a, B b) : d{(T)a, (T)b} {}
#include "swizzle2.inc"
};

// Three elements take the room of four, as in MSL.
template <class T>
struct alignas(4 * sizeof(T)) vec<T, 3> {
  union {
    T d[3];
    struct { T x, y, z; };
    struct { T r, g, b; };
  };
  EMU_VEC_MEMBERS(3)
  template <class A, class B, class C, class = if_scalar<A>, class = if_scalar<B>, class = if_scalar<C>>
  constexpr vec(A a, B b, C c) : d{(T)a, (T)b, (T)c} {}
  constexpr vec(const vec<T, 2>& a, T b) : d{a.d[0], a.d[1], b} {}
  constexpr vec(T a, const vec<T, 2>& b) : d{a, b.d[0], b.d[1]} {}
#include "swizzle3.inc"
};

template <class T>
struct alignas(4 * sizeof(T)) vec<T, 4> {
  union {
    T d[4];
    struct { T x, y, z, w; };
    struct { T r, g, b, a; };
  };
  EMU_VEC_MEMBERS(4)
  template <class A, class B, class C, class D, class = if_scalar<A>, class = if_scalar<B>, class = if_scalar<C>,
            class = if_scalar<D>>
  constexpr vec(A a, B b, C c, D e) : d{(T)a, (T)b, (T)c, (T)e} {}
  constexpr vec(const vec<T, 2>& a, const vec<T, 2>& b) : d{a.d[0], a.d[1], b.d[0], b.d[1]} {}
  constexpr vec(const vec<T, 3>& a, T b) : d{a.d[0], a.d[1], a.d[2], b} {}
  constexpr vec(T a, const vec<T, 3>& b) : d{a, b.d[0], b.d[1], b.d[2]} {}
  constexpr vec(const vec<T, 2>& a, T b, T c) : d{a.d[0], a.d[1], b, c} {}
  constexpr vec(T a, const vec<T, 2>& b, T c) : d{a, b.d[0], b.d[1], c} {}
  constexpr vec(T a, T b, const vec<T, 2>& c) : d{a, b, c.d[0], c.d[1]} {}
#include "swizzle4.inc"
};

// Packed vectors: the alignment of one element, conversions both ways.
template <class T, int N>
struct packed_vec {
  T d[N];
  packed_vec() = default;
  constexpr packed_vec(const vec<T, N>& o) : d{} { EMU_EACH(N) d[i] = o.d[i]; }
  template <class... A, class = enable_if_t<sizeof...(A) == N>>
  constexpr packed_vec(A... a) : d{(T)a...} {}
  constexpr operator vec<T, N>() const {
    vec<T, N> r(T(0));
    EMU_EACH(N) r.d[i] = d[i];
    return r;
  }
  constexpr T& operator[](int i) { return d[i]; }
  constexpr const T& operator[](int i) const { return d[i]; }
};

}  // namespace metal

// MSL's vector names are visible without the namespace.
#define EMU_VECTOR_NAMES(T)                              \
  typedef metal::vec<T, 2> T##2;                         \
  typedef metal::vec<T, 3> T##3;                         \
  typedef metal::vec<T, 4> T##4;                         \
  typedef metal::packed_vec<T, 2> packed_##T##2;         \
  typedef metal::packed_vec<T, 3> packed_##T##3;         \
  typedef metal::packed_vec<T, 4> packed_##T##4;         \
  namespace metal {                                      \
  using ::T##2; using ::T##3; using ::T##4;              \
  using ::packed_##T##2; using ::packed_##T##3; using ::packed_##T##4; \
  }
EMU_VECTOR_NAMES(bool)
EMU_VECTOR_NAMES(char)
EMU_VECTOR_NAMES(uchar)
EMU_VECTOR_NAMES(short)
EMU_VECTOR_NAMES(ushort)
EMU_VECTOR_NAMES(int)
EMU_VECTOR_NAMES(uint)
EMU_VECTOR_NAMES(long)
EMU_VECTOR_NAMES(ulong)
EMU_VECTOR_NAMES(half)
EMU_VECTOR_NAMES(bfloat)
EMU_VECTOR_NAMES(float)
#undef EMU_VECTOR_NAMES

static_assert(sizeof(float3) == 16 && alignof(float3) == 16, "float3 takes the room of float4");
static_assert(sizeof(packed_float3) == 12 && alignof(packed_float3) == 4, "packed_float3 is three floats");
static_assert(sizeof(half4) == 8 && alignof(uchar4) == 4 && sizeof(bfloat2) == 4, "vector layout");

namespace emu {
template <class To, class From>
EMU_INLINE To as_type(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "as_type: the sizes differ");
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}
}  // namespace emu
#define as_type emu::as_type

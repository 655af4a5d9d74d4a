// Vectors, and what the rewriter makes of swizzles: `v.xy` becomes `v.template at<0, 1>()`, and where it is assigned to,
// `v.template put<0, 1>()`.
#pragma once

namespace metal {

template <class T, int N> struct vec;
template <class T> struct is_vec : false_type {
  static constexpr int size = 1;
  typedef T element;
};
template <class T, int N> struct is_vec<vec<T, N>> : true_type {
  static constexpr int size = N;
  typedef T element;
};
template <class S> using if_scalar = enable_if_t<is_arithmetic<remove_cv_t<S>>::value>;

// Some components of a vector, to be written.
template <class T, int... I>
struct put_components {
  T* first;
  template <class F>
  MSL_INLINE void each(const vec<T, sizeof...(I)>& v, F f) const {
    int i = 0;
    ((f(first[I], v[i++])), ...);
  }
  MSL_INLINE void operator=(const vec<T, sizeof...(I)>& v) const { each(v, [](T& a, T b) { a = b; }); }
#define MSL_PUT(OP) \
  MSL_INLINE void operator OP(const vec<T, sizeof...(I)>& v) const { each(v, [](T& a, T b) { a OP b; }); }
  MSL_PUT(+=) MSL_PUT(-=) MSL_PUT(*=) MSL_PUT(/=) MSL_PUT(%=) MSL_PUT(&=) MSL_PUT(|=) MSL_PUT(^=) MSL_PUT(<<=) MSL_PUT(>>=)
#undef MSL_PUT
};

#define MSL_EACH(N) _Pragma("unroll") for (int i = 0; i < (N); i++)

#define MSL_BINARY(N, OP)                                                           \
  friend MSL_INLINE vec operator OP(const vec& a, const vec& b) {         \
    vec r = a;                                                                      \
    MSL_EACH(N) r[i] = T(a[i] OP b[i]);                                             \
    return r;                                                                       \
  }                                                                                 \
  MSL_INLINE vec& operator OP##=(const vec& b)& {                         \
    MSL_EACH(N)(*this)[i] = T((*this)[i] OP b[i]);                                  \
    return *this;                                                                   \
  }
#define MSL_COMPARE(N, OP)                                                          \
  friend MSL_INLINE vec<bool, N> operator OP(const vec& a, const vec& b) { \
    vec<bool, N> r(false);                                                          \
    MSL_EACH(N) r[i] = (a[i] OP b[i]);                                              \
    return r;                                                                       \
  }
#define MSL_MEMBERS(N)                                                              \
  typedef T value_type;                                                             \
  vec() = default;                                                                  \
  MSL_INLINE constexpr T& operator[](int i) { return (&x)[i]; }                     \
  MSL_INLINE constexpr const T& operator[](int i) const { return (&x)[i]; }         \
  template <int... I>                                                               \
  MSL_INLINE constexpr vec<T, sizeof...(I)> at() const {                            \
    return vec<T, sizeof...(I)>((*this)[I]...);                                     \
  }                                                                                 \
  template <int... I>                                                               \
  MSL_INLINE put_components<T, I...> put()& {                                       \
    return put_components<T, I...>{&x};                                             \
  }                                                                                 \
  friend MSL_INLINE vec operator+(const vec& a) { return a; }             \
  friend MSL_INLINE vec operator-(const vec& a) {                         \
    vec r = a;                                                                      \
    MSL_EACH(N) r[i] = T(-a[i]);                                                    \
    return r;                                                                       \
  }                                                                                 \
  friend MSL_INLINE vec operator~(const vec& a) {                         \
    vec r = a;                                                                      \
    MSL_EACH(N) r[i] = T(~a[i]);                                                    \
    return r;                                                                       \
  }                                                                                 \
  friend MSL_INLINE vec<bool, N> operator!(const vec& a) {                \
    vec<bool, N> r(false);                                                          \
    MSL_EACH(N) r[i] = !a[i];                                                       \
    return r;                                                                       \
  }                                                                                 \
  MSL_INLINE vec& operator++()& { return *this += vec(T(1)); }            \
  MSL_INLINE vec& operator--()& { return *this -= vec(T(1)); }            \
  MSL_BINARY(N, +) MSL_BINARY(N, -) MSL_BINARY(N, *) MSL_BINARY(N, /)               \
  MSL_BINARY(N, %) MSL_BINARY(N, &) MSL_BINARY(N, |) MSL_BINARY(N, ^)               \
  MSL_BINARY(N, <<) MSL_BINARY(N, >>)                                               \
  MSL_COMPARE(N, ==) MSL_COMPARE(N, !=) MSL_COMPARE(N, <) MSL_COMPARE(N, >)         \
  MSL_COMPARE(N, <=) MSL_COMPARE(N, >=) MSL_COMPARE(N, &&) MSL_COMPARE(N, ||)

template <class T>
struct vec<T, 1> {
  T x;
  vec() = default;
  MSL_INLINE constexpr vec(T a) : x(a) {}
  MSL_INLINE constexpr operator T() const { return x; }
  MSL_INLINE constexpr T& operator[](int) { return x; }
  MSL_INLINE constexpr const T& operator[](int) const { return x; }
};

// The components lie in a row from `x` on; colours are other names of them.
template <class T>
struct alignas(2 * sizeof(T)) vec<T, 2> {
  union { T x, r; };
  union { T y, g; };
  MSL_MEMBERS(2)
  template <class S, class = if_scalar<S>>
  MSL_INLINE constexpr vec(S s) : x(T(s)), y(T(s)) {}
  template <class U, class = enable_if_t<!is_same<U, T>::value>>
  MSL_INLINE explicit constexpr vec(const vec<U, 2>& o) : x(T(o.x)), y(T(o.y)) {}
  template <class A, class B, class = if_scalar<A>, class = if_scalar<B>>
  MSL_INLINE constexpr vec(A a, B b) : x(T(a)), y(T(b)) {}
};

// Three elements take the room of four, as in MSL.
template <class T>
struct alignas(4 * sizeof(T)) vec<T, 3> {
  union { T x, r; };
  union { T y, g; };
  union { T z, b; };
  MSL_MEMBERS(3)
  template <class S, class = if_scalar<S>>
  MSL_INLINE constexpr vec(S s) : x(T(s)), y(T(s)), z(T(s)) {}
  template <class U, class = enable_if_t<!is_same<U, T>::value>>
  MSL_INLINE explicit constexpr vec(const vec<U, 3>& o) : x(T(o.x)), y(T(o.y)), z(T(o.z)) {}
  template <class A, class B, class C, class = if_scalar<A>, class = if_scalar<B>, class = if_scalar<C>>
  MSL_INLINE constexpr vec(A a, B b, C c) : x(T(a)), y(T(b)), z(T(c)) {}
  MSL_INLINE constexpr vec(const vec<T, 2>& a, T b) : x(a.x), y(a.y), z(b) {}
  MSL_INLINE constexpr vec(T a, const vec<T, 2>& b) : x(a), y(b.x), z(b.y) {}
};

template <class T>
struct alignas(4 * sizeof(T)) vec<T, 4> {
  union { T x, r; };
  union { T y, g; };
  union { T z, b; };
  union { T w, a; };
  MSL_MEMBERS(4)
  template <class S, class = if_scalar<S>>
  MSL_INLINE constexpr vec(S s) : x(T(s)), y(T(s)), z(T(s)), w(T(s)) {}
  template <class U, class = enable_if_t<!is_same<U, T>::value>>
  MSL_INLINE explicit constexpr vec(const vec<U, 4>& o) : x(T(o.x)), y(T(o.y)), z(T(o.z)), w(T(o.w)) {}
  template <class A, class B, class C, class D, class = if_scalar<A>, class = if_scalar<B>, class = if_scalar<C>,
            class = if_scalar<D>>
  MSL_INLINE constexpr vec(A a, B b, C c, D d) : x(T(a)), y(T(b)), z(T(c)), w(T(d)) {}
  MSL_INLINE constexpr vec(const vec<T, 2>& a, const vec<T, 2>& b) : x(a.x), y(a.y), z(b.x), w(b.y) {}
  MSL_INLINE constexpr vec(const vec<T, 3>& a, T b) : x(a.x), y(a.y), z(a.z), w(b) {}
  MSL_INLINE constexpr vec(T a, const vec<T, 3>& b) : x(a), y(b.x), z(b.y), w(b.z) {}
  MSL_INLINE constexpr vec(const vec<T, 2>& a, T b, T c) : x(a.x), y(a.y), z(b), w(c) {}
  MSL_INLINE constexpr vec(T a, const vec<T, 2>& b, T c) : x(a), y(b.x), z(b.y), w(c) {}
  MSL_INLINE constexpr vec(T a, T b, const vec<T, 2>& c) : x(a), y(b), z(c.x), w(c.y) {}
};

// Packed vectors: the alignment of one element, conversions both ways.
template <class T, int N>
struct packed_vec {
  T d[N];
  packed_vec() = default;
  MSL_INLINE packed_vec(const vec<T, N>& o) { MSL_EACH(N) d[i] = o[i]; }
  template <class... A, class = enable_if_t<sizeof...(A) == N>>
  MSL_INLINE constexpr packed_vec(A... a) : d{T(a)...} {}
  MSL_INLINE operator vec<T, N>() const {
    vec<T, N> r(T(0));
    MSL_EACH(N) r[i] = d[i];
    return r;
  }
  MSL_INLINE constexpr T& operator[](int i) { return d[i]; }
  MSL_INLINE constexpr const T& operator[](int i) const { return d[i]; }
};

#define MSL_VECTOR_NAMES(T)             \
  typedef vec<T, 2> T##2;               \
  typedef vec<T, 3> T##3;               \
  typedef vec<T, 4> T##4;               \
  typedef packed_vec<T, 2> packed_##T##2; \
  typedef packed_vec<T, 3> packed_##T##3; \
  typedef packed_vec<T, 4> packed_##T##4;
MSL_VECTOR_NAMES(bool)
MSL_VECTOR_NAMES(char)
MSL_VECTOR_NAMES(uchar)
MSL_VECTOR_NAMES(short)
MSL_VECTOR_NAMES(ushort)
MSL_VECTOR_NAMES(int)
MSL_VECTOR_NAMES(uint)
MSL_VECTOR_NAMES(long)
MSL_VECTOR_NAMES(ulong)
MSL_VECTOR_NAMES(half)
MSL_VECTOR_NAMES(bfloat)
MSL_VECTOR_NAMES(float)
#undef MSL_VECTOR_NAMES

static_assert(sizeof(float3) == 16 && alignof(float3) == 16, "float3 takes the room of float4");
static_assert(sizeof(packed_float3) == 12 && alignof(packed_float3) == 4, "packed_float3 is three floats");
static_assert(sizeof(half4) == 8 && alignof(uchar4) == 4 && sizeof(bfloat2) == 4, "vector layout");

}  // namespace metal

// <metal_atomic>. Every operation is relaxed, which is all that MSL has; sub, max, min and what CUDA has no instruction for
// go through compare and exchange.
#pragma once

namespace metal {

template <class T>
struct _atomic {
  T value;
};
template <class T> using atomic = _atomic<T>;
typedef _atomic<int> atomic_int;
typedef _atomic<uint> atomic_uint;
typedef _atomic<bool> atomic_bool;
typedef _atomic<float> atomic_float;
typedef _atomic<long> atomic_long;
typedef _atomic<ulong> atomic_ulong;

}  // namespace metal

namespace on_cuda {

// Replaces `old` at `p` by `now`; returns what was there. Operands of 4 and 8 bytes.
template <class T>
MSL_INLINE T exchange_if(volatile T* p, T old, T now) {
  if constexpr (sizeof(T) == 4) {
    return bits_as<T>(atomicCAS((uint*)p, bits_as<uint>(old), bits_as<uint>(now)));
  } else {
    static_assert(sizeof(T) == 8, "atomics have 4 or 8 bytes");
    typedef unsigned long long word;
    return bits_as<T>(atomicCAS((word*)p, bits_as<word>(old), bits_as<word>(now)));
  }
}
// The bits count, not the value: a NaN equals itself, and -0 is not 0.
template <class T>
MSL_INLINE bool same_bits(const T& a, const T& b) {
  if constexpr (sizeof(T) == 4) return bits_as<uint>(a) == bits_as<uint>(b);
  else return bits_as<ulong>(a) == bits_as<ulong>(b);
}
template <class T, class F>
MSL_INLINE T update(volatile T* p, F f) {
  T old = *p;
  while (true) {
    const T seen = exchange_if(p, old, f(old));
    if (same_bits(seen, old)) return old;
    old = seen;
  }
}

}  // namespace on_cuda

namespace metal {

template <class T>
MSL_INLINE T atomic_load_explicit(const volatile _atomic<T>* p, memory_order) { return p->value; }
template <class T, class U>
MSL_INLINE void atomic_store_explicit(volatile _atomic<T>* p, U x, memory_order) { p->value = (T)x; }
template <class T, class U>
MSL_INLINE T atomic_exchange_explicit(volatile _atomic<T>* p, U x, memory_order) {
  return on_cuda::update(&p->value, [x](T) { return (T)x; });
}
template <class T, class U>
MSL_INLINE bool atomic_compare_exchange_weak_explicit(volatile _atomic<T>* p, T* expected, U x, memory_order, memory_order) {
  const T seen = on_cuda::exchange_if(&p->value, *expected, (T)x);
  const bool done = on_cuda::same_bits(seen, *expected);
  *expected = seen;
  return done;
}
#define MSL_FETCH(NAME, EXPRESSION)                                                              \
  template <class T, class U>                                                                    \
  MSL_INLINE T atomic_fetch_##NAME##_explicit(volatile _atomic<T>* p, U y, memory_order) {       \
    const T b = (T)y;                                                                            \
    return on_cuda::update(&p->value, [b](T a) { return (T)(EXPRESSION); });                     \
  }
MSL_FETCH(sub, a - b)
MSL_FETCH(max, a < b ? b : a)
MSL_FETCH(min, b < a ? b : a)
MSL_FETCH(and, a & b)
MSL_FETCH(or, a | b)
MSL_FETCH(xor, a ^ b)
#undef MSL_FETCH
template <class T, class U>
MSL_INLINE T atomic_fetch_add_explicit(volatile _atomic<T>* p, U y, memory_order) {
  const T b = (T)y;
  if constexpr (sizeof(T) == 8 && is_integral<T>::value) {
    return (T)atomicAdd((unsigned long long*)&p->value, (unsigned long long)b);
  } else {
    return atomicAdd((T*)&p->value, b);
  }
}

}  // namespace metal

// <metal_atomic>. Atomics are real ones, since groups may run on several workers; the checker is told of each.
#pragma once

namespace metal {

template <class T>
struct _atomic {
  T value;
};
template <class T>
using atomic = _atomic<T>;
typedef _atomic<int> atomic_int;
typedef _atomic<uint> atomic_uint;
typedef _atomic<bool> atomic_bool;
typedef _atomic<float> atomic_float;
typedef _atomic<long> atomic_long;
typedef _atomic<ulong> atomic_ulong;

}  // namespace metal

namespace emu {
__attribute__((noinline)) EMU_UNCHECKED static void touch(const volatile void* p, ulong size, bool writes, int line, const char* file) {
#ifdef EMU_CHECKED
  emu_rt->atomic(world()->engine, p, size, writes, line, file);
#endif
}
}  // namespace emu

namespace metal {

template <class T>
EMU_UNCHECKED T atomic_load_explicit(const volatile _atomic<T>* p, memory_order, EMU_HERE) {
  emu::touch(p, sizeof(T), false, line_, file_);
  T r;
  __atomic_load((T*)&p->value, &r, __ATOMIC_SEQ_CST);
  return r;
}
template <class T, class U>
EMU_UNCHECKED void atomic_store_explicit(volatile _atomic<T>* p, U x, memory_order, EMU_HERE) {
  emu::touch(p, sizeof(T), true, line_, file_);
  T t = (T)x;
  __atomic_store((T*)&p->value, &t, __ATOMIC_SEQ_CST);
}
template <class T, class U>
EMU_UNCHECKED T atomic_exchange_explicit(volatile _atomic<T>* p, U x, memory_order, EMU_HERE) {
  emu::touch(p, sizeof(T), true, line_, file_);
  T t = (T)x, r;
  __atomic_exchange((T*)&p->value, &t, &r, __ATOMIC_SEQ_CST);
  return r;
}
template <class T, class U>
EMU_UNCHECKED bool atomic_compare_exchange_weak_explicit(volatile _atomic<T>* p, T* expected, U x, memory_order, memory_order,
                                                         EMU_HERE) {
  emu::touch(p, sizeof(T), true, line_, file_);
  T t = (T)x;
  return __atomic_compare_exchange((T*)&p->value, expected, &t, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
#define EMU_FETCH(NAME, EXPRESSION)                                                                               \
  template <class T, class U>                                                                                     \
  EMU_UNCHECKED T atomic_fetch_##NAME##_explicit(volatile _atomic<T>* p, U y, memory_order, EMU_HERE) {           \
    emu::touch(p, sizeof(T), true, line_, file_);                                                                 \
    const T b = (T)y;                                                                                             \
    T a, c;                                                                                                       \
    __atomic_load((T*)&p->value, &a, __ATOMIC_SEQ_CST);                                                           \
    do {                                                                                                          \
      c = (T)(EXPRESSION);                                                                                        \
    } while (!__atomic_compare_exchange((T*)&p->value, &a, &c, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));       \
    return a;                                                                                                     \
  }
EMU_FETCH(add, a + b)
EMU_FETCH(sub, a - b)
EMU_FETCH(max, a < b ? b : a)
EMU_FETCH(min, b < a ? b : a)
EMU_FETCH(and, a & b)
EMU_FETCH(or, a | b)
EMU_FETCH(xor, a ^ b)
#undef EMU_FETCH

}  // namespace metal

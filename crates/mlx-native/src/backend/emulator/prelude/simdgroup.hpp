// <metal_simdgroup>, <metal_quadgroup>, <metal_compute>'s barriers.
//
// An operation deposits its input and waits; the last lane of the simdgroup to arrive computes every lane's result with
// the function that travels along. Inactive lanes take no part.
#pragma once

namespace metal {

enum class mem_flags {
  mem_none = 0,
  mem_device = 1,
  mem_threadgroup = 2,
  mem_texture = 4,
  mem_threadgroup_imageblock = 8,
  mem_object_data = 16
};
constexpr mem_flags operator|(mem_flags a, mem_flags b) { return (mem_flags)((int)a | (int)b); }
constexpr mem_flags operator&(mem_flags a, mem_flags b) { return (mem_flags)((int)a & (int)b); }
enum memory_order {
  memory_order_relaxed = 0,
  memory_order_acquire = 2,
  memory_order_release = 3,
  memory_order_acq_rel = 4,
  memory_order_seq_cst = 5
};
enum thread_scope {
  thread_scope_thread,
  thread_scope_simdgroup,
  thread_scope_threadgroup,
  thread_scope_device,
  thread_scope_system
};

EMU_INLINE void threadgroup_barrier(mem_flags flags, EMU_HERE) { emu_barrier((int)flags, line_, file_); }
EMU_INLINE void simdgroup_barrier(mem_flags flags, EMU_HERE) { emu_simdgroup_barrier((int)flags, line_, file_); }
EMU_INLINE void atomic_thread_fence(mem_flags, memory_order, thread_scope = thread_scope_device) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

}  // namespace metal

namespace emu {

constexpr uint slot_bytes = 64;

template <class T>
EMU_UNCHECKED T read_slot(const uchar* slots, int lane, uint stride) {
  T t;
  __builtin_memcpy(&t, slots + (size_t)lane * stride, sizeof(T));
  return t;
}

// What a lane sees of the others: `in(l)` is lane l's deposit, `out(l, r)` its result.
template <class T>
struct inputs {
  const uchar* slots;
  uint stride;
  EMU_UNCHECKED T operator()(int lane) const { return read_slot<T>(slots, lane, stride); }
};
template <class R>
struct outputs {
  uchar* slots;
  uint stride;
  EMU_UNCHECKED void operator()(int lane, R r) const { __builtin_memcpy(slots + (size_t)lane * stride, &r, sizeof(R)); }
};

template <class Op, class T, class R>
EMU_UNCHECKED void simd_function(const uchar* in, uchar* out, uint mask, uint stride, ulong seed) {
  Op::run(inputs<T>{in, stride}, outputs<R>{out, stride}, mask, seed);
}

template <class Op, class R, class T>
EMU_INLINE EMU_UNCHECKED R simd_call(const T& x, int line, const char* file, bool whole = false) {
  static_assert(sizeof(T) <= slot_bytes && sizeof(R) <= slot_bytes, "the operand is too large for a simdgroup operation");
  const void* p = emu_simd(&simd_function<Op, T, R>, &x, sizeof(T), whole, line, file);
  R r;
  __builtin_memcpy(&r, p, sizeof(R));
  return r;
}

#define EMU_EACH_LANE(l, mask) \
  for (uint rest_ = (mask); rest_; rest_ &= rest_ - 1) if (int l = __builtin_ctz(rest_); true)

// ---- what is computed ----------------------------------------------------------------------------------------------
struct add {
  template <class T> EMU_UNCHECKED static T f(T a, T b) { return T(a + b); }
  template <class T> EMU_UNCHECKED static T identity() { return T(0); }
};
struct mul {
  template <class T> EMU_UNCHECKED static T f(T a, T b) { return T(a * b); }
  template <class T> EMU_UNCHECKED static T identity() { return T(1); }
};
struct max_of {
  template <class T> EMU_UNCHECKED static T f(T a, T b) { return T(metal::max(a, b)); }
};
struct min_of {
  template <class T> EMU_UNCHECKED static T f(T a, T b) { return T(metal::min(a, b)); }
};
struct bit_and {
  template <class T> EMU_UNCHECKED static T f(T a, T b) { return T(a & b); }
};
struct bit_or {
  template <class T> EMU_UNCHECKED static T f(T a, T b) { return T(a | b); }
};
struct bit_xor {
  template <class T> EMU_UNCHECKED static T f(T a, T b) {
    // Foreign headers name it for floats too, where it has no meaning and is never called.
    if constexpr (metal::is_floating_point_v<T>) __builtin_trap();
    else return T(a ^ b);
  }
};

// A tree over pairs 16, 8, 4, 2, 1 apart. The order on real hardware is not known: a seed permutes the lanes.
template <class F>
struct reduce {
  template <class In, class Out>
  EMU_UNCHECKED static void run(In in, Out out, uint mask, ulong seed) {
    typedef decltype(in(0)) T;
    T v[32];
    uint have = 0;
    int place[32];
    for (int i = 0; i < 32; i++) place[i] = i;
    for (int i = 31; seed && i > 0; i--) {
      seed = seed * 6364136223846793005UL + 1442695040888963407UL;
      const int j = (int)((seed >> 33) % (ulong)(i + 1));
      const int k = place[i];
      place[i] = place[j];
      place[j] = k;
    }
    EMU_EACH_LANE(l, mask) {
      v[place[l]] = in(l);
      have |= 1u << place[l];
    }
    for (int s = 16; s; s >>= 1)
      for (int l = 0; l < s; l++) {
        if (!(have >> (l + s) & 1)) continue;
        v[l] = (have >> l & 1) ? F::f(v[l], v[l + s]) : v[l + s];
        have |= 1u << l;
      }
    EMU_EACH_LANE(l, mask) out(l, v[0]);
  }
};
template <class F>
struct reduce_quad {
  template <class In, class Out>
  EMU_UNCHECKED static void run(In in, Out out, uint mask, ulong) {
    for (int quad = 0; quad < 32; quad += 4) {
      const uint active = mask & (15u << quad);
      if (!active) continue;
      const int first = __builtin_ctz(active);
      auto sum = in(first);
      EMU_EACH_LANE(l, active & (active - 1)) sum = F::f(sum, in(l));
      EMU_EACH_LANE(l, active) out(l, sum);
    }
  }
};
template <class F, bool inclusive>
struct scan {
  template <class In, class Out>
  EMU_UNCHECKED static void run(In in, Out out, uint mask, ulong) {
    typedef decltype(in(0)) T;
    T sum = F::template identity<T>();
    EMU_EACH_LANE(l, mask) {
      const T next = F::f(sum, in(l));
      out(l, inclusive ? next : sum);
      sum = next;
    }
  }
};

// A value and the lane it is wanted from.
template <class T>
struct wanted {
  T value;
  int from;
};
struct shuffle {
  template <class In, class Out>
  EMU_UNCHECKED static void run(In in, Out out, uint mask, ulong) {
    EMU_EACH_LANE(l, mask) {
      auto mine = in(l);
      if ((uint)mine.from < 32 && (mask >> mine.from & 1)) {
        out(l, in(mine.from).value);
      } else {
        // Undefined in MSL: all ones, a NaN for floats, so that a test sees it.
        __builtin_memset(&mine.value, 0xFF, sizeof(mine.value));
        out(l, mine.value);
      }
    }
  }
};
template <class T>
struct filled {
  T value, fill;
  int from, modulo;
};
struct shuffle_fill {
  template <class In, class Out>
  EMU_UNCHECKED static void run(In in, Out out, uint mask, ulong) {
    EMU_EACH_LANE(l, mask) {
      const auto mine = in(l);
      const int base = l / mine.modulo * mine.modulo, k = mine.from - base;
      if (k >= 0 && k < mine.modulo) out(l, in(mine.from).value);
      else out(l, in(base + (k + mine.modulo) % mine.modulo).fill);
    }
  }
};
struct first_active {
  template <class In, class Out>
  EMU_UNCHECKED static void run(In in, Out out, uint mask, ulong) {
    const auto v = in(__builtin_ctz(mask));
    EMU_EACH_LANE(l, mask) out(l, v);
  }
};
// Votes in the low half, active lanes in the high half.
struct ballot {
  template <class In, class Out>
  EMU_UNCHECKED static void run(In in, Out out, uint mask, ulong) {
    ulong votes = (ulong)mask << 32;
    EMU_EACH_LANE(l, mask) if (in(l)) votes |= 1ul << l;
    EMU_EACH_LANE(l, mask) out(l, votes);
  }
};

}  // namespace emu

namespace metal {

// MSL has these operations for every arithmetic type but bfloat.
template <class T>
using simd_operand = enable_if_t<!__is_same(typename is_vec<T>::element, bfloat) && !__is_same(T, bfloat), T>;

#define EMU_REDUCTION(NAME, F)                                                                                        \
  template <class T> EMU_INLINE simd_operand<T> simd_##NAME(T x, EMU_HERE) { return emu::simd_call<emu::reduce<F>, T>(x, line_, file_); } \
  template <class T> EMU_INLINE simd_operand<T> quad_##NAME(T x, EMU_HERE) { return emu::simd_call<emu::reduce_quad<F>, T>(x, line_, file_); }
EMU_REDUCTION(sum, emu::add)
EMU_REDUCTION(product, emu::mul)
EMU_REDUCTION(max, emu::max_of)
EMU_REDUCTION(min, emu::min_of)
EMU_REDUCTION(and, emu::bit_and)
EMU_REDUCTION(or, emu::bit_or)
EMU_REDUCTION(xor, emu::bit_xor)
#undef EMU_REDUCTION
#define EMU_SCAN(NAME, ...)                            \
  template <class T>                                   \
  EMU_INLINE simd_operand<T> simd_prefix_##NAME(T x, EMU_HERE) {     \
    return emu::simd_call<__VA_ARGS__, T>(x, line_, file_); \
  }
EMU_SCAN(inclusive_sum, emu::scan<emu::add, true>)
EMU_SCAN(exclusive_sum, emu::scan<emu::add, false>)
EMU_SCAN(inclusive_product, emu::scan<emu::mul, true>)
EMU_SCAN(exclusive_product, emu::scan<emu::mul, false>)
#undef EMU_SCAN

// `lane` is the caller's lane, `k` the parameter.
#define EMU_SHUFFLE(NAME, FROM)                                                                    \
  template <class T>                                                                               \
  EMU_INLINE simd_operand<T> NAME(T x, ushort k, EMU_HERE) {                                                     \
    const int lane = (int)emu::lane_index();                                                       \
    return emu::simd_call<emu::shuffle, T>(emu::wanted<T>{x, (int)(FROM)}, line_, file_);          \
  }
EMU_SHUFFLE(simd_shuffle, (lane, k))
EMU_SHUFFLE(simd_broadcast, (lane, k))
EMU_SHUFFLE(simd_shuffle_xor, lane ^ k)
EMU_SHUFFLE(simd_shuffle_down, lane + k < 32 ? lane + k : lane)
EMU_SHUFFLE(simd_shuffle_up, lane >= k ? lane - k : lane)
EMU_SHUFFLE(simd_shuffle_rotate_down, (lane + k) & 31)
EMU_SHUFFLE(simd_shuffle_rotate_up, (lane - k) & 31)
EMU_SHUFFLE(quad_shuffle, (lane & ~3) + k)
EMU_SHUFFLE(quad_broadcast, (lane & ~3) + k)
EMU_SHUFFLE(quad_shuffle_xor, lane ^ (k & 3))
EMU_SHUFFLE(quad_shuffle_down, (lane & 3) + k < 4 ? lane + k : lane)
EMU_SHUFFLE(quad_shuffle_up, (lane & 3) >= k ? lane - k : lane)
#undef EMU_SHUFFLE

template <class T>
EMU_INLINE simd_operand<T> simd_shuffle_and_fill_down(T x, T fill, ushort k, ushort modulo = 32, EMU_HERE) {
  const int from = (int)emu::lane_index() + k;
  return emu::simd_call<emu::shuffle_fill, T>(emu::filled<T>{x, fill, from, modulo}, line_, file_);
}
template <class T>
EMU_INLINE simd_operand<T> simd_shuffle_and_fill_up(T x, T fill, ushort k, ushort modulo = 32, EMU_HERE) {
  const int from = (int)emu::lane_index() - (int)k;
  return emu::simd_call<emu::shuffle_fill, T>(emu::filled<T>{x, fill, from, modulo}, line_, file_);
}
template <class T>
EMU_INLINE simd_operand<T> simd_broadcast_first(T x, EMU_HERE) { return emu::simd_call<emu::first_active, T>(x, line_, file_); }

struct simd_vote {
  typedef ulong vote_t;
  vote_t votes;
  explicit constexpr simd_vote(vote_t v = 0) : votes(v) {}
  constexpr bool all() const { return votes == 0xFFFFFFFFul; }
  constexpr bool any() const { return votes != 0; }
  explicit constexpr operator vote_t() const { return votes; }
};
EMU_INLINE simd_vote simd_ballot(bool p, EMU_HERE) {
  return simd_vote(emu::simd_call<emu::ballot, ulong>((int)p, line_, file_) & 0xFFFFFFFFul);
}
EMU_INLINE simd_vote simd_active_threads_mask(EMU_HERE) {
  return simd_vote(emu::simd_call<emu::ballot, ulong>(1, line_, file_) >> 32);
}
EMU_INLINE bool simd_all(bool p, EMU_HERE) {
  const ulong v = emu::simd_call<emu::ballot, ulong>((int)p, line_, file_);
  return (v & 0xFFFFFFFFul) == v >> 32;
}
EMU_INLINE bool simd_any(bool p, EMU_HERE) {
  return (emu::simd_call<emu::ballot, ulong>((int)p, line_, file_) & 0xFFFFFFFFul) != 0;
}
EMU_INLINE bool simd_is_first(EMU_HERE) {
  return (uint)__builtin_ctzl(emu::simd_call<emu::ballot, ulong>(1, line_, file_) >> 32) == emu::lane_index();
}

}  // namespace metal

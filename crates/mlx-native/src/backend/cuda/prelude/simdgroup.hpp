// <metal_simdgroup>, <metal_quadgroup>, barriers and fences. A simdgroup is a warp.
//
// All lanes of a warp take part, but for those that a partial threadgroup lacks (`MSL_PARTIAL`, set for a text that may be
// launched so): in CUDA blocks are whole, and the threads beyond the threadgroup have left. Which those are follows from
// the number of the living ones. An operation in flow that only some lanes reach has no meaning here; the emulator warns
// of it.
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

}  // namespace metal

namespace on_cuda {

#ifdef MSL_PARTIAL
// Threads that this block's threadgroup has. Blocks of such launches have one dimension.
static __shared__ uint living_threads;
MSL_INLINE uint lanes() {
  const uint before = threadIdx.x & ~31u, living = living_threads;
  return living - before >= 32 ? 0xffffffffu : (1u << (living - before)) - 1;
}
#else
MSL_INLINE constexpr uint lanes() { return 0xffffffffu; }
#endif
MSL_INLINE bool is_whole() { return lanes() == 0xffffffffu; }
MSL_INLINE uint lane_index() {
  uint lane;
  asm("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

// The value that lane `from` has, of any type of at most 64 bytes: in words of 32 bits.
template <class T>
MSL_INLINE T of_lane(const T& value, uint from) {
  constexpr int words = (sizeof(T) + 3) / 4;
  uint w[words] = {};
  memcpy(w, &value, sizeof(T));
  _Pragma("unroll") for (int i = 0; i < words; i++) w[i] = __shfl_sync(lanes(), w[i], (int)from);
  T result;
  memcpy(&result, w, sizeof(T));
  return result;
}

struct add {
  template <class T> MSL_INLINE static T f(T a, T b) { return T(a + b); }
  template <class T> MSL_INLINE static T identity() { return T(0); }
};
struct mul {
  template <class T> MSL_INLINE static T f(T a, T b) { return T(a * b); }
  template <class T> MSL_INLINE static T identity() { return T(1); }
};
struct max_of { template <class T> MSL_INLINE static T f(T a, T b) { return T(metal::max(a, b)); } };
struct min_of { template <class T> MSL_INLINE static T f(T a, T b) { return T(metal::min(a, b)); } };
struct bit_and { template <class T> MSL_INLINE static T f(T a, T b) { return T(a & b); } };
struct bit_or { template <class T> MSL_INLINE static T f(T a, T b) { return T(a | b); } };
struct bit_xor { template <class T> MSL_INLINE static T f(T a, T b) { return T(a ^ b); } };

// Over the lanes of a group of `width`, in pairs width/2, …, 2, 1 apart: every lane gets the same bits. With lanes missing
// at the end only the first lane of the group is sure to have seen all; the others get its result.
template <class F, int width, class T>
MSL_INLINE T reduce(T v) {
  const uint lane = lane_index();
  _Pragma("unroll") for (int s = width / 2; s; s >>= 1) {
    const T other = of_lane(v, lane ^ s);
    if (is_whole() || lanes() >> (lane ^ s) & 1) v = F::f(v, other);
  }
  return is_whole() ? v : of_lane(v, lane & ~(width - 1));
}
template <class F, bool inclusive, class T>
MSL_INLINE T scan(T v) {
  const uint lane = lane_index();
  _Pragma("unroll") for (int s = 1; s < 32; s <<= 1) {
    const T other = of_lane(v, lane >= s ? lane - s : lane);
    if (lane >= s) v = F::f(other, v);
  }
  if constexpr (inclusive) return v;
  const T before = of_lane(v, lane ? lane - 1 : 0);
  return lane ? before : F::template identity<T>();
}

}  // namespace on_cuda

namespace metal {

// A barrier of a threadgroup makes its threads' writes visible to them, in device memory too.
MSL_INLINE void threadgroup_barrier(mem_flags) { __syncthreads(); }
MSL_INLINE void simdgroup_barrier(mem_flags) { __syncwarp(on_cuda::lanes()); }
MSL_INLINE void atomic_thread_fence(mem_flags, memory_order, thread_scope scope = thread_scope_device) {
  if (scope == thread_scope_system) __threadfence_system();
  else if (scope == thread_scope_device) __threadfence();
  else __threadfence_block();
}

// MSL has these operations for every arithmetic type but bfloat.
template <class T>
using simd_operand =
    enable_if_t<!is_same<typename is_vec<T>::element, bfloat>::value && !is_same<T, bfloat>::value, T>;

#define MSL_REDUCTION(NAME, F)                                                                                   \
  template <class T> MSL_INLINE simd_operand<T> simd_##NAME(T x) { return on_cuda::reduce<on_cuda::F, 32>(x); }  \
  template <class T> MSL_INLINE simd_operand<T> quad_##NAME(T x) { return on_cuda::reduce<on_cuda::F, 4>(x); }
MSL_REDUCTION(sum, add)
MSL_REDUCTION(product, mul)
MSL_REDUCTION(max, max_of)
MSL_REDUCTION(min, min_of)
MSL_REDUCTION(and, bit_and)
MSL_REDUCTION(or, bit_or)
MSL_REDUCTION(xor, bit_xor)
#undef MSL_REDUCTION
#define MSL_SCAN(NAME, ...) \
  template <class T> MSL_INLINE simd_operand<T> simd_prefix_##NAME(T x) { return on_cuda::scan<__VA_ARGS__>(x); }
MSL_SCAN(inclusive_sum, on_cuda::add, true)
MSL_SCAN(exclusive_sum, on_cuda::add, false)
MSL_SCAN(inclusive_product, on_cuda::mul, true)
MSL_SCAN(exclusive_product, on_cuda::mul, false)
#undef MSL_SCAN

// `lane` is the caller's lane, `k` the parameter.
#define MSL_SHUFFLE(NAME, FROM)                     \
  template <class T>                                \
  MSL_INLINE simd_operand<T> NAME(T x, ushort k) {  \
    const uint lane = on_cuda::lane_index();        \
    return on_cuda::of_lane(x, (FROM));             \
  }
MSL_SHUFFLE(simd_shuffle, ((void)lane, k))
MSL_SHUFFLE(simd_broadcast, ((void)lane, k))
MSL_SHUFFLE(simd_shuffle_xor, lane ^ k)
MSL_SHUFFLE(simd_shuffle_down, lane + k < 32 ? lane + k : lane)
MSL_SHUFFLE(simd_shuffle_up, lane >= k ? lane - k : lane)
MSL_SHUFFLE(simd_shuffle_rotate_down, (lane + k) & 31)
MSL_SHUFFLE(simd_shuffle_rotate_up, (lane - k) & 31)
MSL_SHUFFLE(quad_shuffle, (lane & ~3u) + k)
MSL_SHUFFLE(quad_broadcast, (lane & ~3u) + k)
MSL_SHUFFLE(quad_shuffle_xor, lane ^ (k & 3))
MSL_SHUFFLE(quad_shuffle_down, (lane & 3) + k < 4 ? lane + k : lane)
MSL_SHUFFLE(quad_shuffle_up, (lane & 3) >= k ? lane - k : lane)
#undef MSL_SHUFFLE

template <class T>
MSL_INLINE simd_operand<T> simd_shuffle_and_fill_down(T x, T fill, ushort k, ushort modulo = 32) {
  const uint lane = on_cuda::lane_index(), base = lane / modulo * modulo, at = lane - base + k;
  const T inside = on_cuda::of_lane(x, (base + at) & 31), outside = on_cuda::of_lane(fill, base + at % modulo);
  return at < modulo ? inside : outside;
}
template <class T>
MSL_INLINE simd_operand<T> simd_shuffle_and_fill_up(T x, T fill, ushort k, ushort modulo = 32) {
  const uint lane = on_cuda::lane_index(), base = lane / modulo * modulo, at = lane - base;
  const T inside = on_cuda::of_lane(x, at >= k ? lane - k : lane);
  const T outside = on_cuda::of_lane(fill, base + (at + modulo - k % modulo) % modulo);
  return at >= k ? inside : outside;
}
template <class T>
MSL_INLINE simd_operand<T> simd_broadcast_first(T x) { return on_cuda::of_lane(x, 0); }

struct simd_vote {
  typedef ulong vote_t;
  vote_t votes;
  MSL_INLINE explicit constexpr simd_vote(vote_t v = 0) : votes(v) {}
  MSL_INLINE constexpr bool all() const { return votes == 0xFFFFFFFFul; }
  MSL_INLINE constexpr bool any() const { return votes != 0; }
  MSL_INLINE explicit constexpr operator vote_t() const { return votes; }
};
MSL_INLINE simd_vote simd_ballot(bool p) { return simd_vote(__ballot_sync(on_cuda::lanes(), p)); }
MSL_INLINE simd_vote simd_active_threads_mask() { return simd_vote(on_cuda::lanes()); }
MSL_INLINE bool simd_all(bool p) { return __all_sync(on_cuda::lanes(), p); }
MSL_INLINE bool simd_any(bool p) { return __any_sync(on_cuda::lanes(), p); }
MSL_INLINE bool simd_is_first() { return on_cuda::lane_index() == 0; }

}  // namespace metal

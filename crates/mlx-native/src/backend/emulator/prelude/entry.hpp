// Kernel entries: a function without parameters that fetches each argument of the kernel from the launch. The text
// gives kind and index of a parameter, the compiler its type.
#pragma once

namespace emu {

enum class kind {
  buffer,
  threadgroup,
  thread_position_in_grid,
  thread_position_in_threadgroup,
  threadgroup_position_in_grid,
  thread_index_in_threadgroup,
  thread_index_in_simdgroup,
  simdgroup_index_in_threadgroup,
  threads_per_threadgroup,
  dispatch_threads_per_threadgroup,
  threadgroups_per_grid,
  threads_per_grid,
  threads_per_simdgroup,
  simdgroups_per_threadgroup,
  quadgroup_index_in_threadgroup,
  thread_index_in_quadgroup,
  quadgroups_per_threadgroup
};

template <kind K, int I>
struct parameter {};

// A builtin as the type the kernel wants: a scalar takes the first component.
template <class A>
EMU_UNCHECKED A convert(const uint* v) {
  typedef metal::remove_cv_t<A> B;
  if constexpr (metal::is_vec<B>::value) {
    B r(0);
    for (int i = 0; i < metal::is_vec<B>::size && i < 3; i++) r.d[i] = (typename metal::is_vec<B>::element)v[i];
    return r;
  } else {
    static_assert(metal::is_integral<B>::value, "a builtin parameter is an integer or a vector of integers");
    return (A)v[0];
  }
}

template <class A>
struct argument {
  template <kind K, int I>
  EMU_UNCHECKED static A get(parameter<K, I>) {
    const emu_world& w = *world();
    const emu_lane& lane = *w.lane;
    const emu_group& group = *w.group;
    const uint index = lane.thread_index_in_threadgroup;
    const uint* per_group = group.threads_per_threadgroup;
    uint v[3] = {0, 0, 0};
    if constexpr (K == kind::thread_position_in_grid) {
      for (int i = 0; i < 3; i++)
        v[i] = group.threadgroup_position_in_grid[i] * group.dispatch_threads_per_threadgroup[i] +
               lane.thread_position_in_threadgroup[i];
    } else if constexpr (K == kind::thread_position_in_threadgroup) {
      return convert<A>(lane.thread_position_in_threadgroup);
    } else if constexpr (K == kind::threadgroup_position_in_grid) {
      return convert<A>(group.threadgroup_position_in_grid);
    } else if constexpr (K == kind::threads_per_threadgroup) {
      return convert<A>(group.threads_per_threadgroup);
    } else if constexpr (K == kind::dispatch_threads_per_threadgroup) {
      return convert<A>(group.dispatch_threads_per_threadgroup);
    } else if constexpr (K == kind::threadgroups_per_grid) {
      return convert<A>(group.threadgroups_per_grid);
    } else if constexpr (K == kind::threads_per_grid) {
      return convert<A>(group.threads_per_grid);
    } else {
      static_assert(K != kind::buffer && K != kind::threadgroup, "a buffer parameter is a pointer or a reference");
      v[0] = K == kind::thread_index_in_threadgroup      ? index
             : K == kind::thread_index_in_simdgroup      ? index & 31u
             : K == kind::simdgroup_index_in_threadgroup ? index / 32u
             : K == kind::threads_per_simdgroup          ? 32u
             : K == kind::simdgroups_per_threadgroup     ? group.simdgroups_per_threadgroup
             : K == kind::quadgroup_index_in_threadgroup ? index / 4u
             : K == kind::thread_index_in_quadgroup      ? index & 3u
                                                         : (per_group[0] * per_group[1] * per_group[2] + 3u) / 4u;
    }
    return convert<A>(v);
  }
};
template <kind K, int I>
EMU_UNCHECKED void* address(parameter<K, I>) {
  static_assert(K == kind::buffer || K == kind::threadgroup, "a builtin parameter is passed by value");
  const emu_group& group = *world()->group;
  return K == kind::buffer ? group.buffers[I] : group.threadgroup[I];
}
template <class T>
struct argument<T*> {
  template <kind K, int I>
  EMU_UNCHECKED static T* get(parameter<K, I> p) { return (T*)address(p); }
};
template <class T>
struct argument<T&> {
  template <kind K, int I>
  EMU_UNCHECKED static T& get(parameter<K, I> p) { return *(T*)address(p); }
};

template <class F>
struct entry;
template <class... A>
struct entry<void (&)(A...)> {
  template <void (*F)(A...), class... P>
  EMU_UNCHECKED static void call() {
    static_assert(sizeof...(A) == sizeof...(P), "parameter count");
    F(argument<A>::get(P{})...);
  }
};

}  // namespace emu

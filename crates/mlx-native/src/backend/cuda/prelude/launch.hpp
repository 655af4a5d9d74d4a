// What a kernel is given: the parameters of an entry, and where a thread stands.
#pragma once

namespace on_cuda {

// The type of a kernel's parameter, by its place.
template <int I, class F> struct parameter_of;
template <class A, class... B>
struct parameter_of<0, void(A, B...)> { typedef A type; };
template <int I, class A, class... B>
struct parameter_of<I, void(A, B...)> : parameter_of<I - 1, void(B...)> {};
template <int I, class F>
using parameter = typename parameter_of<I, F>::type;
// What a reference refers to, as a pointer to it and as a copy of it.
template <class A> using address_of = metal::remove_reference_t<A>*;
template <class A>
struct copy_of {
  metal::remove_cv_t<metal::remove_reference_t<A>> value;
};

// A triple of counts, as a kernel wants it: a scalar takes the first.
struct triple {
  uint x, y, z;
  template <class A>
  MSL_INLINE A as() const {
    typedef metal::remove_cv_t<A> B;
    if constexpr (metal::is_vec<B>::value) {
      typedef typename metal::is_vec<B>::element E;
      if constexpr (metal::is_vec<B>::size == 2) return B((E)x, (E)y);
      else return B((E)x, (E)y, (E)z);
    } else {
      static_assert(metal::is_integral<B>::value, "a builtin parameter is an integer or a vector of integers");
      return (A)x;
    }
  }
};

// A launch whose blocks are its threadgroups, as they are.
struct plain_launch {
  triple position, group_position, group, groups, threads, dispatched_group;
  uint index;

  MSL_INLINE plain_launch()
      : position{threadIdx.x, threadIdx.y, threadIdx.z},
        group_position{blockIdx.x, blockIdx.y, blockIdx.z},
        group{blockDim.x, blockDim.y, blockDim.z},
        groups{gridDim.x, gridDim.y, gridDim.z},
        threads{gridDim.x * blockDim.x, gridDim.y * blockDim.y, gridDim.z * blockDim.z},
        dispatched_group(group),
        index(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) {}
  MSL_INLINE bool is_beyond() const { return false; }
};

// Where the blocks of the second and of the third of launches that are joined begin.
struct joints {
  uint first[2];
  MSL_INLINE uint part() const { return uint(blockIdx.x >= first[0]) + uint(blockIdx.x >= first[1]); }
};

// One of launches that are joined.
struct joined_launch : plain_launch {
  MSL_INLINE joined_launch(const joints& all, uint part) {
    if (part > 0) group_position.x -= all.first[part - 1];
  }
};

// What the host says of a launch whose blocks and threads are counted along one dimension.
struct shape {
  uint threads[3], group[3], groups[3];
};

// A launch of any shape: threadgroups at the end of the grid may have fewer threads, and there may be more of them along y
// and z than a grid of blocks takes.
struct mapped_launch {
  triple position, group_position, group, groups, threads, dispatched_group;
  uint index;

  MSL_INLINE explicit mapped_launch(const shape& s)
      : group_position(split(blockIdx.x, s.groups[0], s.groups[1])),
        groups{s.groups[0], s.groups[1], s.groups[2]},
        threads{s.threads[0], s.threads[1], s.threads[2]},
        dispatched_group{s.group[0], s.group[1], s.group[2]},
        index(threadIdx.x) {
    group.x = metal::min(s.group[0], s.threads[0] - group_position.x * s.group[0]);
    group.y = metal::min(s.group[1], s.threads[1] - group_position.y * s.group[1]);
    group.z = metal::min(s.group[2], s.threads[2] - group_position.z * s.group[2]);
    position = split(index, group.x, group.y);
  }
  // Whether the thread is none of the threadgroup's. To be asked once, by all threads of the block.
  MSL_INLINE bool is_beyond() const {
    const uint living = group.x * group.y * group.z;
#ifdef MSL_PARTIAL
    if (threadIdx.x == 0) living_threads = living;
    __syncthreads();
#endif
    return index >= living;
  }

 private:
  MSL_INLINE static triple split(uint i, uint x, uint y) {
    // The same for all threads, and the usual case: no divisions.
    if (i < x) return triple{i, 0, 0};
    const uint row = i / x;
    return triple{i - row * x, row % y, row / y};
  }
};

template <class L> MSL_INLINE triple thread_position_in_grid(const L& l) {
  return triple{l.group_position.x * l.dispatched_group.x + l.position.x,
                l.group_position.y * l.dispatched_group.y + l.position.y,
                l.group_position.z * l.dispatched_group.z + l.position.z};
}
template <class L> MSL_INLINE triple thread_position_in_threadgroup(const L& l) { return l.position; }
template <class L> MSL_INLINE triple threadgroup_position_in_grid(const L& l) { return l.group_position; }
template <class L> MSL_INLINE triple thread_index_in_threadgroup(const L& l) { return triple{l.index, 0, 0}; }
template <class L> MSL_INLINE triple thread_index_in_simdgroup(const L& l) { return triple{l.index & 31u, 0, 0}; }
template <class L> MSL_INLINE triple simdgroup_index_in_threadgroup(const L& l) { return triple{l.index >> 5, 0, 0}; }
template <class L> MSL_INLINE triple thread_index_in_quadgroup(const L& l) { return triple{l.index & 3u, 0, 0}; }
template <class L> MSL_INLINE triple quadgroup_index_in_threadgroup(const L& l) { return triple{l.index >> 2, 0, 0}; }
template <class L> MSL_INLINE triple threads_per_threadgroup(const L& l) { return l.group; }
template <class L> MSL_INLINE triple dispatch_threads_per_threadgroup(const L& l) { return l.dispatched_group; }
template <class L> MSL_INLINE triple threadgroups_per_grid(const L& l) { return l.groups; }
template <class L> MSL_INLINE triple threads_per_grid(const L& l) { return l.threads; }
template <class L> MSL_INLINE triple threads_per_simdgroup(const L&) { return triple{32, 0, 0}; }
template <class L> MSL_INLINE triple simdgroups_per_threadgroup(const L& l) {
  return triple{(l.group.x * l.group.y * l.group.z + 31u) / 32u, 0, 0};
}
template <class L> MSL_INLINE triple quadgroups_per_threadgroup(const L& l) {
  return triple{(l.group.x * l.group.y * l.group.z + 3u) / 4u, 0, 0};
}

// Lets the next launch start as soon as every block of this one has come here, if it is one that may.
MSL_INLINE void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits until the launches before this one have ended, and what they wrote is there; nothing to wait for, unless this one may
// start before.
MSL_INLINE void wait_for_earlier() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Threadgroup memory whose size the launch gives; arguments are places in it.
extern __shared__ __align__(256) uchar threadgroup_memory[];

}  // namespace on_cuda

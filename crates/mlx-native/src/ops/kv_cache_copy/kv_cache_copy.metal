// cache[head, position + token, i] = x[token, head, i], the same bits or cast; positions modulo the capacity in a ring.
//
// Launch: a grid of (ceil(head_dim / 4), n_heads, n_tokens) threads, 4 elements in a row each; any group size.

#include <metal_stdlib>
using namespace metal;

struct KvCacheCopyParams {
    uint n_heads;
    uint head_dim;
    uint n_tokens;
    uint capacity;
    uint position;
    uint is_ring;
};

template <typename From, typename To>
[[kernel]] void kv_cache_copy(device const From *x [[buffer(0)]],
                              device To *cache [[buffer(1)]],
                              constant KvCacheCopyParams &p [[buffer(2)]],
                              uint3 at [[thread_position_in_grid]]) {
    // Of more tokens than a ring has places, only the last ones stay.
    if (p.is_ring != 0 && ulong(at.z) + p.capacity < p.n_tokens) {
        return;
    }
    ulong position = ulong(p.position) + at.z;
    position = p.is_ring != 0 ? position % p.capacity : position;
    const uint first = at.x * 4;
    const uint count = min(4u, p.head_dim - first);
    const ulong from = (ulong(at.z) * p.n_heads + at.y) * p.head_dim + first;
    const ulong to = (ulong(at.y) * p.capacity + position) * p.head_dim + first;
    for (uint i = 0; i < count; i++) {
        cache[to + i] = To(x[from + i]);
    }
}

template [[host_name("kv_cache_copy_8")]] [[kernel]] decltype(kv_cache_copy<uchar, uchar>) kv_cache_copy<uchar, uchar>;
template [[host_name("kv_cache_copy_16")]] [[kernel]] decltype(kv_cache_copy<ushort, ushort>) kv_cache_copy<ushort, ushort>;
template [[host_name("kv_cache_copy_32")]] [[kernel]] decltype(kv_cache_copy<uint, uint>) kv_cache_copy<uint, uint>;
template [[host_name("kv_cache_copy_f32_f16")]] [[kernel]] decltype(kv_cache_copy<float, half>) kv_cache_copy<float, half>;
template [[host_name("kv_cache_copy_f32_bf16")]] [[kernel]] decltype(kv_cache_copy<float, bfloat>) kv_cache_copy<float, bfloat>;

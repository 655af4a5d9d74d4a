// cache[head][position + token][feature] = x[token][head][feature]
//
// Launch: a grid of (ceil(head_dim / 4), n_kv_heads, n_tokens) threads, 4 features in a row each; any group size.
// Word = an unsigned integer of the dtype's size.

#include <metal_stdlib>
using namespace metal;

struct KvAppendParams {
    uint n_kv_heads;
    uint head_dim;
    uint n_tokens;
    uint capacity;
    uint position;
};

template <typename Word>
[[kernel]] void kv_append(device const Word *x [[buffer(0)]],
                          device Word *cache [[buffer(1)]],
                          constant KvAppendParams &p [[buffer(2)]],
                          uint3 at [[thread_position_in_grid]]) {
    const uint first = at.x * 4;
    const uint count = min(4u, p.head_dim - first);
    const ulong from = (ulong(at.z) * p.n_kv_heads + at.y) * p.head_dim + first;
    const ulong to = (ulong(at.y) * p.capacity + p.position + at.z) * p.head_dim + first;
    for (uint i = 0; i < count; i++) {
        cache[to + i] = x[from + i];
    }
}

template [[host_name("kv_append_8")]] [[kernel]] decltype(kv_append<uchar>) kv_append<uchar>;
template [[host_name("kv_append_16")]] [[kernel]] decltype(kv_append<ushort>) kv_append<ushort>;
template [[host_name("kv_append_32")]] [[kernel]] decltype(kv_append<uint>) kv_append<uint>;

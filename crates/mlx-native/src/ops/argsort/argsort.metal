// output[r, i] = the column of the i-th element of row r in order.
//
// Each thread ranks one element: it counts those that come before it. A row of n costs n^2 comparisons, spread over n threads,
// and no memory beyond a tile of keys; any row length.
//
// Launch: a grid of (ceil(cols / 256), rows) threadgroups of 256 threads.

#include <metal_stdlib>
using namespace metal;

struct ArgsortParams {
    uint rows;
    uint cols;
    uint descending;
    uint later_first;
};

constant constexpr uint tile = 256;

// Ordered as the values are, -0 equal to 0, all NaN equal and on top.
inline uint order_key(float value) {
    const uint bits = as_type<uint>(value);
    const uint magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) {
        return 0xFFFFFFFF;
    }
    return bits == magnitude ? 0x80000000 + magnitude : 0x80000000 - magnitude;
}

template <typename T>
[[kernel]] void argsort(device const T *x [[buffer(0)]],
                        device uint *output [[buffer(1)]],
                        constant ArgsortParams &p [[buffer(2)]],
                        uint2 group [[threadgroup_position_in_grid]],
                        uint thread_index [[thread_index_in_threadgroup]]) {
    threadgroup uint keys[tile];
    const ulong start = ulong(group.y) * p.cols;
    const uint flip = p.descending != 0 ? 0xFFFFFFFF : 0;
    const uint column = group.x * tile + thread_index;
    const uint key = column < p.cols ? order_key(float(x[start + column])) ^ flip : 0;
    uint rank = 0;
    for (uint first = 0; first < p.cols; first += tile) {
        const uint other = first + thread_index;
        keys[thread_index] = other < p.cols ? order_key(float(x[start + other])) ^ flip : 0;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        const uint count = min(tile, p.cols - first);
        for (uint i = 0; i < count; i++) {
            const uint at = first + i;
            const bool is_earlier = p.later_first != 0 ? at > column : at < column;
            rank += keys[i] < key || (keys[i] == key && is_earlier) ? 1 : 0;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    if (column < p.cols) {
        output[start + rank] = column;
    }
}

template [[host_name("argsort_f32")]] [[kernel]] decltype(argsort<float>) argsort<float>;
template [[host_name("argsort_f16")]] [[kernel]] decltype(argsort<half>) argsort<half>;
template [[host_name("argsort_bf16")]] [[kernel]] decltype(argsort<bfloat>) argsort<bfloat>;

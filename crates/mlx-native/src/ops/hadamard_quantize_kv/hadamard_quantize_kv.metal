// Rows are rotated by a Walsh-Hadamard transform and quantised to 4 bits a coordinate: 16 levels for N(0, 1), and the norm.
//
//   rotated = H x / sqrt(head_dim);  norm = |rotated|
//   code    = the number of edges strictly below rotated / norm * sqrt(head_dim); 7 where the norm is at most 1e-10
//   packed[head, position, i / 2]: the code of the even coordinate in the low half
//
// Launch: a grid of (n_kv_heads, n_tokens) threadgroups, any number of whole simdgroups up to 32; threadgroup memory 0 holds a
// row in f32.

#include <metal_stdlib>
using namespace metal;

struct QuantizeKvParams {
    uint head_dim;
    uint n_kv_heads;
    uint position;
    uint capacity;
    uint is_ring;
    uint n_tokens;
};

// Halfway between neighbouring levels.
constant constexpr float edges[15] = {
    -2.40080333f, -1.84353185f, -1.4371388f, -1.09928584f, -0.799549818f,
    -0.522403717f, -0.258221656f, 0.0f, 0.258221656f, 0.522403717f,
    0.799549818f, 1.09928584f, 1.4371388f, 1.84353185f, 2.40080333f,
};

inline uint code_of(float v) {
    uint below = 0;
    for (uint i = 0; i < 15; i++) {
        below += edges[i] < v ? 1 : 0;
    }
    return below;
}

template <typename T>
[[kernel]] void hadamard_quantize_kv(device const T *x [[buffer(0)]],
                                     device uchar *packed [[buffer(1)]],
                                     device float *norms [[buffer(2)]],
                                     constant QuantizeKvParams &p [[buffer(3)]],
                                     threadgroup float *values [[threadgroup(0)]],
                                     uint2 group [[threadgroup_position_in_grid]],
                                     uint thread_index [[thread_index_in_threadgroup]],
                                     uint2 group_size [[threads_per_threadgroup]],
                                     uint lane [[thread_index_in_simdgroup]],
                                     uint simdgroup [[simdgroup_index_in_threadgroup]],
                                     uint n_simdgroups [[simdgroups_per_threadgroup]]) {
    threadgroup float partial[32];
    const uint n_threads = group_size.x;
    const uint head = group.x, token = group.y;
    // Of more tokens than a ring has places, only the last ones stay.
    if (p.is_ring != 0 && ulong(token) + p.capacity < p.n_tokens) {
        return;
    }
    ulong position = ulong(p.position) + token;
    position = p.is_ring != 0 ? position % p.capacity : position;
    const ulong start = (ulong(token) * p.n_kv_heads + head) * p.head_dim;
    const ulong slot = ulong(head) * p.capacity + position;

    for (uint i = thread_index; i < p.head_dim; i += n_threads) {
        values[i] = float(x[start + i]);
    }
    for (uint distance = 1; distance < p.head_dim; distance *= 2) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint pair = thread_index; pair < p.head_dim / 2; pair += n_threads) {
            const uint first = pair / distance * 2 * distance + pair % distance;
            const float a = values[first];
            const float b = values[first + distance];
            values[first] = a + b;
            values[first + distance] = a - b;
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const float root = precise::sqrt(float(p.head_dim));
    const float scale = 1.0f / root;
    float sum = 0.0f;
    for (uint i = thread_index; i < p.head_dim; i += n_threads) {
        const float v = values[i] * scale;
        sum += v * v;
    }
    sum = simd_sum(sum);
    if (lane == 0) {
        partial[simdgroup] = sum;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const float norm = precise::sqrt(simd_sum(lane < n_simdgroups ? partial[lane] : 0.0f));
    if (thread_index == 0) {
        norms[slot] = norm;
    }
    for (uint i = thread_index; i < p.head_dim / 2; i += n_threads) {
        uint byte = 0x77;
        if (norm > 1e-10f) {
            const float even = values[2 * i] * scale / norm * root;
            const float odd = values[2 * i + 1] * scale / norm * root;
            byte = code_of(even) | code_of(odd) << 4;
        }
        packed[slot * (p.head_dim / 2) + i] = uchar(byte);
    }
}

template [[host_name("hadamard_quantize_kv_f32")]] [[kernel]] decltype(hadamard_quantize_kv<float>) hadamard_quantize_kv<float>;
template [[host_name("hadamard_quantize_kv_f16")]] [[kernel]] decltype(hadamard_quantize_kv<half>) hadamard_quantize_kv<half>;
template [[host_name("hadamard_quantize_kv_bf16")]] [[kernel]] decltype(hadamard_quantize_kv<bfloat>) hadamard_quantize_kv<bfloat>;

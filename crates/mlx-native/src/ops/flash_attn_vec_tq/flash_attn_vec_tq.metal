// Attention of one query position over a cache of 4 bits a coordinate (see hadamard_quantize_kv).
//
// Keys and values lie in the cache rotated. A rotation does not change products: the query is rotated once, scores and sums of
// values are made in the rotated domain, and the result is rotated back.
//
//   tq_partial: split s of a head takes the keys [first + s * n / splits, first + (s + 1) * n / splits): partial[head, s] is
//               the sum of exp(score - max) * value, the max and the sum of exp(score - max)
//   tq_reduce:  puts the splits of a head together, divides, rotates back
//
// Launch: tq_partial: a grid of (n_heads, n_splits) threadgroups of up to 1024 threads, whole simdgroups; tq_reduce: n_heads
// threadgroups of any number of threads. Threadgroup memory 0 holds a head in f32.

#include <metal_stdlib>
using namespace metal;

struct TqParams {
    uint n_heads;
    uint n_kv_heads;
    uint head_dim;
    uint first_key;
    uint end_key;
    uint capacity;
    float scale;
    float softcap;
    uint n_splits;
};

constant constexpr float levels[16] = {
    -2.7325896f, -2.0690172f, -1.6180464f, -1.2562312f, -0.9423405f, -0.6567591f, -0.3880483f, -0.128395f,
    0.128395f, 0.3880483f, 0.6567591f, 0.9423405f, 1.2562312f, 1.6180464f, 2.0690172f, 2.7325896f,
};

// The orthogonal transform of values[0 .. dim], by a whole threadgroup; ends with a barrier.
inline void rotate(threadgroup float *values, uint dim, uint thread_index, uint n_threads) {
    for (uint distance = 1; distance < dim; distance *= 2) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint pair = thread_index; pair < dim / 2; pair += n_threads) {
            const uint first = pair / distance * 2 * distance + pair % distance;
            const float a = values[first];
            const float b = values[first + distance];
            values[first] = a + b;
            values[first + distance] = a - b;
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const float scale = 1.0f / precise::sqrt(float(dim));
    for (uint i = thread_index; i < dim; i += n_threads) {
        values[i] *= scale;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
}

[[kernel]] void tq_partial(device const float *q [[buffer(0)]],
                           device const uchar *k_packed [[buffer(1)]],
                           device const float *k_norms [[buffer(2)]],
                           device const uchar *v_packed [[buffer(3)]],
                           device const float *v_norms [[buffer(4)]],
                           device float *partial [[buffer(5)]],
                           constant TqParams &p [[buffer(6)]],
                           threadgroup float *query [[threadgroup(0)]],
                           uint2 group [[threadgroup_position_in_grid]],
                           uint thread_index [[thread_index_in_threadgroup]],
                           uint2 group_size [[threads_per_threadgroup]],
                           uint lane [[thread_index_in_simdgroup]],
                           uint simdgroup [[simdgroup_index_in_threadgroup]],
                           uint n_simdgroups [[simdgroups_per_threadgroup]]) {
    threadgroup float scores[32];
    threadgroup float norms[32];
    const uint n_threads = group_size.x;
    const uint head = group.x, dim = p.head_dim;
    const uint kv_head = head / (p.n_heads / p.n_kv_heads);
    const ulong n_keys = p.end_key - p.first_key;
    const uint first = p.first_key + uint(n_keys * group.y / p.n_splits);
    const uint end = p.first_key + uint(n_keys * (group.y + 1) / p.n_splits);
    device float *own = partial + (ulong(head) * p.n_splits + group.y) * (dim + 2);
    for (uint i = thread_index; i < dim; i += n_threads) {
        query[i] = q[ulong(head) * dim + i];
    }
    // A thread reads and writes the same coordinates of the sums from here to the end.
    for (uint i = thread_index; i < dim / 2; i += n_threads) {
        own[2 * i] = 0.0f;
        own[2 * i + 1] = 0.0f;
    }
    rotate(query, dim, thread_index, n_threads);
    const float unit = 1.0f / precise::sqrt(float(dim));
    const ulong slot = ulong(kv_head) * p.capacity;
    float largest = -INFINITY, sum = 0.0f;
    // Each simdgroup scores one key of a round, then all threads add the round's values, each its coordinates.
    for (uint start = first; start < end; start += n_simdgroups) {
        const uint key = start + simdgroup;
        if (key < end) {
            const float norm = k_norms[slot + key];
            float score = 0.0f;
            for (uint i = lane; i < dim / 2; i += 32) {
                const uint byte = k_packed[(slot + key) * (dim / 2) + i];
                score += query[2 * i] * levels[byte & 15] + query[2 * i + 1] * levels[byte >> 4];
            }
            score = simd_sum(score) * norm * unit * p.scale;
            if (p.softcap != 0.0f) {
                score = precise::tanh(score / p.softcap) * p.softcap;
            }
            if (lane == 0) {
                scores[simdgroup] = score;
                norms[simdgroup] = v_norms[slot + key] * unit;
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        const uint count = min(n_simdgroups, end - start);
        float new_largest = largest;
        for (uint j = 0; j < count; j++) {
            new_largest = max(new_largest, scores[j]);
        }
        const float shift = new_largest == -INFINITY ? 0.0f : new_largest;
        const float keep = precise::exp(largest - shift);
        sum *= keep;
        for (uint j = 0; j < count; j++) {
            sum += precise::exp(scores[j] - shift);
        }
        for (uint i = thread_index; i < dim / 2; i += n_threads) {
            float even = own[2 * i] * keep, odd = own[2 * i + 1] * keep;
            for (uint j = 0; j < count; j++) {
                const float weight = precise::exp(scores[j] - shift) * norms[j];
                const uint byte = v_packed[(slot + start + j) * (dim / 2) + i];
                even += weight * levels[byte & 15];
                odd += weight * levels[byte >> 4];
            }
            own[2 * i] = even;
            own[2 * i + 1] = odd;
        }
        largest = new_largest;
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    if (thread_index == 0) {
        own[dim] = largest;
        own[dim + 1] = sum;
    }
}

[[kernel]] void tq_reduce(device const float *partial [[buffer(0)]],
                          device float *output [[buffer(1)]],
                          constant TqParams &p [[buffer(2)]],
                          threadgroup float *values [[threadgroup(0)]],
                          uint head [[threadgroup_position_in_grid]],
                          uint thread_index [[thread_index_in_threadgroup]],
                          uint n_threads [[threads_per_threadgroup]]) {
    const uint dim = p.head_dim;
    device const float *own = partial + ulong(head) * p.n_splits * (dim + 2);
    float largest = -INFINITY;
    for (uint s = 0; s < p.n_splits; s++) {
        largest = max(largest, own[ulong(s) * (dim + 2) + dim]);
    }
    const float shift = largest == -INFINITY ? 0.0f : largest;
    float sum = 0.0f;
    for (uint s = 0; s < p.n_splits; s++) {
        device const float *split = own + ulong(s) * (dim + 2);
        sum += split[dim + 1] * precise::exp(split[dim] - shift);
    }
    const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
    for (uint i = thread_index; i < dim; i += n_threads) {
        float value = 0.0f;
        for (uint s = 0; s < p.n_splits; s++) {
            device const float *split = own + ulong(s) * (dim + 2);
            value += split[i] * precise::exp(split[dim] - shift);
        }
        values[i] = value * inverse;
    }
    rotate(values, dim, thread_index, n_threads);
    for (uint i = thread_index; i < dim; i += n_threads) {
        output[ulong(head) * dim + i] = values[i];
    }
}

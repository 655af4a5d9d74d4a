// What a mixture of experts needs besides its products: zeros, weighted sums, and one expert at a time.
//
//   zero_buffer:      output[i] = 0
//   moe_accumulate:   sum[i] += weight * x[i]
//   moe_weighted_sum: output[t, c] = the sum over k of weights[t, k] * x[t, k, c], in f32 and in this order
//
// Launch: a grid of (ceil(n / 4)) threads, for the last (ceil(hidden / 4), n_tokens); any group size.

#include <metal_stdlib>
using namespace metal;

struct ZeroParams {
    uint n_elements;
};

struct AccumulateParams {
    uint n_elements;
    float weight;
};

struct WeightedSumParams {
    uint hidden;
    uint top_k;
    uint n_tokens;
};

[[kernel]] void zero_buffer(device uint *output [[buffer(0)]],
                            constant ZeroParams &p [[buffer(1)]],
                            uint thread_index [[thread_position_in_grid]]) {
    const uint first = thread_index * 4;
    const uint count = min(4u, p.n_elements - first);
    for (uint i = first; i - first < count; i++) {
        output[i] = 0;
    }
}

template <typename T>
[[kernel]] void moe_accumulate(device float *sum [[buffer(0)]],
                               device const T *x [[buffer(1)]],
                               constant AccumulateParams &p [[buffer(2)]],
                               uint thread_index [[thread_position_in_grid]]) {
    const uint first = thread_index * 4;
    const uint count = min(4u, p.n_elements - first);
    for (uint i = first; i - first < count; i++) {
        sum[i] += p.weight * float(x[i]);
    }
}

template <typename T>
[[kernel]] void moe_weighted_sum(device const T *x [[buffer(0)]],
                                 device const float *weights [[buffer(1)]],
                                 device T *output [[buffer(2)]],
                                 constant WeightedSumParams &p [[buffer(3)]],
                                 uint2 at [[thread_position_in_grid]]) {
    const uint first = at.x * 4;
    const uint count = min(4u, p.hidden - first);
    for (uint c = first; c - first < count; c++) {
        float sum = 0.0f;
        for (uint k = 0; k < p.top_k; k++) {
            const ulong slot = ulong(at.y) * p.top_k + k;
            sum += weights[slot] * float(x[slot * p.hidden + c]);
        }
        output[ulong(at.y) * p.hidden + c] = T(sum);
    }
}

template [[host_name("moe_accumulate_f32")]] [[kernel]] decltype(moe_accumulate<float>) moe_accumulate<float>;
template [[host_name("moe_accumulate_f16")]] [[kernel]] decltype(moe_accumulate<half>) moe_accumulate<half>;
template [[host_name("moe_accumulate_bf16")]] [[kernel]] decltype(moe_accumulate<bfloat>) moe_accumulate<bfloat>;
template [[host_name("moe_weighted_sum_f32")]] [[kernel]] decltype(moe_weighted_sum<float>) moe_weighted_sum<float>;
template [[host_name("moe_weighted_sum_f16")]] [[kernel]] decltype(moe_weighted_sum<half>) moe_weighted_sum<half>;
template [[host_name("moe_weighted_sum_bf16")]] [[kernel]] decltype(moe_weighted_sum<bfloat>) moe_weighted_sum<bfloat>;

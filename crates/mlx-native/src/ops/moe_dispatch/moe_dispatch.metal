// What a mixture of experts needs besides its products: zeros, and sums of one expert at a time.
//
//   zero_buffer:      output[i] = 0
//   moe_accumulate:   sum[i] += weight * x[i]
//
// Launch: a grid of ceil(n / 4) threads; any group size.

#include <metal_stdlib>
using namespace metal;

struct ZeroParams {
    uint n_elements;
};

struct AccumulateParams {
    uint n_elements;
    float weight;
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

template [[host_name("moe_accumulate_f32")]] [[kernel]] decltype(moe_accumulate<float>) moe_accumulate<float>;
template [[host_name("moe_accumulate_f16")]] [[kernel]] decltype(moe_accumulate<half>) moe_accumulate<half>;
template [[host_name("moe_accumulate_bf16")]] [[kernel]] decltype(moe_accumulate<bfloat>) moe_accumulate<bfloat>;

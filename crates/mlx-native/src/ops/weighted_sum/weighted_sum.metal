// output[r] = sum over j of weights[r][j] * x[r][j], in float, rounded once.
//
// Launch: one thread for an element, x = column, y = row; any group size.

#include <metal_stdlib>
using namespace metal;

struct WeightedSumParams {
    uint rows;
    uint terms;
    uint dim;
};

template <typename T>
[[kernel]] void weighted_sum(device const T *x [[buffer(0)]],
                             device const T *weights [[buffer(1)]],
                             device T *output [[buffer(2)]],
                             constant WeightedSumParams &p [[buffer(3)]],
                             uint2 position [[thread_position_in_grid]]) {
    const ulong row = position.y;
    float sum = 0.0f;
    for (uint j = 0; j < p.terms; j++) {
        const ulong term = row * p.terms + j;
        sum += float(weights[term]) * float(x[term * p.dim + position.x]);
    }
    output[row * p.dim + position.x] = T(sum);
}

template [[host_name("weighted_sum_f32")]] [[kernel]] decltype(weighted_sum<float>) weighted_sum<float>;
template [[host_name("weighted_sum_f16")]] [[kernel]] decltype(weighted_sum<half>) weighted_sum<half>;
template [[host_name("weighted_sum_bf16")]] [[kernel]] decltype(weighted_sum<bfloat>) weighted_sum<bfloat>;

// output[row] = (x[row] - mean) / sqrt(variance + eps) * weight + bias, in float, rounded once.
//
// Launch: one threadgroup for each row, of up to 1024 threads, whole simdgroups. `output` may be `x`: an element is written
// by the thread that read it, after both sums are complete.

#include <metal_stdlib>
using namespace metal;

struct LayerNormParams {
    uint rows;
    uint dim;
    float eps;
};

// Without them, `weight` and `bias` are bound to something that is not read.
constant bool has_weight [[function_constant(0)]];
constant bool has_bias [[function_constant(1)]];

inline float sum_of_group(float own, threadgroup float *partial, uint lane, uint simdgroup, uint n_simdgroups) {
    own = simd_sum(own);
    if (lane == 0) {
        partial[simdgroup] = own;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    return simd_sum(lane < n_simdgroups ? partial[lane] : 0.0f);
}

// in place: layer_norm(output = x)
template <typename T>
[[kernel]] void layer_norm(device const T *x [[buffer(0)]],
                           device const T *weight [[buffer(1)]],
                           device const T *bias [[buffer(2)]],
                           device T *output [[buffer(3)]],
                           constant LayerNormParams &p [[buffer(4)]],
                           uint row [[threadgroup_position_in_grid]],
                           uint thread_index [[thread_position_in_threadgroup]],
                           uint n_threads [[threads_per_threadgroup]],
                           uint lane [[thread_index_in_simdgroup]],
                           uint simdgroup [[simdgroup_index_in_threadgroup]],
                           uint n_simdgroups [[simdgroups_per_threadgroup]]) {
    threadgroup float sums[32];
    threadgroup float squares[32];
    const ulong start = ulong(row) * p.dim;
    float own = 0.0f;
    for (uint i = thread_index; i < p.dim; i += n_threads) {
        own += float(x[start + i]);
    }
    const float mean = sum_of_group(own, sums, lane, simdgroup, n_simdgroups) / float(p.dim);
    own = 0.0f;
    for (uint i = thread_index; i < p.dim; i += n_threads) {
        const float v = float(x[start + i]) - mean;
        own += v * v;
    }
    const float variance = sum_of_group(own, squares, lane, simdgroup, n_simdgroups) / float(p.dim);
    const float inverse = precise::rsqrt(variance + p.eps);
    for (uint i = thread_index; i < p.dim; i += n_threads) {
        float v = (float(x[start + i]) - mean) * inverse;
        if (has_weight) {
            v *= float(weight[i]);
        }
        if (has_bias) {
            v += float(bias[i]);
        }
        output[start + i] = T(v);
    }
}

template [[host_name("layer_norm_f32")]] [[kernel]] decltype(layer_norm<float>) layer_norm<float>;
template [[host_name("layer_norm_f16")]] [[kernel]] decltype(layer_norm<half>) layer_norm<half>;
template [[host_name("layer_norm_bf16")]] [[kernel]] decltype(layer_norm<bfloat>) layer_norm<bfloat>;

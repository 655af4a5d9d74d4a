// output[row] = T(x[row] / sqrt(mean(x[row]^2) + eps)) * weight
//
// Everything is f32 up to the normalised value, which is rounded to T; its product with the weight is rounded again.
// `output` may be `x`: an element is written by the thread that read it, after the sum is complete.
//
// rms_norm_*:      one threadgroup for each row; any multiple of 32 threads.
// rms_norm_rows_*: one simdgroup for each row, for short rows; any multiple of 32 threads.

#include <metal_stdlib>
using namespace metal;

struct RmsNormParams {
    uint rows;
    uint dim;
    float eps;
};

// Without a weight, `weight` is bound to something that is not read.
constant bool has_weight [[function_constant(0)]];

// in place: rms_norm(output = x)
// in place: rms_norm_rows(output = x)
template <typename T>
float sum_of_squares(device const T *x, uint first, uint step, uint dim) {
    float sum = 0.0f;
    for (uint i = first; i < dim; i += step) {
        const float v = float(x[i]);
        sum += v * v;
    }
    return sum;
}

template <typename T>
void normalise(device const T *x, device const T *weight, device T *output, float inverse, uint first, uint step, uint dim) {
    for (uint i = first; i < dim; i += step) {
        const T normalised = T(float(x[i]) * inverse);
        output[i] = has_weight ? T(float(normalised) * float(weight[i])) : normalised;
    }
}

template <typename T>
[[kernel]] void rms_norm(device const T *x [[buffer(0)]],
                         device const T *weight [[buffer(1)]],
                         device T *output [[buffer(2)]],
                         constant RmsNormParams &p [[buffer(3)]],
                         uint row [[threadgroup_position_in_grid]],
                         uint thread_index [[thread_position_in_threadgroup]],
                         uint n_threads [[threads_per_threadgroup]],
                         uint lane [[thread_index_in_simdgroup]],
                         uint simdgroup [[simdgroup_index_in_threadgroup]],
                         uint n_simdgroups [[simdgroups_per_threadgroup]]) {
    threadgroup float partial[32];
    const ulong start = ulong(row) * p.dim;
    const float own = simd_sum(sum_of_squares(x + start, thread_index, n_threads, p.dim));
    if (lane == 0) {
        partial[simdgroup] = own;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const float sum = simd_sum(lane < n_simdgroups ? partial[lane] : 0.0f);
    const float inverse = precise::rsqrt(sum / float(p.dim) + p.eps);
    normalise(x + start, weight, output + start, inverse, thread_index, n_threads, p.dim);
}

template <typename T>
[[kernel]] void rms_norm_rows(device const T *x [[buffer(0)]],
                              device const T *weight [[buffer(1)]],
                              device T *output [[buffer(2)]],
                              constant RmsNormParams &p [[buffer(3)]],
                              uint group [[threadgroup_position_in_grid]],
                              uint lane [[thread_index_in_simdgroup]],
                              uint simdgroup [[simdgroup_index_in_threadgroup]],
                              uint n_simdgroups [[simdgroups_per_threadgroup]]) {
    const ulong row = ulong(group) * n_simdgroups + simdgroup;
    if (row >= p.rows) {
        return;
    }
    const ulong start = row * p.dim;
    const float sum = simd_sum(sum_of_squares(x + start, lane, 32, p.dim));
    const float inverse = precise::rsqrt(sum / float(p.dim) + p.eps);
    normalise(x + start, weight, output + start, inverse, lane, 32, p.dim);
}

template [[host_name("rms_norm_f32")]] [[kernel]] decltype(rms_norm<float>) rms_norm<float>;
template [[host_name("rms_norm_f16")]] [[kernel]] decltype(rms_norm<half>) rms_norm<half>;
template [[host_name("rms_norm_bf16")]] [[kernel]] decltype(rms_norm<bfloat>) rms_norm<bfloat>;
template [[host_name("rms_norm_rows_f32")]] [[kernel]] decltype(rms_norm_rows<float>) rms_norm_rows<float>;
template [[host_name("rms_norm_rows_f16")]] [[kernel]] decltype(rms_norm_rows<half>) rms_norm_rows<half>;
template [[host_name("rms_norm_rows_bf16")]] [[kernel]] decltype(rms_norm_rows<bfloat>) rms_norm_rows<bfloat>;

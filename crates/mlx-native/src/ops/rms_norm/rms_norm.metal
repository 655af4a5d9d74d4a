// output[row] = T(x[row] / sqrt(mean(x[row]^2) + eps)) * weight, (* factor[row])
//
// Everything is f32 up to the normalised value, which is rounded to T; its product with the weight is rounded again. With
// rounds_once only the end result is rounded. `output` may be `x`: an element is written by the thread that read it, after the
// sum is complete. With a factor the row before it may be kept in `normed`.
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

// What is not given is as in the plain norm: with a weight, rounded twice.
constant bool has_weight_given [[function_constant(0)]];
constant bool rounds_once_given [[function_constant(1)]];
constant bool has_factor_given [[function_constant(2)]];
constant bool has_eps_buffer_given [[function_constant(3)]];
constant bool has_normed_given [[function_constant(4)]];
// Without a weight, `weight` is bound to something that is not read.
constant bool has_weight = is_function_constant_defined(has_weight_given) ? has_weight_given : true;
constant bool rounds_once = is_function_constant_defined(rounds_once_given) ? rounds_once_given : false;
constant bool has_factor = is_function_constant_defined(has_factor_given) ? has_factor_given : false;
constant bool has_eps_buffer = is_function_constant_defined(has_eps_buffer_given) ? has_eps_buffer_given : false;
constant bool has_normed = is_function_constant_defined(has_normed_given) ? has_normed_given : false;

// in place: rms_norm(output = x, output = factor)
// in place: rms_norm_rows(output = x, output = factor)
template <typename T>
float sum_of_squares(device const T *x, uint first, uint step, uint dim) {
    float sum = 0.0f;
    for (uint i = first; i < dim; i += step) {
        const float v = float(x[i]);
        sum += v * v;
    }
    return sum;
}

template <typename T, typename W>
void normalise(device const T *x, device const W *weight, device const T *factor, device T *normed, device T *output,
               float inverse, uint first, uint step, uint dim) {
    for (uint i = first; i < dim; i += step) {
        float v = float(x[i]) * inverse;
        v = rounds_once ? v : float(T(v));
        if (has_weight) {
            v *= float(weight[i]);
        }
        if (has_normed) {
            normed[i] = T(v);
        }
        if (has_factor) {
            v = rounds_once ? v : float(T(v));
            v *= float(factor[i]);
        }
        output[i] = T(v);
    }
}

template <typename T, typename W>
[[kernel]] void rms_norm(device const T *x [[buffer(0)]],
                         device const W *weight [[buffer(1)]],
                         device T *output [[buffer(2)]],
                         constant RmsNormParams &p [[buffer(3)]],
                         device const float *eps_buffer [[buffer(4), function_constant(has_eps_buffer)]],
                         device const T *factor [[buffer(5), function_constant(has_factor)]],
                         device T *normed [[buffer(6), function_constant(has_normed)]],
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
    float eps = p.eps;
    if (has_eps_buffer) {
        eps = eps_buffer[0];
    }
    const float inverse = precise::rsqrt(sum / float(p.dim) + eps);
    device const T *factors = x;
    if (has_factor) {
        factors = factor + start;
    }
    device T *normed_row = output;
    if (has_normed) {
        normed_row = normed + start;
    }
    normalise(x + start, weight, factors, normed_row, output + start, inverse, thread_index, n_threads, p.dim);
}

template <typename T, typename W>
[[kernel]] void rms_norm_rows(device const T *x [[buffer(0)]],
                              device const W *weight [[buffer(1)]],
                              device T *output [[buffer(2)]],
                              constant RmsNormParams &p [[buffer(3)]],
                              device const float *eps_buffer [[buffer(4), function_constant(has_eps_buffer)]],
                              device const T *factor [[buffer(5), function_constant(has_factor)]],
                              device T *normed [[buffer(6), function_constant(has_normed)]],
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
    float eps = p.eps;
    if (has_eps_buffer) {
        eps = eps_buffer[0];
    }
    const float inverse = precise::rsqrt(sum / float(p.dim) + eps);
    device const T *factors = x;
    if (has_factor) {
        factors = factor + start;
    }
    device T *normed_row = output;
    if (has_normed) {
        normed_row = normed + start;
    }
    normalise(x + start, weight, factors, normed_row, output + start, inverse, lane, 32, p.dim);
}

template [[host_name("rms_norm_f32")]] [[kernel]] decltype(rms_norm<float, float>) rms_norm<float, float>;
template [[host_name("rms_norm_f16")]] [[kernel]] decltype(rms_norm<half, half>) rms_norm<half, half>;
template [[host_name("rms_norm_bf16")]] [[kernel]] decltype(rms_norm<bfloat, bfloat>) rms_norm<bfloat, bfloat>;
template [[host_name("rms_norm_f16_f32")]] [[kernel]] decltype(rms_norm<half, float>) rms_norm<half, float>;
template [[host_name("rms_norm_bf16_f32")]] [[kernel]] decltype(rms_norm<bfloat, float>) rms_norm<bfloat, float>;
template [[host_name("rms_norm_rows_f32")]] [[kernel]] decltype(rms_norm_rows<float, float>) rms_norm_rows<float, float>;
template [[host_name("rms_norm_rows_f16")]] [[kernel]] decltype(rms_norm_rows<half, half>) rms_norm_rows<half, half>;
template [[host_name("rms_norm_rows_bf16")]] [[kernel]] decltype(rms_norm_rows<bfloat, bfloat>) rms_norm_rows<bfloat, bfloat>;
template [[host_name("rms_norm_rows_f16_f32")]] [[kernel]] decltype(rms_norm_rows<half, float>) rms_norm_rows<half, float>;
template [[host_name("rms_norm_rows_bf16_f32")]] [[kernel]] decltype(rms_norm_rows<bfloat, float>) rms_norm_rows<bfloat, float>;

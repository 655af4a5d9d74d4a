// The RMS norm of a row, and the addition of a residual before it or behind it, in one pass over the row:
//
//   of_sum:     s = residual + x;  sum = s;  output = s * r(s) * weight * scalar
//   otherwise:  output = (residual + x * r(x) * weight) * scalar
//   with r(v) = 1 / sqrt(mean(v^2) + eps), everything in f32, rounded once. Weight, sum and scalar may be left out.
//
// Launch: one threadgroup for a row, any number of whole simdgroups up to 32. `output` and `sum` may be `residual` or `x`: an
// element is written by the thread that read it, when nobody needs it any more.

#include <metal_stdlib>
using namespace metal;

struct FusedNormParams {
    uint rows;
    uint dim;
    float eps;
    uint scalar_is_vector;
};

constant bool of_sum [[function_constant(0)]];
constant bool has_weight [[function_constant(1)]];
constant bool writes_sum [[function_constant(2)]];
constant bool has_scalar [[function_constant(3)]];

// in place: fused_norm(output = residual, output = x, sum = residual, sum = x)
template <typename T>
[[kernel]] void fused_norm(device const T *residual [[buffer(0)]],
                           device const T *x [[buffer(1)]],
                           device const T *weight [[buffer(2), function_constant(has_weight)]],
                           device T *output [[buffer(3)]],
                           device T *sum [[buffer(4), function_constant(writes_sum)]],
                           device const T *scalar [[buffer(5), function_constant(has_scalar)]],
                           constant FusedNormParams &p [[buffer(6)]],
                           uint row [[threadgroup_position_in_grid]],
                           uint thread_index [[thread_index_in_threadgroup]],
                           uint n_threads [[threads_per_threadgroup]],
                           uint lane [[thread_index_in_simdgroup]],
                           uint simdgroup [[simdgroup_index_in_threadgroup]],
                           uint n_simdgroups [[simdgroups_per_threadgroup]]) {
    threadgroup float partial[32];
    const ulong start = ulong(row) * p.dim;
    float squares = 0.0f;
    for (uint i = thread_index; i < p.dim; i += n_threads) {
        const float v = of_sum ? float(residual[start + i]) + float(x[start + i]) : float(x[start + i]);
        squares += v * v;
    }
    squares = simd_sum(squares);
    if (lane == 0) {
        partial[simdgroup] = squares;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    squares = simd_sum(lane < n_simdgroups ? partial[lane] : 0.0f);
    const float inverse = precise::rsqrt(squares / float(p.dim) + p.eps);
    for (uint i = thread_index; i < p.dim; i += n_threads) {
        const float r = float(residual[start + i]);
        const float v = of_sum ? r + float(x[start + i]) : float(x[start + i]);
        float y = v * inverse;
        if (has_weight) {
            y *= float(weight[i]);
        }
        if (!of_sum) {
            y += r;
        }
        if (has_scalar) {
            y *= float(scalar[p.scalar_is_vector != 0 ? i : 0]);
        }
        if (writes_sum) {
            sum[start + i] = T(v);
        }
        output[start + i] = T(y);
    }
}

template [[host_name("fused_norm_f32")]] [[kernel]] decltype(fused_norm<float>) fused_norm<float>;
template [[host_name("fused_norm_f16")]] [[kernel]] decltype(fused_norm<half>) fused_norm<half>;
template [[host_name("fused_norm_bf16")]] [[kernel]] decltype(fused_norm<bfloat>) fused_norm<bfloat>;

// Each head's features: RMS norm (if any), then a rotation of pairs. A row is a head of a token.
//
//   n = x * r(x) * weight, r(v) = 1 / sqrt(mean(v^2) + eps); without a norm n = x
//   pair i < n_pairs:  (n[a], n[b]) with (a, b) = (2i, 2i + 1) if interleaved, else (i, i + pair_distance)
//   angle = position / theta^(2i / head_dim) / freq_factors[i], or its cosine and sine from tables
//   output[a] = n[a] cos - n[b] sin;  output[b] = n[a] sin + n[b] cos;  the other features: n
//
// Everything is f32, rounded once.
//
// Launch: one simdgroup for a row; any number of whole simdgroups in a threadgroup. `output` may be `x`: all of a row is read
// before any of it is written, and a feature is written by the lane that read it last.

#include <metal_stdlib>
using namespace metal;

struct HeadNormRopeParams {
    uint n_rows;
    uint n_heads;
    uint head_dim;
    uint n_pairs;
    uint pair_distance;
    float eps;
    float theta;
};

constant bool has_norm [[function_constant(0)]];
constant bool has_weight [[function_constant(1)]];
constant bool has_tables [[function_constant(2)]];
constant bool has_positions [[function_constant(3)]];
constant bool has_factors [[function_constant(4)]];
constant bool has_theta_buffer [[function_constant(5)]];
constant bool interleaved [[function_constant(6)]];

// in place: head_norm_rope(output = x)
template <typename T>
[[kernel]] void head_norm_rope(device const T *x [[buffer(0)]],
                               device T *output [[buffer(1)]],
                               device const T *weight [[buffer(2), function_constant(has_weight)]],
                               device const float *cosines [[buffer(3), function_constant(has_tables)]],
                               device const float *sines [[buffer(4), function_constant(has_tables)]],
                               device const uint *positions [[buffer(5), function_constant(has_positions)]],
                               device const float *freq_factors [[buffer(6), function_constant(has_factors)]],
                               device const float *theta_buffer [[buffer(7), function_constant(has_theta_buffer)]],
                               constant HeadNormRopeParams &p [[buffer(8)]],
                               uint group [[threadgroup_position_in_grid]],
                               uint lane [[thread_index_in_simdgroup]],
                               uint simdgroup [[simdgroup_index_in_threadgroup]],
                               uint n_simdgroups [[simdgroups_per_threadgroup]]) {
    const uint row = group * n_simdgroups + simdgroup;
    if (row >= p.n_rows) {
        return;
    }
    const ulong start = ulong(row) * p.head_dim;
    float inverse = 1.0f;
    if (has_norm) {
        float squares = 0.0f;
        for (uint i = lane; i < p.head_dim; i += 32) {
            const float v = float(x[start + i]);
            squares += v * v;
        }
        inverse = precise::rsqrt(simd_sum(squares) / float(p.head_dim) + p.eps);
    }
    float position = 0.0f;
    float theta = p.theta;
    if (has_positions) {
        position = float(positions[row / p.n_heads]);
    }
    if (has_theta_buffer) {
        theta = theta_buffer[0];
    }
    for (uint i = lane; i < p.n_pairs; i += 32) {
        float cosine, sine;
        if (has_tables) {
            cosine = cosines[i];
            sine = sines[i];
        } else {
            float angle = position / precise::pow(theta, float(2 * i) / float(p.head_dim));
            if (has_factors) {
                angle /= freq_factors[i];
            }
            cosine = precise::cos(angle);
            sine = precise::sin(angle);
        }
        const uint first = interleaved ? 2 * i : i;
        const uint second = interleaved ? first + 1 : first + p.pair_distance;
        float a = float(x[start + first]) * inverse;
        float b = float(x[start + second]) * inverse;
        if (has_weight) {
            a *= float(weight[first]);
            b *= float(weight[second]);
        }
        output[start + first] = T(a * cosine - b * sine);
        output[start + second] = T(a * sine + b * cosine);
    }
    for (uint i = lane; i < p.head_dim; i += 32) {
        const bool is_first = i < p.n_pairs;
        const bool is_second = i >= p.pair_distance && i - p.pair_distance < p.n_pairs;
        if (interleaved ? i < 2 * p.n_pairs : is_first || is_second) {
            continue;
        }
        float v = float(x[start + i]) * inverse;
        if (has_weight) {
            v *= float(weight[i]);
        }
        output[start + i] = T(v);
    }
}

template [[host_name("head_norm_rope_f32")]] [[kernel]] decltype(head_norm_rope<float>) head_norm_rope<float>;
template [[host_name("head_norm_rope_f16")]] [[kernel]] decltype(head_norm_rope<half>) head_norm_rope<half>;
template [[host_name("head_norm_rope_bf16")]] [[kernel]] decltype(head_norm_rope<bfloat>) head_norm_rope<bfloat>;

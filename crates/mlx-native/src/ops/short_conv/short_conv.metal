// output[t][c] = sum over j of weight[c][j] * input[t + j - (kernel - 1)][c], + bias[c]; inputs before the step from
// `state`, which then holds the last kernel - 1 inputs. In float, rounded once.
//
// Launch: one thread for a channel; any group size. A channel's state, inputs and outputs are its thread's alone, so that
// the state is updated in place and `output` may be `x`.

#include <metal_stdlib>
using namespace metal;

struct ShortConvParams {
    uint rows;
    uint channels;
    uint kernel_size;
    uint x_stride;
    uint silu;
};

constant bool has_bias [[function_constant(0)]];

// in place: short_conv(output = x)
template <typename T>
[[kernel]] void short_conv(device const T *x [[buffer(0)]],
                           device const T *weight [[buffer(1)]],
                           device const T *bias [[buffer(2)]],
                           device T *state [[buffer(3)]],
                           device T *output [[buffer(4)]],
                           constant ShortConvParams &p [[buffer(5)]],
                           uint channel [[thread_position_in_grid]]) {
    // The newest input is last.
    float window[8];
    float taps[8];
    const uint n = p.kernel_size;
    for (uint j = 0; j < n; j++) {
        taps[j] = float(weight[ulong(channel) * n + j]);
        window[j] = 0.0f;
    }
    for (uint j = 0; j + 1 < n; j++) {
        window[j + 1] = float(state[ulong(j) * p.channels + channel]);
    }
    const float offset = has_bias ? float(bias[channel]) : 0.0f;
    for (uint t = 0; t < p.rows; t++) {
        for (uint j = 0; j + 1 < n; j++) {
            window[j] = window[j + 1];
        }
        window[n - 1] = float(x[ulong(t) * p.x_stride + channel]);
        float sum = offset;
        for (uint j = 0; j < n; j++) {
            sum += taps[j] * window[j];
        }
        if (p.silu != 0) {
            const float e = precise::exp(-abs(sum));
            sum = sum * ((sum < 0.0f ? e : 1.0f) / (1.0f + e));
        }
        output[ulong(t) * p.channels + channel] = T(sum);
    }
    for (uint j = 0; j + 1 < n; j++) {
        state[ulong(j) * p.channels + channel] = T(window[j + 1]);
    }
}

template [[host_name("short_conv_f32")]] [[kernel]] decltype(short_conv<float>) short_conv<float>;
template [[host_name("short_conv_f16")]] [[kernel]] decltype(short_conv<half>) short_conv<half>;
template [[host_name("short_conv_bf16")]] [[kernel]] decltype(short_conv<bfloat>) short_conv<bfloat>;

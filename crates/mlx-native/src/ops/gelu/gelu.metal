// output[r, c] = gelu(x[r, c]) (* up[r, c]), gelu(x) = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))).
//
// Launch: a grid of (ceil(cols / 4), rows) threads, 4 elements in a row each; any group size. `output` may be `x` or `up`
// where rows are contiguous: each element is read and written by one thread.

#include <metal_stdlib>
using namespace metal;

struct GeluParams {
    uint rows;
    uint cols;
    uint x_stride;
    uint up_stride;
};

constant bool has_up [[function_constant(0)]];

// x * sigmoid(2 t): the same as with tanh, without cancellation; exp of a negative number cannot overflow.
inline float gelu_tanh(float x) {
    const float t = 1.5957691216f * (x + 0.044715f * x * x * x);
    const float e = precise::exp(-abs(t));
    return x * ((t < 0.0f ? e : 1.0f) / (1.0f + e));
}

// in place: gelu(output = x, output = up)
template <typename T>
[[kernel]] void gelu(device const T *x [[buffer(0)]],
                     device const T *up [[buffer(1), function_constant(has_up)]],
                     device T *output [[buffer(2)]],
                     constant GeluParams &p [[buffer(3)]],
                     uint2 at [[thread_position_in_grid]]) {
    const uint first = at.x * 4;
    const uint count = min(4u, p.cols - first);
    const ulong from = ulong(at.y) * p.x_stride;
    const ulong other = ulong(at.y) * p.up_stride;
    const ulong to = ulong(at.y) * p.cols;
    for (uint c = first; c - first < count; c++) {
        float value = gelu_tanh(float(x[from + c]));
        if (has_up) {
            value *= float(up[other + c]);
        }
        output[to + c] = T(value);
    }
}

template [[host_name("gelu_f32")]] [[kernel]] decltype(gelu<float>) gelu<float>;
template [[host_name("gelu_f16")]] [[kernel]] decltype(gelu<half>) gelu<half>;
template [[host_name("gelu_bf16")]] [[kernel]] decltype(gelu<bfloat>) gelu<bfloat>;

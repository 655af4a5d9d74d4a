// output[i] = silu(gate[i]) * up[i], silu(x) = x / (1 + exp(-x)).
//
// Launch: one thread for 4 elements in a row; any group size. `output` may be `gate` or `up`: each element is read and
// written by one thread.

#include <metal_stdlib>
using namespace metal;

struct SiluMulParams {
    uint n_elements;
};

// exp of a negative number cannot overflow.
inline float silu(float x) {
    const float t = precise::exp(-abs(x));
    return x * ((x < 0.0f ? t : 1.0f) / (1.0f + t));
}

// in place: silu_mul(output = gate, output = up)
template <typename T>
[[kernel]] void silu_mul(device const T *gate [[buffer(0)]],
                         device const T *up [[buffer(1)]],
                         device T *output [[buffer(2)]],
                         constant SiluMulParams &p [[buffer(3)]],
                         uint thread_index [[thread_position_in_grid]]) {
    const uint first = thread_index * 4;
    const uint count = min(4u, p.n_elements - first);
    for (uint i = first; i - first < count; i++) {
        output[i] = T(silu(float(gate[i])) * float(up[i]));
    }
}

template [[host_name("silu_mul_f32")]] [[kernel]] decltype(silu_mul<float>) silu_mul<float>;
template [[host_name("silu_mul_f16")]] [[kernel]] decltype(silu_mul<half>) silu_mul<half>;
template [[host_name("silu_mul_bf16")]] [[kernel]] decltype(silu_mul<bfloat>) silu_mul<bfloat>;

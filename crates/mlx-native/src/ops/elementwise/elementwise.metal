// elementwise_mul: output[i] = a[i] * b[i % b_elements]; scalar_mul: output[i] = x[row * n_elements + i] * scalar.
//
// Launch: one thread for 4 elements in a row; any group size. `output` may be `a` or `x`: each element is read and written
// by one thread.

#include <metal_stdlib>
using namespace metal;

struct MulParams {
    uint n_elements;
    uint b_elements;
};

struct ScaleParams {
    float scalar;
    uint n_elements;
    uint row;
};

// in place: elementwise_mul(output = a, output = b)
// in place: scalar_mul(output = x)
template <typename T>
[[kernel]] void elementwise_mul(device const T *a [[buffer(0)]],
                                device const T *b [[buffer(1)]],
                                device T *output [[buffer(2)]],
                                constant MulParams &p [[buffer(3)]],
                                uint thread_index [[thread_position_in_grid]]) {
    const uint first = thread_index * 4;
    const uint count = min(4u, p.n_elements - first);
    for (uint i = first; i - first < count; i++) {
        output[i] = T(float(a[i]) * float(b[i % p.b_elements]));
    }
}

template <typename T>
[[kernel]] void scalar_mul(device const T *x [[buffer(0)]],
                           device T *output [[buffer(1)]],
                           constant ScaleParams &p [[buffer(2)]],
                           uint thread_index [[thread_position_in_grid]]) {
    const uint first = thread_index * 4;
    const uint count = min(4u, p.n_elements - first);
    const ulong start = ulong(p.row) * p.n_elements;
    for (uint i = first; i - first < count; i++) {
        output[i] = T(float(x[start + i]) * p.scalar);
    }
}

template [[host_name("elementwise_mul_f32")]] [[kernel]] decltype(elementwise_mul<float>) elementwise_mul<float>;
template [[host_name("elementwise_mul_f16")]] [[kernel]] decltype(elementwise_mul<half>) elementwise_mul<half>;
template [[host_name("elementwise_mul_bf16")]] [[kernel]] decltype(elementwise_mul<bfloat>) elementwise_mul<bfloat>;
template [[host_name("scalar_mul_f32")]] [[kernel]] decltype(scalar_mul<float>) scalar_mul<float>;
template [[host_name("scalar_mul_f16")]] [[kernel]] decltype(scalar_mul<half>) scalar_mul<half>;
template [[host_name("scalar_mul_bf16")]] [[kernel]] decltype(scalar_mul<bfloat>) scalar_mul<bfloat>;

// output[i] = a[i] + b[i % b_elements].
//
// Launch: one thread for 4 elements, in a row; any group size. `output` may be `a`: each element is read and written by
// one thread.

#include <metal_stdlib>
using namespace metal;

struct AddParams {
    uint n_elements;
    uint b_elements;
};

// in place: add(output = a, output = b)
template <typename T>
[[kernel]] void add(device const T *a [[buffer(0)]],
                    device const T *b [[buffer(1)]],
                    device T *output [[buffer(2)]],
                    constant AddParams &p [[buffer(3)]],
                    uint thread_index [[thread_position_in_grid]]) {
    const uint first = thread_index * 4;
    for (uint i = first; i < min(first + 4, p.n_elements); i++) {
        output[i] = T(float(a[i]) + float(b[i % p.b_elements]));
    }
}

template [[host_name("add_f32")]] [[kernel]] decltype(add<float>) add<float>;
template [[host_name("add_f16")]] [[kernel]] decltype(add<half>) add<half>;
template [[host_name("add_bf16")]] [[kernel]] decltype(add<bfloat>) add<bfloat>;

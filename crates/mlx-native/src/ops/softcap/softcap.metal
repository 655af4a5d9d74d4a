// output[i] = tanh(x[i] / cap) * cap.
//
// Launch: one thread for 4 elements in a row; any group size. `output` may be `x`: each element is read and written by one
// thread.

#include <metal_stdlib>
using namespace metal;

struct SoftcapParams {
    float cap;
    uint n_elements;
};

// in place: softcap(output = x)
template <typename T>
[[kernel]] void softcap(device const T *x [[buffer(0)]],
                        device T *output [[buffer(1)]],
                        constant SoftcapParams &p [[buffer(2)]],
                        uint thread_index [[thread_position_in_grid]]) {
    const uint first = thread_index * 4;
    const uint count = min(4u, p.n_elements - first);
    for (uint i = first; i - first < count; i++) {
        output[i] = T(precise::tanh(float(x[i]) / p.cap) * p.cap);
    }
}

template [[host_name("softcap_f32")]] [[kernel]] decltype(softcap<float>) softcap<float>;
template [[host_name("softcap_f16")]] [[kernel]] decltype(softcap<half>) softcap<half>;
template [[host_name("softcap_bf16")]] [[kernel]] decltype(softcap<bfloat>) softcap<bfloat>;

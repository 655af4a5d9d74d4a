// output[i] = x[i], cast to the dtype of output; or the same bits.
//
// Launch: one thread for 4 elements in a row; any group size.

#include <metal_stdlib>
using namespace metal;

struct CopyParams {
    uint n_elements;
};

// Through f32, which every value passes unchanged: one rounding, to nearest even.
template <typename From, typename To>
[[kernel]] void copy(device const From *x [[buffer(0)]],
                     device To *output [[buffer(1)]],
                     constant CopyParams &p [[buffer(2)]],
                     uint thread_index [[thread_position_in_grid]]) {
    const uint first = thread_index * 4;
    const uint count = min(4u, p.n_elements - first);
    for (uint i = first; i - first < count; i++) {
        output[i] = To(float(x[i]));
    }
}

// Word = an unsigned integer of the dtype's size.
template <typename Word>
[[kernel]] void copy_bits(device const Word *x [[buffer(0)]],
                          device Word *output [[buffer(1)]],
                          constant CopyParams &p [[buffer(2)]],
                          uint thread_index [[thread_position_in_grid]]) {
    const uint first = thread_index * 4;
    const uint count = min(4u, p.n_elements - first);
    for (uint i = first; i - first < count; i++) {
        output[i] = x[i];
    }
}

template [[host_name("copy_f32_f16")]] [[kernel]] decltype(copy<float, half>) copy<float, half>;
template [[host_name("copy_f32_bf16")]] [[kernel]] decltype(copy<float, bfloat>) copy<float, bfloat>;
template [[host_name("copy_f16_f32")]] [[kernel]] decltype(copy<half, float>) copy<half, float>;
template [[host_name("copy_f16_bf16")]] [[kernel]] decltype(copy<half, bfloat>) copy<half, bfloat>;
template [[host_name("copy_bf16_f32")]] [[kernel]] decltype(copy<bfloat, float>) copy<bfloat, float>;
template [[host_name("copy_bf16_f16")]] [[kernel]] decltype(copy<bfloat, half>) copy<bfloat, half>;
template [[host_name("copy_bits_8")]] [[kernel]] decltype(copy_bits<uchar>) copy_bits<uchar>;
template [[host_name("copy_bits_16")]] [[kernel]] decltype(copy_bits<ushort>) copy_bits<ushort>;
template [[host_name("copy_bits_32")]] [[kernel]] decltype(copy_bits<uint>) copy_bits<uint>;

// copy, copy_bits: output[i] = x[i], cast to the dtype of output; or the same bits.
// copy_strided:    output, contiguous, = x walked with other strides.
//
// Launch of the first: one thread for 4 elements in a row. Of the other: a grid of (d3, d2, d1 * d0) threads, one element
// each. Any group size.

#include <metal_stdlib>
using namespace metal;

struct CopyParams {
    uint n_elements;
};

struct StridedParams {
    uint4 shape;
    uint4 strides;
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

template <typename Word>
[[kernel]] void copy_strided(device const Word *x [[buffer(0)]],
                             device Word *output [[buffer(1)]],
                             constant StridedParams &p [[buffer(2)]],
                             uint3 at [[thread_position_in_grid]]) {
    const ulong d1 = at.z % p.shape.y;
    const ulong d0 = at.z / p.shape.y;
    const ulong from = d0 * p.strides.x + d1 * p.strides.y + ulong(at.y) * p.strides.z + ulong(at.x) * p.strides.w;
    const ulong to = (ulong(at.z) * p.shape.z + at.y) * p.shape.w + at.x;
    output[to] = x[from];
}

template [[host_name("copy_strided_8")]] [[kernel]] decltype(copy_strided<uchar>) copy_strided<uchar>;
template [[host_name("copy_strided_16")]] [[kernel]] decltype(copy_strided<ushort>) copy_strided<ushort>;
template [[host_name("copy_strided_32")]] [[kernel]] decltype(copy_strided<uint>) copy_strided<uint>;
template [[host_name("copy_f32_f16")]] [[kernel]] decltype(copy<float, half>) copy<float, half>;
template [[host_name("copy_f32_bf16")]] [[kernel]] decltype(copy<float, bfloat>) copy<float, bfloat>;
template [[host_name("copy_f16_f32")]] [[kernel]] decltype(copy<half, float>) copy<half, float>;
template [[host_name("copy_f16_bf16")]] [[kernel]] decltype(copy<half, bfloat>) copy<half, bfloat>;
template [[host_name("copy_bf16_f32")]] [[kernel]] decltype(copy<bfloat, float>) copy<bfloat, float>;
template [[host_name("copy_bf16_f16")]] [[kernel]] decltype(copy<bfloat, half>) copy<bfloat, half>;
template [[host_name("copy_bits_8")]] [[kernel]] decltype(copy_bits<uchar>) copy_bits<uchar>;
template [[host_name("copy_bits_16")]] [[kernel]] decltype(copy_bits<ushort>) copy_bits<ushort>;
template [[host_name("copy_bits_32")]] [[kernel]] decltype(copy_bits<uint>) copy_bits<uint>;

// gather_*: output[i, c] = src[min(indices[i], src_rows - 1), c], bit by bit. Word = an unsigned integer of the dtype's size.
// gather_codes_4: output[r, c] = table[code, c], the codes being 4 bits each, two in a byte, that of the even column low.
//
// Launch: a grid of (ceil(row_width / 4), n_indices) threads, 4 columns in a row each; any group size.

#include <metal_stdlib>
using namespace metal;

struct GatherParams {
    uint row_width;
    uint n_indices;
    uint src_rows;
};

template <typename Word>
[[kernel]] void gather(device const Word *src [[buffer(0)]],
                       device const uint *indices [[buffer(1)]],
                       device Word *output [[buffer(2)]],
                       constant GatherParams &p [[buffer(3)]],
                       uint2 at [[thread_position_in_grid]]) {
    const uint first = at.x * 4;
    const uint count = min(4u, p.row_width - first);
    const ulong from = ulong(min(indices[at.y], p.src_rows - 1)) * p.row_width;
    const ulong to = ulong(at.y) * p.row_width;
    for (uint c = first; c - first < count; c++) {
        output[to + c] = src[from + c];
    }
}

template <typename T>
[[kernel]] void gather_codes_4(device const uchar *codes [[buffer(0)]],
                               device const T *table [[buffer(1)]],
                               device T *output [[buffer(2)]],
                               constant GatherParams &p [[buffer(3)]],
                               uint2 at [[thread_position_in_grid]]) {
    const uint first = at.x * 4;
    const uint count = min(4u, p.row_width - first);
    const ulong from = ulong(at.y) * (p.row_width / 2);
    const ulong to = ulong(at.y) * p.row_width;
    for (uint c = first; c - first < count; c++) {
        const uint code = uint(codes[from + c / 2]) >> (4 * (c % 2)) & 15;
        output[to + c] = table[ulong(code) * p.row_width + c];
    }
}

template [[host_name("gather_8")]] [[kernel]] decltype(gather<uchar>) gather<uchar>;
template [[host_name("gather_16")]] [[kernel]] decltype(gather<ushort>) gather<ushort>;
template [[host_name("gather_32")]] [[kernel]] decltype(gather<uint>) gather<uint>;
template [[host_name("gather_codes_4_f32")]] [[kernel]] decltype(gather_codes_4<float>) gather_codes_4<float>;
template [[host_name("gather_codes_4_f16")]] [[kernel]] decltype(gather_codes_4<half>) gather_codes_4<half>;
template [[host_name("gather_codes_4_bf16")]] [[kernel]] decltype(gather_codes_4<bfloat>) gather_codes_4<bfloat>;

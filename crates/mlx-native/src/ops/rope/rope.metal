// Rotary position embedding: pairs of the first `dims` features of each head are rotated by an angle that grows with the
// position; the other features are copied.
//
//   angle = ((offset + t) * scale) * frequency[i]        in f32, in this order; or positions[t] for offset + t
//   pair i = (x[2i], x[2i + 1]) if traditional, else (x[i], x[i + dims / 2])
//
// Launch: a grid of (dims / 2 + head_dim - dims, seq_len, ceil(n_heads / 4)) threads; any group size. A thread rotates one
// pair, or copies one trailing feature, of 4 heads. `output` may be `x` with equal strides: a pair is read and written by
// one thread.

#include <metal_stdlib>
using namespace metal;

struct RopeParams {
    uint n_heads;
    uint seq_len;
    uint head_dim;
    uint dims;
    uint traditional;
    float base;
    float scale;
    uint offset;
    uint x_head_stride;
    uint x_seq_stride;
    uint out_head_stride;
    uint out_seq_stride;
};

// Whether `frequencies` holds their reciprocals, as a model's file does.
constant bool reciprocal [[function_constant(0)]];
// Whether each row's position is given, in place of offset + t.
constant bool at_positions [[function_constant(1)]];

constant constexpr uint heads_per_thread = 4;

// in place: rope(output = x)
template <typename T>
[[kernel]] void rope(device const T *x [[buffer(0)]],
                     constant float *frequencies [[buffer(1)]],
                     device T *output [[buffer(2)]],
                     constant RopeParams &p [[buffer(3)]],
                     constant uint *positions [[buffer(4), function_constant(at_positions)]],
                     uint3 at [[thread_position_in_grid]]) {
    const uint half_dims = p.dims / 2;
    const uint first_head = at.z * heads_per_thread;
    const uint end_head = min(first_head + heads_per_thread, p.n_heads);
    device const T *from = x + ulong(at.y) * p.x_seq_stride;
    device T *to = output + ulong(at.y) * p.out_seq_stride;
    if (at.x >= half_dims) {
        const uint feature = at.x + half_dims;
        for (uint head = first_head; head < end_head; head++) {
            to[ulong(head) * p.out_head_stride + feature] = from[ulong(head) * p.x_head_stride + feature];
        }
        return;
    }
    const float frequency = reciprocal ? precise::divide(1.0f, frequencies[at.x]) : frequencies[at.x];
    const uint position = at_positions ? positions[at.y] : p.offset + at.y;
    const float angle = float(position) * p.scale * frequency;
    const float cosine = precise::cos(angle);
    const float sine = precise::sin(angle);
    const uint first = p.traditional != 0 ? 2 * at.x : at.x;
    const uint second = p.traditional != 0 ? first + 1 : first + half_dims;
    for (uint head = first_head; head < end_head; head++) {
        const ulong in = ulong(head) * p.x_head_stride;
        const ulong out = ulong(head) * p.out_head_stride;
        const float a = float(from[in + first]);
        const float b = float(from[in + second]);
        to[out + first] = T(a * cosine - b * sine);
        to[out + second] = T(a * sine + b * cosine);
    }
}

template [[host_name("rope_f32")]] [[kernel]] decltype(rope<float>) rope<float>;
template [[host_name("rope_f16")]] [[kernel]] decltype(rope<half>) rope<half>;
template [[host_name("rope_bf16")]] [[kernel]] decltype(rope<bfloat>) rope<bfloat>;

// output[i] = row ids[i] of a table [vocab_size, dim] in any format, weight.h reads it; zeros where ids[i] is not below
// vocab_size. All in f32, rounded to the dtype X_TYPE; of affine formats whose scales have that dtype the
// product is rounded to it too, as MLX's CPU does.
//
// Launch: one thread for each run of the rows asked for, grid (dim / 16 up, n_tokens); any group size.

#include <metal_stdlib>
using namespace metal;

#include "weight.h"

// The dtype of the output.
constant uint X_TYPE [[function_constant(0)]];

struct EmbedShape {
    uint n_tokens;
    uint vocab_size;
    uint dim;
    uint codes_stride;
    uint scales_stride;
};

template <typename F>
inline float element(thread const F &w, uint i) {
    return w.weight(i);
}

template <uint BITS>
inline float element(thread const Affine<BITS> &w, uint i) {
    if (SCALE_TYPE != X_TYPE) {
        return w.weight(i);
    }
    return rounded_to(X_TYPE, w.code(i) * w.scale) + w.bias;
}

template <typename F>
[[kernel]] void embed(device const uint *ids [[buffer(0)]],
                      device const uchar *codes [[buffer(1)]],
                      device const uchar *scales [[buffer(2)]],
                      device const uchar *biases [[buffer(3)]],
                      device uchar *output [[buffer(4)]],
                      constant EmbedShape &p [[buffer(5)]],
                      uint2 position [[thread_position_in_grid]]) {
    const uint column = position.x * RUN;
    if (column >= p.dim || position.y >= p.n_tokens) {
        return;
    }
    const uint id = ids[position.y];
    const uint count = min(RUN, p.dim - column);
    const size_t target = size_t(position.y) * p.dim + column;
    if (id >= p.vocab_size) {
        for (uint i = 0; i < count; i++) {
            put_float(output, X_TYPE, target + i, 0.0f);
        }
        return;
    }
    F w;
    w.read(weight_row(codes, scales, biases, 0, p.vocab_size, id, p.codes_stride, p.scales_stride), column, count);
    for (uint i = 0; i < RUN; i++) {
        if (i < count) {
            put_float(output, X_TYPE, target + i, element(w, i));
        }
    }
}

template [[host_name("embed_f32")]] [[kernel]] decltype(embed<Dense<float>>) embed<Dense<float>>;
template [[host_name("embed_f16")]] [[kernel]] decltype(embed<Dense<half>>) embed<Dense<half>>;
template [[host_name("embed_bf16")]] [[kernel]] decltype(embed<Dense<bfloat>>) embed<Dense<bfloat>>;
template [[host_name("embed_affine1")]] [[kernel]] decltype(embed<Affine<1>>) embed<Affine<1>>;
template [[host_name("embed_affine2")]] [[kernel]] decltype(embed<Affine<2>>) embed<Affine<2>>;
template [[host_name("embed_affine3")]] [[kernel]] decltype(embed<Affine<3>>) embed<Affine<3>>;
template [[host_name("embed_affine4")]] [[kernel]] decltype(embed<Affine<4>>) embed<Affine<4>>;
template [[host_name("embed_affine5")]] [[kernel]] decltype(embed<Affine<5>>) embed<Affine<5>>;
template [[host_name("embed_affine6")]] [[kernel]] decltype(embed<Affine<6>>) embed<Affine<6>>;
template [[host_name("embed_affine8")]] [[kernel]] decltype(embed<Affine<8>>) embed<Affine<8>>;
template [[host_name("embed_mxfp4")]] [[kernel]] decltype(embed<Float4<false>>) embed<Float4<false>>;
template [[host_name("embed_mxfp8")]] [[kernel]] decltype(embed<Float8>) embed<Float8>;
template [[host_name("embed_nvfp4")]] [[kernel]] decltype(embed<Float4<true>>) embed<Float4<true>>;
template [[host_name("embed_q4_0")]] [[kernel]] decltype(embed<Blocks<Q4_0>>) embed<Blocks<Q4_0>>;
template [[host_name("embed_q4_1")]] [[kernel]] decltype(embed<Blocks<Q4_1>>) embed<Blocks<Q4_1>>;
template [[host_name("embed_q5_0")]] [[kernel]] decltype(embed<Blocks<Q5_0>>) embed<Blocks<Q5_0>>;
template [[host_name("embed_q5_1")]] [[kernel]] decltype(embed<Blocks<Q5_1>>) embed<Blocks<Q5_1>>;
template [[host_name("embed_q8_0")]] [[kernel]] decltype(embed<Blocks<Q8_0>>) embed<Blocks<Q8_0>>;
template [[host_name("embed_q2_k")]] [[kernel]] decltype(embed<Blocks<Q2K>>) embed<Blocks<Q2K>>;
template [[host_name("embed_q3_k")]] [[kernel]] decltype(embed<Blocks<Q3K>>) embed<Blocks<Q3K>>;
template [[host_name("embed_q4_k")]] [[kernel]] decltype(embed<Blocks<Q4K>>) embed<Blocks<Q4K>>;
template [[host_name("embed_q5_k")]] [[kernel]] decltype(embed<Blocks<Q5K>>) embed<Blocks<Q5K>>;
template [[host_name("embed_q6_k")]] [[kernel]] decltype(embed<Blocks<Q6K>>) embed<Blocks<Q6K>>;
template [[host_name("embed_iq4_nl")]] [[kernel]] decltype(embed<Blocks<Iq4Nl>>) embed<Blocks<Iq4Nl>>;
template [[host_name("embed_iq4_xs")]] [[kernel]] decltype(embed<Blocks<Iq4Xs>>) embed<Blocks<Iq4Xs>>;
template [[host_name("embed_ggml_mxfp4")]] [[kernel]] decltype(embed<Blocks<GgmlMxfp4>>) embed<Blocks<GgmlMxfp4>>;

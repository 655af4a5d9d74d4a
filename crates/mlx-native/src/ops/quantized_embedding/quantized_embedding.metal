// output[i] = row ids[i] of a quantised table [vocab_size, dim], value = code * scale + bias with a scale and a bias for each
// group_size elements of a row; zeros where ids[i] is not below vocab_size. Codes of BITS bits are packed in words, the
// lowest bits first; a row is a whole number of groups, a group a multiple of 32 elements.
//
// Launch: one thread for each word of the rows asked for, grid (words of a row, n_tokens); any group size.

#include <metal_stdlib>
using namespace metal;

struct QuantizedEmbeddingShape {
    uint n_tokens;
    uint vocab_size;
    uint embed_dim;
    uint group_size;
};

template <typename T, typename S, uint BITS>
[[kernel]] void quantized_embedding(device const uint *ids [[buffer(0)]],
                                    device const uint *weight [[buffer(1)]],
                                    device const S *scales [[buffer(2)]],
                                    device const S *biases [[buffer(3)]],
                                    device T *output [[buffer(4)]],
                                    constant QuantizedEmbeddingShape &p [[buffer(5)]],
                                    uint2 position [[thread_position_in_grid]]) {
    constexpr uint PER_WORD = 32 / BITS;
    const uint row_words = p.embed_dim / PER_WORD;
    if (position.x >= row_words || position.y >= p.n_tokens) {
        return;
    }
    const uint id = ids[position.y];
    const uint column = position.x * PER_WORD;
    device T *target = output + size_t(position.y) * p.embed_dim + column;
    if (id >= p.vocab_size) {
        for (uint i = 0; i < PER_WORD; i++) {
            target[i] = T(0.0f);
        }
        return;
    }
    const size_t group = size_t(id) * (p.embed_dim / p.group_size) + column / p.group_size;
    const float scale = float(scales[group]);
    const float bias = float(biases[group]);
    const uint word = weight[size_t(id) * row_words + position.x];
    for (uint i = 0; i < PER_WORD; i++) {
        target[i] = T(fma(float(word >> (i * BITS) & ((1u << BITS) - 1)), scale, bias));
    }
}

template [[host_name("quantized_embedding_f32_f32_b4")]] [[kernel]] decltype(quantized_embedding<float, float, 4>) quantized_embedding<float, float, 4>;
template [[host_name("quantized_embedding_f32_f32_b8")]] [[kernel]] decltype(quantized_embedding<float, float, 8>) quantized_embedding<float, float, 8>;
template [[host_name("quantized_embedding_f32_f16_b4")]] [[kernel]] decltype(quantized_embedding<float, half, 4>) quantized_embedding<float, half, 4>;
template [[host_name("quantized_embedding_f32_f16_b8")]] [[kernel]] decltype(quantized_embedding<float, half, 8>) quantized_embedding<float, half, 8>;
template [[host_name("quantized_embedding_f32_bf16_b4")]] [[kernel]] decltype(quantized_embedding<float, bfloat, 4>) quantized_embedding<float, bfloat, 4>;
template [[host_name("quantized_embedding_f32_bf16_b8")]] [[kernel]] decltype(quantized_embedding<float, bfloat, 8>) quantized_embedding<float, bfloat, 8>;
template [[host_name("quantized_embedding_f16_f32_b4")]] [[kernel]] decltype(quantized_embedding<half, float, 4>) quantized_embedding<half, float, 4>;
template [[host_name("quantized_embedding_f16_f32_b8")]] [[kernel]] decltype(quantized_embedding<half, float, 8>) quantized_embedding<half, float, 8>;
template [[host_name("quantized_embedding_f16_f16_b4")]] [[kernel]] decltype(quantized_embedding<half, half, 4>) quantized_embedding<half, half, 4>;
template [[host_name("quantized_embedding_f16_f16_b8")]] [[kernel]] decltype(quantized_embedding<half, half, 8>) quantized_embedding<half, half, 8>;
template [[host_name("quantized_embedding_f16_bf16_b4")]] [[kernel]] decltype(quantized_embedding<half, bfloat, 4>) quantized_embedding<half, bfloat, 4>;
template [[host_name("quantized_embedding_f16_bf16_b8")]] [[kernel]] decltype(quantized_embedding<half, bfloat, 8>) quantized_embedding<half, bfloat, 8>;
template [[host_name("quantized_embedding_bf16_f32_b4")]] [[kernel]] decltype(quantized_embedding<bfloat, float, 4>) quantized_embedding<bfloat, float, 4>;
template [[host_name("quantized_embedding_bf16_f32_b8")]] [[kernel]] decltype(quantized_embedding<bfloat, float, 8>) quantized_embedding<bfloat, float, 8>;
template [[host_name("quantized_embedding_bf16_f16_b4")]] [[kernel]] decltype(quantized_embedding<bfloat, half, 4>) quantized_embedding<bfloat, half, 4>;
template [[host_name("quantized_embedding_bf16_f16_b8")]] [[kernel]] decltype(quantized_embedding<bfloat, half, 8>) quantized_embedding<bfloat, half, 8>;
template [[host_name("quantized_embedding_bf16_bf16_b4")]] [[kernel]] decltype(quantized_embedding<bfloat, bfloat, 4>) quantized_embedding<bfloat, bfloat, 4>;
template [[host_name("quantized_embedding_bf16_bf16_b8")]] [[kernel]] decltype(quantized_embedding<bfloat, bfloat, 8>) quantized_embedding<bfloat, bfloat, 8>;

// output[token] = table[ids[token]], cast to the dtype of output; zeros where the id is not in the table.
//
// Launch: a grid of (ceil(embed_dim / 4), n_tokens) threads, 4 features in a row each; any group size.

#include <metal_stdlib>
using namespace metal;

struct EmbeddingParams {
    uint n_tokens;
    uint vocab_size;
    uint embed_dim;
};

template <typename W, typename T>
[[kernel]] void embedding(device const uint *ids [[buffer(0)]],
                          device const W *table [[buffer(1)]],
                          device T *output [[buffer(2)]],
                          constant EmbeddingParams &p [[buffer(3)]],
                          uint2 at [[thread_position_in_grid]]) {
    const uint first = at.x * 4;
    const uint count = min(4u, p.embed_dim - first);
    const uint id = ids[at.y];
    const ulong to = ulong(at.y) * p.embed_dim + first;
    if (id >= p.vocab_size) {
        for (uint i = 0; i < count; i++) {
            output[to + i] = T(0.0f);
        }
        return;
    }
    const ulong from = ulong(id) * p.embed_dim + first;
    for (uint i = 0; i < count; i++) {
        output[to + i] = T(float(table[from + i]));
    }
}

template [[host_name("embedding_f32_f32")]] [[kernel]] decltype(embedding<float, float>) embedding<float, float>;
template [[host_name("embedding_f32_f16")]] [[kernel]] decltype(embedding<float, half>) embedding<float, half>;
template [[host_name("embedding_f32_bf16")]] [[kernel]] decltype(embedding<float, bfloat>) embedding<float, bfloat>;
template [[host_name("embedding_f16_f32")]] [[kernel]] decltype(embedding<half, float>) embedding<half, float>;
template [[host_name("embedding_f16_f16")]] [[kernel]] decltype(embedding<half, half>) embedding<half, half>;
template [[host_name("embedding_f16_bf16")]] [[kernel]] decltype(embedding<half, bfloat>) embedding<half, bfloat>;
template [[host_name("embedding_bf16_f32")]] [[kernel]] decltype(embedding<bfloat, float>) embedding<bfloat, float>;
template [[host_name("embedding_bf16_f16")]] [[kernel]] decltype(embedding<bfloat, half>) embedding<bfloat, half>;
template [[host_name("embedding_bf16_bf16")]] [[kernel]] decltype(embedding<bfloat, bfloat>) embedding<bfloat, bfloat>;

// Row numbers by a token and those before it, and the memory of the last tokens; the rules are in mod.rs.

#include <metal_stdlib>
using namespace metal;

struct NgramParams {
    uint rows;
    uint order;
    uint history;
    uint modulus;
    uint multipliers[8];
};

// Launch: one thread for a token; any group size.
[[kernel]] void ngram_ids(device const uint *ids [[buffer(0)]],
                          device const float *history [[buffer(1)]],
                          device uint *output [[buffer(2)]],
                          constant NgramParams &p [[buffer(3)]],
                          uint row [[thread_position_in_grid]]) {
    ulong sum = 0;
    for (uint c = 0; c < p.order; c++) {
        const uint token = c <= row ? ids[row - c] : uint(history[p.history + row - c]);
        sum += ulong(token) * p.multipliers[c] % p.modulus;
    }
    output[row] = uint(sum % p.modulus);
}

// Launch: one thread. Each token is read before its place is written, since places ascend.
[[kernel]] void ngram_keep(device const uint *ids [[buffer(0)]],
                           device float *history [[buffer(1)]],
                           constant NgramParams &p [[buffer(2)]]) {
    for (uint j = 0; j < p.history; j++) {
        const uint from = j + p.rows;
        history[j] = from < p.history ? history[from] : float(ids[from - p.history]);
    }
}

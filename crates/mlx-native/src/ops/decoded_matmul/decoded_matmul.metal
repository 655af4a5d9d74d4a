// output[r, c] = the sum over k of x[r / rows_per_x, k] * w[c, k], the weights decoded one by one; or of the matrix ids[r] of a
// stack. For formats and roundings that the fast kernels do not have.
//
//   affine: code * scale + bias of the group, codes of 4, 6 or 8 bits in one little-endian stream for a row, scales in bf16;
//           x is rounded to bf16, and the weight too if rounds_weight
//   q*:     blocks of GGML; x is used as it is
//
// Sums are in f32, in an order that depends on k alone. A row whose id is no matrix of the stack is zeros.
//
// decoded_rows: output[t, i] = w[ids[t], i] of an affine matrix; zeros where there is no such row.
//
// Launch: decoded_matmul: a grid of (ceil(n / 8), m) threadgroups of 8 simdgroups, each for one column. decoded_rows: a grid of
// (k, m) threads, any group size.

#include <metal_stdlib>
using namespace metal;

struct DecodedParams {
    ulong matrix_bytes;
    uint m;
    uint n;
    uint k;
    uint rows_per_x;
    uint n_matrices;
    uint row_bytes;
    uint bits;
    uint group_size;
    uint n_groups;
    uint unused;
};

constant bool has_ids [[function_constant(0)]];
constant bool is_affine [[function_constant(1)]];
constant bool rounds_weight [[function_constant(2)]];

inline float half_at(device const uchar *bytes) {
    return float(as_type<half>(ushort(uint(bytes[0]) | uint(bytes[1]) << 8)));
}

inline float q4_0(device const uchar *row, uint k) {
    device const uchar *block = row + ulong(k / 32) * 18;
    const uint i = k % 32;
    const uint byte = block[2 + i % 16];
    return (float(i < 16 ? byte & 15 : byte >> 4) - 8.0f) * half_at(block);
}

inline float q8_0(device const uchar *row, uint k) {
    device const uchar *block = row + ulong(k / 32) * 34;
    return float(as_type<char>(block[2 + k % 32])) * half_at(block);
}

inline float q4_k(device const uchar *row, uint k) {
    device const uchar *block = row + ulong(k / 256) * 144;
    device const uchar *s = block + 4;
    const uint i = k % 256, j = i / 32;
    uint scale, minimum;
    if (j < 4) {
        scale = s[j] & 63;
        minimum = s[j + 4] & 63;
    } else {
        scale = (s[j + 4] & 15) | (uint(s[j - 4]) >> 6) << 4;
        minimum = (uint(s[j + 4]) >> 4) | (uint(s[j]) >> 6) << 4;
    }
    const uint byte = block[16 + j / 2 * 32 + i % 32];
    const float code = float(j % 2 == 0 ? byte & 15 : byte >> 4);
    return half_at(block) * float(scale) * code - half_at(block + 2) * float(minimum);
}

inline float q6_k(device const uchar *row, uint k) {
    device const uchar *block = row + ulong(k / 256) * 210;
    const uint i = k % 256, h = i / 128, quarter = i % 128 / 32, l = i % 32;
    const uint byte = block[64 * h + l + (quarter % 2) * 32];
    const uint low = quarter < 2 ? byte & 15 : byte >> 4;
    const uint high = uint(block[128 + 32 * h + l]) >> (2 * quarter) & 3;
    const float scale = float(as_type<char>(block[192 + 8 * h + l / 16 + 2 * quarter]));
    return half_at(block + 208) * scale * (float(low | high << 4) - 32.0f);
}

inline uint affine_code(device const uchar *row, uint k, uint bits) {
    const ulong at = ulong(k) * bits;
    const uint shift = uint(at % 8);
    uint value = uint(row[at / 8]) >> shift;
    if (shift + bits > 8) {
        value |= uint(row[at / 8 + 1]) << (8 - shift);
    }
    return value & ((1u << bits) - 1);
}

// kind: 0 affine, 1 q4_0, 2 q8_0, 3 q4_k, 4 q6_k
template <typename T, uint kind>
[[kernel]] void decoded_matmul(device const T *x [[buffer(0)]],
                               device const uchar *codes [[buffer(1)]],
                               device const bfloat *scales [[buffer(2), function_constant(is_affine)]],
                               device const bfloat *biases [[buffer(3), function_constant(is_affine)]],
                               device const uint *ids [[buffer(4), function_constant(has_ids)]],
                               device T *output [[buffer(5)]],
                               constant DecodedParams &p [[buffer(6)]],
                               uint2 group [[threadgroup_position_in_grid]],
                               uint lane [[thread_index_in_simdgroup]],
                               uint simdgroup [[simdgroup_index_in_threadgroup]]) {
    const uint column = group.x * 8 + simdgroup;
    if (column >= p.n) {
        return;
    }
    uint matrix = 0;
    if (has_ids) {
        matrix = ids[group.y];
    }
    float sum = 0.0f;
    if (matrix < p.n_matrices) {
        device const T *own = x + ulong(group.y / p.rows_per_x) * p.k;
        const ulong row = ulong(matrix) * p.n + column;
        device const uchar *own_codes = codes + matrix * p.matrix_bytes + ulong(column) * p.row_bytes;
        for (uint k = lane; k < p.k; k += 32) {
            float w = 0.0f, v = float(own[k]);
            if (kind == 0) {
                if (is_affine) {
                    const ulong g = row * p.n_groups + k / p.group_size;
                    w = float(affine_code(own_codes, k, p.bits)) * float(scales[g]) + float(biases[g]);
                }
                w = rounds_weight ? float(bfloat(w)) : w;
                v = float(bfloat(v));
            } else if (kind == 1) {
                w = q4_0(own_codes, k);
            } else if (kind == 2) {
                w = q8_0(own_codes, k);
            } else if (kind == 3) {
                w = q4_k(own_codes, k);
            } else {
                w = q6_k(own_codes, k);
            }
            sum += w * v;
        }
        sum = simd_sum(sum);
    }
    if (lane == 0) {
        output[ulong(group.y) * p.n + column] = T(sum);
    }
}

[[kernel]] void decoded_rows(device const uint *ids [[buffer(0)]],
                             device const uchar *codes [[buffer(1)]],
                             device const bfloat *scales [[buffer(2)]],
                             device const bfloat *biases [[buffer(3)]],
                             device float *output [[buffer(4)]],
                             constant DecodedParams &p [[buffer(5)]],
                             uint2 at [[thread_position_in_grid]]) {
    const uint id = ids[at.y];
    float value = 0.0f;
    if (id < p.n) {
        const ulong g = ulong(id) * p.n_groups + at.x / p.group_size;
        const float code = float(affine_code(codes + ulong(id) * p.row_bytes, at.x, p.bits));
        value = code * float(scales[g]) + float(biases[g]);
    }
    output[ulong(at.y) * p.k + at.x] = value;
}

template [[host_name("decoded_matmul_affine_f32")]] [[kernel]] decltype(decoded_matmul<float, 0>) decoded_matmul<float, 0>;
template [[host_name("decoded_matmul_affine_bf16")]] [[kernel]] decltype(decoded_matmul<bfloat, 0>) decoded_matmul<bfloat, 0>;
template [[host_name("decoded_matmul_q4_0")]] [[kernel]] decltype(decoded_matmul<float, 1>) decoded_matmul<float, 1>;
template [[host_name("decoded_matmul_q8_0")]] [[kernel]] decltype(decoded_matmul<float, 2>) decoded_matmul<float, 2>;
template [[host_name("decoded_matmul_q4_k")]] [[kernel]] decltype(decoded_matmul<float, 3>) decoded_matmul<float, 3>;
template [[host_name("decoded_matmul_q6_k")]] [[kernel]] decltype(decoded_matmul<float, 4>) decoded_matmul<float, 4>;

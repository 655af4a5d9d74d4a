// output = x · Wᵀ or x · W with an affine-quantised W: value = code * scale + bias, a scale and a bias for each group of
// GROUP_SIZE elements of a row of W. x [m, k] and output [m, n] are of type T, scales and biases of type S; codes of BITS
// bits are packed in words, the lowest bits first. Sums are in f32, outputs are rounded once.
//
// Names: <kernel>_<T>_<S>_b<BITS>. Launch shapes are in threadgroups:
//   qmv       W [n, k], one row of x:        64 threads, grid (n / 8 up, m)
//   qmv_wide  W [n, k], up to 4 rows of x:   64 threads, grid (n / 8 up, m / 4 up)
//   qmm_t     W [n, k], many rows of x:     128 threads, grid (n / 32 up, m / 32 up)
//   qvm       W [k, n], few rows of x:      256 threads, grid (words of a row of W / 8 up, m)
//   qmm_n     W [k, n], many rows of x:     128 threads, grid (n / 32 up, m / 32 up)
// A row of W is a whole number of groups, a group a multiple of 32 elements: nothing below ever splits a word.

#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

constant uint GROUP_SIZE [[function_constant(0)]];

struct QuantizedMatmulShape {
    uint m;
    uint n;
    uint k;
};

constant constexpr uint LANES = 32;

template <uint BITS>
constexpr uint codes_per_word() {
    return 32 / BITS;
}

// Code i of a word.
template <uint BITS>
inline float code(uint word, uint i) {
    return float(word >> (i * BITS) & ((1u << BITS) - 1));
}

// Asked of the bits, since fast-math may take every number for finite.
inline bool is_finite(float v) {
    return (as_type<uint>(v) & 0x7f800000u) != 0x7f800000u;
}

// --- few rows of x, W [n, k] ----------------------------------------------------------------------------------------

// A simdgroup makes OUT_ROWS outputs for each of ROWS rows of x. Each lane takes two words of a row of W at a time, and the
// elements of x that belong to them; these are read once for all OUT_ROWS. The sum of code * scale + bias times x is
// scale * sum(code * x) + bias * sum(x). Codes are masked out of half-words but not shifted: x carries the inverse power of
// two instead.
constant constexpr uint OUT_ROWS = 4;
constant constexpr uint SIMDGROUPS = 2;
constant constexpr uint LANE_WORDS = 2;

// sum(code * x) over the codes of LANE_WORDS words, `x` being scaled as `load_scaled` does.
template <uint BITS>
inline float dot_codes(thread const uint *words, thread const float *x) {
    constexpr uint PER_HALF = 16 / BITS;
    constexpr uint MASK = (1u << BITS) - 1;
    float sum = 0;
    for (uint w = 0; w < LANE_WORDS; w++) {
        for (uint h = 0; h < 2; h++) {
            const uint half_word = words[w] >> (16 * h);
            for (uint i = 0; i < PER_HALF; i++) {
                sum += float(half_word & (MASK << (BITS * i))) * x[(w * 2 + h) * PER_HALF + i];
            }
        }
    }
    return sum;
}

// Reads COUNT elements of a row of x into `scaled`, code i of a half-word divided by 2^(BITS * i), and gives their sum.
template <typename T, uint BITS, uint COUNT>
inline float load_scaled(device const T *x, thread float *scaled) {
    constexpr uint PER_HALF = 16 / BITS;
    float sum = 0;
    for (uint i = 0; i < COUNT; i++) {
        const float v = float(x[i]);
        sum += v;
        scaled[i] = v * (1.0f / float(1u << (BITS * (i % PER_HALF))));
    }
    return sum;
}

// The same sum of products with every weight made first: infinities in x then meet the weight itself, not its parts.
template <typename T, uint BITS, uint COUNT>
inline float dot_weights(thread const uint *words, device const T *x, float scale, float bias) {
    constexpr uint PER_WORD = codes_per_word<BITS>();
    float sum = 0;
    for (uint i = 0; i < COUNT; i++) {
        sum += fma(code<BITS>(words[i / PER_WORD], i % PER_WORD), scale, bias) * float(x[i]);
    }
    return sum;
}

template <typename T, typename S, uint BITS, uint ROWS>
inline void matvec(device const T *x,
                   device const uint *weight,
                   device const S *scales,
                   device const S *biases,
                   device T *output,
                   constant QuantizedMatmulShape &p,
                   uint2 group,
                   uint simdgroup,
                   uint lane) {
    constexpr uint PER_WORD = codes_per_word<BITS>();
    constexpr uint COUNT = LANE_WORDS * PER_WORD;
    const uint first_out = (group.x * SIMDGROUPS + simdgroup) * OUT_ROWS;
    const uint first_row = group.y * ROWS;
    if (first_out >= p.n) {
        return;
    }
    const size_t row_words = p.k / PER_WORD;
    const size_t row_groups = p.k / GROUP_SIZE;

    float total[ROWS][OUT_ROWS];
    for (uint r = 0; r < ROWS; r++) {
        for (uint o = 0; o < OUT_ROWS; o++) {
            total[r][o] = 0;
        }
    }
    for (uint k = lane * COUNT; k < p.k; k += LANES * COUNT) {
        float scaled[ROWS][COUNT];
        float sum[ROWS];
        bool finite = true;
        for (uint r = 0; r < ROWS; r++) {
            // Rows beyond the last repeat it; nothing is stored for them.
            device const T *row = x + size_t(min(first_row + r, p.m - 1)) * p.k + k;
            sum[r] = load_scaled<T, BITS, COUNT>(row, scaled[r]);
            finite = finite && is_finite(sum[r]);
        }
        for (uint o = 0; o < OUT_ROWS; o++) {
            const size_t out = min(first_out + o, p.n - 1);
            uint words[LANE_WORDS];
            for (uint w = 0; w < LANE_WORDS; w++) {
                words[w] = weight[out * row_words + k / PER_WORD + w];
            }
            const float scale = float(scales[out * row_groups + k / GROUP_SIZE]);
            const float bias = float(biases[out * row_groups + k / GROUP_SIZE]);
            for (uint r = 0; r < ROWS; r++) {
                if (finite) {
                    total[r][o] += scale * dot_codes<BITS>(words, scaled[r]) + bias * sum[r];
                } else {
                    device const T *row = x + size_t(min(first_row + r, p.m - 1)) * p.k + k;
                    total[r][o] += dot_weights<T, BITS, COUNT>(words, row, scale, bias);
                }
            }
        }
    }
    for (uint r = 0; r < ROWS; r++) {
        for (uint o = 0; o < OUT_ROWS; o++) {
            const float value = simd_sum(total[r][o]);
            if (lane == 0 && first_row + r < p.m && first_out + o < p.n) {
                output[size_t(first_row + r) * p.n + first_out + o] = T(value);
            }
        }
    }
}

template <typename T, typename S, uint BITS>
[[kernel]] void qmv(device const T *x [[buffer(0)]],
                    device const uint *weight [[buffer(1)]],
                    device const S *scales [[buffer(2)]],
                    device const S *biases [[buffer(3)]],
                    device T *output [[buffer(4)]],
                    constant QuantizedMatmulShape &p [[buffer(5)]],
                    uint2 group [[threadgroup_position_in_grid]],
                    uint simdgroup [[simdgroup_index_in_threadgroup]],
                    uint lane [[thread_index_in_simdgroup]]) {
    matvec<T, S, BITS, 1>(x, weight, scales, biases, output, p, group, simdgroup, lane);
}

template <typename T, typename S, uint BITS>
[[kernel]] void qmv_wide(device const T *x [[buffer(0)]],
                         device const uint *weight [[buffer(1)]],
                         device const S *scales [[buffer(2)]],
                         device const S *biases [[buffer(3)]],
                         device T *output [[buffer(4)]],
                         constant QuantizedMatmulShape &p [[buffer(5)]],
                         uint2 group [[threadgroup_position_in_grid]],
                         uint simdgroup [[simdgroup_index_in_threadgroup]],
                         uint lane [[thread_index_in_simdgroup]]) {
    matvec<T, S, BITS, 4>(x, weight, scales, biases, output, p, group, simdgroup, lane);
}

// --- few rows of x, W [k, n] ----------------------------------------------------------------------------------------

// A threadgroup makes the outputs of COLUMN_WORDS words of a row of W; its 32 quarters of simdgroups, COLUMN_WORDS lanes
// each, take every 32nd row of W. Their sums meet in threadgroup memory.
constant constexpr uint COLUMN_WORDS = 8;
constant constexpr uint SLICES = 32;

template <typename T, typename S, uint BITS>
[[kernel]] void qvm(device const T *x [[buffer(0)]],
                    device const uint *weight [[buffer(1)]],
                    device const S *scales [[buffer(2)]],
                    device const S *biases [[buffer(3)]],
                    device T *output [[buffer(4)]],
                    constant QuantizedMatmulShape &p [[buffer(5)]],
                    uint2 group [[threadgroup_position_in_grid]],
                    uint thread_index [[thread_index_in_threadgroup]]) {
    constexpr uint PER_WORD = codes_per_word<BITS>();
    constexpr uint COLUMNS = COLUMN_WORDS * PER_WORD;
    threadgroup float partial[SLICES * COLUMNS];

    const uint column_word = thread_index % COLUMN_WORDS;
    const uint slice = thread_index / COLUMN_WORDS;
    const size_t row_words = p.n / PER_WORD;
    const size_t row_groups = p.n / GROUP_SIZE;
    const uint word = group.x * COLUMN_WORDS + column_word;

    float total[PER_WORD];
    for (uint i = 0; i < PER_WORD; i++) {
        total[i] = 0;
    }
    if (word < row_words) {
        const size_t scale_column = word * PER_WORD / GROUP_SIZE;
        for (size_t k = slice; k < p.k; k += SLICES) {
            const float v = float(x[group.y * size_t(p.k) + k]);
            const uint codes = weight[k * row_words + word];
            const float scale = float(scales[k * row_groups + scale_column]);
            const float bias = float(biases[k * row_groups + scale_column]);
            for (uint i = 0; i < PER_WORD; i++) {
                total[i] += fma(code<BITS>(codes, i), scale, bias) * v;
            }
        }
    }
    for (uint i = 0; i < PER_WORD; i++) {
        partial[slice * COLUMNS + column_word * PER_WORD + i] = total[i];
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const uint column = group.x * COLUMNS + thread_index;
    if (thread_index < COLUMNS && column < p.n) {
        float sum = 0;
        for (uint s = 0; s < SLICES; s++) {
            sum += partial[s * COLUMNS + thread_index];
        }
        output[group.y * size_t(p.n) + column] = T(sum);
    }
}

// --- many rows of x -------------------------------------------------------------------------------------------------

// A threadgroup of 4 simdgroups makes TILE x TILE outputs, TILE elements of k at a time: x and the dequantised weights go
// to threadgroup memory, padded with zeros beyond m, n and k; each simdgroup multiplies one quarter, 2 x 2 matrices of 8 x 8.
constant constexpr uint TILE = 32;
// Elements from one row of a tile to the next: not a power of two, for the sake of the memory banks.
constant constexpr uint TILE_STRIDE = TILE + 4;
// Consecutive elements of a row of a tile that one thread fills: 4 threads for each of the 32 rows.
constant constexpr uint RUN = 8;

// Fills a thread's RUN elements of a tile of weights from the word `words` points to, or with zeros.
template <typename S, uint BITS>
inline void fill_weights(threadgroup float *run,
                         device const uint *words,
                         device const S *scale,
                         device const S *bias,
                         bool inside) {
    constexpr uint PER_WORD = codes_per_word<BITS>();
    if (!inside) {
        for (uint i = 0; i < RUN; i++) {
            run[i] = 0;
        }
        return;
    }
    const float s = float(*scale);
    const float b = float(*bias);
    for (uint w = 0; w < RUN / PER_WORD; w++) {
        const uint word = words[w];
        for (uint i = 0; i < PER_WORD; i++) {
            run[w * PER_WORD + i] = fma(code<BITS>(word, i), s, b);
        }
    }
}

template <typename T, typename S, uint BITS, bool TRANSPOSED>
inline void matmul_tile(device const T *x,
                        device const uint *weight,
                        device const S *scales,
                        device const S *biases,
                        device T *output,
                        constant QuantizedMatmulShape &p,
                        threadgroup float *x_tile,
                        threadgroup float *w_tile,
                        uint2 group,
                        uint thread_index,
                        uint simdgroup) {
    constexpr uint PER_WORD = codes_per_word<BITS>();
    const uint first_column = group.x * TILE;
    const uint first_row = group.y * TILE;
    const uint row = thread_index / 4;
    const uint run = thread_index % 4 * RUN;
    const uint quarter_row = simdgroup / 2 * 16;
    const uint quarter_column = simdgroup % 2 * 16;
    // A row of W is k long, or n long.
    const size_t row_length = TRANSPOSED ? p.k : p.n;
    const size_t row_words = row_length / PER_WORD;
    const size_t row_groups = row_length / GROUP_SIZE;

    simdgroup_matrix<float, 8, 8> total[2][2];
    for (uint i = 0; i < 2; i++) {
        for (uint j = 0; j < 2; j++) {
            total[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        }
    }
    for (uint k = 0; k < p.k; k += TILE) {
        const bool row_inside = first_row + row < p.m;
        device const T *x_run = x + size_t(first_row + row) * p.k + k + run;
        for (uint i = 0; i < RUN; i++) {
            x_tile[row * TILE_STRIDE + run + i] = row_inside && k + run + i < p.k ? float(x_run[i]) : 0.0f;
        }
        // Transposed: tile row = column of the output, tile column = k. Otherwise tile row = k.
        const size_t w_row = (TRANSPOSED ? first_column : k) + row;
        const size_t w_column = (TRANSPOSED ? k : first_column) + run;
        const bool inside = w_row < (TRANSPOSED ? p.n : p.k) && w_column < row_length;
        const size_t at = w_row * row_groups + w_column / GROUP_SIZE;
        fill_weights<S, BITS>(w_tile + row * TILE_STRIDE + run,
                              weight + w_row * row_words + w_column / PER_WORD,
                              scales + at,
                              biases + at,
                              inside);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint step = 0; step < TILE; step += 8) {
            simdgroup_matrix<float, 8, 8> a[2];
            simdgroup_matrix<float, 8, 8> b[2];
            for (uint i = 0; i < 2; i++) {
                simdgroup_load(a[i], x_tile + (quarter_row + 8 * i) * TILE_STRIDE + step, TILE_STRIDE);
                if (TRANSPOSED) {
                    simdgroup_load(b[i], w_tile + (quarter_column + 8 * i) * TILE_STRIDE + step, TILE_STRIDE,
                                   ulong2(0, 0), true);
                } else {
                    simdgroup_load(b[i], w_tile + step * TILE_STRIDE + quarter_column + 8 * i, TILE_STRIDE);
                }
            }
            for (uint i = 0; i < 2; i++) {
                for (uint j = 0; j < 2; j++) {
                    simdgroup_multiply_accumulate(total[i][j], a[i], b[j], total[i][j]);
                }
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    // Through the tile of x, which is no longer needed, to rounded outputs inside m and n.
    for (uint i = 0; i < 2; i++) {
        for (uint j = 0; j < 2; j++) {
            simdgroup_store(total[i][j], x_tile + (quarter_row + 8 * i) * TILE_STRIDE + quarter_column + 8 * j,
                            TILE_STRIDE);
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = 0; i < RUN; i++) {
        if (first_row + row < p.m && first_column + run + i < p.n) {
            output[size_t(first_row + row) * p.n + first_column + run + i] = T(x_tile[row * TILE_STRIDE + run + i]);
        }
    }
}

template <typename T, typename S, uint BITS>
[[kernel]] void qmm_t(device const T *x [[buffer(0)]],
                      device const uint *weight [[buffer(1)]],
                      device const S *scales [[buffer(2)]],
                      device const S *biases [[buffer(3)]],
                      device T *output [[buffer(4)]],
                      constant QuantizedMatmulShape &p [[buffer(5)]],
                      uint2 group [[threadgroup_position_in_grid]],
                      uint thread_index [[thread_index_in_threadgroup]],
                      uint simdgroup [[simdgroup_index_in_threadgroup]]) {
    threadgroup float x_tile[TILE * TILE_STRIDE];
    threadgroup float w_tile[TILE * TILE_STRIDE];
    matmul_tile<T, S, BITS, true>(x, weight, scales, biases, output, p, x_tile, w_tile, group, thread_index, simdgroup);
}

template <typename T, typename S, uint BITS>
[[kernel]] void qmm_n(device const T *x [[buffer(0)]],
                      device const uint *weight [[buffer(1)]],
                      device const S *scales [[buffer(2)]],
                      device const S *biases [[buffer(3)]],
                      device T *output [[buffer(4)]],
                      constant QuantizedMatmulShape &p [[buffer(5)]],
                      uint2 group [[threadgroup_position_in_grid]],
                      uint thread_index [[thread_index_in_threadgroup]],
                      uint simdgroup [[simdgroup_index_in_threadgroup]]) {
    threadgroup float x_tile[TILE * TILE_STRIDE];
    threadgroup float w_tile[TILE * TILE_STRIDE];
    matmul_tile<T, S, BITS, false>(x, weight, scales, biases, output, p, x_tile, w_tile, group, thread_index, simdgroup);
}

template [[host_name("qmv_f32_f32_b4")]] [[kernel]] decltype(qmv<float, float, 4>) qmv<float, float, 4>;
template [[host_name("qmv_f32_f32_b8")]] [[kernel]] decltype(qmv<float, float, 8>) qmv<float, float, 8>;
template [[host_name("qmv_f32_f16_b4")]] [[kernel]] decltype(qmv<float, half, 4>) qmv<float, half, 4>;
template [[host_name("qmv_f32_f16_b8")]] [[kernel]] decltype(qmv<float, half, 8>) qmv<float, half, 8>;
template [[host_name("qmv_f32_bf16_b4")]] [[kernel]] decltype(qmv<float, bfloat, 4>) qmv<float, bfloat, 4>;
template [[host_name("qmv_f32_bf16_b8")]] [[kernel]] decltype(qmv<float, bfloat, 8>) qmv<float, bfloat, 8>;
template [[host_name("qmv_f16_f32_b4")]] [[kernel]] decltype(qmv<half, float, 4>) qmv<half, float, 4>;
template [[host_name("qmv_f16_f32_b8")]] [[kernel]] decltype(qmv<half, float, 8>) qmv<half, float, 8>;
template [[host_name("qmv_f16_f16_b4")]] [[kernel]] decltype(qmv<half, half, 4>) qmv<half, half, 4>;
template [[host_name("qmv_f16_f16_b8")]] [[kernel]] decltype(qmv<half, half, 8>) qmv<half, half, 8>;
template [[host_name("qmv_f16_bf16_b4")]] [[kernel]] decltype(qmv<half, bfloat, 4>) qmv<half, bfloat, 4>;
template [[host_name("qmv_f16_bf16_b8")]] [[kernel]] decltype(qmv<half, bfloat, 8>) qmv<half, bfloat, 8>;
template [[host_name("qmv_bf16_f32_b4")]] [[kernel]] decltype(qmv<bfloat, float, 4>) qmv<bfloat, float, 4>;
template [[host_name("qmv_bf16_f32_b8")]] [[kernel]] decltype(qmv<bfloat, float, 8>) qmv<bfloat, float, 8>;
template [[host_name("qmv_bf16_f16_b4")]] [[kernel]] decltype(qmv<bfloat, half, 4>) qmv<bfloat, half, 4>;
template [[host_name("qmv_bf16_f16_b8")]] [[kernel]] decltype(qmv<bfloat, half, 8>) qmv<bfloat, half, 8>;
template [[host_name("qmv_bf16_bf16_b4")]] [[kernel]] decltype(qmv<bfloat, bfloat, 4>) qmv<bfloat, bfloat, 4>;
template [[host_name("qmv_bf16_bf16_b8")]] [[kernel]] decltype(qmv<bfloat, bfloat, 8>) qmv<bfloat, bfloat, 8>;

template [[host_name("qmv_wide_f32_f32_b4")]] [[kernel]] decltype(qmv_wide<float, float, 4>) qmv_wide<float, float, 4>;
template [[host_name("qmv_wide_f32_f32_b8")]] [[kernel]] decltype(qmv_wide<float, float, 8>) qmv_wide<float, float, 8>;
template [[host_name("qmv_wide_f32_f16_b4")]] [[kernel]] decltype(qmv_wide<float, half, 4>) qmv_wide<float, half, 4>;
template [[host_name("qmv_wide_f32_f16_b8")]] [[kernel]] decltype(qmv_wide<float, half, 8>) qmv_wide<float, half, 8>;
template [[host_name("qmv_wide_f32_bf16_b4")]] [[kernel]] decltype(qmv_wide<float, bfloat, 4>) qmv_wide<float, bfloat, 4>;
template [[host_name("qmv_wide_f32_bf16_b8")]] [[kernel]] decltype(qmv_wide<float, bfloat, 8>) qmv_wide<float, bfloat, 8>;
template [[host_name("qmv_wide_f16_f32_b4")]] [[kernel]] decltype(qmv_wide<half, float, 4>) qmv_wide<half, float, 4>;
template [[host_name("qmv_wide_f16_f32_b8")]] [[kernel]] decltype(qmv_wide<half, float, 8>) qmv_wide<half, float, 8>;
template [[host_name("qmv_wide_f16_f16_b4")]] [[kernel]] decltype(qmv_wide<half, half, 4>) qmv_wide<half, half, 4>;
template [[host_name("qmv_wide_f16_f16_b8")]] [[kernel]] decltype(qmv_wide<half, half, 8>) qmv_wide<half, half, 8>;
template [[host_name("qmv_wide_f16_bf16_b4")]] [[kernel]] decltype(qmv_wide<half, bfloat, 4>) qmv_wide<half, bfloat, 4>;
template [[host_name("qmv_wide_f16_bf16_b8")]] [[kernel]] decltype(qmv_wide<half, bfloat, 8>) qmv_wide<half, bfloat, 8>;
template [[host_name("qmv_wide_bf16_f32_b4")]] [[kernel]] decltype(qmv_wide<bfloat, float, 4>) qmv_wide<bfloat, float, 4>;
template [[host_name("qmv_wide_bf16_f32_b8")]] [[kernel]] decltype(qmv_wide<bfloat, float, 8>) qmv_wide<bfloat, float, 8>;
template [[host_name("qmv_wide_bf16_f16_b4")]] [[kernel]] decltype(qmv_wide<bfloat, half, 4>) qmv_wide<bfloat, half, 4>;
template [[host_name("qmv_wide_bf16_f16_b8")]] [[kernel]] decltype(qmv_wide<bfloat, half, 8>) qmv_wide<bfloat, half, 8>;
template [[host_name("qmv_wide_bf16_bf16_b4")]] [[kernel]] decltype(qmv_wide<bfloat, bfloat, 4>) qmv_wide<bfloat, bfloat, 4>;
template [[host_name("qmv_wide_bf16_bf16_b8")]] [[kernel]] decltype(qmv_wide<bfloat, bfloat, 8>) qmv_wide<bfloat, bfloat, 8>;

template [[host_name("qmm_t_f32_f32_b4")]] [[kernel]] decltype(qmm_t<float, float, 4>) qmm_t<float, float, 4>;
template [[host_name("qmm_t_f32_f32_b8")]] [[kernel]] decltype(qmm_t<float, float, 8>) qmm_t<float, float, 8>;
template [[host_name("qmm_t_f32_f16_b4")]] [[kernel]] decltype(qmm_t<float, half, 4>) qmm_t<float, half, 4>;
template [[host_name("qmm_t_f32_f16_b8")]] [[kernel]] decltype(qmm_t<float, half, 8>) qmm_t<float, half, 8>;
template [[host_name("qmm_t_f32_bf16_b4")]] [[kernel]] decltype(qmm_t<float, bfloat, 4>) qmm_t<float, bfloat, 4>;
template [[host_name("qmm_t_f32_bf16_b8")]] [[kernel]] decltype(qmm_t<float, bfloat, 8>) qmm_t<float, bfloat, 8>;
template [[host_name("qmm_t_f16_f32_b4")]] [[kernel]] decltype(qmm_t<half, float, 4>) qmm_t<half, float, 4>;
template [[host_name("qmm_t_f16_f32_b8")]] [[kernel]] decltype(qmm_t<half, float, 8>) qmm_t<half, float, 8>;
template [[host_name("qmm_t_f16_f16_b4")]] [[kernel]] decltype(qmm_t<half, half, 4>) qmm_t<half, half, 4>;
template [[host_name("qmm_t_f16_f16_b8")]] [[kernel]] decltype(qmm_t<half, half, 8>) qmm_t<half, half, 8>;
template [[host_name("qmm_t_f16_bf16_b4")]] [[kernel]] decltype(qmm_t<half, bfloat, 4>) qmm_t<half, bfloat, 4>;
template [[host_name("qmm_t_f16_bf16_b8")]] [[kernel]] decltype(qmm_t<half, bfloat, 8>) qmm_t<half, bfloat, 8>;
template [[host_name("qmm_t_bf16_f32_b4")]] [[kernel]] decltype(qmm_t<bfloat, float, 4>) qmm_t<bfloat, float, 4>;
template [[host_name("qmm_t_bf16_f32_b8")]] [[kernel]] decltype(qmm_t<bfloat, float, 8>) qmm_t<bfloat, float, 8>;
template [[host_name("qmm_t_bf16_f16_b4")]] [[kernel]] decltype(qmm_t<bfloat, half, 4>) qmm_t<bfloat, half, 4>;
template [[host_name("qmm_t_bf16_f16_b8")]] [[kernel]] decltype(qmm_t<bfloat, half, 8>) qmm_t<bfloat, half, 8>;
template [[host_name("qmm_t_bf16_bf16_b4")]] [[kernel]] decltype(qmm_t<bfloat, bfloat, 4>) qmm_t<bfloat, bfloat, 4>;
template [[host_name("qmm_t_bf16_bf16_b8")]] [[kernel]] decltype(qmm_t<bfloat, bfloat, 8>) qmm_t<bfloat, bfloat, 8>;

template [[host_name("qvm_f32_f32_b4")]] [[kernel]] decltype(qvm<float, float, 4>) qvm<float, float, 4>;
template [[host_name("qvm_f32_f32_b8")]] [[kernel]] decltype(qvm<float, float, 8>) qvm<float, float, 8>;
template [[host_name("qvm_f32_f16_b4")]] [[kernel]] decltype(qvm<float, half, 4>) qvm<float, half, 4>;
template [[host_name("qvm_f32_f16_b8")]] [[kernel]] decltype(qvm<float, half, 8>) qvm<float, half, 8>;
template [[host_name("qvm_f32_bf16_b4")]] [[kernel]] decltype(qvm<float, bfloat, 4>) qvm<float, bfloat, 4>;
template [[host_name("qvm_f32_bf16_b8")]] [[kernel]] decltype(qvm<float, bfloat, 8>) qvm<float, bfloat, 8>;
template [[host_name("qvm_f16_f32_b4")]] [[kernel]] decltype(qvm<half, float, 4>) qvm<half, float, 4>;
template [[host_name("qvm_f16_f32_b8")]] [[kernel]] decltype(qvm<half, float, 8>) qvm<half, float, 8>;
template [[host_name("qvm_f16_f16_b4")]] [[kernel]] decltype(qvm<half, half, 4>) qvm<half, half, 4>;
template [[host_name("qvm_f16_f16_b8")]] [[kernel]] decltype(qvm<half, half, 8>) qvm<half, half, 8>;
template [[host_name("qvm_f16_bf16_b4")]] [[kernel]] decltype(qvm<half, bfloat, 4>) qvm<half, bfloat, 4>;
template [[host_name("qvm_f16_bf16_b8")]] [[kernel]] decltype(qvm<half, bfloat, 8>) qvm<half, bfloat, 8>;
template [[host_name("qvm_bf16_f32_b4")]] [[kernel]] decltype(qvm<bfloat, float, 4>) qvm<bfloat, float, 4>;
template [[host_name("qvm_bf16_f32_b8")]] [[kernel]] decltype(qvm<bfloat, float, 8>) qvm<bfloat, float, 8>;
template [[host_name("qvm_bf16_f16_b4")]] [[kernel]] decltype(qvm<bfloat, half, 4>) qvm<bfloat, half, 4>;
template [[host_name("qvm_bf16_f16_b8")]] [[kernel]] decltype(qvm<bfloat, half, 8>) qvm<bfloat, half, 8>;
template [[host_name("qvm_bf16_bf16_b4")]] [[kernel]] decltype(qvm<bfloat, bfloat, 4>) qvm<bfloat, bfloat, 4>;
template [[host_name("qvm_bf16_bf16_b8")]] [[kernel]] decltype(qvm<bfloat, bfloat, 8>) qvm<bfloat, bfloat, 8>;

template [[host_name("qmm_n_f32_f32_b4")]] [[kernel]] decltype(qmm_n<float, float, 4>) qmm_n<float, float, 4>;
template [[host_name("qmm_n_f32_f32_b8")]] [[kernel]] decltype(qmm_n<float, float, 8>) qmm_n<float, float, 8>;
template [[host_name("qmm_n_f32_f16_b4")]] [[kernel]] decltype(qmm_n<float, half, 4>) qmm_n<float, half, 4>;
template [[host_name("qmm_n_f32_f16_b8")]] [[kernel]] decltype(qmm_n<float, half, 8>) qmm_n<float, half, 8>;
template [[host_name("qmm_n_f32_bf16_b4")]] [[kernel]] decltype(qmm_n<float, bfloat, 4>) qmm_n<float, bfloat, 4>;
template [[host_name("qmm_n_f32_bf16_b8")]] [[kernel]] decltype(qmm_n<float, bfloat, 8>) qmm_n<float, bfloat, 8>;
template [[host_name("qmm_n_f16_f32_b4")]] [[kernel]] decltype(qmm_n<half, float, 4>) qmm_n<half, float, 4>;
template [[host_name("qmm_n_f16_f32_b8")]] [[kernel]] decltype(qmm_n<half, float, 8>) qmm_n<half, float, 8>;
template [[host_name("qmm_n_f16_f16_b4")]] [[kernel]] decltype(qmm_n<half, half, 4>) qmm_n<half, half, 4>;
template [[host_name("qmm_n_f16_f16_b8")]] [[kernel]] decltype(qmm_n<half, half, 8>) qmm_n<half, half, 8>;
template [[host_name("qmm_n_f16_bf16_b4")]] [[kernel]] decltype(qmm_n<half, bfloat, 4>) qmm_n<half, bfloat, 4>;
template [[host_name("qmm_n_f16_bf16_b8")]] [[kernel]] decltype(qmm_n<half, bfloat, 8>) qmm_n<half, bfloat, 8>;
template [[host_name("qmm_n_bf16_f32_b4")]] [[kernel]] decltype(qmm_n<bfloat, float, 4>) qmm_n<bfloat, float, 4>;
template [[host_name("qmm_n_bf16_f32_b8")]] [[kernel]] decltype(qmm_n<bfloat, float, 8>) qmm_n<bfloat, float, 8>;
template [[host_name("qmm_n_bf16_f16_b4")]] [[kernel]] decltype(qmm_n<bfloat, half, 4>) qmm_n<bfloat, half, 4>;
template [[host_name("qmm_n_bf16_f16_b8")]] [[kernel]] decltype(qmm_n<bfloat, half, 8>) qmm_n<bfloat, half, 8>;
template [[host_name("qmm_n_bf16_bf16_b4")]] [[kernel]] decltype(qmm_n<bfloat, bfloat, 4>) qmm_n<bfloat, bfloat, 4>;
template [[host_name("qmm_n_bf16_bf16_b8")]] [[kernel]] decltype(qmm_n<bfloat, bfloat, 8>) qmm_n<bfloat, bfloat, 8>;

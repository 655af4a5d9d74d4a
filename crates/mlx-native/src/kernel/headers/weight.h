// Weights of every format, read in place, a run of sixteen at a time.
//
// A format is a struct F:
//   F::WHOLE        whether rows are whole runs
//   F::HAS_BIAS     whether values have a bias
//   read(row, column, count)  reads the run at `column` of a row, of which `count` elements are inside the row
//   code(i)         the number that element i of the run is, before scale and bias
//   weight(i)       code(i) * scale + bias
//   spread(i)       code(i) times a power of two, where that comes cheaper than the code, and
//   F::gather(i)    the inverse of that power
// A value is code * scale + bias for every format.

#include "floats.h"

// Elements of a group, of affine formats.
constant uint GROUP_SIZE [[function_constant(1)]];
// The dtype of scales and biases, of affine formats.
constant uint SCALE_TYPE [[function_constant(2)]];
// Whether there is a global scale, of nvfp4.
constant bool GLOBAL_SCALE [[function_constant(3)]];

// Whether codes are at multiples of 8 bytes, the codes of each run too: affine formats of 4 and 8 bits, small floats, and
// dense rows of whole runs.
constant bool WIDE_CODES [[function_constant(9)]];

constant constexpr uint RUN = 16;

// `COUNT` words of codes, an even number.
template <uint COUNT>
inline void read_words(device const uchar *p, thread uint *words) {
    if (WIDE_CODES) {
        for (uint i = 0; i < COUNT / 2; i++) {
            const uint2 two = ((device const uint2 *)p)[i];
            words[2 * i] = two.x;
            words[2 * i + 1] = two.y;
        }
    } else {
        for (uint i = 0; i < COUNT; i++) {
            words[i] = ((device const uint *)p)[i];
        }
    }
}

// Where a row of a matrix lies: its codes, its scales, and its biases or the global scale of its matrix.
struct WeightRow {
    device const uchar *codes;
    device const uchar *scales;
    device const uchar *biases;
};

// The row `row` of matrix `matrix`, of `rows` rows each, where rows take these many bytes.
inline WeightRow weight_row(device const uchar *codes,
                            device const uchar *scales,
                            device const uchar *biases,
                            uint matrix,
                            uint rows,
                            uint row,
                            uint codes_stride,
                            uint scales_stride) {
    const size_t index = size_t(matrix) * rows + row;
    WeightRow where;
    where.codes = codes + index * codes_stride;
    where.scales = scales + index * scales_stride;
    where.biases = GLOBAL_SCALE ? biases + size_t(matrix) * 4 : biases + index * scales_stride;
    return where;
}

// Codes of BITS bits, one stream with the lowest bits first; a scale and a bias for each group.
template <uint BITS>
struct Affine {
    static constant constexpr bool WHOLE = true;
    static constant constexpr bool HAS_BIAS = true;
    static constant constexpr uint WORDS = (BITS + 1) / 2;
    static constant constexpr uint MASK = (1u << BITS) - 1;

    uint words[WORDS];
    float scale;
    float bias;

    void read_codes(WeightRow row, uint column) {
        device const uchar *p = row.codes + column / RUN * (2 * BITS);
        if (BITS % 4 == 0) {
            read_words<WORDS>(p, words);
        } else if (BITS % 2 == 0) {
            for (uint i = 0; i < WORDS; i++) {
                words[i] = ((device const uint *)p)[i];
            }
        } else {
            // An odd number of half-words, which may begin within a word.
            device const ushort *halves = (device const ushort *)p;
            for (uint i = 0; i < BITS / 2; i++) {
                words[i] = uint(halves[2 * i]) | uint(halves[2 * i + 1]) << 16;
            }
            words[WORDS - 1] = halves[BITS - 1];
        }
    }

    void read(WeightRow row, uint column, uint) {
        read_codes(row, column);
        scale = float_at(row.scales, SCALE_TYPE, column / GROUP_SIZE);
        bias = float_at(row.biases, SCALE_TYPE, column / GROUP_SIZE);
    }

    float code(uint i) const {
        const uint bit = i * BITS;
        uint value = words[bit / 32] >> (bit % 32);
        if (bit % 32 + BITS > 32) {
            value |= words[bit / 32 + 1] << (32 - bit % 32);
        }
        return float(value & MASK);
    }

    float weight(uint i) const {
        return code(i) * scale + bias;
    }

    // Codes of 2 and 4 bits need no shift within a half-word.
    static constexpr bool is_spread() {
        return BITS == 2 || BITS == 4;
    }

    float spread(uint i) const {
        if (!is_spread()) {
            return code(i);
        }
        const uint half_word = words[i * BITS / 32] >> (i * BITS % 32 / 16 * 16);
        return float(half_word & (MASK << (i * BITS % 16)));
    }

    static float gather(uint i) {
        return is_spread() ? 1.0f / float(1u << (i * BITS % 16)) : 1.0f;
    }
};

// The value of an e2m1 float: as bits of a half its exponent is 14 too small.
inline float float4_value(uint code) {
    return float(as_type<half>(ushort((code & 7) << 9 | (code & 8) << 12))) * 16384.0f;
}

// The value of an e4m3 float: as bits of a half its exponent is 8 too small.
inline float float8_value(uint code) {
    const float value = float(as_type<half>(ushort((code & 127) << 7 | (code & 128) << 8))) * 256.0f;
    return (code & 127) == 127 ? as_type<float>(0x7fc00000u) : value;
}

// The value of an e8m0 scale.
inline float power8_value(uint code) {
    return as_type<float>(code == 0 ? 1u << 22 : code << 23);
}

// 4-bit floats: a power of two for each 32, or for each 16 an 8-bit float and perhaps a global scale.
template <bool NVIDIA>
struct Float4 {
    static constant constexpr bool WHOLE = true;
    static constant constexpr bool HAS_BIAS = false;

    uint words[2];
    float scale;
    float bias;

    void read(WeightRow row, uint column, uint) {
        read_words<2>(row.codes + column / 2, words);
        if (NVIDIA) {
            scale = float8_value(row.scales[column / 16]);
            if (GLOBAL_SCALE) {
                // Relative to the greatest product of a scale and a code.
                scale *= *(device const float *)row.biases / 2688.0f;
            }
        } else {
            scale = power8_value(row.scales[column / 32]);
        }
        bias = 0;
    }

    float code(uint i) const {
        return float4_value(words[i / 8] >> (i % 8 * 4) & 15);
    }

    float weight(uint i) const {
        return code(i) * scale;
    }

    float spread(uint i) const {
        return code(i);
    }

    static float gather(uint) {
        return 1.0f;
    }
};

// 8-bit floats, a power of two for each 32.
struct Float8 {
    static constant constexpr bool WHOLE = true;
    static constant constexpr bool HAS_BIAS = false;

    uint words[4];
    float scale;
    float bias;

    void read(WeightRow row, uint column, uint) {
        read_words<4>(row.codes + column, words);
        scale = power8_value(row.scales[column / 32]);
        bias = 0;
    }

    float code(uint i) const {
        return float8_value(words[i / 4] >> (i % 4 * 8) & 255);
    }

    float weight(uint i) const {
        return code(i) * scale;
    }

    float spread(uint i) const {
        return code(i);
    }

    static float gather(uint) {
        return 1.0f;
    }
};

// Numbers as they are.
template <typename W>
struct Dense {
    static constant constexpr bool WHOLE = false;
    static constant constexpr bool HAS_BIAS = false;

    float values[RUN];
    float scale;
    float bias;

    void read(WeightRow row, uint column, uint count) {
        device const W *p = (device const W *)row.codes + column;
        if (WIDE_CODES) {
            uint words[RUN * sizeof(W) / 4];
            read_words<RUN * sizeof(W) / 4>((device const uchar *)p, words);
            for (uint i = 0; i < RUN; i++) {
                values[i] = element_of(words, i, W(0));
            }
        } else {
            for (uint i = 0; i < RUN; i++) {
                values[i] = i < count ? float(p[i]) : 0.0f;
            }
        }
        scale = 1;
        bias = 0;
    }

    float code(uint i) const {
        return values[i];
    }

    float weight(uint i) const {
        return values[i];
    }

    float spread(uint i) const {
        return values[i];
    }

    static float gather(uint) {
        return 1.0f;
    }
};

#include "ggml.h"

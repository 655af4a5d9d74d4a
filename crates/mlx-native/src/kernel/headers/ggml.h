// The block formats of GGML, for weight.h, which includes this: rows of blocks of 32 or 256 elements, each with its scales.
// Blocks lie at any byte, so that bytes are all that is loaded. A run of sixteen elements has one scale and one bias.

inline float half_at(device const uchar *p) {
    return float(as_type<half>(ushort(uint(p[0]) | uint(p[1]) << 8)));
}

// A format of blocks: B::read fills in the scale, the bias and the codes of the run at a column.
template <typename B>
struct Blocks {
    static constant constexpr bool WHOLE = true;
    static constant constexpr bool HAS_BIAS = B::HAS_BIAS;

    float scale;
    float bias;
    int codes[RUN];

    void read(WeightRow row, uint column, uint) {
        bias = 0;
        B::read(row.codes + size_t(column / B::ELEMENTS) * B::BYTES, column % B::ELEMENTS, &scale, &bias, codes);
    }

    float code(uint i) const {
        return float(codes[i]);
    }

    float weight(uint i) const {
        return B::HAS_BIAS ? code(i) * scale + bias : code(i) * scale;
    }

    float spread(uint i) const {
        return code(i);
    }

    static float gather(uint) {
        return 1.0f;
    }
};

// The low halves of sixteen bytes for the first half of a block of 32, the high ones for the second, less `zero`.
inline void half_bytes(device const uchar *p, uint within, int zero, thread int *codes) {
    const uint shift = within % 32 / 16 * 4;
    for (uint i = 0; i < RUN; i++) {
        codes[i] = int(p[i] >> shift & 15) - zero;
    }
}

// Adds the fifth bits of a block of 32.
inline void fifth_bits(device const uchar *p, uint within, thread int *codes) {
    for (uint i = 0; i < RUN; i++) {
        codes[i] += int(p[(within + i) / 8] >> (within + i) % 8 & 1) << 4;
    }
}

struct Q4_0 {
    static constant constexpr uint ELEMENTS = 32;
    static constant constexpr uint BYTES = 18;
    static constant constexpr bool HAS_BIAS = false;

    static void read(device const uchar *block, uint within, thread float *scale, thread float *, thread int *codes) {
        *scale = half_at(block);
        half_bytes(block + 2, within, 8, codes);
    }
};

struct Q4_1 {
    static constant constexpr uint ELEMENTS = 32;
    static constant constexpr uint BYTES = 20;
    static constant constexpr bool HAS_BIAS = true;

    static void read(device const uchar *block, uint within, thread float *scale, thread float *bias, thread int *codes) {
        *scale = half_at(block);
        *bias = half_at(block + 2);
        half_bytes(block + 4, within, 0, codes);
    }
};

struct Q5_0 {
    static constant constexpr uint ELEMENTS = 32;
    static constant constexpr uint BYTES = 22;
    static constant constexpr bool HAS_BIAS = false;

    static void read(device const uchar *block, uint within, thread float *scale, thread float *, thread int *codes) {
        *scale = half_at(block);
        half_bytes(block + 6, within, 16, codes);
        fifth_bits(block + 2, within, codes);
    }
};

struct Q5_1 {
    static constant constexpr uint ELEMENTS = 32;
    static constant constexpr uint BYTES = 24;
    static constant constexpr bool HAS_BIAS = true;

    static void read(device const uchar *block, uint within, thread float *scale, thread float *bias, thread int *codes) {
        *scale = half_at(block);
        *bias = half_at(block + 2);
        half_bytes(block + 8, within, 0, codes);
        fifth_bits(block + 4, within, codes);
    }
};

struct Q8_0 {
    static constant constexpr uint ELEMENTS = 32;
    static constant constexpr uint BYTES = 34;
    static constant constexpr bool HAS_BIAS = false;

    static void read(device const uchar *block, uint within, thread float *scale, thread float *, thread int *codes) {
        *scale = half_at(block);
        for (uint i = 0; i < RUN; i++) {
            codes[i] = int(as_type<char>(block[2 + within + i]));
        }
    }
};

// Of blocks of 256: `run` of 32 elements, and where the run of sixteen begins in it.
inline void two_bits(device const uchar *p, uint within, thread int *codes) {
    const uint run = within / 32;
    for (uint i = 0; i < RUN; i++) {
        codes[i] = int(p[run / 4 * 32 + within % 32 + i] >> run % 4 * 2 & 3);
    }
}

inline void four_bits(device const uchar *p, uint within, thread int *codes) {
    const uint run = within / 32;
    for (uint i = 0; i < RUN; i++) {
        codes[i] = int(p[run / 2 * 32 + within % 32 + i] >> run % 2 * 4 & 15);
    }
}

struct Q2K {
    static constant constexpr uint ELEMENTS = 256;
    static constant constexpr uint BYTES = 84;
    static constant constexpr bool HAS_BIAS = true;

    static void read(device const uchar *block, uint within, thread float *scale, thread float *bias, thread int *codes) {
        const uint both = block[within / 16];
        *scale = half_at(block + 80) * float(both & 15);
        *bias = -(half_at(block + 82) * float(both >> 4));
        two_bits(block + 16, within, codes);
    }
};

struct Q3K {
    static constant constexpr uint ELEMENTS = 256;
    static constant constexpr uint BYTES = 110;
    static constant constexpr bool HAS_BIAS = false;

    static void read(device const uchar *block, uint within, thread float *scale, thread float *, thread int *codes) {
        device const uchar *packed = block + 96;
        const uint i = within / 16;
        const uint low = packed[i % 8] >> i / 8 * 4 & 15;
        const uint high = packed[8 + i % 4] >> i / 4 * 2 & 3;
        *scale = half_at(block + 108) * (float(low | high << 4) - 32.0f);
        two_bits(block + 32, within, codes);
        for (uint j = 0; j < RUN; j++) {
            const int third = int(block[within % 32 + j] >> within / 32 & 1);
            codes[j] += third * 4 - 4;
        }
    }
};

// Scale and least value `i` of eight, of 6 bits each in 12 bytes.
inline void scale_and_least(device const uchar *block, uint i, thread float *scale, thread float *bias) {
    device const uchar *packed = block + 4;
    uint sixth;
    uint least;
    if (i < 4) {
        sixth = packed[i] & 63;
        least = packed[i + 4] & 63;
    } else {
        const uint both = packed[i + 4];
        sixth = (both & 15) | (uint(packed[i - 4]) >> 2 & 0x30);
        least = both >> 4 | (uint(packed[i]) >> 2 & 0x30);
    }
    *scale = half_at(block) * float(sixth);
    *bias = -(half_at(block + 2) * float(least));
}

struct Q4K {
    static constant constexpr uint ELEMENTS = 256;
    static constant constexpr uint BYTES = 144;
    static constant constexpr bool HAS_BIAS = true;

    static void read(device const uchar *block, uint within, thread float *scale, thread float *bias, thread int *codes) {
        scale_and_least(block, within / 32, scale, bias);
        four_bits(block + 16, within, codes);
    }
};

struct Q5K {
    static constant constexpr uint ELEMENTS = 256;
    static constant constexpr uint BYTES = 176;
    static constant constexpr bool HAS_BIAS = true;

    static void read(device const uchar *block, uint within, thread float *scale, thread float *bias, thread int *codes) {
        scale_and_least(block, within / 32, scale, bias);
        four_bits(block + 48, within, codes);
        for (uint i = 0; i < RUN; i++) {
            codes[i] += int(block[16 + within % 32 + i] >> within / 32 & 1) << 4;
        }
    }
};

struct Q6K {
    static constant constexpr uint ELEMENTS = 256;
    static constant constexpr uint BYTES = 210;
    static constant constexpr bool HAS_BIAS = false;

    static void read(device const uchar *block, uint within, thread float *scale, thread float *, thread int *codes) {
        *scale = half_at(block + 208) * float(as_type<char>(block[192 + within / 16]));
        const uint run = within / 32;
        device const uchar *low = block + run / 4 * 64 + run % 2 * 32 + within % 32;
        device const uchar *high = block + 128 + run / 4 * 32 + within % 32;
        for (uint i = 0; i < RUN; i++) {
            const uint code = (uint(low[i]) >> run % 4 / 2 * 4 & 15) | (uint(high[i]) >> run % 4 * 2 & 3) << 4;
            codes[i] = int(code) - 32;
        }
    }
};

// Sixteen numbers, denser where weights are.
constant constexpr char IQ4_VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

struct Iq4Nl {
    static constant constexpr uint ELEMENTS = 32;
    static constant constexpr uint BYTES = 18;
    static constant constexpr bool HAS_BIAS = false;

    static void read(device const uchar *block, uint within, thread float *scale, thread float *, thread int *codes) {
        *scale = half_at(block);
        half_bytes(block + 2, within, 0, codes);
        for (uint i = 0; i < RUN; i++) {
            codes[i] = int(IQ4_VALUES[codes[i]]);
        }
    }
};

struct Iq4Xs {
    static constant constexpr uint ELEMENTS = 256;
    static constant constexpr uint BYTES = 136;
    static constant constexpr bool HAS_BIAS = false;

    static void read(device const uchar *block, uint within, thread float *scale, thread float *, thread int *codes) {
        const uint run = within / 32;
        const uint low = block[4 + run / 2] >> run % 2 * 4 & 15;
        const uint high = block[2 + run / 4] >> run % 4 * 2 & 3;
        *scale = half_at(block) * (float(low | high << 4) - 32.0f);
        half_bytes(block + 8 + run * 16, within, 0, codes);
        for (uint i = 0; i < RUN; i++) {
            codes[i] = int(IQ4_VALUES[codes[i]]);
        }
    }
};

struct GgmlMxfp4 {
    static constant constexpr uint ELEMENTS = 32;
    static constant constexpr uint BYTES = 17;
    static constant constexpr bool HAS_BIAS = false;

    static void read(device const uchar *block, uint within, thread float *scale, thread float *, thread int *codes) {
        // Half of the power of two, since codes are twice their values.
        const uint e = block[0];
        *scale = as_type<float>(e < 2 ? 0x00200000u << e : (e - 1) << 23);
        half_bytes(block + 1, within, 0, codes);
        for (uint i = 0; i < RUN; i++) {
            codes[i] = int(2.0f * float4_value(uint(codes[i])));
        }
    }
};

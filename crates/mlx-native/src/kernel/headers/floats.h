// Floating-point numbers of a dtype that a function constant says: 0 float, 1 half, 2 bfloat. What is not taken is not
// compiled, and one name serves three dtypes.

inline float float_at(device const uchar *p, uint type, size_t index) {
    if (type == 0) {
        return ((device const float *)p)[index];
    }
    if (type == 1) {
        return float(((device const half *)p)[index]);
    }
    return float(((device const bfloat *)p)[index]);
}

// Number `i` of those that words hold, by type.
inline float element_of(thread const uint *words, uint i, float) {
    return as_type<float>(words[i]);
}

inline float element_of(thread const uint *words, uint i, half) {
    return float(as_type<half>(ushort(words[i / 2] >> (i % 2 * 16))));
}

inline float element_of(thread const uint *words, uint i, bfloat) {
    return as_type<float>(i % 2 == 0 ? words[i / 2] << 16 : words[i / 2] & 0xffff0000u);
}

// `COUNT` numbers, a multiple of 16 bytes of them, of which the first is at a multiple of 16 bytes.
template <typename T, uint COUNT>
inline void wide_elements(device const T *p, thread float *values) {
    uint words[COUNT * sizeof(T) / 4];
    for (uint i = 0; i < COUNT * sizeof(T) / 16; i++) {
        const uint4 four = ((device const uint4 *)p)[i];
        words[4 * i] = four.x;
        words[4 * i + 1] = four.y;
        words[4 * i + 2] = four.z;
        words[4 * i + 3] = four.w;
    }
    for (uint i = 0; i < COUNT; i++) {
        values[i] = element_of(words, i, T(0));
    }
}

// The same of a dtype.
template <uint COUNT>
inline void wide_floats_at(device const uchar *p, uint type, size_t index, thread float *values) {
    if (type == 0) {
        wide_elements<float, COUNT>((device const float *)p + index, values);
    } else if (type == 1) {
        wide_elements<half, COUNT>((device const half *)p + index, values);
    } else {
        wide_elements<bfloat, COUNT>((device const bfloat *)p + index, values);
    }
}

inline void put_float(device uchar *p, uint type, size_t index, float value) {
    if (type == 0) {
        ((device float *)p)[index] = value;
    } else if (type == 1) {
        ((device half *)p)[index] = half(value);
    } else {
        ((device bfloat *)p)[index] = bfloat(value);
    }
}

// A number, rounded to a dtype.
inline float rounded_to(uint type, float value) {
    if (type == 1) {
        return float(half(value));
    }
    return type == 2 ? float(bfloat(value)) : value;
}

// Asked of the bits, since fast-math may take every number for finite.
inline bool is_finite(float v) {
    return (as_type<uint>(v) & 0x7f800000u) != 0x7f800000u;
}

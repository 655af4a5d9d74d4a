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

inline void put_float(device uchar *p, uint type, size_t index, float value) {
    if (type == 0) {
        ((device float *)p)[index] = value;
    } else if (type == 1) {
        ((device half *)p)[index] = half(value);
    } else {
        ((device bfloat *)p)[index] = bfloat(value);
    }
}

// Asked of the bits, since fast-math may take every number for finite.
inline bool is_finite(float v) {
    return (as_type<uint>(v) & 0x7f800000u) != 0x7f800000u;
}

// output[r, c] = f(a[r, c], b[r, c / b_div], c[r, c / c_div]), each row of an operand `stride` elements behind the last.
// Everything is computed in float and rounded once.
//
// Launch: one thread for an element, x = column, y = row; any group size. `output` may be an operand of the same stride:
// each element is read and written by one thread.

#include <metal_stdlib>
using namespace metal;

struct RowwiseParams {
    uint rows;
    uint cols;
    uint a_stride;
    uint b_stride;
    uint c_stride;
    uint output_stride;
    uint b_div;
    uint c_div;
    float p[4];
};

constant uint FUNCTION [[function_constant(0)]];

// exp of a negative number cannot overflow.
inline float sigmoid(float x) {
    const float t = precise::exp(-abs(x));
    return (x < 0.0f ? t : 1.0f) / (1.0f + t);
}

// ln(1 + t) for 0 <= t <= 1: the quotient corrects what 1 + t loses.
inline float log1p_unit(float t) {
    const float u = 1.0f + t;
    return u == 1.0f ? t : precise::log(u) * (t / (u - 1.0f));
}

inline float softplus(float x) {
    return isnan(x) ? x : max(x, 0.0f) + log1p_unit(precise::exp(-abs(x)));
}

// x * Phi(x), by erfc(z) = t exp(-z^2) q(t), t = 1 / (1 + z / 2).
inline float gelu_erf(float x) {
    const float z = abs(x) * 0.70710678f;
    const float t = 1.0f / (1.0f + 0.5f * z);
    float q = -0.0587190613f;
    q = q * t + 0.283136989f;
    q = q * t - 0.484800967f;
    q = q * t + 0.276001182f;
    q = q * t - 0.0256731993f;
    q = q * t + 0.202479577f;
    q = q * t + 0.243109185f;
    q = q * t + 0.282380418f;
    q = q * t + 0.282085841f;
    const float tail = 0.5f * t * q * precise::exp(-z * z);
    return x * (x < 0.0f ? tail : 1.0f - tail);
}

inline float gelu_tanh(float x) {
    return x * sigmoid(1.5957691f * (x + 0.044715f * x * x * x));
}

inline float expm1_negative(float x) {
    // The series where the difference would lose digits.
    if (x > -0.25f) {
        return x * (1.0f + x * (0.5f + x * (0.16666667f + x * (0.041666668f + x * (0.0083333338f + x * 0.0013888889f)))));
    }
    return precise::exp(x) - 1.0f;
}

inline float function_of(float x, float y, float z, constant float *p) {
    switch (FUNCTION) {
    case 0: return p[0] * x + p[1];
    case 1: return p[0] * x + p[1] * y;
    case 2: return x * y * p[0];
    case 3: return p[0] * precise::tanh(x / p[0]);
    case 4: return x * sigmoid(x);
    case 5: return gelu_erf(x);
    case 6: return gelu_tanh(x);
    case 7: return max(x, 0.0f) * max(x, 0.0f);
    case 8: return sigmoid(x);
    case 9: return softplus(x);
    case 10: return precise::tanh(x);
    case 11: return x * sigmoid(x) * y;
    case 12: return gelu_erf(x) * y;
    case 13: return gelu_tanh(x) * y;
    case 14: return max(x, 0.0f) * max(x, 0.0f) * y;
    case 15: return sigmoid(x) * y;
    case 16: return softplus(x) * y;
    case 17: {
        const float g = min(x, p[0]);
        return g * sigmoid(p[1] * g) * (clamp(y, -p[0], p[0]) + 1.0f);
    }
    case 18: return min(x * sigmoid(x), p[0]) * clamp(y, -p[0], p[0]);
    case 19: {
        const float g = min(x, p[0]);
        return g * sigmoid(g) * clamp(y, -p[0], p[0]);
    }
    case 20: return x > 0.0f ? p[0] * x * x + p[2] * x : (expm1_negative(min(x, p[3])) - x) * p[1] + p[2] * x;
    case 21: return precise::exp(-precise::exp(z) * softplus(x + y));
    case 22: return precise::exp(p[0] * sigmoid(precise::exp(z) * (x + y)));
    case 23: return clamp(softplus(x + y), p[0], p[1]);
    case 24: return x + (y - x) * z;
    case 25: return precise::exp(-precise::exp(z) * x);
    case 26: return precise::sqrt(max(1.0f - x * x, 0.0f)) * y;
    case 27: return precise::exp(p[0] * sigmoid(x));
    case 28: return precise::exp(p[0] * sigmoid(x) * softplus(y));
    case 29: return max(0.0f, x - (y + p[0] * z));
    case 30: return p[0] * precise::tanh(x / p[0]) * sigmoid(x) * (p[1] * precise::tanh(y / p[1]));
    case 32: return clamp(rint(x / p[0]), p[1], p[2]) * p[0];
    default: return clamp(x, p[0], p[1]);
    }
}

// in place: rowwise(output = a, output = b, output = c)
template <typename T>
[[kernel]] void rowwise(device const T *a [[buffer(0)]],
                        device const T *b [[buffer(1)]],
                        device const T *c [[buffer(2)]],
                        device T *output [[buffer(3)]],
                        constant RowwiseParams &params [[buffer(4)]],
                        uint2 position [[thread_position_in_grid]]) {
    const uint column = position.x;
    const size_t row = position.y;
    const float x = float(a[row * params.a_stride + column]);
    float y = 0.0f;
    float z = 0.0f;
    // Operands that a function does not take are bound to `a`, and not read.
    const bool binary = FUNCTION == 1 || FUNCTION == 2 || (FUNCTION >= 11 && FUNCTION <= 19) ||
                        (FUNCTION >= 21 && FUNCTION <= 26) || (FUNCTION >= 28 && FUNCTION <= 30);
    const bool ternary = FUNCTION == 21 || FUNCTION == 22 || FUNCTION == 24 || FUNCTION == 25 || FUNCTION == 29;
    if (binary) {
        y = float(b[row * params.b_stride + column / params.b_div]);
    }
    if (ternary) {
        z = float(c[row * params.c_stride + column / params.c_div]);
    }
    output[row * params.output_stride + column] = T(function_of(x, y, z, params.p));
}

template [[host_name("rowwise_f32")]] [[kernel]] decltype(rowwise<float>) rowwise<float>;
template [[host_name("rowwise_f16")]] [[kernel]] decltype(rowwise<half>) rowwise<half>;
template [[host_name("rowwise_bf16")]] [[kernel]] decltype(rowwise<bfloat>) rowwise<bfloat>;

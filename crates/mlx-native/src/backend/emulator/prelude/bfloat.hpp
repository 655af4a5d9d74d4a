// bfloat: the upper half of a float. Every operation is done in float and rounded to nearest even.
//
// As in MSL, bfloat becomes float by itself; float and half become bfloat only when told to.
#pragma once

struct bfloat {
  ushort bits;

  bfloat() = default;
  explicit constexpr bfloat(float f) : bits(round(f)) {}
  explicit constexpr bfloat(half f) : bits(round((float)f)) {}
  explicit constexpr bfloat(double f) : bits(round((float)f)) {}
  template <class I, class = metal::enable_if_t<__is_integral(I)>>
  constexpr bfloat(I i) : bits(round((float)i)) {}
  constexpr operator float() const { return __builtin_bit_cast(float, (uint)bits << 16); }

  constexpr bfloat operator-() const { return bfloat(-(float)*this); }
  constexpr bfloat operator+() const { return *this; }
  bfloat& operator++() { return *this = bfloat((float)*this + 1.0f); }
  bfloat& operator--() { return *this = bfloat((float)*this - 1.0f); }

  static constexpr ushort round(float f) {
    const uint u = __builtin_bit_cast(uint, f);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    return nan ? (ushort)((u >> 16) | 0x40u) : (ushort)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
};

#define EMU_IF_INTEGER(I) class I, class = metal::enable_if_t<__is_integral(I)>
#define EMU_BFLOAT_ARITHMETIC(OP)                                                                         \
  constexpr bfloat operator OP(bfloat a, bfloat b) { return bfloat((float)a OP (float)b); }               \
  constexpr float operator OP(bfloat a, float b) { return (float)a OP b; }                                \
  constexpr float operator OP(float a, bfloat b) { return a OP (float)b; }                                \
  template <EMU_IF_INTEGER(I)> constexpr bfloat operator OP(bfloat a, I b) { return a OP bfloat(b); }     \
  template <EMU_IF_INTEGER(I)> constexpr bfloat operator OP(I a, bfloat b) { return bfloat(a) OP b; }     \
  template <class S> constexpr bfloat& operator OP##=(bfloat& a, S b) { return a = bfloat(a OP b); }
EMU_BFLOAT_ARITHMETIC(+)
EMU_BFLOAT_ARITHMETIC(-)
EMU_BFLOAT_ARITHMETIC(*)
EMU_BFLOAT_ARITHMETIC(/)

#define EMU_BFLOAT_COMPARISON(OP)                                                                            \
  constexpr bool operator OP(bfloat a, bfloat b) { return (float)a OP (float)b; }                            \
  constexpr bool operator OP(bfloat a, float b) { return (float)a OP b; }                                    \
  constexpr bool operator OP(float a, bfloat b) { return a OP (float)b; }                                    \
  template <EMU_IF_INTEGER(I)> constexpr bool operator OP(bfloat a, I b) { return (float)a OP (float)b; }    \
  template <EMU_IF_INTEGER(I)> constexpr bool operator OP(I a, bfloat b) { return (float)a OP (float)b; }
EMU_BFLOAT_COMPARISON(<)
EMU_BFLOAT_COMPARISON(>)
EMU_BFLOAT_COMPARISON(<=)
EMU_BFLOAT_COMPARISON(>=)
EMU_BFLOAT_COMPARISON(==)
EMU_BFLOAT_COMPARISON(!=)
#undef EMU_BFLOAT_ARITHMETIC
#undef EMU_BFLOAT_COMPARISON

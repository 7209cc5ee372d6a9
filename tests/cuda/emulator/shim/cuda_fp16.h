// Half precision for emulated kernels: every operation is done in float and rounded once.
#pragma once
static inline float emu_half_to_float(unsigned short h) {
    unsigned sign = unsigned(h & 0x8000) << 16, exp = (h >> 10) & 31, man = h & 1023;
    if (exp == 31) return __uint_as_float(sign | 0x7f800000u | man << 13);
    if (exp == 0) { float v = float(man) * 5.9604644775390625e-8f; return sign ? -v : v; }
    return __uint_as_float(sign | (exp + 112) << 23 | man << 13);
}
static inline unsigned short emu_float_to_half(float f) {
    unsigned b = __float_as_uint(f), sign = (b >> 16) & 0x8000u; b &= 0x7fffffffu;
    if (b > 0x7f800000u) return (unsigned short)(0x7fffu);
    if (b >= 0x477ff000u) return (unsigned short)(sign | 0x7c00u);
    if (b < 0x38800000u) return (unsigned short)(sign | unsigned(nearbyintf(__uint_as_float(b) * 16777216.0f)));
    unsigned odd = (b >> 13) & 1u;
    return (unsigned short)(sign | ((b - 0x38000000u + 0xfffu + odd) >> 13));
}
#define EMU_SMALL_FLOAT(T, TO, FROM) \
    struct T { \
        unsigned short __x; \
        T() = default; \
        template <class V, class = std::enable_if_t<std::is_arithmetic_v<V>>> T(V v) : __x(FROM(float(v))) {} \
        operator float() const { return TO(__x); } \
        T &operator+=(T o) { return *this = T(float(*this) + float(o)); } \
        T &operator-=(T o) { return *this = T(float(*this) - float(o)); } \
        T &operator*=(T o) { return *this = T(float(*this) * float(o)); } \
        T &operator/=(T o) { return *this = T(float(*this) / float(o)); } \
    }; \
    static inline T operator+(T a, T b) { return T(float(a) + float(b)); } \
    static inline T operator-(T a, T b) { return T(float(a) - float(b)); } \
    static inline T operator*(T a, T b) { return T(float(a) * float(b)); } \
    static inline T operator/(T a, T b) { return T(float(a) / float(b)); } \
    static inline T operator-(T a) { a.__x ^= 0x8000; return a; } \
    static inline bool operator==(T a, T b) { return float(a) == float(b); } \
    static inline bool operator!=(T a, T b) { return float(a) != float(b); } \
    static inline bool operator<(T a, T b) { return float(a) < float(b); } \
    static inline bool operator>(T a, T b) { return float(a) > float(b); } \
    static inline bool operator<=(T a, T b) { return float(a) <= float(b); } \
    static inline bool operator>=(T a, T b) { return float(a) >= float(b); } \
    static inline bool __hisnan(T a) { return isnan(float(a)); } \
    static inline T hsqrt(T a) { return T(sqrtf(float(a))); } \
    static inline T hcos(T a) { return T(cosf(float(a))); } \
    static inline T hsin(T a) { return T(sinf(float(a))); } \
    static inline T hlog(T a) { return T(logf(float(a))); } \
    static inline T hexp(T a) { return T(expf(float(a))); } \
    static inline T __habs(T a) { a.__x &= 0x7fff; return a; } \
    static inline T __hmax(T a, T b) { return T(fmaxf(float(a), float(b))); } \
    static inline T __hmin(T a, T b) { return T(fminf(float(a), float(b))); } \
    static inline T __hmax_nan(T a, T b) { return __hisnan(a) ? a : __hisnan(b) ? b : float(a) < float(b) ? b : a; } \
    static inline T __hmin_nan(T a, T b) { return __hisnan(a) ? a : __hisnan(b) ? b : float(b) < float(a) ? b : a; } \
    static inline T __hadd(T a, T b) { return a + b; } \
    static inline T __hsub(T a, T b) { return a - b; } \
    static inline T __hmul(T a, T b) { return a * b; } \
    static inline T __hdiv(T a, T b) { return a / b; } \
    static inline T __hfma(T a, T b, T c) { return T(fmaf(float(a), float(b), float(c))); } \
    struct T##2 { T x, y; }; \
    static inline T##2 __hadd2(T##2 a, T##2 b) { return {a.x + b.x, a.y + b.y}; } \
    static inline T##2 __hsub2(T##2 a, T##2 b) { return {a.x - b.x, a.y - b.y}; } \
    static inline T##2 __hmul2(T##2 a, T##2 b) { return {a.x * b.x, a.y * b.y}; } \
    static inline T##2 __h2div(T##2 a, T##2 b) { return {a.x / b.x, a.y / b.y}; }
EMU_SMALL_FLOAT(__half, emu_half_to_float, emu_float_to_half)
typedef __half half;
typedef __half __half_raw;
static inline __half __float2half(float f) { return __half(f); }
static inline __half __float2half_rn(float f) { return __half(f); }
static inline float __half2float(__half h) { return float(h); }
static inline unsigned short __half_as_ushort(__half h) { return h.__x; }
static inline __half __ushort_as_half(unsigned short u) { __half h; h.__x = u; return h; }

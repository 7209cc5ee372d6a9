// FP8 (e4m3) for emulated kernels: only what candle's sources need to compile, by way of float.
#pragma once
#include "cuda_fp16.h"
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };
typedef unsigned char __nv_fp8_storage_t;
static inline float emu_e4m3_to_float(unsigned char v) {
    int exp = (v >> 3) & 15, man = v & 7;
    float f = exp == 15 && man == 7 ? NAN : exp ? ldexpf(1.0f + float(man) / 8.0f, exp - 7) : ldexpf(float(man) / 8.0f, -6);
    return v & 0x80 ? -f : f;
}
static inline unsigned char emu_float_to_e4m3(float f) {
    unsigned char sign = signbit(f) ? 0x80 : 0; f = fabsf(f);
    if (f != f) return sign | 0x7f;
    if (f >= 448.0f) return sign | 0x7e;
    int exp; frexpf(f, &exp); exp = exp - 1 < -6 ? -6 : exp - 1;
    int steps = int(nearbyintf(ldexpf(f, 3 - exp)));
    if (steps == 16) { steps = 8; exp++; }
    unsigned bits = steps < 8 ? unsigned(steps) : unsigned(exp + 7) << 3 | unsigned(steps - 8);
    return sign | (unsigned char)(bits > 0x7e ? 0x7e : bits);
}
struct __nv_fp8_e4m3 {
    __nv_fp8_storage_t __x;
    __nv_fp8_e4m3() = default;
    template <class V, class = std::enable_if_t<std::is_arithmetic_v<V>>> explicit __nv_fp8_e4m3(V v) : __x(emu_float_to_e4m3(float(v))) {}
    explicit __nv_fp8_e4m3(__half v) : __x(emu_float_to_e4m3(float(v))) {}
    explicit operator float() const { return emu_e4m3_to_float(__x); }
};
static inline __half_raw __nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t x, __nv_fp8_interpretation_t) { return __half(emu_e4m3_to_float(x)); }

// Number formats and one matrix product for the emulated cuBLAS and cuDNN.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

static inline uint32_t bits_of(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
static inline float float_of(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
// To TF32: 10 bits of mantissa, to nearest, ties away from zero (cvt.rna.tf32).
static inline float to_tf32(float f) { uint32_t u = bits_of(f); return (u & 0x7f800000u) == 0x7f800000u ? f : float_of((u + 0x1000u) & ~0x1fffu); }
static inline float from_bf16(uint16_t h) { return float_of(uint32_t(h) << 16); }
static inline uint16_t to_bf16(float f) {
    uint32_t u = bits_of(f);
    return (u & 0x7fffffffu) > 0x7f800000u ? 0x7fff : uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
static inline float from_half(uint16_t h) {
    uint32_t sign = uint32_t(h & 0x8000) << 16, exp = (h >> 10) & 31, man = h & 1023;
    if (exp == 31) return float_of(sign | 0x7f800000u | man << 13);
    if (exp == 0) { float v = float(man) * 5.9604644775390625e-8f; return sign ? -v : v; }
    return float_of(sign | (exp + 112) << 23 | man << 13);
}
static inline uint16_t to_half(float f) {
    uint32_t b = bits_of(f), sign = (b >> 16) & 0x8000u; b &= 0x7fffffffu;
    if (b > 0x7f800000u) return 0x7fff;
    if (b >= 0x477ff000u) return uint16_t(sign | 0x7c00u);
    if (b < 0x38800000u) return uint16_t(sign | uint32_t(nearbyintf(float_of(b) * 16777216.0f)));
    return uint16_t(sign | ((b - 0x38000000u + 0xfffu + ((b >> 13) & 1u)) >> 13));
}

enum Kind { F32, F64, F16, BF16 };
static inline size_t size_of(Kind k) { return k == F32 ? 4 : k == F64 ? 8 : 2; }
static inline float load(const void *p, Kind k, size_t i) {
    switch (k) {
        case F32: return ((const float *)p)[i];
        case F64: return float(((const double *)p)[i]);
        case F16: return from_half(((const uint16_t *)p)[i]);
        default: return from_bf16(((const uint16_t *)p)[i]);
    }
}
static inline void store(void *p, Kind k, size_t i, float v) {
    switch (k) {
        case F32: ((float *)p)[i] = v; break;
        case F64: ((double *)p)[i] = v; break;
        case F16: ((uint16_t *)p)[i] = to_half(v); break;
        default: ((uint16_t *)p)[i] = to_bf16(v);
    }
}
// What is done to a factor before it is multiplied.
enum Rounding { EXACT, TF32, TO_BF16, TO_HALF };
static inline float rounded(float v, Rounding r) { return r == EXACT ? v : r == TF32 ? to_tf32(v) : r == TO_BF16 ? from_bf16(to_bf16(v)) : from_half(to_half(v)); }

// out[j * m + i] = sum over l of a(i, l) * b(l, j), sums in float, l in rising order in runs of 1024.
template <class A, class B> static void multiply(size_t m, size_t n, size_t k, A a, B b, float *out) {
    typedef float V __attribute__((vector_size(32)));
    const size_t MR = 16, NR = 4, KC = 1024;
    size_t mp = (m + MR - 1) / MR, np = (n + NR - 1) / NR;
    std::fill(out, out + m * n, 0.0f);
    float *pa; size_t need = mp * MR * std::min(k, KC) + 16;
    std::vector<float> room(need); pa = (float *)((uintptr_t(room.data()) + 31) / 32 * 32);
    std::vector<float> pb(NR * std::min(k, KC));
    for (size_t k0 = 0; k0 < k; k0 += KC) {
        size_t kc = std::min(KC, k - k0);
        for (size_t p = 0; p < mp; p++)
            for (size_t l = 0; l < kc; l++)
                for (size_t r = 0; r < MR; r++) pa[(p * kc + l) * MR + r] = p * MR + r < m ? a(p * MR + r, k0 + l) : 0.0f;
        for (size_t q = 0; q < np; q++) {
            for (size_t l = 0; l < kc; l++) for (size_t c = 0; c < NR; c++) pb[l * NR + c] = q * NR + c < n ? b(k0 + l, q * NR + c) : 0.0f;
            for (size_t p = 0; p < mp; p++) {
                V acc[NR][2] = {};
                const float *x = pa + p * kc * MR, *y = pb.data();
                for (size_t l = 0; l < kc; l++, x += MR, y += NR) {
                    V x0 = *(const V *)x, x1 = *(const V *)(x + 8);
                    for (size_t c = 0; c < NR; c++) { acc[c][0] += x0 * y[c]; acc[c][1] += x1 * y[c]; }
                }
                for (size_t c = 0; c < NR && q * NR + c < n; c++)
                    for (size_t r = 0; r < MR && p * MR + r < m; r++) out[(q * NR + c) * m + p * MR + r] += acc[c][r / 8][r % 8];
            }
        }
    }
}

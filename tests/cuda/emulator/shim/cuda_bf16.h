// bfloat16 for emulated kernels: every operation is done in float and rounded once.
#pragma once
#include "cuda_fp16.h"
static inline float emu_bf16_to_float(unsigned short h) { return __uint_as_float(unsigned(h) << 16); }
static inline unsigned short emu_float_to_bf16(float f) {
    unsigned b = __float_as_uint(f);
    if ((b & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (unsigned short)((b + 0x7fffu + ((b >> 16) & 1u)) >> 16);
}
EMU_SMALL_FLOAT(__nv_bfloat16, emu_bf16_to_float, emu_float_to_bf16)
typedef __nv_bfloat162 emu_bf162;
static inline __nv_bfloat16 __float2bfloat16(float f) { return __nv_bfloat16(f); }
static inline __nv_bfloat16 __float2bfloat16_rn(float f) { return __nv_bfloat16(f); }
static inline float __bfloat162float(__nv_bfloat16 h) { return float(h); }
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 h) { return h.__x; }
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short u) { __nv_bfloat16 h; h.__x = u; return h; }

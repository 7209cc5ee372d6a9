// The upper half of an f32, rounded to the nearest, and to the even one of two that are equally near; NaN stays NaN.
__device__ __forceinline__ unsigned short bf16(float x) {
    union {
        float number;
        unsigned bits;
    } both = {x};
    unsigned nearest = both.bits + 0x7fffu + (both.bits >> 16 & 1u);
    bool is_nan = (both.bits & 0x7fffffffu) > 0x7f800000u;
    return (unsigned short)((is_nan ? both.bits | 0x00400000u : nearest) >> 16);
}

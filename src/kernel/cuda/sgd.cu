// Momentum SGD of `sgd.rs`, over all parameters of a network at once.
//
// `table` has six words per parameter: where it, its gradient and its velocity lie, how many numbers it has, the first
// block that is its own, and the bits of its learning rate.

#define THREADS 256
#define PER_THREAD 16

// Rounded after each operation, as on the CPU: a fused product and sum would round once.
#ifdef __CUDACC_RTC__
__device__ __forceinline__ float times(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float plus(float a, float b) { return __fadd_rn(a, b); }
#else
__device__ __forceinline__ float times(float a, float b) { volatile float product = a * b; return product; }
__device__ __forceinline__ float plus(float a, float b) { volatile float sum = a + b; return sum; }
#endif

// The parameter that this block works on.
__device__ __forceinline__ const unsigned long long *own(const unsigned long long *table, int parameters) {
    int which = 0;
    while (which + 1 < parameters && table[(which + 1) * 6 + 4] <= blockIdx.x) which++;
    return table + which * 6;
}

extern "C" __global__ void __launch_bounds__(THREADS)
momentum_sgd(const unsigned long long *table, int parameters, float momentum, float decay) {
    const unsigned long long *entry = own(table, parameters);
    float *p = (float *)entry[0];
    const float *g = (const float *)entry[1];
    float *v = (float *)entry[2];
    unsigned long long count = entry[3];
    union { unsigned bits; float value; } rate;
    rate.bits = (unsigned)entry[5];
    unsigned long long first = (blockIdx.x - entry[4]) * (THREADS * PER_THREAD) + threadIdx.x;
    for (int i = 0; i < PER_THREAD; i++) {
        unsigned long long at = first + i * THREADS;
        if (at >= count) return;
        float velocity = plus(times(momentum, v[at]), plus(g[at], times(decay, p[at])));
        v[at] = velocity;
        p[at] = plus(p[at], -times(rate.value, velocity));
    }
}

// Sets `found[i]` to 1 if a number of parameter i is infinite or NaN.
extern "C" __global__ void __launch_bounds__(THREADS)
not_finite(const unsigned long long *table, int parameters, unsigned *found) {
    const unsigned long long *entry = own(table, parameters);
    const unsigned *p = (const unsigned *)entry[0];
    unsigned long long count = entry[3];
    unsigned long long first = (blockIdx.x - entry[4]) * (THREADS * PER_THREAD) + threadIdx.x;
    bool bad = false;
    for (int i = 0; i < PER_THREAD; i++) {
        unsigned long long at = first + i * THREADS;
        if (at < count) bad |= (p[at] & 0x7F800000u) == 0x7F800000u;
    }
    if (bad) atomicOr(found + (entry - table) / 6, 1u);
}

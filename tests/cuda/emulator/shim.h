// Stands before every CUDA source that the emulator compiles: the language's words as C++17.
// The source is preprocessed with this, then compile.cpp adds a trampoline for each kernel.
#pragma once
#include "emu.h"
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>
#include <algorithm>

#define EMU_HIDDEN __attribute__((visibility("hidden")))
EMU_HIDDEN alignas(1024) inline char emu_dynamic[232448 + 1024] = {};
EMU_HIDDEN inline EmuState emu_state = {{}, {}, {}, {}, emu_dynamic, 232448, 0, 0, 0, 0, 0, 0, 0, 0};

#define threadIdx emu_state.thread
#define blockIdx emu_state.block
#define blockDim emu_state.block_dim
#define gridDim emu_state.grid_dim
#define warpSize 32

#define __device__
#define __host__
#define __constant__ static
#define __managed__ static
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...) __attribute__((emu_launch_bounds(__VA_ARGS__)))
#define __global__ __attribute__((emu_global, visibility("default"), used))
#define __grid_constant__
#undef assert
#define assert(c) ((c) ? (void)0 : emu_state.trap("assertion failed: " #c, __FILE__, __LINE__))
#define __trap() emu_state.trap("__trap", __FILE__, __LINE__)
#define __builtin_assume(c) assert(c)

// ---- barriers and warps ----
#define __syncthreads() ((void)emu_state.barrier(__LINE__, 0, 0))
#define __syncthreads_count(p) (emu_state.barrier(__LINE__, 1, (p) != 0))
#define __syncthreads_and(p) (emu_state.barrier(__LINE__, 2, (p) != 0))
#define __syncthreads_or(p) (emu_state.barrier(__LINE__, 3, (p) != 0))
#define __threadfence() ((void)0)
#define __threadfence_block() ((void)0)
#define __threadfence_system() ((void)0)
#define __syncwarp(...) emu_syncwarp(__LINE__, ##__VA_ARGS__)
#define __activemask() (emu_state.live())
#define __shfl_sync(m, v, ...) emu_shuffle(__LINE__, 0, (m), (v), __VA_ARGS__)
#define __shfl_up_sync(m, v, ...) emu_shuffle(__LINE__, 1, (m), (v), __VA_ARGS__)
#define __shfl_down_sync(m, v, ...) emu_shuffle(__LINE__, 2, (m), (v), __VA_ARGS__)
#define __shfl_xor_sync(m, v, ...) emu_shuffle(__LINE__, 3, (m), (v), __VA_ARGS__)
#define __ballot_sync(m, p) emu_ballot(__LINE__, (m), (p) != 0)
#define __any_sync(m, p) (emu_ballot(__LINE__, (m), (p) != 0) != 0)
#define __all_sync(m, p) (emu_ballot(__LINE__, (m), (p) == 0) == 0)
#define __reduce_add_sync(m, v) emu_reduce(__LINE__, (m), (v), [](auto a, auto b) { return a + b; })
#define __reduce_min_sync(m, v) emu_reduce(__LINE__, (m), (v), [](auto a, auto b) { return a < b ? a : b; })
#define __reduce_max_sync(m, v) emu_reduce(__LINE__, (m), (v), [](auto a, auto b) { return a > b ? a : b; })
#define __reduce_or_sync(m, v) emu_reduce(__LINE__, (m), (v), [](auto a, auto b) { return a | b; })

static inline void emu_syncwarp(int line, unsigned mask = 0xffffffffu) { emu_state.meet(line, mask, nullptr, 0); }
// kind: 0 from a lane, 1 from below, 2 from above, 3 from the lane with some bits turned.
template <class T> static inline T emu_shuffle(int line, int kind, unsigned mask, T value, int arg, int width = 32) {
    static_assert(sizeof(T) <= 16, "a shuffle moves at most 16 bytes");
    unsigned lane = emu_state.meet(line, mask, &value, sizeof(T));
    int first = int(lane) & ~(width - 1), last = first + width - 1, from = int(lane);
    if (kind == 0) from = first + (arg & (width - 1));
    if (kind == 1) from = int(lane) - arg < first ? int(lane) : int(lane) - arg;
    if (kind == 2) from = int(lane) + arg > last ? int(lane) : int(lane) + arg;
    if (kind == 3) from = (int(lane) ^ arg) > last ? int(lane) : (int(lane) ^ arg);
    // A lane that takes no part: the value is undefined on a GPU, so it must not matter.
    T out;
    if (const void *s = emu_state.slot(unsigned(from))) memcpy(&out, s, sizeof(T)); else memset(&out, 0xff, sizeof(T));
    return out;
}
static inline unsigned emu_ballot(int line, unsigned mask, bool yes) {
    unsigned char mine = yes;
    emu_state.meet(line, mask, &mine, 1);
    unsigned out = 0;
    for (unsigned i = 0; i < 32; i++)
        if (const void *s = emu_state.slot(i)) out |= unsigned(*(const unsigned char *)s) << i;
    return out;
}
template <class T, class F> static inline T emu_reduce(int line, unsigned mask, T value, F f) {
    unsigned lane = emu_state.meet(line, mask, &value, sizeof(T));
    (void)lane;
    T out{}; bool any = false;
    for (unsigned i = 0; i < 32; i++)
        if (const void *s = emu_state.slot(i)) { T v; memcpy(&v, s, sizeof v); out = any ? f(out, v) : v; any = true; }
    return out;
}

// ---- atomics: threads are fibers of one system thread, so plain operations are atomic ----
template <class T, class V> static inline T atomicAdd(T *p, V v) { T o = *p; *p = o + T(v); return o; }
template <class T, class V> static inline T atomicSub(T *p, V v) { T o = *p; *p = o - T(v); return o; }
template <class T, class V> static inline T atomicMin(T *p, V v) { T o = *p; if (T(v) < o) *p = T(v); return o; }
template <class T, class V> static inline T atomicMax(T *p, V v) { T o = *p; if (o < T(v)) *p = T(v); return o; }
template <class T, class V> static inline T atomicAnd(T *p, V v) { T o = *p; *p = o & T(v); return o; }
template <class T, class V> static inline T atomicOr(T *p, V v) { T o = *p; *p = o | T(v); return o; }
template <class T, class V> static inline T atomicXor(T *p, V v) { T o = *p; *p = o ^ T(v); return o; }
template <class T, class V> static inline T atomicExch(T *p, V v) { T o = *p; *p = T(v); return o; }
template <class T, class V, class W> static inline T atomicCAS(T *p, V was, W now) { T o = *p; if (o == T(was)) *p = T(now); return o; }
template <class T> static inline T atomicInc(T *p, T top) { T o = *p; *p = o >= top ? 0 : o + 1; return o; }
#define atomicAdd_block atomicAdd
#define atomicMax_block atomicMax
#define atomicMin_block atomicMin

// ---- vectors ----
#define EMU_VECTOR(T, N) \
    struct alignas(sizeof(T) * 2) N##2 { T x, y; }; struct N##3 { T x, y, z; }; \
    struct alignas(sizeof(T) * 4 > 16 ? 16 : sizeof(T) * 4) N##4 { T x, y, z, w; }; struct N##1 { T x; }; \
    static inline N##2 make_##N##2(T x, T y) { return {x, y}; } \
    static inline N##3 make_##N##3(T x, T y, T z) { return {x, y, z}; } \
    static inline N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VECTOR(float, float) EMU_VECTOR(double, double) EMU_VECTOR(int, int) EMU_VECTOR(unsigned, uint)
EMU_VECTOR(char, char) EMU_VECTOR(unsigned char, uchar) EMU_VECTOR(short, short) EMU_VECTOR(unsigned short, ushort)
EMU_VECTOR(long long, longlong) EMU_VECTOR(unsigned long long, ulonglong)
struct dim3 { unsigned x, y, z; dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {} };

// ---- loads, bits, arithmetic ----
#define __ldg(p) (*(p))
#define __ldcg(p) (*(p))
#define __ldcs(p) (*(p))
#define __stcs(p, v) (*(p) = (v))
#define __stcg(p, v) (*(p) = (v))
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
static inline int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
static inline int __clzll(long long v) { return v ? __builtin_clzll((unsigned long long)v) : 64; }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline int __ffsll(long long v) { return __builtin_ffsll(v); }
static inline unsigned __brev(unsigned v) { unsigned r = 0; for (int i = 0; i < 32; i++) r |= ((v >> i) & 1u) << (31 - i); return r; }
static inline unsigned long long __brevll(unsigned long long v) { unsigned long long r = 0; for (int i = 0; i < 64; i++) r |= ((v >> i) & 1ull) << (63 - i); return r; }
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
    unsigned long long v = (unsigned long long)b << 32 | a; unsigned r = 0;
    for (int i = 0; i < 4; i++) { unsigned k = (s >> (4 * i)) & 15u, byte = unsigned(v >> (8 * (k & 7u))) & 255u; if (k & 8u) byte = byte & 128u ? 255u : 0u; r |= byte << (8 * i); }
    return r;
}
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned n) { n &= 31u; return n ? hi << n | lo >> (32 - n) : hi; }
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned n) { n &= 31u; return n ? lo >> n | hi << (32 - n) : lo; }
static inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
static inline int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned long long)((unsigned __int128)a * b >> 64); }
template <class A, class B> static inline A emu_bits(B b) { static_assert(sizeof(A) == sizeof(B)); A a; memcpy(&a, &b, sizeof a); return a; }
static inline int __float_as_int(float f) { return emu_bits<int>(f); }
static inline unsigned __float_as_uint(float f) { return emu_bits<unsigned>(f); }
static inline float __int_as_float(int i) { return emu_bits<float>(i); }
static inline float __uint_as_float(unsigned i) { return emu_bits<float>(i); }
static inline long long __double_as_longlong(double d) { return emu_bits<long long>(d); }
static inline double __longlong_as_double(long long i) { return emu_bits<double>(i); }
// Compiled without contraction: each of these rounds as it says.
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
// Macros: glibc has functions of these names of its own.
#define __expf(a) expf(a)
#define __exp10f(a) exp10f(a)
#define __logf(a) logf(a)
#define __log2f(a) log2f(a)
#define __log10f(a) log10f(a)
#define __sinf(a) sinf(a)
#define __cosf(a) cosf(a)
#define __tanf(a) tanf(a)
#define __powf(a, b) powf(a, b)
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __saturatef(float a) { return a < 0 || a != a ? 0.0f : a > 1 ? 1.0f : a; }
static inline int __float2int_rn(float a) { return int(nearbyintf(a)); }
static inline int __float2int_rz(float a) { return int(a); }
static inline int __float2int_rd(float a) { return int(floorf(a)); }
static inline int __float2int_ru(float a) { return int(ceilf(a)); }
static inline unsigned __float2uint_rn(float a) { return unsigned(nearbyintf(a)); }
static inline unsigned __float2uint_rz(float a) { return unsigned(a); }
static inline float __int2float_rn(int a) { return float(a); }
static inline float __uint2float_rn(unsigned a) { return float(a); }
static inline float __double2float_rn(double a) { return float(a); }
static inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
static inline double rsqrt(double a) { return 1.0 / sqrt(a); }
static inline float normcdff(float a) { return 0.5f * erfcf(-a * 0.70710678118654752f); }
static inline double normcdf(double a) { return 0.5 * erfc(-a * 0.70710678118654752); }
static inline long long clock64() { return 0; }
static inline unsigned clock() { return 0; }
static inline void __nanosleep(unsigned) {}

template <class A, class B> using emu_common = std::common_type_t<A, B>;
template <class A, class B, class = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>>>
static inline emu_common<A, B> min(A a, B b) {
    if constexpr (std::is_floating_point_v<emu_common<A, B>>) return std::fmin(emu_common<A, B>(a), emu_common<A, B>(b));
    else return emu_common<A, B>(a) < emu_common<A, B>(b) ? emu_common<A, B>(a) : emu_common<A, B>(b);
}
template <class A, class B, class = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>>>
static inline emu_common<A, B> max(A a, B b) {
    if constexpr (std::is_floating_point_v<emu_common<A, B>>) return std::fmax(emu_common<A, B>(a), emu_common<A, B>(b));
    else return emu_common<A, B>(a) > emu_common<A, B>(b) ? emu_common<A, B>(a) : emu_common<A, B>(b);
}
using std::isnan; using std::isinf; using std::isfinite; using std::signbit;

// ---- trampolines ----
template <class... A> struct EmuTypes { static inline constexpr EmuParam params[sizeof...(A) + 1] = {{unsigned(sizeof(A)), std::is_pointer_v<A>}..., {0, 0}}; };
template <class F> struct EmuRun;
template <class... A> struct EmuRun<void (*)(A...)> {
    using Types = EmuTypes<std::decay_t<A>...>;
    static constexpr unsigned count = sizeof...(A);
    template <void (*F)(A...), size_t... I> static void go(void **p, std::index_sequence<I...>) {
        (void)p;
        const std::tuple<std::remove_cv_t<std::remove_reference_t<A>>...> a{*(std::remove_cv_t<std::remove_reference_t<A>> *)p[I]...};
        while (emu_state.next_thread() != ~0u) {
            F(std::get<I>(a)...);
            emu_state.finished();
        }
    }
    template <void (*F)(A...)> static void run(void **p) { go<F>(p, std::index_sequence_for<A...>{}); }
};

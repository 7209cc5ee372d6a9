// cuRAND: generators and fills. The numbers are not those of a real device: only their distribution is.
#include "emu.h"
#include <cmath>
#include <cstdint>
#include <string>

#define EXPORT extern "C" __attribute__((visibility("default")))
enum { OK = 0, NOT_INITIALIZED = 101, OUT_OF_RANGE = 104, LENGTH_NOT_MULTIPLE = 105, LAUNCH_FAILURE = 201 };
struct Generator { uint64_t seed = 0, offset = 0; void *stream = nullptr; };
struct Job { uint64_t seed, offset; void *out; size_t n, width; int shape; double mean, deviation; };

static uint64_t mix(uint64_t z) { z += 0x9e3779b97f4a7c15ull; z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull; z = (z ^ (z >> 27)) * 0x94d049bb133111ebull; return z ^ (z >> 31); }
static double uniform(uint64_t seed, uint64_t i) { return (double(mix(mix(seed) + i) >> 11) + 1.0) / 9007199254740992.0; }   // (0, 1]
static void work(void *p) {
    const Job &j = *(Job *)p;
    if (const char *wrong = emu_range_fault(j.out, j.n * j.width)) { emu_fault("curandGenerate", wrong, 700); return; }
    for (size_t i = 0; i < j.n; i++) {
        uint64_t at = j.offset + i;
        if (j.shape == 0) { uint64_t v = mix(mix(j.seed) + at); if (j.width == 4) ((uint32_t *)j.out)[i] = uint32_t(v >> 32); else ((uint64_t *)j.out)[i] = v; continue; }
        double v = uniform(j.seed, at);
        if (j.shape >= 2) { // Box and Muller: two numbers from two
            double far = std::sqrt(-2 * std::log(uniform(j.seed, 2 * (at / 2)))), turn = 6.283185307179586 * uniform(j.seed ^ 0x5bd1e995, at / 2);
            v = j.mean + j.deviation * far * (at % 2 ? std::sin(turn) : std::cos(turn));
        }
        if (j.shape == 3) v = std::exp(v);
        if (j.width == 4) ((float *)j.out)[i] = float(v) == 0 ? 1e-38f : float(v); else ((double *)j.out)[i] = v;
    }
}
static int fill(Generator *g, void *out, size_t n, size_t width, int shape, double mean = 0, double deviation = 1) {
    if (!g) return NOT_INITIALIZED;
    if (shape >= 2 && n % 2) return LENGTH_NOT_MULTIPLE;
    if (n == 0) return OK;
    Job *j = new Job{g->seed, g->offset, out, n, width, shape, mean, deviation};
    g->offset += n;
    return emu_submit(g->stream, work, [](void *p) { delete (Job *)p; }, j) == 0 ? OK : LAUNCH_FAILURE;
}
EXPORT int curandCreateGenerator(Generator **out, int) { if (!out || emu_current_device() < 0) return NOT_INITIALIZED; *out = new Generator; return OK; }
EXPORT int curandDestroyGenerator(Generator *g) { delete g; return OK; }
EXPORT int curandSetStream(Generator *g, void *s) { if (!g) return NOT_INITIALIZED; g->stream = s; return OK; }
EXPORT int curandSetPseudoRandomGeneratorSeed(Generator *g, unsigned long long s) { if (!g) return NOT_INITIALIZED; g->seed = s; g->offset = 0; return OK; }
EXPORT int curandSetGeneratorOffset(Generator *g, unsigned long long o) { if (!g) return NOT_INITIALIZED; g->offset = o; return OK; }
EXPORT int curandGenerate(Generator *g, unsigned *o, size_t n) { return fill(g, o, n, 4, 0); }
EXPORT int curandGenerateLongLong(Generator *g, unsigned long long *o, size_t n) { return fill(g, o, n, 8, 0); }
EXPORT int curandGenerateUniform(Generator *g, float *o, size_t n) { return fill(g, o, n, 4, 1); }
EXPORT int curandGenerateUniformDouble(Generator *g, double *o, size_t n) { return fill(g, o, n, 8, 1); }
EXPORT int curandGenerateNormal(Generator *g, float *o, size_t n, float m, float d) { return fill(g, o, n, 4, 2, m, d); }
EXPORT int curandGenerateNormalDouble(Generator *g, double *o, size_t n, double m, double d) { return fill(g, o, n, 8, 2, m, d); }
EXPORT int curandGenerateLogNormal(Generator *g, float *o, size_t n, float m, float d) { return fill(g, o, n, 4, 3, m, d); }
EXPORT int curandGenerateLogNormalDouble(Generator *g, double *o, size_t n, double m, double d) { return fill(g, o, n, 8, 3, m, d); }

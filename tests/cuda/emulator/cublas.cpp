// cuBLAS: handles and matrix products (column-major) for f32, TF32, bf16, f16 and f64.
#include "emu.h"
#include "numbers.h"
#include <cstdio>
#include <cstdlib>
#include <set>
#include <mutex>
#include <string>

#define EXPORT extern "C" __attribute__((visibility("default")))
enum { OK = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
struct Handle { void *stream; int math, pointer_mode, device; };
static std::set<Handle *> handles;
static std::mutex lock;
static bool alive(Handle *h) { std::lock_guard<std::mutex> g(lock); return handles.count(h) != 0; }

EXPORT int cublasCreate_v2(Handle **out) {
    if (!out) return INVALID_VALUE;
    if (emu_current_device() < 0) return NOT_INITIALIZED;
    std::lock_guard<std::mutex> g(lock);
    *out = new Handle{nullptr, 0, 0, emu_current_device()}; handles.insert(*out); return OK;
}
EXPORT int cublasDestroy_v2(Handle *h) { if (!alive(h)) return NOT_INITIALIZED; std::lock_guard<std::mutex> g(lock); handles.erase(h); delete h; return OK; }
EXPORT int cublasSetStream_v2(Handle *h, void *s) { if (!alive(h)) return NOT_INITIALIZED; h->stream = s; return OK; }
EXPORT int cublasGetStream_v2(Handle *h, void **s) { if (!alive(h)) return NOT_INITIALIZED; *s = h->stream; return OK; }
EXPORT int cublasSetWorkspace_v2(Handle *h, void *, size_t) { return alive(h) ? OK : NOT_INITIALIZED; }
EXPORT int cublasSetMathMode(Handle *h, int m) { if (!alive(h)) return NOT_INITIALIZED; h->math = m; return OK; }
EXPORT int cublasGetMathMode(Handle *h, int *m) { if (!alive(h)) return NOT_INITIALIZED; *m = h->math; return OK; }
EXPORT int cublasSetPointerMode_v2(Handle *h, int m) { if (!alive(h)) return NOT_INITIALIZED; h->pointer_mode = m; return OK; }
EXPORT int cublasGetPointerMode_v2(Handle *h, int *m) { if (!alive(h)) return NOT_INITIALIZED; *m = h->pointer_mode; return OK; }
EXPORT int cublasSetAtomicsMode(Handle *h, int) { return alive(h) ? OK : NOT_INITIALIZED; }
EXPORT int cublasGetVersion_v2(Handle *, int *v) { *v = 130100; return OK; }
EXPORT const char *cublasGetStatusString(int code) { return code == 0 ? "CUBLAS_STATUS_SUCCESS" : "a failure in the emulated cuBLAS"; }
EXPORT const char *cublasGetStatusName(int code) { return cublasGetStatusString(code); }

struct Job {
    int ta, tb, m, n, k, batch;
    const char *a, *b; char *c;
    long long lda, ldb, ldc, sa, sb, sc;
    Kind ka, kb, kc;
    Rounding round; bool wide;
    double alpha, beta;
    const char *call;
};
static bool in_reach(const Job &j, const char *what, const void *p, Kind kind, long long rows, long long columns, long long ld, long long stride) {
    if (rows == 0 || columns == 0 || j.batch == 0) return true;
    size_t bytes = size_t((j.batch - 1) * stride + (columns - 1) * ld + rows) * size_of(kind);
    if (const char *wrong = emu_range_fault(p, bytes)) { emu_fault(j.call, (std::string("matrix ") + what + ": " + wrong).c_str(), 700); return false; }
    return true;
}
static void work(void *p) {
    const Job &j = *(Job *)p;
    if (j.alpha != 0 && j.k > 0) {
        if (!in_reach(j, "A", j.a, j.ka, j.ta ? j.k : j.m, j.ta ? j.m : j.k, j.lda, j.sa)) return;
        if (!in_reach(j, "B", j.b, j.kb, j.tb ? j.n : j.k, j.tb ? j.k : j.n, j.ldb, j.sb)) return;
    }
    if (!in_reach(j, "C", j.c, j.kc, j.m, j.n, j.ldc, j.sc)) return;
    size_t m = size_t(j.m), n = size_t(j.n), k = size_t(j.k);
    std::vector<float> sums(j.wide ? 0 : m * n);
    for (int i = 0; i < j.batch; i++) {
        const char *a = j.a + size_t(i * j.sa) * size_of(j.ka), *b = j.b + size_t(i * j.sb) * size_of(j.kb);
        char *c = j.c + size_t(i * j.sc) * size_of(j.kc);
        auto at_a = [&](size_t r, size_t l) { return j.ta ? l + r * size_t(j.lda) : r + l * size_t(j.lda); };
        auto at_b = [&](size_t l, size_t q) { return j.tb ? q + l * size_t(j.ldb) : l + q * size_t(j.ldb); };
        if (j.wide) {
            for (size_t q = 0; q < n; q++) for (size_t r = 0; r < m; r++) {
                double s = 0;
                for (size_t l = 0; l < k; l++) s += ((const double *)a)[at_a(r, l)] * ((const double *)b)[at_b(l, q)];
                double &o = ((double *)c)[r + q * size_t(j.ldc)];
                o = j.alpha * s + (j.beta == 0 ? 0 : j.beta * o);
            }
            continue;
        }
        if (j.alpha != 0) {
            if (j.ka == F32 && j.kb == F32 && j.round == EXACT) {
                const float *x = (const float *)a, *y = (const float *)b;
                multiply(m, n, k, [&](size_t r, size_t l) { return x[at_a(r, l)]; }, [&](size_t l, size_t q) { return y[at_b(l, q)]; }, sums.data());
            } else
                multiply(m, n, k, [&](size_t r, size_t l) { return rounded(load(a, j.ka, at_a(r, l)), j.round); },
                         [&](size_t l, size_t q) { return rounded(load(b, j.kb, at_b(l, q)), j.round); }, sums.data());
        }
        for (size_t q = 0; q < n; q++) for (size_t r = 0; r < m; r++) {
            size_t o = r + q * size_t(j.ldc);
            float v = j.alpha == 0 ? 0.0f : float(j.alpha) * sums[q * m + r];
            if (j.beta != 0) v += float(j.beta) * load(c, j.kc, o);
            store(c, j.kc, o, v);
        }
    }
}
static bool kind_of(int type, Kind *out) {
    switch (type) { case 0: *out = F32; return true; case 1: *out = F64; return true; case 2: *out = F16; return true; case 14: *out = BF16; return true; }
    return false;
}
static double scalar(Handle *h, const void *p, int compute, const char *call, bool *ok) {
    if (h->pointer_mode == 1) if (const char *wrong = emu_range_fault(p, 2)) { emu_fault(call, (std::string("a factor in device memory: ") + wrong).c_str(), 700); *ok = false; return 0; }
    if (compute == 64 || compute == 65) return from_half(*(const uint16_t *)p);
    if (compute == 70 || compute == 71) return *(const double *)p;
    return *(const float *)p;
}
static int gemm(const char *call, Handle *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int ka, long long lda, long long sa,
                const void *b, int kb, long long ldb, long long sb, const void *beta, void *c, int kc, long long ldc, long long sc, int batch, int compute) {
    if (!alive(h)) return NOT_INITIALIZED;
    auto bad = [&](const char *why) { emu_fault(call, why, 0); return INVALID_VALUE; };
    if (m < 0 || n < 0 || k < 0 || batch < 0) return bad("a size is negative");
    if (ta < 0 || ta > 2 || tb < 0 || tb > 2) return bad("no such operation");
    if (lda < std::max(1, ta ? k : m)) return bad("lda is smaller than the rows of A");
    if (ldb < std::max(1, tb ? n : k)) return bad("ldb is smaller than the rows of B");
    if (ldc < std::max(1, m)) return bad("ldc is smaller than the rows of C");
    if (!alpha || !beta) return bad("alpha or beta is null");
    if (batch > 1 && m > 0 && n > 0 && sc < ldc * (n - 1) + m && sc > -(ldc * (n - 1) + m)) return bad("the matrices C of a batch overlap");
    Job *j = new Job{};
    j->ta = ta; j->tb = tb; j->m = m; j->n = n; j->k = k; j->batch = batch; j->a = (const char *)a; j->b = (const char *)b; j->c = (char *)c;
    j->lda = lda; j->ldb = ldb; j->ldc = ldc; j->sa = sa; j->sb = sb; j->sc = sc; j->call = call;
    bool ok = kind_of(ka, &j->ka) && kind_of(kb, &j->kb) && kind_of(kc, &j->kc);
    j->wide = compute == 70 || compute == 71;
    if (!ok || (j->wide && !(j->ka == F64 && j->kb == F64 && j->kc == F64)) || (!j->wide && (j->ka == F64 || j->kb == F64 || j->kc == F64)) || j->ka != j->kb) {
        delete j; emu_fault(call, "these types are not emulated", 0); return NOT_SUPPORTED;
    }
    bool no_tf32 = getenv("NVIDIA_TF32_OVERRIDE") && getenv("NVIDIA_TF32_OVERRIDE")[0] == '0';
    bool tf32 = (compute == 77 || (compute == 68 && (h->math & 0xf) == 3)) && !no_tf32;
    j->round = j->ka != F32 ? EXACT : tf32 ? TF32 : compute == 75 ? TO_BF16 : compute == 74 ? TO_HALF : EXACT;
    j->alpha = scalar(h, alpha, compute, call, &ok); j->beta = scalar(h, beta, compute, call, &ok);
    if (!ok) { delete j; return EXECUTION_FAILED; }
    if (m == 0 || n == 0 || batch == 0) { delete j; return OK; }
    return emu_submit(h->stream, work, [](void *p) { delete (Job *)p; }, j) == 0 ? OK : EXECUTION_FAILED;
}
EXPORT int cublasSgemm_v2(Handle *h, int ta, int tb, int m, int n, int k, const float *al, const float *a, int lda, const float *b, int ldb, const float *be, float *c, int ldc) {
    return gemm("cublasSgemm", h, ta, tb, m, n, k, al, a, 0, lda, 0, b, 0, ldb, 0, be, c, 0, ldc, 0, 1, 68);
}
EXPORT int cublasSgemmStridedBatched(Handle *h, int ta, int tb, int m, int n, int k, const float *al, const float *a, int lda, long long sa, const float *b, int ldb, long long sb, const float *be, float *c, int ldc, long long sc, int batch) {
    return gemm("cublasSgemmStridedBatched", h, ta, tb, m, n, k, al, a, 0, lda, sa, b, 0, ldb, sb, be, c, 0, ldc, sc, batch, 68);
}
EXPORT int cublasDgemm_v2(Handle *h, int ta, int tb, int m, int n, int k, const double *al, const double *a, int lda, const double *b, int ldb, const double *be, double *c, int ldc) {
    return gemm("cublasDgemm", h, ta, tb, m, n, k, al, a, 1, lda, 0, b, 1, ldb, 0, be, c, 1, ldc, 0, 1, 70);
}
EXPORT int cublasDgemmStridedBatched(Handle *h, int ta, int tb, int m, int n, int k, const double *al, const double *a, int lda, long long sa, const double *b, int ldb, long long sb, const double *be, double *c, int ldc, long long sc, int batch) {
    return gemm("cublasDgemmStridedBatched", h, ta, tb, m, n, k, al, a, 1, lda, sa, b, 1, ldb, sb, be, c, 1, ldc, sc, batch, 70);
}
EXPORT int cublasGemmEx(Handle *h, int ta, int tb, int m, int n, int k, const void *al, const void *a, int ka, int lda, const void *b, int kb, int ldb, const void *be, void *c, int kc, int ldc, int compute, int) {
    return gemm("cublasGemmEx", h, ta, tb, m, n, k, al, a, ka, lda, 0, b, kb, ldb, 0, be, c, kc, ldc, 0, 1, compute);
}
EXPORT int cublasGemmStridedBatchedEx(Handle *h, int ta, int tb, int m, int n, int k, const void *al, const void *a, int ka, int lda, long long sa, const void *b, int kb, int ldb, long long sb, const void *be, void *c, int kc, int ldc, long long sc, int batch, int compute, int) {
    return gemm("cublasGemmStridedBatchedEx", h, ta, tb, m, n, k, al, a, ka, lda, sa, b, kb, ldb, sb, be, c, kc, ldc, sc, batch, compute);
}
// y = alpha * op(A) x + beta * y, as a product with one column.
EXPORT int cublasSgemv_v2(Handle *h, int t, int m, int n, const float *al, const float *a, int lda, const float *x, int incx, const float *be, float *y, int incy) {
    if (incx == 1 && incy == 1) return gemm("cublasSgemv", h, t, 0, t ? n : m, 1, t ? m : n, al, a, 0, lda, 0, x, 0, std::max(1, t ? m : n), 0, be, y, 0, std::max(1, t ? n : m), 0, 1, 69);
    if (incx > 0 && incy > 0) return gemm("cublasSgemv", h, 1, !t, 1, t ? n : m, t ? m : n, al, x, 0, incx, 0, a, 0, lda, 0, be, y, 0, incy, 0, 1, 69);
    return NOT_SUPPORTED;
}

// cuDNN: descriptors and 2-D convolutions with their gradients, bias and activation, for f32, TF32, bf16, f16.
// Every layout is read into a plain float array first, so that strides, NHWC and types need no code of their own.
#include "emu.h"
#include "numbers.h"
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <string>

#define EXPORT extern "C" __attribute__((visibility("default")))
enum { OK = 0, NOT_INITIALIZED = 1001, BAD_PARAM = 2000, NOT_SUPPORTED = 3000, EXECUTION_FAILED = 5000 };

struct Handle { void *stream; int device; };
struct Tensor { bool set = false; Kind kind = F32; int dim[4] = {}; long long stride[4] = {}; };
struct Filter { bool set = false; Kind kind = F32; int format = 0, dim[4] = {}; };
struct Conv { bool set = false; int pad[2] = {}, stride[2] = {1, 1}, dilation[2] = {1, 1}, mode = 1, math = 0, groups = 1; Kind compute = F32; };
struct Activation { bool set = false; int mode = 5; double coef = 0; };
struct Perf { int algo, status; float time; size_t memory; int determinism, math, reserved[3]; };

static std::mutex lock;
static std::set<void *> live;
template <class T> static int create(T **out) { if (!out) return BAD_PARAM; std::lock_guard<std::mutex> g(lock); *out = new T; live.insert(*out); return OK; }
template <class T> static int destroy(T *p) { if (!p) return OK; std::lock_guard<std::mutex> g(lock); if (!live.erase(p)) return BAD_PARAM; delete p; return OK; }
static bool alive(const void *p) { std::lock_guard<std::mutex> g(lock); return live.count((void *)p) != 0; }
static int bad(const char *call, const char *why) { emu_fault(call, why, 0); return BAD_PARAM; }

EXPORT size_t cudnnGetVersion() { return 91900; }
EXPORT size_t cudnnGetCudartVersion() { return 13000; }
EXPORT int cudnnAdvVersionCheck() { return OK; }
EXPORT int cudnnCnnVersionCheck() { return OK; }
EXPORT int cudnnOpsVersionCheck() { return OK; }
EXPORT const char *cudnnGetErrorString(int code) { return code == OK ? "CUDNN_STATUS_SUCCESS" : code == BAD_PARAM ? "CUDNN_STATUS_BAD_PARAM" : code == NOT_SUPPORTED ? "CUDNN_STATUS_NOT_SUPPORTED" : "CUDNN_STATUS_EXECUTION_FAILED"; }
EXPORT int cudnnCreate(Handle **out) { if (emu_current_device() < 0) return NOT_INITIALIZED; int e = create(out); if (!e) { (*out)->stream = nullptr; (*out)->device = emu_current_device(); } return e; }
EXPORT int cudnnDestroy(Handle *h) { return destroy(h); }
EXPORT int cudnnSetStream(Handle *h, void *s) { if (!alive(h)) return BAD_PARAM; h->stream = s; return OK; }
EXPORT int cudnnGetStream(Handle *h, void **s) { if (!alive(h)) return BAD_PARAM; *s = h->stream; return OK; }

static bool kind_of(int type, Kind *out) {
    switch (type) { case 0: *out = F32; return true; case 1: *out = F64; return true; case 2: *out = F16; return true; case 9: *out = BF16; return true; }
    return false;
}
// ---- descriptors ----
EXPORT int cudnnCreateTensorDescriptor(Tensor **out) { return create(out); }
EXPORT int cudnnDestroyTensorDescriptor(Tensor *t) { return destroy(t); }
static int set_tensor(const char *call, Tensor *t, int type, const int *dim, const long long *stride) {
    if (!alive(t)) return bad(call, "no such descriptor");
    if (!kind_of(type, &t->kind)) { emu_fault(call, "this type is not emulated", 0); return NOT_SUPPORTED; }
    for (int i = 0; i < 4; i++) { if (dim[i] < 1 || stride[i] < 0) return bad(call, "a size is below 1 or a stride below 0"); t->dim[i] = dim[i]; t->stride[i] = stride[i]; }
    t->set = true; return OK;
}
EXPORT int cudnnSetTensor4dDescriptor(Tensor *t, int format, int type, int n, int c, int h, int w) {
    int d[4] = {n, c, h, w};
    long long chw = 1ll * c * h * w;
    if (format == 0) { long long s[4] = {chw, 1ll * h * w, w, 1}; return set_tensor("cudnnSetTensor4dDescriptor", t, type, d, s); }
    if (format == 1) { long long s[4] = {chw, 1, 1ll * w * c, c}; return set_tensor("cudnnSetTensor4dDescriptor", t, type, d, s); }
    return NOT_SUPPORTED;
}
EXPORT int cudnnSetTensor4dDescriptorEx(Tensor *t, int type, int n, int c, int h, int w, int sn, int sc, int sh, int sw) {
    int d[4] = {n, c, h, w}; long long s[4] = {sn, sc, sh, sw};
    return set_tensor("cudnnSetTensor4dDescriptorEx", t, type, d, s);
}
EXPORT int cudnnSetTensorNdDescriptor(Tensor *t, int type, int n, const int *dim, const int *stride) {
    if (n != 4) { emu_fault("cudnnSetTensorNdDescriptor", "only tensors of 4 dimensions are emulated", 0); return NOT_SUPPORTED; }
    long long s[4] = {stride[0], stride[1], stride[2], stride[3]};
    return set_tensor("cudnnSetTensorNdDescriptor", t, type, dim, s);
}
static size_t extent(const Tensor &t) { long long e = 1; for (int i = 0; i < 4; i++) e += (t.dim[i] - 1) * t.stride[i]; return size_t(e); }
EXPORT int cudnnGetTensorSizeInBytes(Tensor *t, size_t *n) { if (!alive(t) || !t->set) return BAD_PARAM; *n = extent(*t) * size_of(t->kind); return OK; }
EXPORT int cudnnCreateFilterDescriptor(Filter **out) { return create(out); }
EXPORT int cudnnDestroyFilterDescriptor(Filter *f) { return destroy(f); }
EXPORT int cudnnSetFilter4dDescriptor(Filter *f, int type, int format, int k, int c, int h, int w) {
    if (!alive(f)) return bad("cudnnSetFilter4dDescriptor", "no such descriptor");
    if (!kind_of(type, &f->kind) || format > 1) return NOT_SUPPORTED;
    if (k < 1 || c < 1 || h < 1 || w < 1) return bad("cudnnSetFilter4dDescriptor", "a size is below 1");
    f->format = format; f->dim[0] = k; f->dim[1] = c; f->dim[2] = h; f->dim[3] = w; f->set = true; return OK;
}
EXPORT int cudnnSetFilterNdDescriptor(Filter *f, int type, int format, int n, const int *d) { return n == 4 ? cudnnSetFilter4dDescriptor(f, type, format, d[0], d[1], d[2], d[3]) : NOT_SUPPORTED; }
EXPORT int cudnnCreateConvolutionDescriptor(Conv **out) { return create(out); }
EXPORT int cudnnDestroyConvolutionDescriptor(Conv *c) { return destroy(c); }
EXPORT int cudnnSetConvolution2dDescriptor(Conv *c, int ph, int pw, int sh, int sw, int dh, int dw, int mode, int type) {
    if (!alive(c)) return bad("cudnnSetConvolution2dDescriptor", "no such descriptor");
    if (ph < 0 || pw < 0 || sh < 1 || sw < 1 || dh < 1 || dw < 1 || mode < 0 || mode > 1) return bad("cudnnSetConvolution2dDescriptor", "padding, stride, dilation or mode is out of range");
    if (!kind_of(type, &c->compute)) return NOT_SUPPORTED;
    c->pad[0] = ph; c->pad[1] = pw; c->stride[0] = sh; c->stride[1] = sw; c->dilation[0] = dh; c->dilation[1] = dw; c->mode = mode; c->set = true; return OK;
}
EXPORT int cudnnSetConvolutionNdDescriptor(Conv *c, int n, const int *p, const int *s, const int *d, int mode, int type) {
    return n == 2 ? cudnnSetConvolution2dDescriptor(c, p[0], p[1], s[0], s[1], d[0], d[1], mode, type) : NOT_SUPPORTED;
}
EXPORT int cudnnSetConvolutionMathType(Conv *c, int m) { if (!alive(c) || m < 0 || m > 3) return BAD_PARAM; c->math = m; return OK; }
EXPORT int cudnnGetConvolutionMathType(Conv *c, int *m) { if (!alive(c)) return BAD_PARAM; *m = c->math; return OK; }
EXPORT int cudnnSetConvolutionGroupCount(Conv *c, int g) { if (!alive(c) || g < 1) return BAD_PARAM; c->groups = g; return OK; }
EXPORT int cudnnSetConvolutionReorderType(Conv *c, int) { return alive(c) ? OK : BAD_PARAM; }
EXPORT int cudnnCreateActivationDescriptor(Activation **out) { return create(out); }
EXPORT int cudnnDestroyActivationDescriptor(Activation *a) { return destroy(a); }
EXPORT int cudnnSetActivationDescriptor(Activation *a, int mode, int, double coef) { if (!alive(a) || mode < 0 || mode > 6) return BAD_PARAM; a->mode = mode; a->coef = coef; a->set = true; return OK; }

// ---- the shape of one convolution ----
struct Shape { int n, c, h, w, k, r, s, oh, ow, g; Conv conv; };
static int shape_of(const char *call, const Tensor *x, const Filter *w, const Conv *conv, const Tensor *y, Shape *out) {
    if (!alive(x) || !alive(w) || !alive(conv) || !alive(y)) return bad(call, "a descriptor does not exist (any more)");
    if (!x->set || !w->set || !conv->set || !y->set) return bad(call, "a descriptor was never set");
    if (x->kind != w->kind || x->kind != y->kind) return bad(call, "x, w and y are of different types");
    if (x->kind == F64 ? conv->compute != F64 : conv->compute == F64) { emu_fault(call, "this type of computing does not fit the data's", 0); return NOT_SUPPORTED; }
    if (x->kind == F32 && conv->compute != F32) { emu_fault(call, "float data needs float computing", 0); return NOT_SUPPORTED; }
    if (x->kind == BF16 && conv->compute == BF16) { emu_fault(call, "bfloat16 data needs float computing", 0); return NOT_SUPPORTED; }
    Shape s{x->dim[0], x->dim[1], x->dim[2], x->dim[3], w->dim[0], w->dim[2], w->dim[3], 0, 0, conv->groups, *conv};
    if (w->dim[1] * s.g != s.c || s.k % s.g) return bad(call, "the filter's channels times the groups are not the input's channels");
    auto outputs = [](int in, int pad, int window, int dilation, int stride) { return (in + 2 * pad - ((window - 1) * dilation + 1)) / stride + 1; };
    if (s.h + 2 * conv->pad[0] < (s.r - 1) * conv->dilation[0] + 1 || s.w + 2 * conv->pad[1] < (s.s - 1) * conv->dilation[1] + 1) return bad(call, "the filter is larger than the padded input");
    s.oh = outputs(s.h, conv->pad[0], s.r, conv->dilation[0], conv->stride[0]); s.ow = outputs(s.w, conv->pad[1], s.s, conv->dilation[1], conv->stride[1]);
    if (y->dim[0] != s.n || y->dim[1] != s.k || y->dim[2] != s.oh || y->dim[3] != s.ow)
        return bad(call, ("the output is said to be " + std::to_string(y->dim[0]) + "x" + std::to_string(y->dim[1]) + "x" + std::to_string(y->dim[2]) + "x" + std::to_string(y->dim[3]) + ", it is "
                          + std::to_string(s.n) + "x" + std::to_string(s.k) + "x" + std::to_string(s.oh) + "x" + std::to_string(s.ow)).c_str());
    *out = s; return OK;
}
EXPORT int cudnnGetConvolution2dForwardOutputDim(const Conv *conv, const Tensor *x, const Filter *w, int *n, int *c, int *h, int *v) {
    if (!alive(conv) || !alive(x) || !alive(w)) return BAD_PARAM;
    *n = x->dim[0]; *c = w->dim[0];
    *h = (x->dim[2] + 2 * conv->pad[0] - ((w->dim[2] - 1) * conv->dilation[0] + 1)) / conv->stride[0] + 1;
    *v = (x->dim[3] + 2 * conv->pad[1] - ((w->dim[3] - 1) * conv->dilation[1] + 1)) / conv->stride[1] + 1;
    return OK;
}
// What an algorithm asks for: some need room, so that a program has to bring it.
enum Direction { FORWARD, DATA, FILTER };
static size_t room_for(const Shape &s, Direction d, int algo) {
    if ((d == FORWARD && algo == 0) || (d != FORWARD && algo == 0)) return 0;
    return std::min<size_t>(size_t(s.c / s.g) * size_t(s.r * s.s) * size_t(s.oh * s.ow) * 4, 8u << 20) / 256 * 256 + 256;
}
static bool known(Direction d, int algo) { return d == FORWARD ? algo >= 0 && algo <= 2 : d == DATA ? algo == 0 || algo == 1 : algo == 0 || algo == 1 || algo == 3; }
static bool deterministic(Direction d, int algo) { return d == FORWARD || algo == 1; }
// The gradients' first proposal is one that is not deterministic on a GPU, as a real list's may be.
static int propose(const Shape &s, Direction d, int asked, int *returned, Perf *out) {
    static const int lists[3][3] = {{1, 0, 2}, {0, 1, -1}, {0, 1, 3}};
    int n = 0;
    for (int i = 0; i < 3 && n < asked && lists[d][i] >= 0; i++) {
        int a = lists[d][i];
        out[n++] = {a, OK, -1.0f, room_for(s, d, a), deterministic(d, a), s.conv.math == 3 ? 3 : 1, {0, 0, 0}};
    }
    *returned = n; return OK;
}
EXPORT int cudnnGetConvolutionForwardAlgorithm_v7(Handle *, Tensor *x, Filter *w, Conv *c, Tensor *y, int n, int *got, Perf *out) { Shape s; int e = shape_of("cudnnGetConvolutionForwardAlgorithm_v7", x, w, c, y, &s); return e ? e : propose(s, FORWARD, n, got, out); }
EXPORT int cudnnGetConvolutionBackwardDataAlgorithm_v7(Handle *, Filter *w, Tensor *dy, Conv *c, Tensor *dx, int n, int *got, Perf *out) { Shape s; int e = shape_of("cudnnGetConvolutionBackwardDataAlgorithm_v7", dx, w, c, dy, &s); return e ? e : propose(s, DATA, n, got, out); }
EXPORT int cudnnGetConvolutionBackwardFilterAlgorithm_v7(Handle *, Tensor *x, Tensor *dy, Conv *c, Filter *dw, int n, int *got, Perf *out) { Shape s; int e = shape_of("cudnnGetConvolutionBackwardFilterAlgorithm_v7", x, dw, c, dy, &s); return e ? e : propose(s, FILTER, n, got, out); }
EXPORT int cudnnFindConvolutionForwardAlgorithm(Handle *h, Tensor *x, Filter *w, Conv *c, Tensor *y, int n, int *got, Perf *out) { return cudnnGetConvolutionForwardAlgorithm_v7(h, x, w, c, y, n, got, out); }
EXPORT int cudnnFindConvolutionBackwardDataAlgorithm(Handle *h, Filter *w, Tensor *dy, Conv *c, Tensor *dx, int n, int *got, Perf *out) { return cudnnGetConvolutionBackwardDataAlgorithm_v7(h, w, dy, c, dx, n, got, out); }
EXPORT int cudnnFindConvolutionBackwardFilterAlgorithm(Handle *h, Tensor *x, Tensor *dy, Conv *c, Filter *dw, int n, int *got, Perf *out) { return cudnnGetConvolutionBackwardFilterAlgorithm_v7(h, x, dy, c, dw, n, got, out); }
EXPORT int cudnnGetConvolutionForwardAlgorithmMaxCount(Handle *, int *n) { *n = 3; return OK; }
EXPORT int cudnnGetConvolutionBackwardDataAlgorithmMaxCount(Handle *, int *n) { *n = 2; return OK; }
EXPORT int cudnnGetConvolutionBackwardFilterAlgorithmMaxCount(Handle *, int *n) { *n = 3; return OK; }
static int room(const char *call, Tensor *x, Filter *w, Conv *c, Tensor *y, Direction d, int algo, size_t *out) {
    Shape s; int e = shape_of(call, x, w, c, y, &s); if (e) return e;
    if (!known(d, algo)) { emu_fault(call, ("algorithm " + std::to_string(algo) + " is not emulated").c_str(), 0); return NOT_SUPPORTED; }
    *out = room_for(s, d, algo); return OK;
}
EXPORT int cudnnGetConvolutionForwardWorkspaceSize(Handle *, Tensor *x, Filter *w, Conv *c, Tensor *y, int a, size_t *out) { return room("cudnnGetConvolutionForwardWorkspaceSize", x, w, c, y, FORWARD, a, out); }
EXPORT int cudnnGetConvolutionBackwardDataWorkspaceSize(Handle *, Filter *w, Tensor *dy, Conv *c, Tensor *dx, int a, size_t *out) { return room("cudnnGetConvolutionBackwardDataWorkspaceSize", dx, w, c, dy, DATA, a, out); }
EXPORT int cudnnGetConvolutionBackwardFilterWorkspaceSize(Handle *, Tensor *x, Tensor *dy, Conv *c, Filter *dw, int a, size_t *out) { return room("cudnnGetConvolutionBackwardFilterWorkspaceSize", x, dw, c, dy, FILTER, a, out); }

// ---- reading and writing ----
struct Place { Kind kind; int dim[4]; long long stride[4]; };
static Place place(const Tensor &t) { Place p{t.kind, {}, {}}; for (int i = 0; i < 4; i++) { p.dim[i] = t.dim[i]; p.stride[i] = t.stride[i]; } return p; }
static Place place(const Filter &f) {
    Place p{f.kind, {f.dim[0], f.dim[1], f.dim[2], f.dim[3]}, {}};
    long long c = f.dim[1], r = f.dim[2], s = f.dim[3];
    p.stride[0] = c * r * s;
    if (f.format == 0) { p.stride[1] = r * s; p.stride[2] = s; p.stride[3] = 1; } else { p.stride[1] = 1; p.stride[2] = s * c; p.stride[3] = c; }
    return p;
}
template <class F> static void each(const Place &p, F f) {
    size_t i = 0;
    for (int a = 0; a < p.dim[0]; a++) for (int b = 0; b < p.dim[1]; b++) for (int c = 0; c < p.dim[2]; c++)
        for (int d = 0; d < p.dim[3]; d++) f(i++, size_t(a * p.stride[0] + b * p.stride[1] + c * p.stride[2] + d * p.stride[3]), b);
}
static bool reach(const char *call, const char *what, const void *at, const Place &p) {
    long long e = 1; for (int i = 0; i < 4; i++) e += (p.dim[i] - 1) * p.stride[i];
    const char *wrong = emu_range_fault(at, size_t(e) * size_of(p.kind));
    if (wrong) emu_fault(call, (std::string(what) + ": " + wrong).c_str(), 700);
    return !wrong;
}
static std::vector<float> read(const void *at, const Place &p, Rounding r) {
    std::vector<float> v(size_t(p.dim[0]) * size_t(p.dim[1]) * size_t(p.dim[2]) * size_t(p.dim[3]));
    each(p, [&](size_t i, size_t o, int) { v[i] = rounded(load(at, p.kind, o), r); });
    return v;
}
static void write(void *at, const Place &p, const std::vector<float> &v, double alpha, double beta) {
    each(p, [&](size_t i, size_t o, int) { store(at, p.kind, o, float(alpha) * v[i] + (beta == 0 ? 0.0f : float(beta) * load(at, p.kind, o))); });
}

// ---- convolutions ----
struct Job {
    Shape s; Direction d; Place x, w, y, z, bias;
    const void *px, *pw, *py, *pz, *pbias; double alpha, beta;
    bool fused; Activation act; char *work; size_t work_bytes; const char *call;
};
// cols[l * P + p]: what filter place l (channel, row, column) meets at output place p; `image` holds one group's channels.
template <class F> static void meet(const Shape &s, F f) {
    size_t l = 0; const Conv &c = s.conv;
    for (int ch = 0; ch < s.c / s.g; ch++) for (int r = 0; r < s.r; r++) for (int q = 0; q < s.s; q++, l++)
        for (int i = 0; i < s.oh; i++) {
            int y = i * c.stride[0] - c.pad[0] + (c.mode == 1 ? r : s.r - 1 - r) * c.dilation[0];
            for (int j = 0; j < s.ow; j++) {
                int x = j * c.stride[1] - c.pad[1] + (c.mode == 1 ? q : s.s - 1 - q) * c.dilation[1];
                bool in = y >= 0 && y < s.h && x >= 0 && x < s.w;
                f(l * size_t(s.oh * s.ow) + size_t(i * s.ow + j), in ? (long long)(ch * s.h + y) * s.w + x : -1);
            }
        }
}
static double act(const Activation &a, double v) {
    switch (a.mode) { case 0: return 1 / (1 + std::exp(-v)); case 1: return v < 0 ? 0 : v; case 2: return std::tanh(v); case 3: return v < 0 ? 0 : v > a.coef ? a.coef : v; case 4: return v < 0 ? a.coef * (std::exp(v) - 1) : v; case 6: return v / (1 + std::exp(-a.coef * v)); }
    return v;
}
static void work(void *p) {
    const Job &j = *(Job *)p; const Shape &s = j.s;
    if (!reach(j.call, "x", j.px, j.x) || !reach(j.call, "the filter", j.pw, j.w) || !reach(j.call, "y", j.py, j.y)) return;
    if (j.fused && (!reach(j.call, "z", j.pz, j.z) || !reach(j.call, "the bias", j.pbias, j.bias))) return;
    if (j.work_bytes) {
        if (const char *wrong = emu_range_fault(j.work, j.work_bytes)) { emu_fault(j.call, (std::string("the workspace: ") + wrong).c_str(), 700); return; }
        memset(j.work, 0xff, j.work_bytes);
    }
    bool no_tf32 = getenv("NVIDIA_TF32_OVERRIDE") && getenv("NVIDIA_TF32_OVERRIDE")[0] == '0';
    Rounding r = j.x.kind == F32 && s.conv.math != 3 && !no_tf32 ? TF32 : EXACT;
    size_t P = size_t(s.oh) * size_t(s.ow), cg = size_t(s.c / s.g), kg = size_t(s.k / s.g), L = cg * size_t(s.r) * size_t(s.s), image = cg * size_t(s.h) * size_t(s.w);
    std::vector<float> x, w, y, col(L * P);
    if (j.d != DATA) x = read(j.px, j.x, r); else x.assign(size_t(s.n) * size_t(s.c) * size_t(s.h) * size_t(s.w), 0);
    if (j.d != FILTER) w = read(j.pw, j.w, r); else w.assign(size_t(s.k) * L, 0);
    if (j.d != FORWARD) y = read(j.py, j.y, r); else y.assign(size_t(s.n) * size_t(s.k) * P, 0);
    std::vector<float> sums(j.d == FILTER ? L * kg : 0);
    for (size_t n = 0; n < size_t(s.n); n++) for (size_t g = 0; g < size_t(s.g); g++) {
        float *xi = x.data() + (n * size_t(s.g) + g) * image, *wi = w.data() + g * kg * L, *yi = y.data() + (n * size_t(s.g) + g) * kg * P;
        if (j.d != DATA) meet(s, [&](size_t at, long long from) { col[at] = from < 0 ? 0.0f : xi[from]; });
        if (j.d == FORWARD) multiply(P, kg, L, [&](size_t i, size_t l) { return col[l * P + i]; }, [&](size_t l, size_t k) { return wi[k * L + l]; }, yi);
        if (j.d == FILTER) {
            multiply(L, kg, P, [&](size_t l, size_t i) { return col[l * P + i]; }, [&](size_t i, size_t k) { return yi[k * P + i]; }, sums.data());
            for (size_t i = 0; i < sums.size(); i++) wi[i] += sums[i];
        }
        if (j.d == DATA) {
            multiply(P, L, kg, [&](size_t i, size_t k) { return yi[k * P + i]; }, [&](size_t k, size_t l) { return wi[k * L + l]; }, col.data());
            meet(s, [&](size_t at, long long to) { if (to >= 0) xi[to] += col[at]; });
        }
    }
    if (j.d == DATA) write((void *)j.px, j.x, x, j.alpha, j.beta);
    if (j.d == FILTER) write((void *)j.pw, j.w, w, j.alpha, j.beta);
    if (j.d == FORWARD && !j.fused) write((void *)j.py, j.y, y, j.alpha, j.beta);
    if (j.d == FORWARD && j.fused) {
        std::vector<float> z = j.beta == 0 ? std::vector<float>(y.size(), 0) : read(j.pz, j.z, EXACT);
        each(j.y, [&](size_t i, size_t o, int k) {
            float v = float(j.alpha) * y[i] + float(j.beta) * z[i] + load(j.pbias, j.bias.kind, size_t(k * j.bias.stride[1]));
            store((void *)j.py, j.y.kind, o, float(act(j.act, v)));
        });
    }
}
static double factor(const void *p, Kind k) { return k == F64 ? *(const double *)p : *(const float *)p; }
static int convolve(const char *call, Handle *h, Direction d, const void *alpha, Tensor *x, const void *px, Filter *w, const void *pw, Conv *c, int algo, void *ws, size_t wsn, const void *beta, Tensor *y, const void *py, Job *fused = nullptr) {
    Job *j = fused ? fused : new Job{};
    auto end = [&](int e) { delete j; return e; };
    if (!alive(h)) return end(bad(call, "no such handle"));
    if (h->device != emu_current_device()) return end(bad(call, "the handle belongs to another device than the current context"));
    int e = shape_of(call, x, w, c, y, &j->s); if (e) return end(e);
    if (!known(d, algo)) { emu_fault(call, ("algorithm " + std::to_string(algo) + " is not emulated").c_str(), 0); return end(NOT_SUPPORTED); }
    size_t need = room_for(j->s, d, algo);
    if (wsn < need) return end(bad(call, ("the workspace has " + std::to_string(wsn) + " bytes, the algorithm needs " + std::to_string(need)).c_str()));
    if (!alpha || !beta) return end(bad(call, "alpha or beta is null"));
    if (!deterministic(d, algo)) { static bool said[3]; if (!said[d]) { said[d] = true; fprintf(stderr, "CUDA emulator: %s: algorithm %d is not deterministic on a GPU\n", call, algo); } }
    j->d = d; j->x = place(*x); j->w = place(*w); j->y = place(*y); j->px = px; j->pw = pw; j->py = py;
    j->alpha = factor(alpha, x->kind); j->beta = factor(beta, x->kind); j->work = (char *)ws; j->work_bytes = need; j->call = call;
    return emu_submit(h->stream, work, [](void *p) { delete (Job *)p; }, j) == 0 ? OK : EXECUTION_FAILED;
}
EXPORT int cudnnConvolutionForward(Handle *h, const void *alpha, Tensor *xd, const void *x, Filter *wd, const void *w, Conv *c, int algo, void *ws, size_t n, const void *beta, Tensor *yd, void *y) {
    return convolve("cudnnConvolutionForward", h, FORWARD, alpha, xd, x, wd, w, c, algo, ws, n, beta, yd, y);
}
EXPORT int cudnnConvolutionBackwardData(Handle *h, const void *alpha, Filter *wd, const void *w, Tensor *dyd, const void *dy, Conv *c, int algo, void *ws, size_t n, const void *beta, Tensor *dxd, void *dx) {
    return convolve("cudnnConvolutionBackwardData", h, DATA, alpha, dxd, dx, wd, w, c, algo, ws, n, beta, dyd, dy);
}
EXPORT int cudnnConvolutionBackwardFilter(Handle *h, const void *alpha, Tensor *xd, const void *x, Tensor *dyd, const void *dy, Conv *c, int algo, void *ws, size_t n, const void *beta, Filter *dwd, void *dw) {
    return convolve("cudnnConvolutionBackwardFilter", h, FILTER, alpha, xd, x, dwd, dw, c, algo, ws, n, beta, dyd, dy);
}
EXPORT int cudnnConvolutionBiasActivationForward(Handle *h, const void *a1, Tensor *xd, const void *x, Filter *wd, const void *w, Conv *c, int algo, void *ws, size_t n, const void *a2, Tensor *zd, const void *z, Tensor *bd, const void *b, Activation *ad, Tensor *yd, void *y) {
    const char *call = "cudnnConvolutionBiasActivationForward";
    if (!alive(zd) || !alive(bd) || !alive(ad) || !alive(yd) || !zd->set || !bd->set || !ad->set) return bad(call, "a descriptor does not exist or was never set");
    if (ad->mode != 1 && ad->mode != 5) return NOT_SUPPORTED;
    if (ad->mode == 5 && algo != 1) return bad(call, "the identity needs IMPLICIT_PRECOMP_GEMM");
    for (int i = 0; i < 4; i++) if (zd->dim[i] != yd->dim[i] || bd->dim[i] != (i == 1 ? yd->dim[1] : 1)) return bad(call, "z is not of y's shape, or the bias not 1 x K x 1 x 1");
    Job *j = new Job{}; j->fused = true; j->z = place(*zd); j->pz = z; j->bias = place(*bd); j->pbias = b; j->act = *ad;
    return convolve(call, h, FORWARD, a1, xd, x, wd, w, c, algo, ws, n, a2, yd, y, j);
}

// ---- bias and its gradient, addition, activation ----
struct Simple { Place a, c; const void *pa; void *pc; double alpha, beta; int what; Activation act; const char *call; };
static void simple(void *p) {
    const Simple &j = *(Simple *)p;
    if (!reach(j.call, "the first tensor", j.pa, j.a) || !reach(j.call, "the second tensor", j.pc, j.c)) return;
    if (j.what == 0) { // db[k] = sum of dy over images and places
        std::vector<double> sum(size_t(j.a.dim[1]), 0);
        each(j.a, [&](size_t, size_t o, int k) { sum[size_t(k)] += load(j.pa, j.a.kind, o); });
        for (size_t k = 0; k < sum.size(); k++) { size_t o = k * size_t(j.c.stride[1]); store(j.pc, j.c.kind, o, float(j.alpha * sum[k] + (j.beta == 0 ? 0 : j.beta * load(j.pc, j.c.kind, o)))); }
        return;
    }
    int at[4] = {0, 0, 0, -1};
    each(j.c, [&](size_t, size_t o, int) {
        for (int i = 3; i >= 0; i--) { if (++at[i] < j.c.dim[i]) break; at[i] = 0; }
        size_t f = 0; for (int i = 0; i < 4; i++) f += size_t((j.a.dim[i] == 1 ? 0 : at[i]) * j.a.stride[i]);
        double v = load(j.pa, j.a.kind, f); if (j.what == 2) v = act(j.act, v);
        store(j.pc, j.c.kind, o, float(j.alpha * v + (j.beta == 0 ? 0 : j.beta * load(j.pc, j.c.kind, o))));
    });
}
static int do_simple(Handle *h, int what, const char *call, const void *alpha, Tensor *ad, const void *a, const void *beta, Tensor *cd, void *c, Activation *act) {
    if (!alive(h) || !alive(ad) || !alive(cd) || !ad->set || !cd->set || !alpha || !beta) return bad(call, "a handle, descriptor or factor is missing");
    if (ad->kind != cd->kind) return bad(call, "the tensors are of different types");
    for (int i = 0; i < 4; i++) if (what == 0 ? cd->dim[i] != (i == 1 ? ad->dim[1] : 1) : ad->dim[i] != cd->dim[i] && !(what == 1 && ad->dim[i] == 1)) return bad(call, "the shapes do not fit");
    Simple *j = new Simple{place(*ad), place(*cd), a, c, factor(alpha, ad->kind), factor(beta, ad->kind), what, act ? *act : Activation{}, call};
    return emu_submit(h->stream, simple, [](void *p) { delete (Simple *)p; }, j) == 0 ? OK : EXECUTION_FAILED;
}
EXPORT int cudnnConvolutionBackwardBias(Handle *h, const void *al, Tensor *dyd, const void *dy, const void *be, Tensor *dbd, void *db) { return do_simple(h, 0, "cudnnConvolutionBackwardBias", al, dyd, dy, be, dbd, db, nullptr); }
EXPORT int cudnnAddTensor(Handle *h, const void *al, Tensor *ad, const void *a, const void *be, Tensor *cd, void *c) { return do_simple(h, 1, "cudnnAddTensor", al, ad, a, be, cd, c, nullptr); }
EXPORT int cudnnActivationForward(Handle *h, Activation *act, const void *al, Tensor *xd, const void *x, const void *be, Tensor *yd, void *y) {
    if (!alive(act) || !act->set) return bad("cudnnActivationForward", "the activation was never set");
    return do_simple(h, 2, "cudnnActivationForward", al, xd, x, be, yd, y, act);
}

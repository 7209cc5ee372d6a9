// The emulator's own test: each promise of the README, a fault on a device of its own (a fault ends a device).
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

extern "C" {
int cuInit(unsigned); int cuDevicePrimaryCtxRetain(void **, int); int cuCtxSetCurrent(void *); int cuCtxSynchronize();
int cuMemAllocAsync(uintptr_t *, size_t, void *); int cuMemFreeAsync(uintptr_t, void *); int cuMemcpyHtoDAsync_v2(uintptr_t, const void *, size_t, void *);
int cuMemcpyDtoHAsync_v2(void *, uintptr_t, size_t, void *); int cuMemsetD8Async(uintptr_t, unsigned char, size_t, void *); int cuMemHostAlloc(void **, size_t, unsigned); int cuMemFreeHost(void *);
int cuStreamCreate(void **, unsigned); int cuStreamSynchronize(void *); int cuEventCreate(void **, unsigned); int cuEventRecord(void *, void *); int cuStreamWaitEvent(void *, void *, unsigned);
int cuModuleLoadData(void **, const void *); int cuModuleGetFunction(void **, void *, const char *);
int cuLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **); int cuFuncSetAttribute(void *, int, int);
int nvrtcCreateProgram(void **, const char *, const char *, int, const char *const *, const char *const *); int nvrtcCompileProgram(void *, int, const char *const *);
int nvrtcGetPTXSize(void *, size_t *); int nvrtcGetPTX(void *, char *); int nvrtcGetProgramLogSize(void *, size_t *); int nvrtcGetProgramLog(void *, char *);
int cublasCreate_v2(void **); int cublasSetStream_v2(void *, void *); int cublasDestroy_v2(void *);
int cublasGemmStridedBatchedEx(void *, int, int, int, int, int, const void *, const void *, int, int, long long, const void *, int, int, long long, const void *, void *, int, int, long long, int, int, int);
int cudnnCreate(void **); int cudnnSetStream(void *, void *); int cudnnCreateTensorDescriptor(void **); int cudnnSetTensor4dDescriptorEx(void *, int, int, int, int, int, int, int, int, int);
int cudnnCreateFilterDescriptor(void **); int cudnnSetFilter4dDescriptor(void *, int, int, int, int, int, int); int cudnnCreateConvolutionDescriptor(void **);
int cudnnSetConvolution2dDescriptor(void *, int, int, int, int, int, int, int, int); int cudnnSetConvolutionMathType(void *, int); int cudnnSetConvolutionGroupCount(void *, int);
int cudnnConvolutionForward(void *, const void *, void *, const void *, void *, const void *, void *, int, void *, size_t, const void *, void *, void *);
int cudnnConvolutionBackwardData(void *, const void *, void *, const void *, void *, const void *, void *, int, void *, size_t, const void *, void *, void *);
int cudnnConvolutionBackwardFilter(void *, const void *, void *, const void *, void *, const void *, void *, int, void *, size_t, const void *, void *, void *);
int ncclCommInitAll(void **, int, const int *); int ncclGroupStart(); int ncclGroupEnd(); int ncclAllReduce(const void *, void *, size_t, int, int, void *, void *); int ncclBroadcast(const void *, void *, size_t, int, int, void *, void *); int ncclCommDestroy(void *);
}
static int failures = 0;
static void check(bool ok, const std::string &what) { if (!ok) failures++; printf("%s %s\n", ok ? "ok  " : "FAIL", what.c_str()); fflush(stdout); }
static void use(int d) { void *c = nullptr; cuDevicePrimaryCtxRetain(&c, d); cuCtxSetCurrent(c); }

template <class T> struct Buffer {
    uintptr_t at = 0; size_t n;
    explicit Buffer(size_t count) : n(count) { if (cuMemAllocAsync(&at, n * sizeof(T), nullptr)) { printf("FAIL allocation\n"); exit(1); } }
    explicit Buffer(const std::vector<T> &v) : Buffer(v.size()) { cuMemcpyHtoDAsync_v2(at, v.data(), n * sizeof(T), nullptr); }
    ~Buffer() { cuMemFreeAsync(at, nullptr); }
    std::vector<T> get() { std::vector<T> v(n); if (cuMemcpyDtoHAsync_v2(v.data(), at, n * sizeof(T), nullptr)) v.clear(); return v; }
};
static unsigned long long seed = 1;
static float draw() { seed = seed * 6364136223846793005ull + 1442695040888963407ull; return float(int(seed >> 40) - (1 << 23)) / float(1 << 23); }
static std::vector<float> draws(size_t n) { std::vector<float> v(n); for (float &x : v) x = draw(); return v; }
static double apart(const std::vector<float> &a, const std::vector<double> &b) { if (a.size() != b.size()) return 1e9; double d = 0; for (size_t i = 0; i < a.size(); i++) { double e = std::fabs(a[i] - b[i]); if (!(e <= d)) d = e; } return d; }

static const char *SOURCE = R"CU(
template <class T> __device__ T plus(T a, T b) { return a + b; }
extern "C" __global__ void __launch_bounds__(256) sums(const float *__restrict__ in, float *out, unsigned long long n) {
    __shared__ float part[32];
    extern __shared__ float all[];
    float s = 0;
    for (unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x; i < n; i += (unsigned long long)gridDim.x * blockDim.x) s += __ldg(in + i);
    all[threadIdx.x] = s;
    __syncthreads();
    s = all[blockDim.x - 1 - threadIdx.x];
    for (int o = 16; o; o >>= 1) s = plus(s, __shfl_xor_sync(0xffffffffu, s, o));
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = s;
    __syncthreads();
    if (threadIdx.x < 32) {
        s = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0.0f;
        for (int o = 16; o; o >>= 1) s += __shfl_down_sync(0xffffffffu, s, o);
        if (threadIdx.x == 0) out[blockIdx.x] = s;
    }
}
extern "C" __global__ void turned(int *out) { __shared__ int s[256]; s[threadIdx.x] = threadIdx.x; __syncthreads(); out[threadIdx.x] = s[255 - threadIdx.x]; }
extern "C" __global__ void turned_without_barrier(int *out) { __shared__ int s[256]; s[threadIdx.x] = threadIdx.x; out[threadIdx.x] = s[255 - threadIdx.x]; }
extern "C" __global__ void bits(const unsigned long long *in, int *count, unsigned *votes, int *total) {
    count[threadIdx.x] = __popcll(in[threadIdx.x]);
    unsigned v = __ballot_sync(0xffffffffu, in[threadIdx.x] & 1);
    if (threadIdx.x % 32 == 0) votes[threadIdx.x / 32] = v;
    atomicAdd(total, count[threadIdx.x]);
}
extern "C" __global__ void place(int *out) {
    unsigned t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z), b = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    out[b * blockDim.x * blockDim.y * blockDim.z + t] = int(b * 1000 + t);
}
extern "C" __global__ void one_side_waits(int *out) { if (threadIdx.x < 16) __syncthreads(); out[threadIdx.x] = 1; }
extern "C" __global__ void two_barriers(int *out) { if (threadIdx.x < 16) { __syncthreads();
    } else { __syncthreads(); } out[threadIdx.x] = 1; }
extern "C" __global__ void lane_gone(int *out) { if (threadIdx.x == 3) return; out[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 0); }
extern "C" __global__ void writes_behind(float *out, int n) { out[n + (int)threadIdx.x] = 1.0f; }
extern "C" __global__ void reads_behind(const float *in, float *out, int n) { out[0] = in[n]; }
extern "C" __global__ void asserts(const int *in) { if (in[0] != 1) __trap(); }
extern "C" __global__ void slowly(const int *in, int *out) { *out = *in + 1; }
)CU";

int main() {
    setenv("CUDA_EMULATED_DEVICES", "12", 1);
    if (cuInit(0)) { printf("FAIL cuInit\n"); return 1; }
    use(0);
    bool lazy = getenv("CUDA_EMULATED_LAZY") && atoi(getenv("CUDA_EMULATED_LAZY"));
    void *program, *module = nullptr;
    nvrtcCreateProgram(&program, SOURCE, "check.cu", 0, nullptr, nullptr);
    const char *options[] = {"--gpu-architecture=compute_90"};
    if (nvrtcCompileProgram(program, 1, options)) { size_t n; nvrtcGetProgramLogSize(program, &n); std::string log(n, 0); nvrtcGetProgramLog(program, &log[0]); printf("FAIL compile: %s\n", log.c_str()); return 1; }
    size_t bytes; nvrtcGetPTXSize(program, &bytes); std::string ptx(bytes, 0); nvrtcGetPTX(program, &ptx[0]);
    check(cuModuleLoadData(&module, ptx.c_str()) == 0, "module");
    auto launch = [&](const char *name, unsigned gx, unsigned gy, unsigned bx, unsigned by, unsigned bz, unsigned dynamic, std::vector<void *> args, void *stream = nullptr) {
        void *f = nullptr; if (cuModuleGetFunction(&f, module, name)) return -1;
        return cuLaunchKernel(f, gx, gy, 1, bx, by, bz, dynamic, stream, args.data(), nullptr);
    };
    {   // barriers, shuffles, both kinds of shared memory
        auto v = draws(10000); Buffer<float> in(v), out(7); unsigned long long n = v.size();
        check(launch("sums", 7, 1, 256, 1, 1, 1024, {&in.at, &out.at, &n}) == 0, "launch with shared memory");
        double want = 0, got = 0; for (float x : v) want += x; for (float x : out.get()) got += x;
        check(std::fabs(want - got) < 1e-3, "sums over blocks");
        check(launch("sums", 7, 1, 512, 1, 1, 2048, {&in.at, &out.at, &n}) == 701, "more threads than __launch_bounds__ are refused");
        check(launch("sums", 7, 1, 256, 1, 1, 60000, {&in.at, &out.at, &n}) == 1, "more than 48 KiB of dynamic shared memory are refused");
        void *f; cuModuleGetFunction(&f, module, "sums"); cuFuncSetAttribute(f, 8, 60000);
        check(launch("sums", 7, 1, 256, 1, 1, 60000, {&in.at, &out.at, &n}) == 0, "and allowed once asked for");
        check(launch("sums", 1, 70000, 256, 1, 1, 1024, {&in.at, &out.at, &n}) == 1, "a grid too large is refused");
        check(launch("no_such", 1, 1, 1, 1, 1, 0, {}) == -1, "an unknown kernel is not found");
    }
    {
        Buffer<int> out(256); bool right = true, wrong = false;
        launch("turned", 1, 1, 256, 1, 1, 0, {&out.at}); auto v = out.get(); for (int i = 0; i < 256; i++) right &= v[size_t(i)] == 255 - i;
        launch("turned_without_barrier", 1, 1, 256, 1, 1, 0, {&out.at}); v = out.get(); for (int i = 0; i < 256; i++) wrong |= v[size_t(i)] != 255 - i;
        check(right, "a barrier orders shared memory"); check(wrong, "a missing barrier shows in the result");
        Buffer<int> p(2 * 3 * 4 * 5 * 6); launch("place", 2, 3, 4, 5, 6, 0, {&p.at}); v = p.get(); bool ok = true;
        for (int b = 0; b < 6; b++) for (int t = 0; t < 120; t++) ok &= v[size_t(b * 120 + t)] == b * 1000 + t;
        check(ok, "places in blocks and grids");
    }
    {
        std::vector<unsigned long long> v(96); for (auto &x : v) { draw(); x = seed; }
        Buffer<unsigned long long> in(v); Buffer<int> count(96), total(1); Buffer<unsigned> votes(3); cuMemsetD8Async(total.at, 0, 4, nullptr);
        launch("bits", 1, 1, 96, 1, 1, 0, {&in.at, &count.at, &votes.at, &total.at});
        auto c = count.get(); auto w = votes.get(); int sum = 0; bool ok = true;
        for (size_t i = 0; i < 96; i++) { ok &= c[i] == __builtin_popcountll(v[i]) && (w[i / 32] >> (i % 32) & 1) == (v[i] & 1); sum += c[i]; }
        check(ok && total.get()[0] == sum, "popcounts, ballots, atomics");
    }
    {   // compile errors come back as the log
        void *p; nvrtcCreateProgram(&p, "extern \"C\" __global__ void k(int *a) { a[0] = unknown_name; }", "broken.cu", 0, nullptr, nullptr);
        int e = nvrtcCompileProgram(p, 0, nullptr); size_t n; nvrtcGetProgramLogSize(p, &n); std::string log(n, 0); nvrtcGetProgramLog(p, &log[0]);
        check(e == 6 && log.find("unknown_name") != std::string::npos && log.find("broken.cu:1") != std::string::npos, "a compile error with its line");
    }
    // Faults: each ends its own device, seen at the next synchronization.
    auto faulty = [&](int device, int code, const std::string &what, std::function<void()> f) {
        use(device); f(); int got = cuCtxSynchronize();
        check(got == code, what + " (" + std::to_string(got) + ")"); use(0);
    };
    faulty(1, 719, "a barrier that some threads do not reach", [&] { Buffer<int> o(32); launch("one_side_waits", 1, 1, 32, 1, 1, 0, {&o.at}); });
    faulty(2, 719, "threads at two barriers", [&] { Buffer<int> o(32); launch("two_barriers", 1, 1, 32, 1, 1, 0, {&o.at}); });
    faulty(3, 719, "a shuffle with a lane that has gone", [&] { Buffer<int> o(32); launch("lane_gone", 1, 1, 32, 1, 1, 0, {&o.at}); });
    faulty(4, 700, "a write just behind an allocation", [&] { Buffer<float> o(5); int n = 5; launch("writes_behind", 1, 1, 1, 1, 1, 0, {&o.at, &n}); });
    faulty(5, 700, "a write far behind an allocation", [&] { Buffer<float> o(5); int n = 500; launch("writes_behind", 1, 1, 1, 1, 1, 0, {&o.at, &n}); });
    faulty(6, 700, "a read behind an allocation", [&] { Buffer<float> i(8), o(1); int n = 8; launch("reads_behind", 1, 1, 1, 1, 1, 0, {&i.at, &o.at, &n}); });
    faulty(7, 700, "a parameter that was freed", [&] { uintptr_t a; { Buffer<int> o(32); a = o.at; } cuCtxSynchronize(); launch("turned", 1, 1, 256, 1, 1, 0, {&a}); });
    faulty(8, 710, "__trap", [&] { Buffer<int> i(std::vector<int>{2}); launch("asserts", 1, 1, 1, 1, 1, 0, {&i.at}); });
    { Buffer<int> other(4); faulty(9, 700, "memory of another device", [&] { launch("turned", 1, 1, 4, 1, 1, 0, {&other.at}); }); }
    {
        std::vector<int> v(4); Buffer<int> b(4);
        check(cuMemcpyHtoDAsync_v2(b.at, v.data(), 20, nullptr) == 1, "a copy too long is refused");
    }
    if (lazy) {   // what is queued is done late, and in order where events say so
        void *a, *b, *e; cuStreamCreate(&a, 1); cuStreamCreate(&b, 1); cuEventCreate(&e, 2);
        int *pinned; cuMemHostAlloc((void **)&pinned, 4, 0); *pinned = 1;
        Buffer<int> x(1), y(1); cuCtxSynchronize();
        cuMemcpyHtoDAsync_v2(x.at, pinned, 4, a); *pinned = 5; cuEventRecord(e, a);
        cuStreamWaitEvent(b, e, 0); launch("slowly", 1, 1, 1, 1, 1, 0, {&x.at, &y.at}, b); cuStreamSynchronize(b);
        check(y.get()[0] == 6, "a pinned source is read when the stream comes to it; an event orders two streams");
        cuMemFreeHost(pinned);
    }
    {   // matrix products, column-major
        void *h; cublasCreate_v2(&h); bool ok = true; double worst = 0;
        for (int turn = 0; turn < 24; turn++) {
            int m = 1 + turn * 7 % 23, n = 1 + turn * 5 % 19, k = 1 + turn * 11 % 37, ta = turn & 1, tb = turn >> 1 & 1, batch = 1 + turn % 3; float al = 1.5f, be = turn % 3 ? 0.5f : 0.0f;
            int lda = (ta ? k : m) + 2, ldb = (tb ? n : k) + 1, ldc = m + 3; size_t sa = size_t(lda) * size_t(ta ? m : k), sb = size_t(ldb) * size_t(tb ? k : n), sc = size_t(ldc) * size_t(n);
            auto A = draws(sa * size_t(batch)), B = draws(sb * size_t(batch)), C = draws(sc * size_t(batch)); if (be == 0) for (float &c : C) c = NAN;
            Buffer<float> a(A), b(B), c(C);
            ok &= cublasGemmStridedBatchedEx(h, ta, tb, m, n, k, &al, (void *)a.at, 0, lda, (long long)sa, (void *)b.at, 0, ldb, (long long)sb, &be, (void *)c.at, 0, ldc, (long long)sc, batch, 68, -1) == 0;
            auto got = c.get();
            for (size_t q = 0; q < size_t(batch); q++) for (int j = 0; j < n; j++) for (int i = 0; i < m; i++) {
                double s = 0; for (int l = 0; l < k; l++) s += double(A[q * sa + size_t(ta ? l + i * lda : i + l * lda)]) * double(B[q * sb + size_t(tb ? j + l * ldb : l + j * ldb)]);
                size_t o = q * sc + size_t(i + j * ldc); double d = std::fabs(al * s + (be == 0 ? 0 : be * C[o]) - got[o]); if (!(d <= worst)) worst = d;
            }
        }
        check(ok && worst < 1e-4, "matrix products: transposes, strides, batches, alpha and beta");
        cublasDestroy_v2(h);
    }
    {   // convolutions against their definition
        void *h, *xd, *yd, *wd, *cd; cudnnCreate(&h); cudnnCreateTensorDescriptor(&xd); cudnnCreateTensorDescriptor(&yd); cudnnCreateFilterDescriptor(&wd); cudnnCreateConvolutionDescriptor(&cd);
        double worst = 0; bool ok = true;
        for (int turn = 0; turn < 6; turn++) {
            int N = 2, g = 1 + turn % 2, C = 2 * g, K = 3 * g, H = 7, W = 6, R = 3, S = 2, p = turn % 3, st = 1 + turn % 2, dl = 1 + turn / 4, OH = (H + 2 * p - ((R - 1) * dl + 1)) / st + 1, OW = (W + 2 * p - ((S - 1) * dl + 1)) / st + 1; bool nhwc = turn >= 3;
            auto strides = [&](int c, int hh, int ww, int *o) { o[0] = c * hh * ww; if (nhwc) { o[1] = 1; o[2] = ww * c; o[3] = c; } else { o[1] = hh * ww; o[2] = ww; o[3] = 1; } };
            int xs[4], ys[4], ws[4]; strides(C, H, W, xs); strides(K, OH, OW, ys); strides(C / g, R, S, ws);
            cudnnSetTensor4dDescriptorEx(xd, 0, N, C, H, W, xs[0], xs[1], xs[2], xs[3]); cudnnSetTensor4dDescriptorEx(yd, 0, N, K, OH, OW, ys[0], ys[1], ys[2], ys[3]);
            cudnnSetFilter4dDescriptor(wd, 0, nhwc, K, C / g, R, S); cudnnSetConvolution2dDescriptor(cd, p, p, st, st, dl, dl, 1, 0); cudnnSetConvolutionMathType(cd, 3); cudnnSetConvolutionGroupCount(cd, g);
            auto x = draws(size_t(N * C * H * W)), w = draws(size_t(K * C / g * R * S)), dy = draws(size_t(N * K * OH * OW));
            std::vector<double> Y(dy.size()), DX(x.size()), DW(w.size());
            for (int n = 0; n < N; n++) for (int k = 0; k < K; k++) for (int i = 0; i < OH; i++) for (int j = 0; j < OW; j++) for (int c = 0; c < C / g; c++) for (int r = 0; r < R; r++) for (int s = 0; s < S; s++) {
                int yy = i * st - p + r * dl, xx = j * st - p + s * dl; if (yy < 0 || yy >= H || xx < 0 || xx >= W) continue;
                size_t a = size_t(n * xs[0] + (c + k / (K / g) * (C / g)) * xs[1] + yy * xs[2] + xx * xs[3]), b = size_t(k * ws[0] + c * ws[1] + r * ws[2] + s * ws[3]), o = size_t(n * ys[0] + k * ys[1] + i * ys[2] + j * ys[3]);
                Y[o] += double(x[a]) * w[b]; DX[a] += double(dy[o]) * w[b]; DW[b] += double(dy[o]) * x[a];
            }
            Buffer<float> bx(x), bw(w), bdy(dy), by(dy.size()), bdx(x.size()), bdw(w.size()); Buffer<char> room(1 << 20); float one = 1, zero = 0;
            ok &= cudnnConvolutionForward(h, &one, xd, (void *)bx.at, wd, (void *)bw.at, cd, 1, (void *)room.at, 1 << 20, &zero, yd, (void *)by.at) == 0;
            ok &= cudnnConvolutionBackwardData(h, &one, wd, (void *)bw.at, yd, (void *)bdy.at, cd, 1, (void *)room.at, 1 << 20, &zero, xd, (void *)bdx.at) == 0;
            ok &= cudnnConvolutionBackwardFilter(h, &one, xd, (void *)bx.at, yd, (void *)bdy.at, cd, 1, (void *)room.at, 1 << 20, &zero, wd, (void *)bdw.at) == 0;
            ok &= cudnnConvolutionForward(h, &one, xd, (void *)bx.at, wd, (void *)bw.at, cd, 1, nullptr, 0, &zero, yd, (void *)by.at) != 0;
            worst = std::max({worst, apart(by.get(), Y), apart(bdx.get(), DX), apart(bdw.get(), DW)});
        }
        check(ok && worst < 1e-4, "convolutions and their gradients: padding, strides, dilation, groups, NHWC (" + std::to_string(worst) + ")");
    }
    {   // collectives: one thread with a group, and a thread for each device
        int devices[2] = {10, 11}; void *comms[2]; bool ok = ncclCommInitAll(comms, 2, devices) == 0; size_t n = 300001;
        std::vector<std::vector<float>> v = {draws(n), draws(n)};
        use(10); Buffer<float> *b[2]; b[0] = new Buffer<float>(v[0]); use(11); b[1] = new Buffer<float>(v[1]);
        ncclGroupStart(); for (int i = 0; i < 2; i++) ok &= ncclAllReduce((void *)b[i]->at, (void *)b[i]->at, n, 7, 0, comms[i], nullptr) == 0; ok &= ncclGroupEnd() == 0;
        for (int i = 0; i < 2; i++) { use(devices[i]); auto got = b[i]->get(); for (size_t k = 0; k < n; k++) ok &= got[k] == v[0][k] + v[1][k]; }
        std::vector<std::thread> threads;
        for (int i = 0; i < 2; i++) threads.emplace_back([&, i] { use(devices[i]); if (i == 1) cuMemsetD8Async(b[1]->at, 0, n * 4, nullptr); if (ncclBroadcast((void *)b[i]->at, (void *)b[i]->at, n, 7, 0, comms[i], nullptr)) ok = false; });
        for (auto &t : threads) t.join();
        use(11); ok &= b[1]->get()[n - 1] == v[0][n - 1] + v[1][n - 1];
        check(ok, "collectives in a group and between threads");
        use(10); delete b[0]; use(11); delete b[1]; ncclCommDestroy(comms[0]); ncclCommDestroy(comms[1]);
    }
    printf(failures ? "%d checks failed\n" : "all checks passed\n", failures);
    return failures != 0;
}

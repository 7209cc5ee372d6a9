// NCCL: collectives between threads and between processes, through a piece of shared memory named by the unique id.
// A call returns when it is done; sums are made in the order of the ranks.
#include "emu.h"
#include "numbers.h"
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fcntl.h>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#define EXPORT extern "C" __attribute__((visibility("default")))
extern "C" int cuStreamSynchronize(void *);
extern "C" int cuCtxSetCurrent(void *);
extern "C" int cuCtxGetCurrent(void **);
extern "C" int cuDevicePrimaryCtxRetain(void **, int);
enum { OK = 0, CUDA_ERROR = 1, SYSTEM_ERROR = 2, INTERNAL_ERROR = 3, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6 };
enum What { ALL_REDUCE, BROADCAST, REDUCE, ALL_GATHER, REDUCE_SCATTER };
static const char *names[] = {"ncclAllReduce", "ncclBroadcast", "ncclReduce", "ncclAllGather", "ncclReduceScatter"};
struct Id { char bytes[128]; };
static const size_t CHUNK = 1 << 20;
struct Head { int what, type, op, root; unsigned long long count; };
struct Shared { std::atomic<int> ranks, joined, gone, aborted; std::atomic<unsigned long long> arrived; char pad[64]; Head head[64]; };
struct Comm { Shared *s; size_t mapped; int rank, ranks, device; unsigned long long barriers = 0; char *slot(int r) { return (char *)(s + 1) + size_t(r) * CHUNK; } };
struct Work { Comm *comm; What what; const char *send; char *recv; size_t count; int type, op, root; void *stream; };
static thread_local int depth = 0;
static thread_local std::vector<Work> group;

static size_t width(int type) { switch (type) { case 0: case 1: return 1; case 2: case 3: case 7: return 4; case 4: case 5: case 8: return 8; case 6: case 9: return 2; } return 0; }
static int fault(const char *call, const std::string &why, int code) { emu_fault(call, why.c_str(), 0); return code; }
static double now() { timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return double(t.tv_sec) + double(t.tv_nsec) * 1e-9; }
static double patience() { const char *v = getenv("CUDA_EMULATED_NCCL_TIMEOUT"); return v && *v ? atof(v) : 60; }

static void arrive(Comm *c) { c->barriers++; c->s->arrived++; }
static int wait(Comm *c, const char *call) {
    double until = now() + patience();
    while (c->s->arrived < c->barriers * (unsigned long long)c->ranks) {
        if (c->s->aborted) return fault(call, "another rank has left the communicator", REMOTE_ERROR);
        if (now() > until) return fault(call, "rank " + std::to_string(c->rank) + " of " + std::to_string(c->ranks) + " waited in vain for the others (one thread with several devices must put its calls between ncclGroupStart and ncclGroupEnd)", SYSTEM_ERROR);
        timespec t{0, 20000}; nanosleep(&t, nullptr);
    }
    return OK;
}
template <class T> static T combine(T a, T b, int op) { switch (op) { case 1: return T(a * b); case 2: return a < b ? b : a; case 3: return b < a ? b : a; } return T(a + b); }
template <class T> static void reduce_plain(Comm *c, char *out, size_t n, int op) {
    for (size_t i = 0; i < n; i++) {
        T v = ((T *)c->slot(0))[i];
        for (int r = 1; r < c->ranks; r++) v = combine(v, ((T *)c->slot(r))[i], op);
        if (op == 4) v = T(v / T(c->ranks));
        ((T *)out)[i] = v;
    }
}
static void reduce(Comm *c, char *out, size_t n, int type, int op) {
    switch (type) {
        case 0: reduce_plain<int8_t>(c, out, n, op); break;
        case 1: reduce_plain<uint8_t>(c, out, n, op); break;
        case 2: reduce_plain<int32_t>(c, out, n, op); break;
        case 3: reduce_plain<uint32_t>(c, out, n, op); break;
        case 4: reduce_plain<int64_t>(c, out, n, op); break;
        case 5: reduce_plain<uint64_t>(c, out, n, op); break;
        case 7: reduce_plain<float>(c, out, n, op); break;
        case 8: reduce_plain<double>(c, out, n, op); break;
        default: {
            Kind k = type == 6 ? F16 : BF16;
            for (size_t i = 0; i < n; i++) {
                float v = load(c->slot(0), k, i);
                for (int r = 1; r < c->ranks; r++) v = combine(v, load(c->slot(r), k, i), op);
                store(out, k, i, op == 4 ? v / float(c->ranks) : v);
            }
        }
    }
}
// One collective of several communicators that this thread drives.
static int run(std::vector<Work> &all) {
    for (Work &w : all) { // in the order of its stream, and with sound buffers
        void *was; cuCtxGetCurrent(&was);
        void *ctx = nullptr; cuDevicePrimaryCtxRetain(&ctx, w.comm->device); cuCtxSetCurrent(ctx);
        int e = cuStreamSynchronize(w.stream);
        cuCtxSetCurrent(was);
        if (e) return CUDA_ERROR;
        size_t b = w.count * width(w.type), n = size_t(w.comm->ranks);
        size_t sent = w.what == REDUCE_SCATTER ? b * n : w.what == BROADCAST && w.comm->rank != w.root ? 0 : b;
        size_t got = w.what == ALL_GATHER ? b * n : w.what == REDUCE && w.comm->rank != w.root ? 0 : b;
        if (const char *wrong = emu_range_fault(w.send, sent)) return fault(names[w.what], std::string("the send buffer: ") + wrong, INVALID_ARGUMENT);
        if (const char *wrong = emu_range_fault(w.recv, got)) return fault(names[w.what], std::string("the receive buffer: ") + wrong, INVALID_ARGUMENT);
        w.comm->s->head[w.comm->rank] = {w.what, w.type, w.op, w.root, w.count};
        arrive(w.comm);
    }
    for (Work &w : all) {
        if (int e = wait(w.comm, names[w.what])) return e;
        for (int r = 0; r < w.comm->ranks; r++) {
            const Head &h = w.comm->s->head[r];
            if (h.what != w.what || h.type != w.type || h.count != w.count || h.root != w.root || h.op != w.op)
                return fault(names[w.what], "rank " + std::to_string(r) + " calls " + names[h.what] + " with " + std::to_string(h.count) + " elements of type " + std::to_string(h.type) + ", rank " + std::to_string(w.comm->rank) + " has " + std::to_string(w.count) + " of type " + std::to_string(w.type), INVALID_USAGE);
        }
    }
    const What what = all[0].what; const size_t size = width(all[0].type), count = all[0].count, step = CHUNK / size;
    const int segments = what == REDUCE_SCATTER ? all[0].comm->ranks : 1;
    for (int s = 0; s < segments; s++)
        for (size_t at = 0; at < count; at += step) {
            size_t n = std::min(step, count - at);
            for (Work &w : all) {
                if (what != BROADCAST || w.comm->rank == w.root) memcpy(w.comm->slot(w.comm->rank), w.send + (size_t(s) * count + at) * size, n * size);
                arrive(w.comm);
            }
            for (Work &w : all) if (int e = wait(w.comm, names[what])) return e;
            for (Work &w : all) {
                Comm *c = w.comm; char *out = w.recv + at * size;
                if (what == ALL_REDUCE || (what == REDUCE && c->rank == w.root) || (what == REDUCE_SCATTER && c->rank == s)) reduce(c, out, n, w.type, w.op);
                if (what == BROADCAST) memcpy(out, c->slot(w.root), n * size);
                if (what == ALL_GATHER) for (int r = 0; r < c->ranks; r++) memcpy(w.recv + (size_t(r) * count + at) * size, c->slot(r), n * size);
                arrive(c);
            }
            for (Work &w : all) if (int e = wait(w.comm, names[what])) return e;
        }
    return OK;
}
static int run_group() {
    std::vector<Work> all; all.swap(group);
    while (!all.empty()) {
        std::vector<Work> round, rest;
        for (Work &w : all) {
            bool taken = false; for (Work &r : round) taken |= r.comm == w.comm;
            if (taken || (!round.empty() && (round[0].what != w.what || round[0].count != w.count || round[0].type != w.type))) rest.push_back(w); else round.push_back(w);
        }
        if (int e = run(round)) return e;
        all.swap(rest);
    }
    return OK;
}
static int call(What what, const void *send, void *recv, size_t count, int type, int op, int root, Comm *c, void *stream) {
    if (!c) return INVALID_ARGUMENT;
    if (!width(type) || op < 0 || op > 4 || root < 0 || root >= c->ranks) return fault(names[what], "no such type, operation or root", INVALID_ARGUMENT);
    group.push_back({c, what, (const char *)send, (char *)recv, count, type, op, root, stream});
    return depth > 0 ? OK : run_group();
}
static int join(Comm **out, int ranks, const Id &id, int rank, int device) {
    if (!out || ranks < 1 || ranks > 64 || rank < 0 || rank >= ranks) return INVALID_ARGUMENT;
    std::string name = std::string("/") + std::string(id.bytes, strnlen(id.bytes, 100));
    size_t bytes = sizeof(Shared) + size_t(ranks) * CHUNK;
    int fd = shm_open(name.c_str(), O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, off_t(bytes)) != 0) return fault("ncclCommInitRank", "no shared memory: " + name, SYSTEM_ERROR);
    void *m = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (m == MAP_FAILED) return SYSTEM_ERROR;
    Comm *c = new Comm{(Shared *)m, bytes, rank, ranks, device};
    int none = 0;
    if (!c->s->ranks.compare_exchange_strong(none, ranks) && none != ranks) return fault("ncclCommInitRank", "the ranks name different sizes of one communicator", INVALID_ARGUMENT);
    if (++c->s->joined == ranks) shm_unlink(name.c_str());
    *out = c;
    return OK;
}
static int leave(Comm *c, bool abort) {
    if (!c) return OK;
    if (abort) c->s->aborted = 1;
    munmap(c->s, c->mapped); delete c; return OK;
}
EXPORT int ncclGetVersion(int *v) { *v = 22809; return OK; }
EXPORT int ncclGetUniqueId(Id *id) {
    unsigned long long r[2]; if (getrandom(r, sizeof r, 0) != sizeof r) return SYSTEM_ERROR;
    memset(id, 0, sizeof *id); snprintf(id->bytes, sizeof id->bytes, "cuda-emulator-nccl-%016llx%016llx", r[0], r[1]); return OK;
}
EXPORT int ncclCommInitRank(Comm **out, int ranks, Id id, int rank) {
    if (emu_current_device() < 0) return CUDA_ERROR;
    if (int e = join(out, ranks, id, rank, emu_current_device())) return e;
    if (depth > 0) return OK;
    double until = now() + patience();
    while ((*out)->s->joined < ranks) {
        if (now() > until) return fault("ncclCommInitRank", "waited in vain for the other ranks", SYSTEM_ERROR);
        timespec t{0, 100000}; nanosleep(&t, nullptr);
    }
    return OK;
}
EXPORT int ncclCommInitRankConfig(Comm **out, int ranks, Id id, int rank, void *) { return ncclCommInitRank(out, ranks, id, rank); }
EXPORT int ncclCommInitAll(Comm **out, int n, const int *devices) {
    Id id; if (int e = ncclGetUniqueId(&id)) return e;
    for (int i = 0; i < n; i++) {
        int d = devices ? devices[i] : i;
        if (d < 0 || d >= emu_device_count()) return fault("ncclCommInitAll", "no device " + std::to_string(d), INVALID_ARGUMENT);
        for (int k = 0; k < i; k++) if ((devices ? devices[k] : k) == d) return fault("ncclCommInitAll", "a device is named twice", INVALID_USAGE);
        if (int e = join(&out[i], n, id, i, d)) return e;
    }
    return OK;
}
EXPORT int ncclCommDestroy(Comm *c) { return leave(c, false); }
EXPORT int ncclCommFinalize(Comm *) { return OK; }
EXPORT int ncclCommAbort(Comm *c) { return leave(c, true); }
EXPORT int ncclCommCount(Comm *c, int *n) { *n = c->ranks; return OK; }
EXPORT int ncclCommCuDevice(Comm *c, int *d) { *d = c->device; return OK; }
EXPORT int ncclCommUserRank(Comm *c, int *r) { *r = c->rank; return OK; }
EXPORT int ncclCommGetAsyncError(Comm *, int *e) { *e = OK; return OK; }
EXPORT const char *ncclGetErrorString(int e) { return e ? "a failure in the emulated NCCL" : "no error"; }
EXPORT const char *ncclGetLastError(Comm *) { return ""; }
EXPORT int ncclGroupStart() { depth++; return OK; }
EXPORT int ncclGroupEnd() { if (depth <= 0) return INVALID_USAGE; return --depth > 0 ? OK : run_group(); }
EXPORT int ncclAllReduce(const void *s, void *r, size_t n, int t, int op, Comm *c, void *st) { return call(ALL_REDUCE, s, r, n, t, op, 0, c, st); }
EXPORT int ncclBroadcast(const void *s, void *r, size_t n, int t, int root, Comm *c, void *st) { return call(BROADCAST, s, r, n, t, 0, root, c, st); }
EXPORT int ncclBcast(void *b, size_t n, int t, int root, Comm *c, void *st) { return call(BROADCAST, b, b, n, t, 0, root, c, st); }
EXPORT int ncclReduce(const void *s, void *r, size_t n, int t, int op, int root, Comm *c, void *st) { return call(REDUCE, s, r, n, t, op, root, c, st); }
EXPORT int ncclAllGather(const void *s, void *r, size_t n, int t, Comm *c, void *st) { return call(ALL_GATHER, s, r, n, t, 0, 0, c, st); }
EXPORT int ncclReduceScatter(const void *s, void *r, size_t n, int t, int op, Comm *c, void *st) { return call(REDUCE_SCATTER, s, r, n, t, op, 0, c, st); }

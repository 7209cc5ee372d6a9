// The CUDA driver's entry points that cudarc and candle use: devices, contexts, streams, events, copies, launches.
// Work is done at once on the calling thread, or, with CUDA_EMULATED_LAZY=1, as late as a real device may do it.
#include "driver.h"
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <time.h>

static std::vector<std::unique_ptr<Device>> devices;
static std::atomic<bool> ready{false};
static std::recursive_mutex queue_lock;
static std::set<Stream *> streams;
static thread_local Device *bound = nullptr;

long setting(const char *name, long otherwise) { const char *v = getenv(name); return v && *v ? atol(v) : otherwise; }
static bool lazy() { static const bool l = setting("CUDA_EMULATED_LAZY", 0) != 0; return l; }
void say(const char *format, ...) {
    char text[1024]; va_list a; va_start(a, format); vsnprintf(text, sizeof text, format, a); va_end(a);
    fprintf(stderr, "CUDA emulator: %s\n", text);
}
Device *device(int ordinal) { return ready && ordinal >= 0 && size_t(ordinal) < devices.size() ? devices[size_t(ordinal)].get() : nullptr; }
Device *current() { return bound; }

EXPORT int emu_device_count() { return ready ? int(devices.size()) : 0; }
EXPORT int emu_current_device() { return bound ? bound->ordinal : -1; }
EXPORT int emu_sticky() { return bound ? bound->sticky.load() : 0; }
EXPORT void emu_uuid(int d, unsigned char out[16]) {
    static const unsigned char base[16] = {0xe0, 0xe1, 0xe2, 0xe3, 0xe4, 0xe5, 0x40, 0x00, 0x80, 0x00, 0xec, 0xed, 0xee, 0xef, 0xf0, 0x00};
    memcpy(out, base, 16); out[15] = (unsigned char)d;
}
EXPORT void emu_missing(const char *name) {
    static std::mutex m; static std::set<std::string> said;
    std::lock_guard<std::mutex> g(m);
    if (said.insert(name).second) say("%s is not emulated", name);
}
EXPORT void emu_fault(const char *call, const char *what, int code) {
    say("%s: %s", call, what);
    if (code && bound) { int none = 0; bound->sticky.compare_exchange_strong(none, code); }
    if (setting("CUDA_EMULATED_ABORT", 0)) abort();
}

// ---- devices and contexts ----
EXPORT int cuInit(unsigned) {
    static std::mutex m;
    std::lock_guard<std::mutex> g(m);
    if (ready) return devices.empty() ? NO_DEVICE : OK;
    long n = setting("CUDA_EMULATED_DEVICES", 1);
    std::vector<int> seen;
    if (const char *v = getenv("CUDA_VISIBLE_DEVICES")) {
        // As the real one reads it: the list ends at the first entry that names no device.
        std::string list = v;
        for (size_t at = 0; at < list.size();) {
            size_t end = std::min(list.find(',', at), list.size());
            std::string one = list.substr(at, end - at); at = end + 1;
            while (!one.empty() && one[0] == ' ') one.erase(0, 1);
            int found = -1;
            for (int d = 0; d < n; d++) {
                unsigned char u[16]; emu_uuid(d, u); char text[64];
                snprintf(text, sizeof text, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
                if (one == std::to_string(d) || (one.size() > 4 && std::string(text).rfind(one, 0) == 0)) { found = d; break; }
            }
            if (found < 0) break;
            seen.push_back(found);
        }
    } else for (int d = 0; d < n; d++) seen.push_back(d);
    for (size_t i = 0; i < seen.size(); i++) {
        auto d = std::make_unique<Device>();
        d->ordinal = int(i); emu_uuid(seen[i], d->uuid); d->legacy.device = int(i);
        devices.push_back(std::move(d));
    }
    launch_init();
    ready = true;
    return devices.empty() ? NO_DEVICE : OK;
}
EXPORT int cuDriverGetVersion(int *v) { if (!v) return INVALID_VALUE; *v = int(setting("CUDA_EMULATED_DRIVER", 13000)); return OK; }
EXPORT int cuDeviceGetCount(int *n) { if (!ready) return NOT_INITIALIZED; if (!n) return INVALID_VALUE; *n = int(devices.size()); return OK; }
EXPORT int cuDeviceGet(int *out, int ordinal) {
    if (!ready) return NOT_INITIALIZED;
    if (!out || !device(ordinal)) return INVALID_DEVICE;
    *out = ordinal; return OK;
}
EXPORT int cuDeviceGetName(char *out, int room, int dev) {
    if (!device(dev) || !out || room < 1) return INVALID_DEVICE;
    snprintf(out, size_t(room), "CUDA emulator on a CPU"); return OK;
}
EXPORT int cuDeviceGetUuid_v2(unsigned char *out, int dev) { if (!device(dev) || !out) return INVALID_DEVICE; memcpy(out, device(dev)->uuid, 16); return OK; }
EXPORT int cuDeviceGetUuid(unsigned char *out, int dev) { return cuDeviceGetUuid_v2(out, dev); }
EXPORT int cuDeviceGetPCIBusId(char *out, int room, int dev) { if (!device(dev) || !out) return INVALID_DEVICE; snprintf(out, size_t(room), "0000:%02x:00.0", dev + 1); return OK; }
EXPORT int cuDeviceGetAttribute(int *out, int what, int dev) {
    if (!ready) return NOT_INITIALIZED;
    if (!device(dev) || !out) return INVALID_DEVICE;
    long cc = setting("CUDA_EMULATED_CC", 90);
    switch (what) { // as an H200 answers, where it matters to a program
        case 1: case 2: case 3: *out = 1024; break;
        case 4: *out = 64; break;
        case 5: *out = 2147483647; break;
        case 6: case 7: *out = 65535; break;
        case 8: *out = 49152; break;
        case 9: *out = 65536; break;
        case 10: *out = 32; break;
        case 11: *out = 2147483647; break;
        case 12: case 82: *out = 65536; break;
        case 13: *out = 1980000; break;
        case 14: *out = 512; break;
        case 15: case 31: case 19: case 41: case 78: case 79: case 80: case 115: *out = 1; break;
        case 16: *out = 132; break;
        case 33: *out = dev + 1; break;
        case 36: *out = 3201000; break;
        case 37: *out = 6144; break;
        case 38: *out = 62914560; break;
        case 39: *out = 2048; break;
        case 40: *out = 3; break;
        case 75: *out = int(cc / 10); break;
        case 76: *out = int(cc % 10); break;
        case 81: *out = 233472; break;
        case 87: *out = 2; break;
        case 97: *out = 232448; break;
        case 106: *out = 32; break;
        case 111: *out = 1024; break;
        default: *out = 0;
    }
    return OK;
}
EXPORT int cuDeviceComputeCapability(int *major, int *minor, int dev) { cuDeviceGetAttribute(major, 75, dev); return cuDeviceGetAttribute(minor, 76, dev); }
EXPORT int cuDevicePrimaryCtxRetain(void **ctx, int dev) {
    if (!ready) return NOT_INITIALIZED;
    Device *d = device(dev); if (!d || !ctx) return INVALID_DEVICE;
    d->retained++; *ctx = d; return OK;
}
EXPORT int cuDevicePrimaryCtxRelease_v2(int dev) { Device *d = device(dev); if (!d) return INVALID_DEVICE; if (d->retained > 0) d->retained--; return OK; }
EXPORT int cuCtxSetCurrent(void *ctx) { bound = (Device *)ctx; return OK; }
EXPORT int cuCtxGetCurrent(void **ctx) { if (!ctx) return INVALID_VALUE; *ctx = bound; return OK; }
EXPORT int cuCtxPushCurrent_v2(void *ctx) { bound = (Device *)ctx; return OK; }
EXPORT int cuCtxPopCurrent_v2(void **ctx) { if (ctx) *ctx = bound; bound = nullptr; return OK; }
EXPORT int cuCtxGetDevice(int *dev) { if (!bound) return INVALID_CONTEXT; *dev = bound->ordinal; return OK; }
EXPORT int cuCtxSetFlags(unsigned) { return bound ? OK : INVALID_CONTEXT; }
EXPORT int cuCtxGetLimit(size_t *v, int) { if (v) *v = 1024; return OK; }
EXPORT int cuCtxSetLimit(int, size_t) { return OK; }
EXPORT int cuCtxGetCacheConfig(int *v) { if (v) *v = 0; return OK; }
EXPORT int cuCtxSetCacheConfig(int) { return OK; }
EXPORT int cuCtxGetStreamPriorityRange(int *least, int *greatest) { if (least) *least = 0; if (greatest) *greatest = -5; return OK; }

static const struct { int code; const char *name, *text; } errors[] = {
    {0, "CUDA_SUCCESS", "no error"}, {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"}, {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"}, {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}, {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}, {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"}, {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"}, {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}, {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {710, "CUDA_ERROR_ASSERT", "device-side assert triggered"}, {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
};
EXPORT int cuGetErrorName(int code, const char **out) { for (auto &e : errors) if (e.code == code) { *out = e.name; return OK; } *out = nullptr; return INVALID_VALUE; }
EXPORT int cuGetErrorString(int code, const char **out) { for (auto &e : errors) if (e.code == code) { *out = e.text; return OK; } *out = nullptr; return INVALID_VALUE; }

// ---- streams ----
// Does what is queued on `s` up to its work number `until`.
static void drain(Stream *s, uint64_t until) {
    std::lock_guard<std::recursive_mutex> g(queue_lock);
    while (s->done < until && !s->ops.empty()) {
        Op op = s->ops.front(); s->ops.pop_front();
        s->done++;
        Device *was = bound; bound = device(op.device);
        if (!bound->sticky) op.work(op.data);
        if (op.drop) op.drop(op.data);
        bound = was;
    }
}
static void drain_all(int ordinal, bool only_blocking) {
    std::lock_guard<std::recursive_mutex> g(queue_lock);
    for (Stream *s : std::set<Stream *>(streams)) if (s->device == ordinal && (!only_blocking || s->blocking)) drain(s, s->queued);
}
struct OwnStreams { std::map<int, Stream *> of; };
static thread_local OwnStreams own;      // the per-thread default streams
Stream *stream_of(void *handle, int *error, bool launch) {
    *error = OK;
    if (!bound) { *error = INVALID_CONTEXT; return nullptr; }
    uintptr_t h = uintptr_t(handle);
    std::lock_guard<std::recursive_mutex> g(queue_lock);
    if (h <= 1) { streams.insert(&bound->legacy); return &bound->legacy; }
    if (h == 2) {
        Stream *&s = own.of[bound->ordinal];
        if (!s) { s = new Stream{bound->ordinal, true}; streams.insert(s); }
        return s;
    }
    if (!streams.count((Stream *)handle)) { *error = INVALID_HANDLE; say("a stream was used that is not alive"); return nullptr; }
    // Copies, waits and frees work on any device's stream, launches on the current one's.
    if (launch && ((Stream *)handle)->device != bound->ordinal) { *error = INVALID_HANDLE; say("a stream of device %d was used in the context of device %d", ((Stream *)handle)->device, bound->ordinal); return nullptr; }
    return (Stream *)handle;
}
int submit(void *handle, void (*work)(void *), void (*drop)(void *), void *data, bool launch) {
    int error; Stream *s = stream_of(handle, &error, launch);
    if (!error && bound->sticky) error = bound->sticky;
    if (error) { if (drop) drop(data); return error; }
    if (!lazy()) {
        Device *was = bound; bound = device(s->device);
        work(data); if (drop) drop(data);
        bound = was; return OK;
    }
    std::lock_guard<std::recursive_mutex> g(queue_lock);
    s->ops.push_back({work, drop, data, s->device}); s->queued++;
    // The legacy stream waits for the blocking ones and they for it: done at once, that order holds.
    if (s == &bound->legacy) { drain_all(bound->ordinal, true); drain(s, s->queued); }
    return OK;
}
EXPORT int emu_submit(void *stream, void (*work)(void *), void (*drop)(void *), void *data) { return submit(stream, work, drop, data, true); }
EXPORT int cuStreamCreateWithPriority(void **out, unsigned flags, int) {
    if (!bound) return INVALID_CONTEXT;
    if (!out) return INVALID_VALUE;
    if (bound->sticky) return bound->sticky;
    std::lock_guard<std::recursive_mutex> g(queue_lock);
    Stream *s = new Stream{bound->ordinal, (flags & 1) == 0};
    streams.insert(s); *out = s; return OK;
}
EXPORT int cuStreamCreate(void **out, unsigned flags) { return cuStreamCreateWithPriority(out, flags, 0); }
EXPORT int cuStreamSynchronize(void *handle) {
    int error; Stream *s = stream_of(handle, &error); if (error) return error;
    if (s == &bound->legacy) drain_all(bound->ordinal, true);
    drain(s, s->queued); return bound->sticky;
}
EXPORT int cuStreamQuery(void *handle) { return cuStreamSynchronize(handle); }
EXPORT int cuStreamDestroy_v2(void *handle) {
    if (uintptr_t(handle) <= 2) return INVALID_HANDLE;
    std::lock_guard<std::recursive_mutex> g(queue_lock);
    Stream *s = (Stream *)handle;
    if (!streams.count(s)) return INVALID_HANDLE;
    drain(s, s->queued);
    streams.erase(s); delete s; return OK;
}
EXPORT int cuCtxSynchronize() { if (!bound) return INVALID_CONTEXT; drain_all(bound->ordinal, false); return bound->sticky; }
EXPORT int cuStreamIsCapturing(void *, int *out) { if (out) *out = 0; return OK; }
EXPORT int cuStreamGetCtx(void *, void **ctx) { if (ctx) *ctx = bound; return OK; }
EXPORT int cuLaunchHostFunc(void *stream, void (*f)(void *), void *data) { return submit(stream, f, nullptr, data); }

// ---- events ----
struct Event { int device = 0; Stream *stream = nullptr; uint64_t at = 0; double ms = 0; bool timing = true, recorded = false; };
static std::set<Event *> events;
static double now() { timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return double(t.tv_sec) * 1e3 + double(t.tv_nsec) * 1e-6; }
static bool alive(Event *e) { return events.count(e) != 0; }
EXPORT int cuEventCreate(void **out, unsigned flags) {
    if (!bound) return INVALID_CONTEXT;
    std::lock_guard<std::recursive_mutex> g(queue_lock);
    Event *e = new Event; e->device = bound->ordinal; e->timing = (flags & 2) == 0; events.insert(e); *out = e; return OK;
}
EXPORT int cuEventDestroy_v2(void *h) {
    std::lock_guard<std::recursive_mutex> g(queue_lock);
    if (!alive((Event *)h)) return INVALID_HANDLE;
    events.erase((Event *)h); delete (Event *)h; return OK;
}
EXPORT int cuEventRecord(void *h, void *stream) {
    int error; Stream *s = stream_of(stream, &error); if (error) return error;
    std::lock_guard<std::recursive_mutex> g(queue_lock);
    Event *e = (Event *)h; if (!alive(e)) return INVALID_HANDLE;
    if (e->device != s->device) { say("an event of device %d was recorded on a stream of device %d", e->device, s->device); return INVALID_HANDLE; }
    e->stream = s; e->at = s->queued; e->ms = now(); e->recorded = true; return bound->sticky;
}
EXPORT int cuEventSynchronize(void *h) {
    std::lock_guard<std::recursive_mutex> g(queue_lock);
    Event *e = (Event *)h; if (!alive(e)) return INVALID_HANDLE;
    if (e->recorded && streams.count(e->stream)) drain(e->stream, e->at);
    return bound ? bound->sticky.load() : OK;
}
EXPORT int cuEventQuery(void *h) { return cuEventSynchronize(h); }
EXPORT int cuEventElapsedTime_v2(float *out, void *a, void *b) {
    std::lock_guard<std::recursive_mutex> g(queue_lock);
    Event *x = (Event *)a, *y = (Event *)b;
    if (!alive(x) || !alive(y) || !x->timing || !y->timing || !x->recorded || !y->recorded) return INVALID_HANDLE;
    *out = float(y->ms - x->ms); return OK;
}
EXPORT int cuEventElapsedTime(float *out, void *a, void *b) { return cuEventElapsedTime_v2(out, a, b); }
struct Wait { Stream *stream; uint64_t at; };
EXPORT int cuStreamWaitEvent(void *stream, void *h, unsigned) {
    int error; stream_of(stream, &error); if (error) return error;
    std::lock_guard<std::recursive_mutex> g(queue_lock);
    Event *e = (Event *)h; if (!alive(e)) return INVALID_HANDLE;
    if (!e->recorded) return bound->sticky;
    return submit(stream, [](void *p) { Wait *w = (Wait *)p; if (streams.count(w->stream)) drain(w->stream, w->at); },
                  [](void *p) { delete (Wait *)p; }, new Wait{e->stream, e->at});
}

// ---- memory ----
EXPORT int cuMemAlloc_v2(uintptr_t *out, size_t bytes) {
    if (!bound) return INVALID_CONTEXT;
    if (bound->sticky) return bound->sticky;
    if (!out || bytes == 0) return INVALID_VALUE;
    return allocate(bound, bytes, out);
}
EXPORT int cuMemAllocAsync(uintptr_t *out, size_t bytes, void *stream) {
    int error; Stream *s = stream_of(stream, &error); if (error) return error;
    if (bound->sticky) return bound->sticky;
    Device *of = device(s->device);
    int e = allocate(of, bytes, out);
    if (e == OUT_OF_MEMORY && lazy()) { drain_all(of->ordinal, false); e = allocate(of, bytes, out); }
    return e;
}
EXPORT int cuMemFree_v2(uintptr_t at) { if (bound) drain_all(bound->ordinal, false); return release(at, "cuMemFree"); }
EXPORT int cuMemFreeAsync(uintptr_t at, void *stream) {
    if (at == 0) return OK;
    Allocation a;
    if (!find_allocation(at, &a) || a.at != at) return release(at, "cuMemFreeAsync");
    return submit(stream, [](void *p) { release(uintptr_t(p), "cuMemFreeAsync"); }, nullptr, (void *)at);
}
struct Copy { void *to; const void *from; size_t bytes; std::vector<char> staged; bool check_to, check_from, locked; const char *call; };
static void do_copy(void *p) {
    Copy *c = (Copy *)p; const char *wrong;
    if (c->check_to && (wrong = emu_range_fault(c->to, c->bytes))) { emu_fault(c->call, wrong, ILLEGAL_ADDRESS); return; }
    if (c->check_from && (wrong = emu_range_fault(c->from, c->bytes))) { emu_fault(c->call, wrong, ILLEGAL_ADDRESS); return; }
    if (c->locked && !is_pinned(c->check_to ? c->from : c->to, c->bytes)) { emu_fault(c->call, "the page-locked memory was freed before the stream came to this copy", ILLEGAL_ADDRESS); return; }
    memmove(c->to, c->staged.empty() ? c->from : c->staged.data(), c->bytes);
}
static int copy(const char *call, void *to, bool to_device, const void *from, bool from_device, size_t bytes, void *stream, bool wait) {
    int error; Stream *s = stream_of(stream, &error); if (error) return error;
    if (bound->sticky) return bound->sticky;
    if (bytes == 0) return OK;
    const char *wrong;
    if (to_device && (wrong = emu_range_fault(to, bytes))) { emu_fault(call, wrong, 0); return INVALID_VALUE; }
    if (from_device && (wrong = emu_range_fault(from, bytes))) { emu_fault(call, wrong, 0); return INVALID_VALUE; }
    bool locked = to_device != from_device && is_pinned(to_device ? from : to, bytes);
    Copy *c = new Copy{to, from, bytes, {}, to_device, from_device, locked, call};
    // Pageable memory: the source is read before the call returns; a copy to it has ended when the call returns.
    if (lazy() && !from_device && !wait && !locked) c->staged.assign((const char *)from, (const char *)from + bytes);
    if (!to_device && !locked) wait = true;
    int e = submit(stream, do_copy, [](void *p) { delete (Copy *)p; }, c);
    if (wait && !e) { if (s == &bound->legacy) drain_all(bound->ordinal, true); drain(s, s->queued); }
    return e ? e : bound->sticky.load();
}
EXPORT int cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t n, void *s) { return copy("cuMemcpyHtoDAsync", (void *)to, true, from, false, n, s, false); }
EXPORT int cuMemcpyHtoD_v2(uintptr_t to, const void *from, size_t n) { return copy("cuMemcpyHtoD", (void *)to, true, from, false, n, nullptr, true); }
EXPORT int cuMemcpyDtoHAsync_v2(void *to, uintptr_t from, size_t n, void *s) { return copy("cuMemcpyDtoHAsync", to, false, (void *)from, true, n, s, false); }
EXPORT int cuMemcpyDtoH_v2(void *to, uintptr_t from, size_t n) { return copy("cuMemcpyDtoH", to, false, (void *)from, true, n, nullptr, true); }
EXPORT int cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t n, void *s) { return copy("cuMemcpyDtoDAsync", (void *)to, true, (void *)from, true, n, s, false); }
EXPORT int cuMemcpyDtoD_v2(uintptr_t to, uintptr_t from, size_t n) { return copy("cuMemcpyDtoD", (void *)to, true, (void *)from, true, n, nullptr, true); }
EXPORT int cuMemcpyPeerAsync(uintptr_t to, void *, uintptr_t from, void *, size_t n, void *s) { return copy("cuMemcpyPeerAsync", (void *)to, true, (void *)from, true, n, s, false); }
struct Fill { char *to; unsigned value; size_t bytes, width; };
static int fill(const char *call, uintptr_t to, unsigned value, size_t width, size_t n, void *stream) {
    if (!bound) return INVALID_CONTEXT;
    if (bound->sticky) return bound->sticky;
    if (n == 0) return OK;
    if (const char *wrong = emu_range_fault((void *)to, n * width)) { emu_fault(call, wrong, 0); return INVALID_VALUE; }
    return submit(stream, [](void *p) {
        Fill *f = (Fill *)p;
        if (const char *wrong = emu_range_fault(f->to, f->bytes)) { emu_fault("cuMemset", wrong, ILLEGAL_ADDRESS); return; }
        if (f->width == 1) memset(f->to, int(f->value), f->bytes);
        else for (size_t i = 0; i < f->bytes; i += f->width) memcpy(f->to + i, &f->value, f->width);
    }, [](void *p) { delete (Fill *)p; }, new Fill{(char *)to, value, n * width, width});
}
EXPORT int cuMemsetD8Async(uintptr_t to, unsigned char v, size_t n, void *s) { return fill("cuMemsetD8Async", to, v, 1, n, s); }
EXPORT int cuMemsetD8_v2(uintptr_t to, unsigned char v, size_t n) { return fill("cuMemsetD8", to, v, 1, n, nullptr); }
EXPORT int cuMemsetD32Async(uintptr_t to, unsigned v, size_t n, void *s) { return fill("cuMemsetD32Async", to, v, 4, n, s); }
EXPORT int cuMemsetD32_v2(uintptr_t to, unsigned v, size_t n) { return fill("cuMemsetD32", to, v, 4, n, nullptr); }
EXPORT int cuDeviceGetDefaultMemPool(void **pool, int dev) { if (!device(dev) || !pool) return INVALID_DEVICE; *pool = device(dev); return OK; }
EXPORT int cuDeviceGetMemPool(void **pool, int dev) { return cuDeviceGetDefaultMemPool(pool, dev); }
EXPORT int cuMemPoolSetAttribute(void *, int, void *) { return OK; }
EXPORT int cuMemPoolGetAttribute(void *pool, int what, void *value) {
    if (!pool || !value) return INVALID_VALUE;
    size_t used = 0;
    // What is reserved or used, now (5 and 7) or at most (6 and 8): an emulated pool keeps nothing.
    Device *d = (Device *)pool;
    if (what == 5 || what == 7) emu_usage(d->ordinal, nullptr, &used, nullptr);
    if (what == 6 || what == 8) used = d->most;
    memcpy(value, &used, 8);
    return OK;
}
EXPORT int cuMemPoolTrimTo(void *, size_t) { return OK; }
EXPORT int cuMemHostRegister_v2(void *, size_t, unsigned) { return OK; }
EXPORT int cuMemHostUnregister(void *) { return OK; }
EXPORT int cuPointerGetAttribute(void *out, int what, uintptr_t at) {
    Allocation a; bool on = find_allocation(at, &a);
    if (what == 2) { *(unsigned *)out = on ? 2 : 1; return on ? OK : INVALID_VALUE; }
    if (what == 9) { *(int *)out = on ? a.device : -1; return on ? OK : INVALID_VALUE; }
    return NOT_SUPPORTED;
}
EXPORT int cuDeviceCanAccessPeer(int *out, int a, int b) { if (!out || !device(a) || !device(b)) return INVALID_DEVICE; *out = a != b; return OK; }
EXPORT int cuCtxEnablePeerAccess(void *, unsigned) { return OK; }

// ---- modules and launches ----
EXPORT int cuModuleLoadData(void **out, const void *image) {
    if (!bound) return INVALID_CONTEXT;
    if (bound->sticky) return bound->sticky;
    return load_module((const char *)image, (Module **)out);
}
EXPORT int cuModuleLoadDataEx(void **out, const void *image, unsigned, int *, void **) { return cuModuleLoadData(out, image); }
EXPORT int cuModuleUnload(void *) { return OK; }          // the code stays: other functions may still name it
EXPORT int cuModuleGetFunction(void **out, void *m, const char *name) {
    if (!out || !m || !name) return INVALID_VALUE;
    *out = module_function((Module *)m, name);
    return *out ? OK : NOT_FOUND;
}
EXPORT int cuFuncGetAttribute(int *out, int what, void *f) {
    Function *fn = (Function *)f; if (!fn || !out) return INVALID_VALUE;
    switch (what) {
        case 0: *out = int(fn->kernel->max_threads); break;
        case 1: { size_t n = 0; for (auto &s : fn->module->shared) n += s.second; *out = int(std::min<size_t>(n, 49152)); break; }
        case 4: *out = 32; break;
        case 5: case 6: *out = int(setting("CUDA_EMULATED_CC", 90)); break;
        case 8: *out = int(fn->dynamic_limit); break;
        default: *out = 0;
    }
    return OK;
}
EXPORT int cuFuncSetAttribute(void *f, int what, int value) {
    Function *fn = (Function *)f; if (!fn) return INVALID_VALUE;
    if (what == 8) { if (value < 0 || value > 232448) return INVALID_VALUE; fn->dynamic_limit = std::max(49152u, unsigned(value)); }
    return OK;
}
EXPORT int cuFuncSetCacheConfig(void *, int) { return OK; }
EXPORT int cuFuncGetName(const char **out, void *f) { *out = ((Function *)f)->kernel->name; return OK; }
EXPORT int cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *out, void *, int block, size_t, unsigned) {
    if (!out || block < 1 || block > 1024) return INVALID_VALUE;
    *out = std::min(32, 2048 / block);
    return OK;
}
EXPORT int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *out, void *f, int block, size_t dyn) { return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(out, f, block, dyn, 0); }
EXPORT int cuOccupancyMaxPotentialBlockSizeWithFlags(int *grid, int *block, void *f, size_t (*)(int), size_t, int limit, unsigned) {
    int b = int(((Function *)f)->kernel->max_threads); if (limit > 0) b = std::min(b, limit);
    *block = b; *grid = 132 * std::max(1, 2048 / b); return OK;
}
EXPORT int cuOccupancyMaxPotentialBlockSize(int *g, int *b, void *f, size_t (*d)(int), size_t n, int l) { return cuOccupancyMaxPotentialBlockSizeWithFlags(g, b, f, d, n, l, 0); }

static int refuse(const EmuKernel *k, int code, const std::string &why) { say("launch of %s refused: %s", k->name, why.c_str()); return code; }
EXPORT int cuLaunchKernel(void *fh, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned dynamic, void *stream, void **params, void **extra) {
    int error; stream_of(stream, &error, true); if (error) return error;
    if (bound->sticky) return bound->sticky;
    Function *f = (Function *)fh; if (!f) return INVALID_HANDLE;
    const EmuKernel *k = f->kernel;
    if (!gx || !gy || !gz || !bx || !by || !bz) return refuse(k, INVALID_VALUE, "a dimension of the grid or block is 0");
    if (gx > 2147483647u || gy > 65535 || gz > 65535) return refuse(k, INVALID_VALUE, "the grid is larger than 2147483647 x 65535 x 65535");
    if (bx > 1024 || by > 1024 || bz > 64 || (unsigned long long)bx * by * bz > 1024) return refuse(k, INVALID_VALUE, "a block of " + std::to_string((unsigned long long)bx * by * bz) + " threads; at most 1024 (and 64 in z)");
    if (bx * by * bz > k->max_threads) return refuse(k, OUT_OF_RESOURCES, "a block of " + std::to_string(bx * by * bz) + " threads; its __launch_bounds__ say " + std::to_string(k->max_threads));
    if (dynamic > f->dynamic_limit) return refuse(k, INVALID_VALUE, std::to_string(dynamic) + " bytes of dynamic shared memory; " + std::to_string(f->dynamic_limit) + " are allowed (more needs cuFuncSetAttribute)");
    if (extra) return refuse(k, NOT_SUPPORTED, "parameters as one buffer are not emulated");
    Launch *l = new Launch{f, {gx, gy, gz}, {bx, by, bz}, dynamic, {}, {}};
    size_t room = 0;
    for (unsigned i = 0; i < k->param_count; i++) room = (room + 15) / 16 * 16 + k->params[i].size;
    l->bytes.resize(room + 16);
    size_t at = 0;
    for (unsigned i = 0; i < k->param_count; i++) {
        at = (at + 15) / 16 * 16;
        memcpy(l->bytes.data() + at, params[i], k->params[i].size);
        l->params.push_back(l->bytes.data() + at);
        at += k->params[i].size;
    }
    return submit(stream, [](void *p) { run_launch((Launch *)p, current()); }, [](void *p) { delete (Launch *)p; }, l, true);
}
EXPORT int cuGetProcAddress_v2(const char *, void **out, int, uint64_t, int *) { emu_missing("cuGetProcAddress"); if (out) *out = nullptr; return NOT_SUPPORTED; }

// Device memory: each allocation is a mapping of its own that ends at a page nobody may touch, so that a kernel or
// a copy that runs over its end, or uses it after it was freed, is caught where it happens.
#include "driver.h"
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <sys/mman.h>
#include <unistd.h>

static std::mutex lock;
static std::map<uintptr_t, Allocation> live, freed;
static std::deque<uintptr_t> oldest;
static std::map<uintptr_t, size_t> pinned;
static size_t number = 0;
static const size_t page = size_t(sysconf(_SC_PAGESIZE));

static size_t total() { return size_t(setting("CUDA_EMULATED_MEMORY", 8l << 30)); }
static size_t alignment() { static const size_t a = size_t(setting("CUDA_EMULATED_ALIGN", 16)); return a; }

int allocate(Device *d, size_t bytes, uintptr_t *out) {
    if (bytes == 0) {
        static std::atomic<bool> said{false};
        if (!said.exchange(true)) say("an allocation of no bytes was asked for: a real driver may refuse it");
        *out = 0;
        return OK;
    }
    std::lock_guard<std::mutex> g(lock);
    if (d->used + bytes > total() || bytes > total()) return OUT_OF_MEMORY;
    size_t room = (bytes + alignment() - 1) / alignment() * alignment(), body = (room + page - 1) / page * page;
    char *map = (char *)mmap(nullptr, body + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return OUT_OF_MEMORY;
    if (mprotect(map + page, body, PROT_READ | PROT_WRITE) != 0) { munmap(map, body + 2 * page); return OUT_OF_MEMORY; }
    memset(map + page, 0xff, body);                      // NaN in every float type: nothing may count on zeros
    Allocation a{uintptr_t(map + page + body - room), bytes, uintptr_t(map), body + 2 * page, d->ordinal, ++number};
    live[a.at] = a;
    d->used += bytes; d->count++;
    d->most = std::max(d->most, d->used);
    *out = a.at;
    return OK;
}

const char *red_zone_fault(const Allocation &a) {
    const unsigned char *end = (const unsigned char *)(a.at + a.bytes), *stop = (const unsigned char *)(a.map + a.map_bytes - page);
    for (const unsigned char *p = end; p < stop; p++) if (*p != 0xff) return "bytes behind the end of an allocation were written";
    const unsigned char *begin = (const unsigned char *)(a.map + page);
    size_t check = std::min<size_t>(size_t((const unsigned char *)a.at - begin), 64);
    for (const unsigned char *p = (const unsigned char *)a.at - check; p < (const unsigned char *)a.at; p++)
        if (*p != 0xff) return "bytes before an allocation were written";
    return nullptr;
}

int release(uintptr_t at, const char *call) {
    if (at == 0) return OK;
    std::unique_lock<std::mutex> g(lock);
    auto i = live.find(at);
    if (i == live.end()) {
        g.unlock();
        emu_fault(call, ("freed what is not the start of a live allocation: " + describe(at)).c_str(), 0);
        return INVALID_VALUE;
    }
    Allocation a = i->second;
    const char *wrong = red_zone_fault(a);
    live.erase(i);
    Device *d = device(a.device);
    d->used -= a.bytes; d->count--;
    mprotect((void *)a.map, a.map_bytes, PROT_NONE);
    madvise((void *)a.map, a.map_bytes, MADV_DONTNEED);
    freed[a.at] = a; oldest.push_back(a.at);
    if (oldest.size() > 512) {
        auto o = freed.find(oldest.front());
        if (o != freed.end()) { munmap((void *)o->second.map, o->second.map_bytes); freed.erase(o); }
        oldest.pop_front();
    }
    g.unlock();
    if (wrong) emu_fault(call, wrong, ILLEGAL_ADDRESS);
    return OK;
}

static bool within(const std::map<uintptr_t, Allocation> &m, uintptr_t at, Allocation *out, size_t slack) {
    auto i = m.upper_bound(at + slack);
    for (int n = 0; n < 2 && i != m.begin(); n++) {
        --i;
        const Allocation &a = i->second;
        if (at + slack >= a.at && at <= a.at + a.bytes + slack) { *out = a; return true; }
    }
    return false;
}
bool find_allocation(uintptr_t at, Allocation *out) {
    std::lock_guard<std::mutex> g(lock);
    return within(live, at, out, 0);
}
bool find_allocation_unlocked(uintptr_t at, Allocation *out, bool *was_freed) {
    bool locked = lock.try_lock();
    *was_freed = false;
    bool found = within(live, at, out, 0) || (within(freed, at, out, 0) && (*was_freed = true)) || within(live, at, out, page)
        || (within(freed, at, out, page) && (*was_freed = true));
    if (locked) lock.unlock();
    return found;
}
std::string describe(uintptr_t at) {
    Allocation a; bool was_freed; char text[200];
    if (!find_allocation_unlocked(at, &a, &was_freed)) { snprintf(text, sizeof text, "address %#zx belongs to no device allocation", size_t(at)); return text; }
    snprintf(text, sizeof text, "address %#zx is at byte %td of %s allocation number %zu of %zu bytes on device %d", size_t(at),
             ptrdiff_t(at - a.at), was_freed ? "the freed" : "the", a.number, size_t(a.bytes), a.device);
    return text;
}
EXPORT const char *emu_range_fault(const void *p, size_t bytes) {
    if (bytes == 0) return nullptr;
    static thread_local std::string text;
    Allocation a;
    if (find_allocation(uintptr_t(p), &a) && uintptr_t(p) + bytes <= a.at + a.bytes) return nullptr;
    text = std::to_string(bytes) + " bytes from here do not lie in one live allocation: " + describe(uintptr_t(p));
    return text.c_str();
}
EXPORT void emu_usage(int ordinal, size_t *count, size_t *bytes, size_t *all) {
    std::lock_guard<std::mutex> g(lock);
    Device *d = device(ordinal);
    if (count) *count = d ? d->count : 0;
    if (bytes) *bytes = d ? d->used : 0;
    if (all) *all = total();
}

bool is_pinned(const void *p, size_t bytes) {
    std::lock_guard<std::mutex> g(lock);
    auto i = pinned.upper_bound(uintptr_t(p));
    if (i == pinned.begin()) return false;
    --i;
    return uintptr_t(p) + bytes <= i->first + i->second;
}
EXPORT int cuMemHostAlloc(void **out, size_t bytes, unsigned) {
    if (!out || bytes == 0) return INVALID_VALUE;
    size_t body = (bytes + page - 1) / page * page;
    void *p = mmap(nullptr, body, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return OUT_OF_MEMORY;
    memset(p, 0xff, bytes);
    std::lock_guard<std::mutex> g(lock);
    pinned[uintptr_t(p)] = body;
    *out = p;
    return OK;
}
EXPORT int cuMemAllocHost_v2(void **out, size_t bytes) { return cuMemHostAlloc(out, bytes, 0); }
EXPORT int cuMemFreeHost(void *p) {
    std::lock_guard<std::mutex> g(lock);
    auto i = pinned.find(uintptr_t(p));
    if (i == pinned.end()) return INVALID_VALUE;
    munmap(p, i->second);
    pinned.erase(i);
    return OK;
}
EXPORT int cuMemGetInfo_v2(size_t *free_bytes, size_t *all) {
    Device *d = current();
    if (!d) return INVALID_CONTEXT;
    std::lock_guard<std::mutex> g(lock);
    if (free_bytes) *free_bytes = total() - d->used;
    if (all) *all = total();
    return d->sticky;
}
EXPORT int cuDeviceTotalMem_v2(size_t *bytes, int dev) { if (!bytes || !device(dev)) return INVALID_DEVICE; *bytes = total(); return OK; }

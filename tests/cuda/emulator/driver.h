// What the parts of the emulated driver share.
#pragma once
#include "emu.h"
#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

enum {
    OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201, NO_BINARY = 209, INVALID_PTX = 218, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600,
    ILLEGAL_ADDRESS = 700, OUT_OF_RESOURCES = 701, ASSERT = 710, LAUNCH_FAILED = 719, NOT_SUPPORTED = 801,
};

struct Device;
struct Stream;

struct Allocation {
    uintptr_t at, bytes;             // what was asked for
    uintptr_t map, map_bytes;        // the whole mapping with its guard pages
    int device;
    size_t number;                   // counts allocations, for messages
};

struct Op { void (*work)(void *); void (*drop)(void *); void *data; int device; };

struct Stream {
    int device;
    bool blocking;                   // waits for the legacy stream
    uint64_t queued = 0, done = 0;
    std::deque<Op> ops;
    bool running = false;
};

struct Device {
    int ordinal;
    unsigned char uuid[16];
    std::atomic<int> sticky{0};
    std::atomic<int> retained{0};
    size_t used = 0, most = 0, count = 0; // guarded by the memory's lock
    Stream legacy{0, true};
};

struct Function;
struct Module {
    void *handle = nullptr;
    std::string path;
    bool strict = true;              // false for candle's kernels: what real devices let pass is let pass
    EmuState *state = nullptr;
    std::vector<std::pair<char *, size_t>> shared;   // static shared memory
    std::vector<Function *> functions;
};
struct Function { Module *module; const EmuKernel *kernel; unsigned dynamic_limit = 49152; };

// driver.cpp
Device *device(int ordinal);
Device *current();
Stream *stream_of(void *handle, int *error, bool launch = false);
int submit(void *stream, void (*work)(void *), void (*drop)(void *), void *data, bool launch = false);
long setting(const char *name, long otherwise);
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

// memory.cpp
int allocate(Device *d, size_t bytes, uintptr_t *out);
int release(uintptr_t at, const char *call);
bool find_allocation(uintptr_t at, Allocation *out);          // live, `at` within or at its end
bool find_allocation_unlocked(uintptr_t at, Allocation *out, bool *freed);   // for the signal handler: near `at`, live or freed
const char *red_zone_fault(const Allocation &a);
std::string describe(uintptr_t at);
bool is_pinned(const void *p, size_t bytes);

// launch.cpp
void launch_init();
int load_module(const char *image, Module **out);
Function *module_function(Module *m, const char *name);
struct Launch { Function *f; EmuDim grid, block; unsigned dynamic; std::vector<char> bytes; std::vector<void *> params; };
void run_launch(Launch *l, Device *d);

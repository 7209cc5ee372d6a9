// NVML: the emulated devices' names, sizes and use, as far as a scheduler asks.
// CUDA_EMULATED_USED: bytes that others are said to use of each device, separated by commas.
#include "emu.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unistd.h>

#define EXPORT extern "C" __attribute__((visibility("default")))
enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7 };
static bool ready = false;
// NVML sees all devices, whatever CUDA_VISIBLE_DEVICES says, and needs no CUDA.
static int count() { const char *v = getenv("CUDA_EMULATED_DEVICES"); return v && *v ? atoi(v) : 1; }
static unsigned long long total() { const char *v = getenv("CUDA_EMULATED_MEMORY"); return v && *v ? strtoull(v, nullptr, 10) : 8ull << 30; }
static int number(void *device) { return int(long(device)) - 1; }
static bool known(void *device) { return number(device) >= 0 && number(device) < count(); }
static unsigned long long used(void *device) {
    const char *v = getenv("CUDA_EMULATED_USED");
    for (int i = 0; v && i < number(device); i++) { v = strchr(v, ','); if (v) v++; }
    return v ? strtoull(v, nullptr, 10) : 0;
}
static std::string uuid(int d) {
    unsigned char u[16]; emu_uuid(d, u); char text[64];
    snprintf(text, sizeof text, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
    return text;
}
static int give(const std::string &text, char *out, unsigned room) { if (!out || room <= text.size()) return TOO_SMALL; memcpy(out, text.c_str(), text.size() + 1); return OK; }

EXPORT int nvmlInit_v2() { ready = true; return OK; }
EXPORT int nvmlInitWithFlags(unsigned) { ready = true; return OK; }
EXPORT int nvmlShutdown() { return OK; }
EXPORT const char *nvmlErrorString(int e) { return e ? "a failure in the emulated NVML" : "Success"; }
EXPORT int nvmlSystemGetDriverVersion(char *out, unsigned room) { return give("580.0 (emulated)", out, room); }
EXPORT int nvmlSystemGetNVMLVersion(char *out, unsigned room) { return give("13.580.0", out, room); }
static int cuda() { const char *v = getenv("CUDA_EMULATED_DRIVER"); return v && *v ? atoi(v) : 13000; }
EXPORT int nvmlSystemGetCudaDriverVersion_v2(int *v) { *v = cuda(); return OK; }
EXPORT int nvmlSystemGetCudaDriverVersion(int *v) { *v = cuda(); return OK; }
EXPORT int nvmlDeviceGetCount_v2(unsigned *n) { if (!ready) return UNINITIALIZED; *n = unsigned(count()); return OK; }
EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **out) { if (int(i) >= count()) return INVALID; *out = (void *)(long(i) + 1); return OK; }
EXPORT int nvmlDeviceGetHandleByUUID(const char *text, void **out) { for (int i = 0; i < count(); i++) if (uuid(i) == text) { *out = (void *)(long(i) + 1); return OK; } return NOT_FOUND; }
EXPORT int nvmlDeviceGetIndex(void *d, unsigned *out) { if (!known(d)) return INVALID; *out = unsigned(number(d)); return OK; }
EXPORT int nvmlDeviceGetMinorNumber(void *d, unsigned *out) { return nvmlDeviceGetIndex(d, out); }
EXPORT int nvmlDeviceGetName(void *d, char *out, unsigned room) { return known(d) ? give("CUDA emulator on a CPU", out, room) : INVALID; }
EXPORT int nvmlDeviceGetUUID(void *d, char *out, unsigned room) { return known(d) ? give(uuid(number(d)), out, room) : INVALID; }
EXPORT int nvmlDeviceGetCudaComputeCapability(void *d, int *major, int *minor) { if (!known(d)) return INVALID; const char *v = getenv("CUDA_EMULATED_CC"); int c = v && *v ? atoi(v) : 90; *major = c / 10; *minor = c % 10; return OK; }
struct Memory { unsigned long long total, free, used; };
struct Memory2 { unsigned version; unsigned long long total, reserved, free, used; };
EXPORT int nvmlDeviceGetMemoryInfo(void *d, Memory *m) { if (!known(d)) return INVALID; m->total = total(); m->used = used(d); m->free = m->total - m->used; return OK; }
EXPORT int nvmlDeviceGetMemoryInfo_v2(void *d, Memory2 *m) { if (!known(d)) return INVALID; m->total = total(); m->reserved = 0; m->used = used(d); m->free = m->total - m->used; return OK; }
EXPORT int nvmlDeviceGetMigMode(void *, unsigned *, unsigned *) { return NOT_SUPPORTED; }
EXPORT int nvmlDeviceGetMaxMigDeviceCount(void *, unsigned *n) { *n = 0; return OK; }
EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(void *d, unsigned *n, void *) { if (!known(d)) return INVALID; *n = 0; return OK; }
EXPORT int nvmlDeviceGetComputeRunningProcesses_v2(void *d, unsigned *n, void *) { if (!known(d)) return INVALID; *n = 0; return OK; }
EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v3(void *d, unsigned *n, void *) { if (!known(d)) return INVALID; *n = 0; return OK; }
EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v2(void *d, unsigned *n, void *) { if (!known(d)) return INVALID; *n = 0; return OK; }

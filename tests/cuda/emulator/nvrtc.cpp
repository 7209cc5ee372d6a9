// NVRTC: the C++ compiler. Its "PTX" is a text that names the shared object.
#include "compile.h"
#include "emu.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <mutex>
#include <sstream>
#include <sys/stat.h>
#include <unistd.h>

#define EXPORT extern "C" __attribute__((visibility("default")))
struct Program { std::string source, name, log, ptx; std::vector<std::pair<std::string, std::string>> headers; };

static std::string home() {
    Dl_info i; dladdr((void *)&emu_compile, &i);
    std::string p = i.dli_fname; size_t s = p.rfind('/');
    return s == std::string::npos ? "." : p.substr(0, s);
}
static std::string digest(const std::string &text) {
    unsigned long long a = 14695981039346656037ull, b = 0x9e3779b97f4a7c15ull;
    for (unsigned char c : text) { a = (a ^ c) * 1099511628211ull; b = (b + c) * 0xff51afd7ed558ccdull; b ^= b >> 29; }
    char out[40]; snprintf(out, sizeof out, "%016llx%016llx", a, b);
    return out;
}
static std::string slurp(const std::string &path) { std::ifstream in(path, std::ios::binary); std::stringstream s; s << in.rdbuf(); return s.str(); }

EXPORT int nvrtcVersion(int *major, int *minor) { *major = 13; *minor = 0; return 0; }
EXPORT const char *nvrtcGetErrorString(int code) { return code == 0 ? "NVRTC_SUCCESS" : code == 6 ? "NVRTC_ERROR_COMPILATION" : "NVRTC_ERROR"; }
EXPORT int nvrtcCreateProgram(Program **out, const char *source, const char *name, int, const char *const *, const char *const *) {
    if (!out || !source) return 3;
    *out = new Program{source, name && *name ? name : "default_program", "", "", {}};
    return 0;
}
EXPORT int nvrtcDestroyProgram(Program **p) { if (p && *p) { delete *p; *p = nullptr; } return 0; }
EXPORT int nvrtcCompileProgram(Program *p, int n, const char *const *given) {
    if (!p) return 4;
    static std::mutex one;
    std::lock_guard<std::mutex> g(one);
    std::vector<std::string> options(given, given + n);
    for (auto &o : options)
        if (o.rfind("--gpu-architecture=", 0) == 0 && o.find("compute_") == std::string::npos && o.find("sm_") == std::string::npos) { p->log = "invalid value for --gpu-architecture: " + o; return 5; }
    std::string h = home(), all = p->source + slurp(h + "/shim.h") + slurp(h + "/emu.h");
    for (auto &o : options) all += "\n" + o;
    const char *c = getenv("CUDA_EMULATED_CACHE");
    std::string cache = c && *c ? c : h + "/cache";
    mkdir(cache.c_str(), 0777);
    if (access(cache.c_str(), W_OK) != 0) { cache = "/tmp/cuda-emulator-cache"; mkdir(cache.c_str(), 0777); }
    std::string lib = cache + "/" + digest(all) + ".so";
    if (access(lib.c_str(), R_OK) != 0 && !emu_compile(p->source, p->name, options, h, lib, p->log)) return 6;
    p->ptx = "//\n// Made by the CUDA emulator: no PTX, but the name of a shared object\n//\n.version 9.0\n.target sm_90\n.address_size 64\n// cuda-emulator-object: " + lib + "\n";
    return 0;
}
EXPORT int nvrtcGetPTXSize(Program *p, size_t *n) { if (!p || !n) return 3; *n = p->ptx.size() + 1; return 0; }
EXPORT int nvrtcGetPTX(Program *p, char *out) { if (!p || !out) return 3; memcpy(out, p->ptx.c_str(), p->ptx.size() + 1); return 0; }
EXPORT int nvrtcGetProgramLogSize(Program *p, size_t *n) { if (!p || !n) return 3; *n = p->log.size() + 1; return 0; }
EXPORT int nvrtcGetProgramLog(Program *p, char *out) { if (!p || !out) return 3; memcpy(out, p->log.c_str(), p->log.size() + 1); return 0; }
EXPORT int nvrtcAddNameExpression(Program *, const char *) { return 0; }

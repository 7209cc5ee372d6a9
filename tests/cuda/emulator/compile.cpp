// CUDA C++ -> shared object: preprocess with shim.h, find the kernels, add a trampoline for each, compile.
#include "compile.h"
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <regex>
#include <sstream>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static std::string slurp(const std::string &path) {
    std::ifstream in(path, std::ios::binary);
    std::stringstream s; s << in.rdbuf();
    return s.str();
}
static std::string quoted(const std::string &s) {
    std::string out = "'";
    for (char c : s) if (c == '\'') out += "'\\''"; else out += c;
    return out + "'";
}
// Runs a command with LD_LIBRARY_PATH as a compiler needs it: without the emulator's folder.
static int run(const std::string &command) {
    int status = system(("unset LD_LIBRARY_PATH LD_PRELOAD; " + command).c_str());
    return status == -1 ? -1 : WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

struct Found { std::string name, bound; };

// The kernels of a preprocessed source: what stands before '(' after the mark that __global__ left.
static std::vector<Found> kernels(const std::string &text) {
    std::vector<Found> out;
    const std::string mark = "__attribute__((emu_global,";
    for (size_t at = 0; (at = text.find(mark, at)) != std::string::npos;) {
        // A template cannot be fetched by its name.
        size_t before = at;
        while (before > 0 && isspace((unsigned char)text[before - 1])) before--;
        bool extern_c = before >= 10 && text.compare(before - 10, 10, "extern \"C\"") == 0;
        at += mark.size();
        Found f; f.bound = "1024";
        std::string word;
        auto skip_parens = [&](size_t i) { // i at '(' -> after its ')'
            int depth = 0;
            for (; i < text.size(); i++) { if (text[i] == '(') depth++; if (text[i] == ')' && --depth == 0) return i + 1; }
            return i;
        };
        size_t i = text.find("))", at);
        if (i == std::string::npos) break;
        i += 2;
        for (; i < text.size(); i++) {
            char c = text[i];
            if (isalnum((unsigned char)c) || c == '_') { 
                size_t j = i; while (j < text.size() && (isalnum((unsigned char)text[j]) || text[j] == '_')) j++;
                word = text.substr(i, j - i); i = j - 1;
            } else if (c == '(') {
                if (word == "__attribute__") {
                    size_t end = skip_parens(i);
                    std::string body = text.substr(i, end - i);
                    size_t b = body.find("emu_launch_bounds(");
                    if (b != std::string::npos) {
                        b += 18; size_t e = b; int depth = 0;
                        while (e < body.size() && !(depth == 0 && (body[e] == ',' || body[e] == ')'))) { if (body[e] == '(') depth++; if (body[e] == ')') depth--; e++; }
                        f.bound = body.substr(b, e - b);
                    }
                    i = end - 1; word.clear();
                } else { f.name = word; break; }
            } else if (c == ';' || c == '{') break;
        }
        // A declaration without a body gets no trampoline of its own.
        if (!f.name.empty() && extern_c) {
            size_t end = skip_parens(i);
            while (end < text.size() && isspace((unsigned char)text[end])) end++;
            if (end < text.size() && text[end] == '{') out.push_back(f);
        }
    }
    return out;
}

bool emu_compile(const std::string &source, const std::string &name, const std::vector<std::string> &options,
                 const std::string &home, const std::string &out, std::string &log) {
    char dir[] = "/tmp/cuda-emulator-XXXXXX";
    if (!mkdtemp(dir)) { log = "no folder can be made in /tmp"; return false; }
    const std::string d = dir, src = d + "/source.cpp", pre = d + "/pre.cpp", err = d + "/log", lib = d + "/lib.so";
    // `extern __shared__ T name[];` is the block's dynamic memory.
    static const std::regex dynamic("extern\\s+__shared__\\s+((?:__align__\\s*\\([^)]*\\)\\s*)?)([A-Za-z_][\\w:\\s]*[\\w])\\s+((?:__align__\\s*\\([^)]*\\)\\s*)?)(\\w+)\\s*\\[\\s*\\]\\s*;");
    std::string text = std::regex_replace(source, dynamic, "static $2* const $4 = ($2*)(void*)emu_dynamic;");
    { std::ofstream o(src); o << "#line 1 \"" << name << "\"\n" << text; }
    std::string arch = "900";
    std::string flags = " -std=c++17 -w -fPIC -I" + quoted(home + "/shim") + " -include " + quoted(home + "/shim.h");
    for (size_t i = 0; i < options.size(); i++) {
        const std::string &o = options[i];
        std::string value = o.find('=') == std::string::npos ? (i + 1 < options.size() ? options[i + 1] : "") : o.substr(o.find('=') + 1);
        if (o.rfind("--gpu-architecture", 0) == 0 || o.rfind("-arch", 0) == 0) {
            std::string digits; for (char c : value) if (isdigit((unsigned char)c)) digits += c;
            if (!digits.empty()) arch = digits + "0";
        } else if (o.rfind("-D", 0) == 0 || o.rfind("-I", 0) == 0 || o.rfind("-U", 0) == 0) flags += " " + quoted(o);
        else if (o.rfind("--define-macro=", 0) == 0) flags += " " + quoted("-D" + value);
        else if (o.rfind("--include-path=", 0) == 0) flags += " " + quoted("-I" + value);
    }
    flags += " -D__CUDA_ARCH__=" + arch + " -D__CUDACC__ -D__CUDACC_VER_MAJOR__=13 -D__CUDACC_VER_MINOR__=0 -DCUDA_EMULATED";
    const char *cxx = getenv("CXX"); if (!cxx || !*cxx) cxx = "c++";
    bool ok = run(std::string(cxx) + flags + " -E " + quoted(src) + " -o " + quoted(pre) + " 2>" + quoted(err)) == 0;
    if (ok) {
        std::string body = slurp(pre), tail = "\n# 1 \"trampolines\"\n";
        // A kernel's own static storage keeps its name in the object, so that the driver finds shared memory.
        for (const Found &f : kernels(body))
            tail += "extern \"C\" __attribute__((visibility(\"default\"), used)) const EmuKernel emu_kernel_" + f.name + " = {\"" + f.name +
                    "\", &EmuRun<decltype(&" + f.name + ")>::run<&" + f.name + ">, EmuRun<decltype(&" + f.name + ")>::Types::params, EmuRun<decltype(&" +
                    f.name + ")>::count, unsigned(" + f.bound + "), &emu_state};\n";
        { std::ofstream o(pre); o << body << tail; }
        std::string native =
#if defined(__x86_64__)
            " -march=native";
#else
            "";
#endif
        ok = run(std::string(cxx) + " -std=c++17 -w -fpreprocessed -O1 -g1 -fPIC -shared -fvisibility=hidden -fno-gnu-unique -fno-strict-aliasing"
                 " -ffp-contract=off -fwrapv -fno-exceptions -Wl,--build-id=none -Wl,-Bsymbolic" + native + " " + quoted(pre) + " -o " + quoted(lib) + " 2>>" + quoted(err)) == 0;
    }
    log = slurp(err);
    if (ok) {
        std::string fresh = out + "." + std::to_string(getpid()) + ".new";
        ok = run("cp " + quoted(lib) + " " + quoted(fresh)) == 0 && rename(fresh.c_str(), out.c_str()) == 0;
        if (!ok) log += "cannot write " + out;
    }
    run("rm -rf " + quoted(d));
    return ok;
}

#ifdef EMU_COMPILE_MAIN
// emulator-compile SOURCE.cu OUT.so HOME [options]
int main(int argc, char **argv) {
    if (argc < 4) { fprintf(stderr, "usage: %s SOURCE.cu OUT.so HOME [options]\n", argv[0]); return 2; }
    std::vector<std::string> options(argv + 4, argv + argc);
    std::string log, source = slurp(argv[1]);
    if (source.empty()) { fprintf(stderr, "%s: cannot be read\n", argv[1]); return 1; }
    if (!emu_compile(source, argv[1], options, argv[3], argv[2], log)) { fputs(log.c_str(), stderr); return 1; }
    return 0;
}
#endif

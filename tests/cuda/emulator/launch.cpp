// Modules and launches. The blocks of a launch run one after the other. The threads of a block are fibers: a thread
// that comes to a barrier or a warp operation is put aside until the others have come. A fiber whose thread returns
// takes the next thread, so a kernel without barriers runs as a plain loop.
#include "driver.h"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <dlfcn.h>
#include <elf.h>
#include <fstream>
#include <link.h>
#include <map>
#include <numeric>
#include <pthread.h>
#include <signal.h>
#include <sstream>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

// ---- switching ----
#if defined(__x86_64__)
extern "C" void emu_switch(void **save, void *load);
asm(R"(
.text
.hidden emu_switch
.globl emu_switch
.type emu_switch,@function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
#endif

static const size_t STACK = 192 << 10;
struct Fiber {
    char *stack = nullptr;
    void *sp = nullptr;
    ucontext_t context;
    int thread = -1;                 // the thread it is in the middle of
    bool fresh = true;               // its stack holds nothing
};

struct Group { unsigned mask = 0; int line = 0; };
struct Warp {
    unsigned waiting = 0, live = 0;
    Group of[32];                    // what each waiting lane waits for
    unsigned result[32];             // who took part in the lane's last operation
    unsigned char in[32][16], out[32][16];
};
enum { NEW, RUNS, AT_BARRIER, AT_WARP, DONE };

static struct Run {
    std::mutex lock;                 // one launch at a time
    bool active = false;
    pthread_t owner;                 // the thread that launches, while active
    const EmuKernel *kernel; Module *module; void **params;
    EmuState *state;
    unsigned n, started, live, at_barrier;
    unsigned step, offset;           // thread number i to begin is (step * i + offset) mod n
    std::vector<EmuDim> place;
    std::vector<unsigned char> status;
    std::vector<int> line;
    std::vector<Fiber *> fiber;
    std::vector<Warp> warps;
    std::vector<unsigned> runnable;
    unsigned current;
    Fiber *running;
    std::vector<Fiber *> all, idle;
    void *scheduler_sp; ucontext_t scheduler;
    bool failed; int code; std::string why;
    unsigned votes; int vote_kind, vote_result;
    unsigned phase;
} run;

static std::string where(unsigned thread) {
    char text[160]; const EmuDim &t = run.place[thread], &b = run.state->block;
    snprintf(text, sizeof text, "block (%u,%u,%u) thread (%u,%u,%u)", b.x, b.y, b.z, t.x, t.y, t.z);
    return text;
}
static void fail(int code, const std::string &why) { if (!run.failed) { run.failed = true; run.code = code; run.why = why; } }

static void to_scheduler() {
#if defined(__x86_64__)
    Fiber *f = run.running; emu_switch(&f->sp, run.scheduler_sp);
#else
    swapcontext(&run.running->context, &run.scheduler);
#endif
}
static void fiber_main() {
    for (;;) {
        run.running->thread = -1;
        run.kernel->run(run.params);
        run.running->thread = -1;
        to_scheduler();
    }
}
static void to_fiber(Fiber *f) {
    run.running = f;
#if defined(__x86_64__)
    if (f->fresh) {
        f->fresh = false;
        uintptr_t *top = (uintptr_t *)(f->stack + STACK);
        *--top = 0;                                   // as if called: the stack is 8 off a multiple of 16 at entry
        *--top = (uintptr_t)&fiber_main;
        for (int i = 0; i < 6; i++) *--top = 0;
        f->sp = top;
    }
    emu_switch(&run.scheduler_sp, f->sp);
#else
    if (f->fresh) {
        f->fresh = false;
        getcontext(&f->context);
        f->context.uc_stack.ss_sp = f->stack; f->context.uc_stack.ss_size = STACK; f->context.uc_link = nullptr;
        makecontext(&f->context, fiber_main, 0);
    }
    swapcontext(&run.scheduler, &f->context);
#endif
}
static Fiber *take_fiber() {
    if (!run.idle.empty()) { Fiber *f = run.idle.back(); run.idle.pop_back(); return f; }
    Fiber *f = new Fiber;
    char *m = (char *)mmap(nullptr, STACK + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (m == MAP_FAILED) { say("no memory for the stack of a thread"); abort(); }
    mprotect(m, 4096, PROT_NONE);
    f->stack = m + 4096;
    run.all.push_back(f);
    return f;
}

// ---- what kernels call ----
static unsigned next_thread() {
    if (run.failed || run.started == run.n) return ~0u;
    unsigned t = unsigned(((unsigned long long)run.step * run.started + run.offset) % run.n);
    run.started++;
    run.current = t; run.status[t] = RUNS; run.running->thread = int(t); run.fiber[t] = run.running;
    run.state->thread = run.place[t];
    return t;
}
static void finished() {
    unsigned t = run.current;
    run.status[t] = DONE; run.live--; run.running->thread = -1;
    run.warps[t / 32].live &= ~(1u << (t % 32));
}
static void put_aside(unsigned char status, int line) {
    run.status[run.current] = status; run.line[run.current] = line;
    to_scheduler();
}
static int barrier(int line, int kind, int value) {
    if (run.failed) { to_scheduler(); abort(); }
    run.at_barrier++; run.votes += unsigned(value); run.vote_kind = kind;
    put_aside(AT_BARRIER, line);
    return run.vote_result;
}
static void release(Warp &w, unsigned first, unsigned who) {
    for (unsigned l = 0; l < 32; l++) if (who >> l & 1) { memcpy(w.out[l], w.in[l], 16); w.result[l] = who; }
    w.waiting &= ~who;
    // In an order that changes, so that nothing may count on one.
    unsigned turn = run.phase++ * 7u;
    for (unsigned i = 0; i < 32; i++) { unsigned l = (i + turn) % 32; if (who >> l & 1) { run.status[first + l] = RUNS; run.runnable.push_back(first + l); } }
}
// Lets the lanes go that wait for no one any more. `gone_too`: lanes that returned are waited for no longer.
static bool release_lane(unsigned warp, unsigned lane, bool gone_too) {
    Warp &w = run.warps[warp];
    unsigned exists = warp * 32 + 32 <= run.n ? ~0u : (1u << (run.n - warp * 32)) - 1;
    unsigned need = w.of[lane].mask & exists & (gone_too ? w.live : ~0u);
    if ((need & w.waiting) != need) return false;
    for (unsigned l = 0; l < 32; l++) if (need >> l & 1 && w.of[l].mask != w.of[lane].mask) return false;
    if (run.module->strict)
        for (unsigned l = 0; l < 32; l++) if (need >> l & 1 && w.of[l].line != w.of[lane].line) {
            fail(LAUNCH_FAILED, "lanes of one warp meet at different warp operations, of lines " + std::to_string(w.of[lane].line) + " and " + std::to_string(w.of[l].line) + ": " + where(warp * 32 + l));
            return false;
        }
    release(w, warp * 32, need);
    return true;
}
static unsigned meet(int line, unsigned mask, const void *value, unsigned size) {
    if (run.failed) { to_scheduler(); abort(); }
    unsigned t = run.current, lane = t % 32; Warp &w = run.warps[t / 32];
    if (!(mask >> lane & 1)) { fail(LAUNCH_FAILED, "line " + std::to_string(line) + ": a lane is not in the mask of its own warp operation: " + where(t)); to_scheduler(); abort(); }
    if (size) memcpy(w.in[lane], value, size);
    w.of[lane] = {mask, line}; w.waiting |= 1u << lane;
    run.status[t] = AT_WARP; run.line[t] = line;
    release_lane(t / 32, lane, false);
    to_scheduler();
    return lane;
}
static const void *slot(unsigned lane) {
    Warp &w = run.warps[run.current / 32];
    return lane < 32 && w.result[run.current % 32] >> lane & 1 ? w.out[lane] : nullptr;
}
static unsigned lane() { return run.current % 32; }
static unsigned live_lanes() { return run.warps[run.current / 32].live; }
static void trap(const char *what, const char *file, int line) {
    fail(ASSERT, std::string(file) + ":" + std::to_string(line) + ": " + what + ": " + where(run.current));
    to_scheduler();
    abort();
}

// ---- faults of memory ----
static struct sigaction before[2];
static void trapped() { to_scheduler(); abort(); }
static void on_signal(int sig, siginfo_t *info, void *context) {
    uintptr_t at = uintptr_t(info->si_addr);
    if (run.active && run.running && pthread_equal(run.owner, pthread_self())) {
        uintptr_t s = uintptr_t(run.running->stack);
        bool stack = at >= s - 4096 && at < s;
        if (run.running->thread >= 0) {
            std::string what = stack ? "a thread's stack is full" : sig == SIGFPE ? "division by zero" : !at ? "illegal access: by a null pointer, or by one that no address can be" : "illegal access: " + describe(at);
            fail(ILLEGAL_ADDRESS, what + ": " + where(run.current));
#if defined(__x86_64__)
            if (!stack) {
                ucontext_t *c = (ucontext_t *)context;
                uintptr_t sp = uintptr_t(c->uc_mcontext.gregs[REG_RSP]);
                c->uc_mcontext.gregs[REG_RSP] = greg_t(((sp - 256) & ~uintptr_t(15)) - 8);
                c->uc_mcontext.gregs[REG_RIP] = greg_t(&trapped);
                return;
            }
#endif
            say("%s", run.why.c_str());
            _exit(134);
        }
    }
    Allocation a; bool freed;
    if (sig == SIGSEGV && find_allocation_unlocked(at, &a, &freed)) say("the host itself touched device memory: %s", describe(at).c_str());
    // Not ours: whoever was there before.
    struct sigaction &old = before[sig == SIGSEGV ? 0 : 1];
    if (old.sa_flags & SA_SIGINFO && old.sa_sigaction) { old.sa_sigaction(sig, info, context); return; }
    signal(sig, SIG_DFL);
}
void launch_init() {
    struct sigaction a; memset(&a, 0, sizeof a);
    a.sa_sigaction = on_signal; a.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &a, &before[0]);
    sigaction(SIGBUS, &a, &before[1]);
    sigaction(SIGFPE, &a, nullptr);
}
static void need_signal_stack() {
    static thread_local bool done = false;
    if (done) return;
    done = true;
    stack_t s; sigaltstack(nullptr, &s);
    if (!(s.ss_flags & SS_DISABLE)) return;
    s.ss_size = 64 << 10; s.ss_sp = malloc(s.ss_size); s.ss_flags = 0;
    sigaltstack(&s, nullptr);
}

// ---- a block ----
static unsigned coprime_step(unsigned long long n) {
    if (n < 3) return 1;
    unsigned long long s = std::max<unsigned long long>(1, (unsigned long long)(double(n) * 0.6180339887));
    while (std::gcd(s, n) != 1) s++;
    return unsigned(s % n);
}
static const char *order() { static const char *o = getenv("CUDA_EMULATED_ORDER"); return o && *o ? o : "shuffled"; }

static void run_block() {
    unsigned n = run.n;
    for (auto &s : run.module->shared) memset(s.first, 0xff, s.second);
    run.started = 0; run.live = n; run.at_barrier = 0; run.votes = 0;
    std::fill(run.status.begin(), run.status.end(), NEW);
    for (unsigned w = 0; w < run.warps.size(); w++) {
        run.warps[w].waiting = 0;
        run.warps[w].live = w * 32 + 32 <= n ? ~0u : (1u << (n - w * 32)) - 1;
    }
    run.runnable.clear();
    auto enter = [](Fiber *f) { to_fiber(f); if (f->thread < 0) run.idle.push_back(f); };
    while (run.started < n && !run.failed) enter(take_fiber());
    while (!run.failed && run.live > 0) {
        while (!run.runnable.empty() && !run.failed) {
            unsigned t = run.runnable.back(); run.runnable.pop_back();
            run.current = t; run.state->thread = run.place[t];
            enter(run.fiber[t]);
        }
        if (run.failed || run.live == 0) break;
        if (run.at_barrier == run.live) {
            if (run.module->strict) {
                int line = 0; unsigned first = 0;
                for (unsigned t = 0; t < n; t++) {
                    if (run.status[t] == DONE) {
                        auto waits = std::find(run.status.begin(), run.status.end(), AT_BARRIER) - run.status.begin();
                        fail(LAUNCH_FAILED, "a barrier that not every thread reaches (__syncthreads in line " + std::to_string(run.line[size_t(waits)]) + "): this one has returned: " + where(t));
                        break;
                    }
                    if (run.status[t] == AT_BARRIER) { if (!line) { line = run.line[t]; first = t; } else if (line != run.line[t]) { fail(LAUNCH_FAILED, "threads of one block wait at different barriers, of lines " + std::to_string(line) + " and " + std::to_string(run.line[t]) + ": " + where(first) + " and " + where(t)); break; } }
                }
                if (run.failed) break;
            }
            run.vote_result = run.vote_kind == 1 ? int(run.votes) : run.vote_kind == 2 ? run.votes == run.live : run.votes != 0;
            run.votes = 0; run.at_barrier = 0; run.phase++;
            unsigned turn = run.phase * 37u, step = order()[0] == 's' ? run.step : 1;
            for (unsigned i = 0; i < n; i++) {
                unsigned k = order()[0] == 'f' ? n - 1 - i : order()[0] == 'r' ? i : unsigned(((unsigned long long)step * i + turn) % n);
                if (run.status[k] == AT_BARRIER) { run.status[k] = RUNS; run.runnable.push_back(k); }
            }
            continue;
        }
        bool some = false;
        for (unsigned w = 0; w < run.warps.size() && !run.failed; w++)
            for (unsigned l = 0; l < 32 && !run.failed; l++)
                if (run.warps[w].waiting >> l & 1) {
                    if (run.module->strict && (run.warps[w].of[l].mask & ~run.warps[w].live & (w * 32 + 32 <= n ? ~0u : (1u << (n - w * 32)) - 1))) {
                        fail(LAUNCH_FAILED, "line " + std::to_string(run.warps[w].of[l].line) + ": a warp operation waits for a lane that has returned: " + where(w * 32 + l));
                        break;
                    }
                    some |= release_lane(w, l, true);
                }
        if (!some && !run.failed) {
            unsigned a = n, b = n;
            for (unsigned t = 0; t < n; t++) { if (run.status[t] == AT_BARRIER) a = t; if (run.status[t] == AT_WARP) b = t; }
            fail(LAUNCH_FAILED, std::string("threads wait for each other without end: ") + (a < n ? where(a) + " at __syncthreads in line " + std::to_string(run.line[a]) + "; " : "")
                 + (b < n ? where(b) + " at a warp operation in line " + std::to_string(run.line[b]) : ""));
        }
    }
    if (run.failed) { // what is put aside is never resumed
        run.idle.clear();
        for (Fiber *f : run.all) { f->fresh = true; f->thread = -1; run.idle.push_back(f); }
    }
}

void run_launch(Launch *l, Device *d) {
    const EmuKernel *k = l->f->kernel;
    std::vector<Allocation> touched;
    for (unsigned i = 0; i < k->param_count; i++) if (k->params[i].is_pointer) {
        uintptr_t at; memcpy(&at, l->params[i], sizeof at);
        if (!at) continue;
        Allocation a;
        if (!find_allocation(at, &a)) {
            if (is_pinned((void *)at, 1)) continue;
            emu_fault(k->name, ("parameter " + std::to_string(i) + " is not a pointer into live device memory: " + describe(at)).c_str(), ILLEGAL_ADDRESS);
            return;
        }
        if (a.device != d->ordinal) {
            emu_fault(k->name, ("parameter " + std::to_string(i) + " lies on another device than the launch's, " + std::to_string(d->ordinal) + ": " + describe(at)).c_str(), ILLEGAL_ADDRESS);
            return;
        }
        touched.push_back(a);
    }
    std::lock_guard<std::mutex> g(run.lock);
    need_signal_stack();
    run.kernel = k; run.module = l->f->module; run.params = l->params.data(); run.state = k->state;
    run.n = l->block.x * l->block.y * l->block.z;
    run.failed = false; run.why.clear(); run.code = 0; run.phase = 0;
    run.state->block_dim = l->block; run.state->grid_dim = l->grid;
    run.place.resize(run.n); run.status.assign(run.n, NEW); run.line.assign(run.n, 0); run.fiber.assign(run.n, nullptr);
    run.warps.resize((run.n + 31) / 32);
    for (unsigned t = 0; t < run.n; t++) run.place[t] = {t % l->block.x, t / l->block.x % l->block.y, t / l->block.x / l->block.y};
    char o = order()[0];
    run.step = o == 's' ? coprime_step(run.n) : o == 'r' ? run.n - 1 : 1;
    if (run.n == 1) run.step = 0;
    run.offset = o == 'r' ? run.n - 1 : 0;
    unsigned room = std::min<unsigned>(l->dynamic + 1024, run.state->dynamic_room + 1024);
    unsigned long long blocks = (unsigned long long)l->grid.x * l->grid.y * l->grid.z, step = o == 's' ? coprime_step(std::min<unsigned long long>(blocks, 0x7fffffff)) : 1;
    if (blocks > 0x7fffffff) step = 1;
    run.owner = pthread_self();
    run.active = true;
    for (unsigned long long i = 0; i < blocks && !run.failed; i++) {
        unsigned long long b = o == 'r' ? blocks - 1 - i : blocks <= 0x7fffffff ? step * i % blocks : i;
        run.state->block = {unsigned(b % l->grid.x), unsigned(b / l->grid.x % l->grid.y), unsigned(b / l->grid.x / l->grid.y)};
        if (o == 's') run.offset = unsigned(i * 13 % run.n);
        if (l->dynamic) memset(run.state->dynamic, 0xff, room);
        run_block();
        if (l->dynamic && !run.failed)
            for (unsigned p = l->dynamic; p < room; p++) if ((unsigned char)run.state->dynamic[p] != 0xff) { fail(ILLEGAL_ADDRESS, "shared memory behind the " + std::to_string(l->dynamic) + " bytes asked for was written"); break; }
    }
    run.active = false; run.running = nullptr;
    if (run.failed) emu_fault(k->name, run.why.c_str(), run.code);
    else for (const Allocation &a : touched) {
        Allocation still;
        if (find_allocation(a.at, &still)) if (const char *wrong = red_zone_fault(a)) { emu_fault(k->name, (std::string(wrong) + ": " + describe(a.at + a.bytes)).c_str(), ILLEGAL_ADDRESS); break; }
    }
}

// ---- modules ----
static std::string home() {
    Dl_info i; dladdr((void *)&emu_fault, &i);
    std::string p = i.dli_fname; size_t s = p.rfind('/');
    return s == std::string::npos ? "." : p.substr(0, s);
}
// Function-local statics without a value: in a kernel's module these are its shared memory.
static void find_shared(Module *m) {
    link_map *map = nullptr;
    if (dlinfo(m->handle, RTLD_DI_LINKMAP, &map) != 0) return;
    std::ifstream in(m->path, std::ios::binary);
    std::stringstream ss; ss << in.rdbuf(); std::string file = ss.str();
    if (file.size() < sizeof(Elf64_Ehdr)) return;
    auto *h = (const Elf64_Ehdr *)file.data();
    auto *sections = (const Elf64_Shdr *)(file.data() + h->e_shoff);
    for (int i = 0; i < h->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        auto *names = file.data() + sections[sections[i].sh_link].sh_offset;
        for (size_t k = 0; k < sections[i].sh_size / sizeof(Elf64_Sym); k++) {
            auto *s = (const Elf64_Sym *)(file.data() + sections[i].sh_offset) + k;
            if (ELF64_ST_TYPE(s->st_info) != STT_OBJECT || s->st_size == 0 || s->st_shndx >= h->e_shnum || sections[s->st_shndx].sh_type != SHT_NOBITS) continue;
            std::string name = names + s->st_name;
            size_t dot = name.rfind('.');
            bool numbered = dot != std::string::npos && dot + 1 < name.size() && name.find_first_not_of("0123456789", dot + 1) == std::string::npos;
            if (name.rfind("completed", 0) == 0 || !(name.rfind("_ZZ", 0) == 0 || numbered)) continue;
            m->shared.push_back({(char *)map->l_addr + s->st_value, s->st_size});
        }
    }
}
static std::map<std::string, Module *> loaded;
static std::mutex module_lock;
static Module *open_module(const std::string &path, bool strict) {
    auto i = loaded.find(path);
    if (i != loaded.end()) return i->second;
    void *h = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!h) { say("%s", dlerror()); return nullptr; }
    Module *m = new Module; m->handle = h; m->path = path; m->strict = strict;
    find_shared(m);
    loaded[path] = m;
    return m;
}
int load_module(const char *image, Module **out) {
    if (!image || !out) return INVALID_VALUE;
    std::lock_guard<std::mutex> g(module_lock);
    const char *mark = strstr(image, "// cuda-emulator-object: ");
    if (mark) {
        mark += strlen("// cuda-emulator-object: ");
        *out = open_module(std::string(mark, strcspn(mark, "\n")), true);
        return *out ? OK : INVALID_IMAGE;
    }
    const char *entry = strstr(image, ".entry ");
    if (!entry) { say("cuModuleLoadData: neither PTX with kernels nor the emulator's own text"); return INVALID_PTX; }
    entry += 7;
    std::string name(entry, strcspn(entry, "( \n\t"));
    std::string dir = home() + "/candle";
    std::vector<std::string> files;
    if (DIR *d = opendir(dir.c_str())) {
        while (dirent *e = readdir(d)) { std::string f = e->d_name; if (f.size() > 3 && f.substr(f.size() - 3) == ".so") files.push_back(f); }
        closedir(d);
    }
    for (const std::string &f : files) {
        Module *m = open_module(dir + "/" + f, false);
        if (m && dlsym(m->handle, ("emu_kernel_" + name).c_str())) { *out = m; return OK; }
    }
    say("cuModuleLoadData: no compiled source has the kernel %s (looked in %s)", name.c_str(), dir.c_str());
    return NO_BINARY;
}
Function *module_function(Module *m, const char *name) {
    std::lock_guard<std::mutex> g(module_lock);
    for (Function *f : m->functions) if (strcmp(f->kernel->name, name) == 0) return f;
    auto *k = (const EmuKernel *)dlsym(m->handle, (std::string("emu_kernel_") + name).c_str());
    if (!k) { say("no kernel %s in %s", name, m->path.c_str()); return nullptr; }
    EmuState *s = k->state;
    s->next_thread = next_thread; s->finished = finished; s->barrier = barrier; s->meet = meet;
    s->slot = slot; s->lane = lane; s->live = live_lanes; s->trap = trap;
    Function *f = new Function{m, k};
    m->functions.push_back(f);
    return f;
}

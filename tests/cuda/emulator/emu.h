// What the emulated libraries say to each other. Plain C: each library is compiled by itself.
#pragma once
#include <cstddef>
#include <cstdint>

// ---- kernel modules (made by compile.cpp from CUDA C++ and shim.h, loaded by libcuda) ----

struct EmuDim { unsigned x, y, z; };

// The state that a kernel sees, one in each module, set by the driver before it runs a thread.
struct EmuState {
    EmuDim thread, block, block_dim, grid_dim;
    char *dynamic;                                   // the module's room for dynamic shared memory
    unsigned dynamic_room;                           // its bytes
    // Called by the kernel; set by the driver when it loads the module.
    unsigned (*next_thread)();                       // the next thread that has not begun, or ~0u
    void (*finished)();                              // the thread begun last has returned
    int (*barrier)(int line, int kind, int value);   // __syncthreads and its voting kinds
    // Warp operations: every lane in `mask` meets; `size` bytes of `value` are put into the lane's slot.
    // Afterwards slot(lane) gives another lane's bytes, or null where that lane takes no part.
    unsigned (*meet)(int line, unsigned mask, const void *value, unsigned size);
    const void *(*slot)(unsigned lane);
    unsigned (*lane)();
    unsigned (*live)();                              // lanes of this warp that have not returned
    void (*trap)(const char *what, const char *file, int line);
};

struct EmuParam { unsigned size; unsigned is_pointer; };

// One for each `extern "C" __global__` function, exported as emu_kernel_NAME.
struct EmuKernel {
    const char *name;
    void (*run)(void **params);                      // runs threads until next_thread() says there are none
    const EmuParam *params;
    unsigned param_count;
    unsigned max_threads;                            // __launch_bounds__, or 1024
    EmuState *state;
};

// ---- offered by libcuda to the other libraries ----

extern "C" {
// Runs `work(data)` in the order of `stream`, then `drop(data)`.
int emu_submit(void *stream, void (*work)(void *), void (*drop)(void *), void *data);
// Null if [p, p + bytes) lies in one live device allocation, else what is wrong with it.
const char *emu_range_fault(const void *p, size_t bytes);
// Says a fault once on stderr with the name of the call; `code` becomes the device's sticky error if it is not 0.
void emu_fault(const char *call, const char *what, int code);
int emu_current_device();                            // ordinal, or -1
int emu_sticky();                                    // the current device's sticky error, 0 if none
void emu_missing(const char *name);                  // a call that is not emulated: said once
// For tests and for nvidia-ml: allocations now live on a device, their bytes, all bytes the device has.
void emu_usage(int device, size_t *count, size_t *bytes, size_t *total);
int emu_device_count();
void emu_uuid(int device, unsigned char out[16]);
}

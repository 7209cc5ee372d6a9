// Compiles CUDA C++ for the emulator into a shared object.
#pragma once
#include <string>
#include <vector>
// Options as NVRTC takes them (-D, -I, --std, ...). `out` is written only if all went well.
bool emu_compile(const std::string &source, const std::string &name, const std::vector<std::string> &options,
                 const std::string &home, const std::string &out, std::string &log);

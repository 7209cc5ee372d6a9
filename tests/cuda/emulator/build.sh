#!/usr/bin/env bash
# Builds the emulated CUDA libraries into a folder (default /tmp/cuda-emulator). Needs g++; takes about a minute, and
# what has not changed is not built again.
#   build.sh [OUT]
# CARGO_HOME: where cargo's registry lies (cudarc's symbol lists and candle's kernels are read from it).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-/tmp/cuda-emulator}
cxx=${CXX:-g++}
registry=${CARGO_HOME:-$HOME/.cargo}/registry/src
newest() { ls -d "$registry"/*/"$1"-[0-9]* 2>/dev/null | sort -V | tail -1; }
cudarc=$(newest cudarc) kernels=$(newest candle-kernels)
[ -n "$cudarc" ] && [ -n "$kernels" ] || { echo "build.sh: cudarc and candle-kernels are not in $registry: run 'cargo fetch' in the repository first" >&2; exit 1; }
mkdir -p "$out/objects" "$out/candle" "$out/shim/cuda/std"
exec 9>"$out/.lock"; flock 9
native=; [ "$(uname -m)" = x86_64 ] && native=-march=native

# Every function that cudarc may bind has to exist, or a program that is linked with -z now does not start. What the
# emulator does not know says its name once and returns "not supported".
symbols() { grep -ohE 'load::<_F>\("[A-Za-z0-9_]+"\)' "$cudarc/src/$1/sys/mod.rs" | sed -E 's/.*"(.*)".*/\1/' | sort -u; }
library() { # library SONAME CUDARC_MODULE CODE LINK... -- SOURCE...
  local so=$1 module=$2 code=$3 link=() sources=() objects=(); shift 3
  while [ "$1" != -- ]; do link+=("$1"); shift; done; shift; sources=("$@")
  local stamp="$out/objects/$so.stamp" now
  now=$(cat "$here"/*.h "$here/build.sh" "${sources[@]/#/$here/}" "$cudarc/Cargo.toml" | cksum)
  [ -e "$out/$so" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$now" ] && return
  echo "$so" >&2
  { echo 'extern "C" void emu_missing(const char *);'
    [ "$module" = - ] || symbols "$module" | awk -v c="$code" '{print "extern \"C\" __attribute__((weak)) int "$1"() { emu_missing(\""$1"\"); return "c"; }"}'
  } > "$out/objects/$so.rest.cpp"
  for s in "${sources[@]}"; do objects+=("$out/objects/$so.$s.o"); $cxx -std=c++17 -O3 $native -ffp-contract=off -fPIC -Wall -Wextra -Wno-missing-field-initializers -c "$here/$s" -o "${objects[-1]}"; done
  $cxx -std=c++17 -O1 -fPIC -w -c "$out/objects/$so.rest.cpp" -o "$out/objects/$so.rest.o"
  $cxx -shared -Wl,-soname,"$so" -Wl,-rpath,'$ORIGIN' -o "$out/$so.new" "${objects[@]}" "$out/objects/$so.rest.o" -L"$out" "${link[@]}" -ldl -lpthread
  mv -f "$out/$so.new" "$out/$so"; ln -sfn "$so" "$out/${so%%.so*}.so"; echo "$now" > "$stamp"
}
cp -f "$here/shim.h" "$here/emu.h" "$out/"; cp -rf "$here/shim/." "$out/shim/"
library libcuda.so.1 driver 801 -- driver.cpp memory.cpp launch.cpp
library libnvrtc.so.13 nvrtc 11 -lcuda -- nvrtc.cpp compile.cpp
library libcublas.so.13 cublas 15 -lcuda -- cublas.cpp
library libcublasLt.so.13 cublaslt 15 -lcuda --
library libcurand.so.10 curand 999 -lcuda -- curand.cpp
library libcudnn.so.9 cudnn 3000 -lcuda -- cudnn.cpp
library libnccl.so.2 nccl 3 -lcuda -- nccl.cpp
library libnvidia-ml.so.1 - 3 -lcuda -- nvml.cpp

# candle's kernels, which a program carries as PTX, from the sources that PTX was made of.
compiler="$out/objects/emulator-compile"
if [ ! -e "$compiler" ] || [ "$here/compile.cpp" -nt "$compiler" ]; then $cxx -std=c++17 -O1 -DEMU_COMPILE_MAIN "$here/compile.cpp" -o "$compiler"; fi
failed=
for name in affine binary cast conv fill indexing reduce sort ternary unary; do
  now=$(cat "$here/shim.h" "$here/emu.h" "$here/compile.cpp" "$here"/shim/*.h "$kernels/src/$name.cu" | cksum)
  [ -e "$out/candle/$name.so" ] && [ "$(cat "$out/candle/$name.stamp" 2>/dev/null)" = "$now" ] && continue
  echo "candle: $name.cu" >&2
  if "$compiler" "$kernels/src/$name.cu" "$out/candle/$name.so" "$out" "-I$kernels/src" 2>"$out/candle/$name.log"; then echo "$now" > "$out/candle/$name.stamp"
  else failed="$failed $name"; tail -5 "$out/candle/$name.log" >&2; fi
done
[ -z "$failed" ] || { echo "build.sh: these sources of candle's do not compile, their kernels are missing:$failed" >&2; exit 1; }
echo "$out"

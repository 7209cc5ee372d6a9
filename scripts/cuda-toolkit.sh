#!/usr/bin/env bash
# Builds hashpipe for NVIDIA GPUs on a machine without a GPU, without a CUDA toolkit, and without root.
#
#   scripts/cuda-toolkit.sh build [ARG..]     a release build; ARG.. go to cargo (default: --features cuda,cudnn)
#   scripts/cuda-toolkit.sh setup             only gets the compiler, its headers, and what is linked against
#   eval "$(scripts/cuda-toolkit.sh env)"     the environment for cargo commands of your own, after `setup`
#   scripts/cuda-toolkit.sh libraries         gets CUDA's libraries (1.1 GB) for running; prints LD_LIBRARY_PATH
#   scripts/cuda-toolkit.sh check BINARY      tries a binary on this machine's GPU, and tells what is missing
#
# Needs Linux on x86-64 or 64-bit ARM, cargo, gcc and g++, python3 with pip, PyPI, and 500 MB of disk. What was done is
# not done again; interrupt it at any time. With an nvcc 13.0 of your own none of this is needed: set CUDA_HOME and run
# `cargo build --release --features cuda,cudnn`.
#
# Settings, as environment variables:
#   CUDA_TOOLKIT_DIR   where it all goes (default: hashpipe-cuda-13.0 in ~/.cache); delete the folder to be rid of it
#   CUDA_COMPUTE_CAP   the oldest GPUs to build for (default 80: A100, RTX 30 and all newer). From 90 on, NVIDIA's
#                      compiler makes code for that kind alone: 90 runs on H100 and H200 and nothing else
#   ALL_KERNELS=1      compile also those of candle's kernels that hashpipe never calls (quantised language models: ten
#                      minutes more)
set -euo pipefail

DIR=${CUDA_TOOLKIT_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/hashpipe-cuda-13.0}
CUDA=$DIR/nvidia/cu13
PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# nvcc 13.0 and none that is newer: kernels travel as PTX, and a driver refuses PTX of a newer CUDA than its own. The
# versions are those that PyTorch 2.11 pins for CUDA 13.0, so that its wheels' libraries can be used to run.
COMPILER=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85)
LIBRARIES=(nvidia-cublas==13.1.0.3 nvidia-curand==10.4.0.35 nvidia-cuda-nvrtc==13.0.88 nvidia-cudnn-cu13==9.19.0.56
  nvidia-nccl-cu13==2.28.9)

say() { printf 'cuda-toolkit: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }

# need PROGRAM WHAT_FOR HOW_TO_GET
need() { command -v "$1" >/dev/null || die "\`$1\` is not there, which is needed to $2: $3"; }

check_machine() {
  [ "$(uname -s)" = Linux ] || die "NVIDIA's compiler is for Linux, not $(uname -s)"
  case $(uname -m) in x86_64 | aarch64) ;; *) die "NVIDIA's compiler is for x86-64 and 64-bit ARM, not $(uname -m)" ;; esac
  need python3 "unpack wheels" "install Python 3"
  python3 -m pip --version >/dev/null 2>&1 || die "python3 has no pip: install python3-pip, or use a venv"
  need gcc "make what is linked against" "install gcc"
  need g++ "compile CUDA C++" "install g++"
  need cargo "find cudarc's sources" "https://rustup.rs"
  mkdir -p "$DIR/.done" || die "cannot write to \`$DIR\`: set CUDA_TOOLKIT_DIR"
  local free
  free=$(df -Pk "$DIR" | awk 'NR == 2 {print int($4 / 1024)}')
  [ "$free" -ge "$1" ] || [ -x "$CUDA/bin/nvcc" ] || die "\`$DIR\` has $free MB free, $1 are needed: set CUDA_TOOLKIT_DIR"
}

# Unpacks wheels, each once. They share one tree, nvidia/cu13/{bin,include,lib,nvvm}, which nvcc takes as it is.
unpack() {
  local wheel aside
  for wheel in "$@"; do
    [ -e "$DIR/.done/$wheel" ] && continue
    say "getting $wheel"
    aside=$(mktemp -d "$DIR/.getting.XXXXXX")
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$aside" "$wheel" ||
      { rm -rf "$aside"; die "PyPI did not give $wheel; run the same again to go on from here"; }
    python3 -m zipfile -e "$aside"/*.whl "$DIR"
    rm -rf "$aside"
    : >"$DIR/.done/$wheel"
  done
}

# Kernels of candle that hashpipe never calls take nearly all of nvcc's time. This stands in for nvcc: those sources
# become functions that end the program and say so, and a PTX file with nothing in it.
write_slim_nvcc() {
  cat >"$CUDA/bin/nvcc-slim" <<'SLIM'
#!/usr/bin/env bash
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
source=${!#} output='' folder=.
for ((i = 1; i < $#; i++)); do
  next=$((i + 1))
  case ${!i} in -o) output=${!next} ;; --output-directory) folder=${!next} ;; esac
done
case $source in
*/mmvq_gguf.cu) # One object has all of the functions, whose names the crate's own list tells.
  {
    printf '#include <stdio.h>\n#include <stdlib.h>\n'
    grep -oE '\bfn [a-z0-9_]+' "$(dirname "$source")/ffi.rs" | awk '{print $2}' | sort -u | while read -r name; do
      printf 'void %s(void) { fputs("%s was left out of this build\\n", stderr); abort(); }\n' "$name" "$name"
    done
  } | gcc -w -O1 -fPIC -ffunction-sections -x c -c - -o "$output" ;;
*/mmq_gguf/*.cu | */moe/*.cu) gcc -fPIC -x c -c /dev/null -o "$output" ;;
*/quantized.cu) printf '.version 8.0\n.target sm_80\n.address_size 64\n' >"$folder/quantized.ptx" ;;
*) exec "$here/nvcc" "$@" ;;
esac
SLIM
  chmod +x "$CUDA/bin/nvcc-slim"
}

# The sources of the cudarc that Cargo.lock names: what hashpipe can call is written there.
cudarc_sources() {
  (cd "$PROJECT" && cargo metadata --format-version 1 --locked --features cuda,cudnn,nccl) |
    python3 -c '
import json, os, sys
found = [p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "cudarc"]
sys.exit("cudarc is not among the dependencies") if not found else print(os.path.dirname(found[0]) + "/src")'
}

# stand_in NAME SONAME FOLDER RESULT MODULE: a library with the functions that cudarc's MODULE calls, to link against.
# Libraries of CUDA are found when the program starts, so that none of them has to be here.
stand_in() {
  mkdir -p "$3"
  grep -ohE 'load::<_F>\("[A-Za-z0-9_]+"\)' "$SOURCES/$5/sys/mod.rs" | sed -E 's/.*"(.*)".*/\1/' | sort -u |
    awk -v result="$4" '{print "int " $1 "(void) { return " result "; }"}' >"$DIR/stand_in.c"
  [ -s "$DIR/stand_in.c" ] || die "no functions found in $SOURCES/$5: was cudarc changed?"
  gcc -shared -fPIC -w -O1 -Wl,-soname,"$2" -o "$3/lib$1.so.new" "$DIR/stand_in.c"
  mv -f "$3/lib$1.so.new" "$3/lib$1.so"
  ln -sfn "lib$1.so" "$3/$2"
  rm -f "$DIR/stand_in.c"
}

setup() {
  check_machine 500
  unpack "${COMPILER[@]}"
  chmod +x "$CUDA"/bin/* "$CUDA"/nvvm/bin/*
  [ -e "$CUDA/lib64" ] || ln -s lib "$CUDA/lib64"
  "$CUDA/bin/nvcc" --version >/dev/null || die "nvcc does not start: delete \`$DIR\` and run the same again"
  write_slim_nvcc
  # Linked into the program, so that one library less has to be found when it starts.
  rm -f "$CUDA/lib/libcudart.so"
  echo 'GROUP ( libcudart_static.a AS_NEEDED ( -lrt -lpthread -ldl ) )' >"$CUDA/lib/libcudart.so"
  SOURCES=$(cudarc_sources) || die "cargo cannot tell where cudarc's sources are"
  # The driver's is in a folder of its own and in no package of NVIDIA's. It says that there is no GPU (100), which is
  # true wherever it is found instead of the driver.
  stand_in cuda libcuda.so.1 "$CUDA/lib/stubs" 100 driver
  local stubs=$CUDA/lib/link
  stand_in cublas libcublas.so.13 "$stubs" 1 cublas
  stand_in cublasLt libcublasLt.so.13 "$stubs" 1 cublaslt
  stand_in curand libcurand.so.10 "$stubs" 1 curand
  stand_in nvrtc libnvrtc.so.13 "$stubs" 1 nvrtc
  stand_in cudnn libcudnn.so.9 "$stubs" 1 cudnn
  stand_in nccl libnccl.so.2 "$stubs" 1 nccl
  say "$("$CUDA/bin/nvcc" --version | sed -n 's/.*\(release [0-9.]*\).*/nvcc \1/p') is in $CUDA"
}

environment() {
  [ -x "$CUDA/bin/nvcc" ] || die "there is no compiler in \`$DIR\`: run \`$0 setup\` first"
  local nvcc=nvcc-slim
  [ "${ALL_KERNELS:-0}" = 0 ] || nvcc=nvcc
  printf 'export CUDA_HOME=%q CUDA_PATH=%q CUDA_ROOT=%q\n' "$CUDA" "$CUDA" "$CUDA"
  printf 'export NVCC=%q PATH=%q:"$PATH"\n' "$CUDA/bin/$nvcc" "$CUDA/bin"
  printf 'export CUDA_COMPUTE_CAP=%q CUDAFORGE_THREADS=%q\n' "${CUDA_COMPUTE_CAP:-80}" "${CUDAFORGE_THREADS:-$(nproc)}"
  printf 'export LIBRARY_PATH=%q:%q:%q"${LIBRARY_PATH:+:$LIBRARY_PATH}"\n' "$CUDA/lib/link" "$CUDA/lib" "$CUDA/lib/stubs"
}

build() {
  setup
  eval "$(environment)"
  [ $# -gt 0 ] || set -- --features cuda,cudnn
  (cd "$PROJECT" && cargo build --release "$@")
  say "built \`${CARGO_TARGET_DIR:-$PROJECT/target}/release/hashpipe\`, for GPUs of compute capability $CUDA_COMPUTE_CAP" \
    "and what that runs on; it uses a GPU where CUDA's libraries are found: \`$0 check\`, \`$0 libraries\`"
}

libraries() {
  check_machine 3000
  unpack "${LIBRARIES[@]}"
  # Before what is there: the driver's folder, which no one but the user knows, must stay.
  printf 'export LD_LIBRARY_PATH=%q:%q:%q"${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"\n' \
    "$CUDA/lib" "$DIR/nvidia/cudnn/lib" "$DIR/nvidia/nccl/lib"
}

check() {
  [ -f "${1:-}" ] || die "\`${1:-}\` is no file: give a hashpipe that was built with \`--features cuda\`"
  # The names of CUDA's functions stand in a program that calls them.
  grep -qa cuLaunchKernel "$1" || die "\`$1\` was built for CPUs: it calls nothing of CUDA"
  "$1" bench forward --device cuda --backbone small --side 32 --batch 2 --seconds 0 --cache "$DIR/none" >&2 ||
    die "\`$1\` cannot use a GPU here; what is said above tells why. Libraries come by \`eval \"\$($0 libraries)\"\`, or with a PyTorch for CUDA 13"
  say "\`$1\` computes on this machine's GPU"
}

case ${1:-} in
build) shift; build "$@" ;;
setup) setup ;;
env) environment ;;
libraries) libraries ;;
check) check "${2:-}" ;;
-h | --help | help) usage ;;
*) usage >&2; exit 2 ;;
esac

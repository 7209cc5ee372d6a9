#!/usr/bin/env bash
# Runs the GPU tests on a machine without a GPU: builds the emulated CUDA libraries (tests/cuda/emulator), builds the
# tests with CUDA, and runs them on it in several orders. What that proves and what not: tests/cuda/emulator/README.md.
#
#   scripts/gpu-emulated.sh [--whole] [FILTER..]     only tests whose names contain one of these (default: cuda)
#
#   --whole          then also runs `scripts/gpu-check.sh --tiny`: the program itself, with pipelines and benchmarks
#
# Needs g++, and nvcc to compile candle's kernels: CUDA_HOME is used if it is set, else scripts/cuda-toolkit.sh gets a
# compiler from PyPI. Settings, as environment variables:
#   CUDA_EMULATOR    where the emulator is built (default: target/cuda-emulator)
#   TESTS, BINARY    a test program, and for --whole a hashpipe, that are there already: nothing is built but the emulator
#   ORDERS           which of `shuffled`, `forward`, `reverse`, `lazy` to run (default: all)
#   LIMIT            seconds that one run of the tests may take (default: 900)
#   CARGO_TARGET_DIR where cargo builds (default: target/cuda)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*" >&2; }
fail() { printf 'gpu-emulated: %s\n' "$*" >&2; exit 1; }

emulator=${CUDA_EMULATOR:-target/cuda-emulator}
limit=${LIMIT:-900}
whole=
if [ "${1:-}" = --whole ]; then whole=1; shift; fi
filters=("$@")
[ ${#filters[@]} -gt 0 ] || filters=(cuda)

say "the emulator"
command -v "${CXX:-g++}" >/dev/null || fail "no C++ compiler: install g++"
mkdir -p "$emulator"
emulator=$(cd "$emulator" && pwd)
tests/cuda/emulator/build.sh "$emulator" >/dev/null
"${CXX:-g++}" -std=c++17 -O1 tests/cuda/emulator/check.cpp -o "$emulator/objects/check" -L"$emulator" -Wl,-rpath,"$emulator" \
  -lcuda -lnvrtc -lcublas -lcudnn -lnccl -lpthread
for lazy in 0 1; do
  CUDA_EMULATED_LAZY=$lazy timeout 120 "$emulator/objects/check" 2>"$emulator/objects/check.log" >"$emulator/objects/check.out" || {
    grep -v '^ok' "$emulator/objects/check.out" >&2
    tail -20 "$emulator/objects/check.log" >&2
    fail "the emulator fails its own checks (CUDA_EMULATED_LAZY=$lazy)"
  }
done
grep -c '^ok' "$emulator/objects/check.out" | sed 's/$/ checks of the emulator itself passed/' >&2

tests=${TESTS:-} binary=${BINARY:-}
if [ -z "$tests" ] || { [ -n "$whole" ] && [ -z "$binary" ]; }; then
  say "the tests, with CUDA"
  if [ -z "${CUDA_HOME:-}" ]; then
    [ -x scripts/cuda-toolkit.sh ] || fail "set CUDA_HOME to a CUDA toolkit"
    scripts/cuda-toolkit.sh setup
    eval "$(scripts/cuda-toolkit.sh env)"
  fi
  export LIBRARY_PATH="$CUDA_HOME/lib:$CUDA_HOME/lib/stubs:$emulator${LIBRARY_PATH:+:$LIBRARY_PATH}"
  # Not the folder of other builds: with other features, each would undo the other's.
  export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/cuda}
  # built WORD..: has cargo build something and prints the program that came of it.
  built() {
    cargo "$@" --locked --features cuda,cudnn --message-format=json-render-diagnostics |
      sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1
  }
  [ -n "$tests" ] || tests=$(built test --no-run --lib)
  [ -x "$tests" ] || fail "cargo names no test program"
  [ -z "$whole" ] || [ -n "$binary" ] || binary=$(built build --bin hashpipe)
fi
# A function of CUDA that src/device/libraries.rs does not name brings its library back among those without which the
# program does not start.
linked=$(readelf -d "$tests" | grep -oE 'lib(cuda|nvrtc|cublas|cublasLt|curand|cudnn|nccl)[.]so[.0-9]*' | tr '\n' ' ' || true)
[ -z "$linked" ] || [ "$(uname -m)" != x86_64 ] || fail "the program is linked with $linked: which functions of these are missing in src/device/libraries.rs? \`readelf --dyn-syms $tests | grep UND\`"

failed=0 table=
for order in ${ORDERS:-shuffled forward reverse lazy}; do
  say "tests, $order"
  # The third device is for tests that give this process a part of one.
  settings=(LD_LIBRARY_PATH="$emulator" CUDA_EMULATED_DEVICES=3)
  if [ "$order" = lazy ]; then settings+=(CUDA_EMULATED_LAZY=1); else settings+=(CUDA_EMULATED_ORDER="$order"); fi
  log=$emulator/objects/tests-$order.log
  code=0
  env "${settings[@]}" timeout "$limit" "$tests" "${filters[@]}" >"$log" 2>&1 || code=$?
  # A test that finds no GPU says so and passes: here none may.
  skipped=$(grep -c 'skipped: no GPU' "$log" || true)
  result=$(grep -E '^test result' "$log" | tail -1 || true)
  grep -E '^test .*FAILED|^failures:|panicked at|^CUDA emulator:' "$log" | sort | uniq -c | sort -rn | head -40 >&2 || true
  [ "$code" = 124 ] && result="no end within $limit s"
  [ -n "$result" ] || result="ended with code $code"
  { [ "$code" = 0 ] && [ "$skipped" = 0 ]; } || failed=1
  table+=$(printf '%-9s %s%s  (%s)' "$order" "$result" "$([ "$skipped" = 0 ] || echo ", $skipped skipped")" "$log")$'\n'
done
if [ -n "$whole" ]; then
  say "the program"
  CUDA_EMULATOR=$emulator scripts/gpu-check.sh --tiny --seconds 3600 --binary "$binary" --tests "$tests" --out "$emulator/objects/check-whole" >&2 || failed=1
  table+="whole     $emulator/objects/check-whole/table.txt"$'\n'
fi
say "on the emulator"
printf '%s' "$table"
exit $failed

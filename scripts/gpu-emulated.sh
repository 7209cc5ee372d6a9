#!/usr/bin/env bash
# Runs the GPU tests on a machine without a GPU: builds the emulated CUDA libraries (tests/cuda/emulator), builds the
# tests with CUDA, and runs them on it in several orders. What that proves and what not: tests/cuda/emulator/README.md.
#
#   scripts/gpu-emulated.sh [FILTER..]     only tests whose names contain one of these (default: cuda)
#
# Needs g++, and nvcc to compile candle's kernels: CUDA_HOME is used if it is set, else scripts/cuda-toolkit.sh gets a
# compiler from PyPI. Settings, as environment variables:
#   CUDA_EMULATOR    where the emulator is built (default: target/cuda-emulator)
#   TESTS            a test program that is there already: nothing is built but the emulator
#   ORDERS           which of `shuffled`, `forward`, `reverse`, `lazy` to run (default: all)
#   LIMIT            seconds that one run of the tests may take (default: 900)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*" >&2; }
fail() { printf 'gpu-emulated: %s\n' "$*" >&2; exit 1; }

emulator=${CUDA_EMULATOR:-target/cuda-emulator}
limit=${LIMIT:-900}
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

tests=${TESTS:-}
if [ -z "$tests" ]; then
  say "the tests, with CUDA"
  if [ -z "${CUDA_HOME:-}" ]; then
    [ -x scripts/cuda-toolkit.sh ] || fail "set CUDA_HOME to a CUDA toolkit"
    scripts/cuda-toolkit.sh setup
    eval "$(scripts/cuda-toolkit.sh env)"
  fi
  export LIBRARY_PATH="$CUDA_HOME/lib:$CUDA_HOME/lib/stubs:$emulator${LIBRARY_PATH:+:$LIBRARY_PATH}"
  # Not the folder of other builds: with other features, each would undo the other's.
  export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/cuda}
  built=$(cargo test --locked --no-run --features cuda,cudnn --lib 2>&1 | tee /dev/stderr)
  tests=$(printf '%s\n' "$built" | sed -n 's/.*Executable .*(\(.*\))$/\1/p' | tail -1)
  [ -x "$tests" ] || fail "cargo names no test program"
fi

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
say "on the emulator"
printf '%s' "$table"
exit $failed

#!/usr/bin/env bash
# Checks hashpipe on a machine with a GPU, in one call of at most 8 minutes and without network: every CUDA test, a short
# training that must give the same bytes twice, comparisons with the CPU, speeds, and PyTorch beside them. Prints one
# table, whatever fails or ends it; the exit code is 1 if a check failed, 2 if it could not begin.
#
#   scripts/gpu-check.sh [--binary FILE] [--tests FILE] [--golden FILE] [--device N] [--seconds N] [--out DIR]
#                        [--python FILE] [--tiny]
#   scripts/gpu-check.sh pack [DIR]
#
#   pack DIR         builds what the check runs, for a machine without Rust or network: a hashpipe and its test programs,
#                    stripped and compressed (about 45 MB in all), in DIR (default target/gpu-check)
#
#   --binary FILE    a hashpipe built with `--features cuda,cudnn` (default: of target/gpu-check, then
#                    target/release/hashpipe; else it is built)
#   --tests FILE     the library's test program, of `cargo test --no-run --features cuda,cudnn --lib` (default: of
#                    target/gpu-check; else it is built, and where that cannot be the tests are left out)
#   --golden FILE    likewise the program of `cargo test --no-run --features cuda,cudnn --test it`, of which one test is run:
#                    three steps of AlexNet against PyTorch's numbers
#   --device N       which GPU (default 0)
#   --seconds N      time for everything (default 460); parts for which none is left are skipped and said
#   --out DIR        where table.txt, figures.jsonl and logs.txt go (default: $OUT, else target/gpu-check/results)
#   --python FILE    an interpreter with PyTorch (default python3); its CUDA libraries serve hashpipe, too
#   --built-in DIR   the repository's folder where the tests were built, if it is not here and `pack` did not note it:
#                    tests look for their files there, so a link to this folder is put in its place
#   --tiny           the smallest sizes, to see that this script works (on the emulator: tests/cuda/emulator)
#
# What the machine has to have: NVIDIA's driver for CUDA 13 (580 or newer), and CUDA 13's libraries (cuBLAS, cuRAND, NVRTC,
# cuDNN 9). They are looked for in LD_LIBRARY_PATH, where the loader looks, in the packages of --python (PyTorch brings them),
# in a CUDA toolkit, and where `scripts/cuda-toolkit.sh libraries` puts them.
#
# The whole of it, for a GPU machine that is given a copy of this folder and no network:
#   here:    scripts/gpu-check.sh pack                             # target/gpu-check/{hashpipe,tests,golden}.gz, built-in
#   there:   scripts/gpu-check.sh                                  # with target/gpu-check as it was made here
# On a machine without a GPU, the script itself:
#   tests/cuda/emulator/build.sh /tmp/cuda-emulator
#   CUDA_EMULATOR=/tmp/cuda-emulator scripts/gpu-check.sh --tiny --seconds 900
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 2

say() { printf 'gpu-check: %s\n' "$*" >&2; }
die() { say "$@"; exit 2; }

# ---- building ----
with_toolkit() { [ -n "${CUDA_HOME:-}" ] || { scripts/cuda-toolkit.sh setup && eval "$(scripts/cuda-toolkit.sh env)"; }; }
# built WORD..: has cargo build something with CUDA and prints the program that came of it.
built() {
  cargo "$@" --locked --features cuda,cudnn --message-format=json-render-diagnostics |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1
}
# PROFILE=dev builds faster, and the program is slower and larger.
build_binary() { built build --profile "${PROFILE:-release}" --bin hashpipe; }
build_tests() { built test --no-run --profile "${PROFILE:-release}" --lib; }
build_golden() { built test --no-run --profile "${PROFILE:-release}" --test it; }

pack() {
  local into=${1:-target/gpu-check} file total
  command -v cargo >/dev/null || die "cargo is not installed: get Rust from https://rustup.rs"
  with_toolkit || die "there is no CUDA compiler: set CUDA_HOME"
  mkdir -p "$into" || die "cannot write to \`$into\`"
  for what in binary tests golden; do
    file=$("build_$what") && [ -x "$file" ] || die "the build failed"
    [ "$what" != binary ] || what=hashpipe
    cp "$file" "$into/$what" && { ! command -v strip >/dev/null || strip "$into/$what"; } && gzip -9 -n -f "$into/$what" || die "cannot write to \`$into\`"
  done
  printf '%s\n' "$root" >"$into/built-in"
  ls -l "$into"/*.gz >&2
  total=$(cat "$into"/*.gz | wc -c)
  say "$((total / 1000000)) MB in \`$into\`; there: scripts/gpu-check.sh"
}
if [ "${1:-}" = pack ]; then shift; pack "$@"; exit; fi

binary='' tests='' golden='' device=0 total=460 out=${OUT:-$root/target/gpu-check/results} built_in='' tiny=0 python=python3
while [ $# -gt 0 ]; do
  case $1 in
  --tiny) tiny=1; shift; continue ;;
  --binary | --tests | --golden | --device | --seconds | --out | --built-in | --python) [ $# -gt 1 ] || die "$1 needs a value" ;;
  -h | --help) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
  *) die "unknown: \`$1\`; see --help" ;;
  esac
  case $1 in
  --binary) binary=$2 ;; --tests) tests=$2 ;; --golden) golden=$2 ;; --device) device=$2 ;; --seconds) total=$2 ;; --out) out=$2 ;;
  --built-in) built_in=$2 ;; --python) python=$2 ;;
  esac
  shift 2
done
mkdir -p "$out" || die "cannot write to \`$out\`"
out=$(cd "$out" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/gpu-check.XXXXXX") || die "cannot write to \`${TMPDIR:-/tmp}\`"
logs=$work/logs
mkdir "$logs"
# What is measured here is not for the project's predictions.
export HASHPIPE_CACHE=$work/none
began=$SECONDS

rows=() failed=0
# row NAME RESULT DETAIL
row() { rows+=("$1"$'\t'"$2"$'\t'"${3:-}"); say "$1: $2${3:+: $3}"; [ "$2" != FAILED ] || failed=1; }
# Whatever ends this script: what is known is told, and kept.
finish() {
  local code=$?
  trap - EXIT
  if [ ${#rows[@]} -gt 0 ]; then
    [ $code -lt 2 ] || row "the check itself" FAILED "ended with code $code after $((SECONDS - began)) s"
    { printf 'check\tresult\twhat\n'; printf '%s\n' "${rows[@]}"; } |
      if command -v column >/dev/null; then column -t -s $'\t'; else cat; fi | tee "$out/table.txt"
    cat "$logs"/*.jsonl >"$out/figures.jsonl" 2>/dev/null
    (cd "$logs" && for f in *; do [ ! -s "$f" ] || { printf '==> %s\n' "$f"; tail -c 200000 "$f"; echo; }; done) >"$out/logs.txt" 2>/dev/null
  fi
  rm -rf "$work"
  exit $code
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

left() { echo $((total - (SECONDS - began))); }
# timed LIMIT LOG COMMAND..: runs for at most LIMIT seconds and what is left; code 124 if that was too short, 125 if nothing was left.
timed() {
  local limit=$1 log=$logs/$2 rest; shift 2
  rest=$(left)
  [ "$rest" -gt 3 ] || return 125
  [ "$limit" -le "$rest" ] || limit=$rest
  timeout --kill-after=5 "$limit" "$@" >"$log" 2>"$log.err" </dev/null
}
# why CODE LOG: the end of a failure in one line.
why() {
  case $1 in
  125) echo "no time left" ;;
  124 | 137) echo "no end within its time" ;;
  *)
    local line
    line=$({ grep -hE '^ *error' "$logs/$2.err" "$logs/$2"; grep -hE 'Err.? value|panicked|CUDA|not found|Error' "$logs/$2.err" "$logs/$2"; } 2>/dev/null | head -1 | cut -c1-140)
    echo "${line:-exit code $1}" ;;
  esac
}
# lost NAME CODE LOG: the row of what did not end well.
lost() { row "$1" "$([ "$2" = 125 ] && echo skipped || echo FAILED)" "$(why "$2" "$3")"; }

# ---- what to check ----
# The names of CUDA's functions stand in it; which libraries are wanted may not.
uses_cuda() { [ -f "$1" ] && grep -qa cuLaunchKernel "$1"; }
# unpacked NAME: of target/gpu-check, as it is or as `pack` left it.
unpacked() {
  local from=target/gpu-check/$1
  if [ -f "$from.gz" ]; then gzip -dc "$from.gz" >"$work/$1" && chmod +x "$work/$1" && echo "$work/$1"
  elif [ -f "$from" ]; then chmod +x "$from" 2>/dev/null; echo "$root/$from"; fi
}
if [ -z "$binary" ]; then
  for f in "$(unpacked hashpipe)" "$root/target/release/hashpipe"; do uses_cuda "$f" && { binary=$f; break; }; done
fi
if [ -z "$binary" ] && command -v cargo >/dev/null; then
  say "building hashpipe with CUDA (this is outside the time limit)"
  with_toolkit && binary=$(build_binary) && [ -x "$binary" ] || die "the build failed"
  began=$SECONDS
fi
[ -n "$binary" ] || die "no hashpipe with CUDA: give --binary, make one elsewhere by \`pack\`, or install Rust to have it built"
[ -x "$binary" ] || die "\`$binary\` is no program"
uses_cuda "$binary" || die "\`$binary\` was built without CUDA"
binary=$(cd "$(dirname "$binary")" && pwd)/$(basename "$binary")
[ -z "$tests" ] || [ -x "$tests" ] || die "\`$tests\` is no program"
if [ -z "$tests" ]; then
  tests=$(unpacked tests)
  if [ -z "$tests" ] && command -v cargo >/dev/null && [ -n "${CUDA_HOME:-}" ]; then
    say "building the tests with CUDA (this is outside the time limit)"
    tests=$(build_tests)
    began=$SECONDS
  fi
fi
[ -n "$golden" ] || golden=$(unpacked golden)
[ -n "$built_in" ] || built_in=$(cat target/gpu-check/built-in 2>/dev/null)
if [ -n "$built_in" ] && [ ! -e "$built_in" ]; then
  mkdir -p "$(dirname "$built_in")" && ln -s "$root" "$built_in" || say "cannot link \`$built_in\` to this folder: tests that read files will fail"
fi

# ---- libraries ----
# Folders that may hold CUDA's libraries, the likeliest first.
folders() {
  "$python" - 2>/dev/null <<'PY'
import glob, os, site, sys, sysconfig
roots = list(sys.path) + [sysconfig.get_paths()[k] for k in ("purelib", "platlib")] + [site.getusersitepackages()]
for root in dict.fromkeys(os.path.realpath(r) for r in roots if r):
    for folder in sorted(glob.glob(root + "/nvidia/*/lib") + glob.glob(root + "/torch/lib")): print(folder)
PY
  printf '%s\n' "${CUDA_TOOLKIT_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/hashpipe-cuda-13.0}"/nvidia/*/lib "${CUDA_HOME:-/nowhere}"/{lib64,lib} \
    /usr/local/cuda*/lib64 /usr/local/cuda*/targets/*/lib /usr/local/nvidia/lib64 /usr/local/nvidia/lib \
    /usr/lib/x86_64-linux-gnu /usr/lib/aarch64-linux-gnu /usr/lib64 /usr/lib/wsl/lib
}
[ -z "${CUDA_EMULATOR:-}" ] || export LD_LIBRARY_PATH=$CUDA_EMULATOR
ldconfig=$(command -v ldconfig || echo /sbin/ldconfig)
by_loader=$("$ldconfig" -p 2>/dev/null)
# is_found LIBRARY: where the loader looks, or in LD_LIBRARY_PATH.
is_found() {
  local folder folders
  IFS=: read -ra folders <<<"${LD_LIBRARY_PATH:-}"
  for folder in "${folders[@]}"; do [ ! -e "$folder/$1" ] || return 0; done
  grep -q "[[:space:]]$1 " <<<"$by_loader"
}
wanted=(libcuda.so.1 libnvrtc.so.13 libcublas.so.13 libcublasLt.so.13 libcurand.so.10)
! grep -qa cudnnConvolutionForward "$binary" || wanted+=(libcudnn.so.9)
! grep -qa ncclCommInitAll "$binary" || wanted+=(libnccl.so.2)
places='' missing=()
# NVML tells which GPUs there are, and comes with the driver; without it hashpipe takes what `--gpus` says.
for library in "${wanted[@]}" libnvidia-ml.so.1; do
  ! is_found "$library" || continue
  [ -n "$places" ] || places=$(folders | awk 'NF && !seen[$0]++')
  found=
  while IFS= read -r folder; do
    # A stand-in for linking is no driver.
    case $folder in */stubs | */link) continue ;; esac
    if [ -e "$folder/$library" ]; then found=$folder; break; fi
  done <<<"$places"
  # Behind what is there: the driver's folder must stay the first.
  if [ -n "$found" ]; then export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$found; say "$library is in $found"
  elif [ "$library" != libnvidia-ml.so.1 ]; then missing+=("$library"); fi
done
if [ ${#missing[@]} -gt 0 ]; then
  row libraries FAILED "not found: ${missing[*]}"
  case " ${missing[*]} " in *" libcuda.so.1 "*) say "libcuda.so.1 comes with NVIDIA's driver: is there a GPU here?" ;; esac
  say "the others come with PyTorch for CUDA 13 (\`pip install torch\`; name its interpreter by --python), or by \`scripts/cuda-toolkit.sh libraries\`; put their folders into LD_LIBRARY_PATH"
  exit 2
fi

smi=$(command -v nvidia-smi || ls /usr/local/nvidia/bin/nvidia-smi 2>/dev/null)
gpu=$([ -n "$smi" ] && timeout 20 "$smi" -i "$device" --query-gpu=name,driver_version,memory.total,memory.used,utilization.gpu --format=csv,noheader 2>/dev/null | head -1)
row "GPU $device" "$([ -n "$gpu" ] && echo ok || echo unknown)" "${gpu:-nvidia-smi says nothing}; $(nproc) cores"
case $gpu in *", 0 %" | '') ;; *) say "another program uses this GPU: the speeds below are not what it can do" ;; esac
# The one GPU and no other, under the number 0, for everything below.
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
  chosen=$(cut -d, -f$((device + 1)) <<<"$CUDA_VISIBLE_DEVICES"); [ -n "$chosen" ] && export CUDA_VISIBLE_DEVICES=$chosen
elif [ "$device" != 0 ]; then export CUDA_VISIBLE_DEVICES=$device; fi

# ---- the smallest thing: if this fails, the rest will, and this says why ----
small=(--backbone small --side 32 --batch 2 --seconds 0)
timed 60 opens.log "$binary" bench forward --device cuda "${small[@]}"; code=$?
if [ $code = 0 ]; then row "opens the GPU" ok "after $((SECONDS - began)) s"; else
  lost "opens the GPU" $code opens.log
  cat "$logs/opens.log.err" >&2
fi

# ---- tests ----
if [ -z "$tests" ]; then row tests skipped "no test program: give --tests"
else
  timed $((tiny ? 900 : 170)) tests.log "$tests" cuda --test-threads=4; code=$?
  result=$(grep -E '^test result' "$logs/tests.log" | tail -1 | sed 's/^test result: //; s/; finished.*//')
  skips=$(cat "$logs/tests.log" "$logs/tests.log.err" | grep -c 'skipped: no GPU')
  if [ $code = 125 ]; then row tests skipped "no time left"
  elif [ $code != 0 ]; then
    row tests FAILED "${result:-$(why $code tests.log), $(grep -cE '^test .*[.][.][.] ok' "$logs/tests.log") had passed}; $(grep -E '^test .*[.][.][.] FAILED' "$logs/tests.log" | awk '{print $2}' | head -3 | tr '\n' ' ')"
    # A fault ends the device for all tests after it: once more, each in a process of its own, what did not pass.
    "$tests" cuda --list 2>/dev/null | sed -n 's/: test$//p' | while IFS= read -r name; do
      grep -qF "test $name ... ok" "$logs/tests.log" || echo "$name"
    done >"$work/again"
    again=$(wc -l <"$work/again") passed=0 still=
    until=$((SECONDS + 60))
    while IFS= read -r name && [ $SECONDS -lt $until ]; do
      if timed 20 "alone.log" "$tests" --exact "$name"; then passed=$((passed + 1)); else
        still="$still $name"
        { echo "-- $name"; cat "$logs/alone.log" "$logs/alone.log.err"; } >>"$logs/failed.log"
      fi
    done <"$work/again"
    row "the other tests, one by one" "$([ -z "$still" ] && echo ok || echo FAILED)" "$passed of $again pass;$(cut -c1-200 <<<"$still")"
  elif grep -q '^ok. 0 passed' <<<"$result"; then row tests FAILED "no test has cuda in its name: built without the feature?"
  else row tests ok "$result"; fi
  [ "$skips" = 0 ] || row "tests without a GPU" FAILED "$skips tests found none"
fi

# On the emulator it takes minutes.
if [ -z "$golden" ] || [ $tiny = 1 ]; then row "PyTorch's numbers" skipped "$([ -n "$golden" ] && echo "on an emulated GPU it takes minutes" || echo "no program: give --golden")"
else
  timed 60 golden.log "$golden" three_steps_of_training_on_cuda --ignored; code=$?
  if [ $code != 0 ]; then lost "PyTorch's numbers" $code golden.log
  elif grep -q ' 1 passed' "$logs/golden.log" && ! grep -q skipped: "$logs/golden.log" "$logs/golden.log.err"; then row "PyTorch's numbers" ok "three steps of AlexNet: losses, gradients, weights"
  else row "PyTorch's numbers" FAILED "it was not run"; fi
fi

# ---- a training, twice, and on the CPU ----
pipeline() { # NAME ARGUMENTS..
  local name=$1; shift
  timed $((tiny ? 300 : 70)) "run-$name.log" "$binary" run pipelines/shapes.toml "$@" --cache "$work/$name/cache" --output "$work/$name/output"
}
# What a training leaves, without what has times in it.
sums() { (cd "$work/$1/output" 2>/dev/null && find . -type f ! -name 'report.*' ! -name epochs.jsonl ! -name inference_log.json ! -name '*.log' | sort | xargs sha256sum); }
# Of what the run shows: bits and mAP.
maps() { awk '$1 ~ /^[0-9]+$/ && $2 ~ /^0[.][0-9]+$/ {printf "%s%s bits: mAP %s", n++ ? ", " : "", $1, $2}' "$logs/run-$1.log" "$logs/run-$1.log.err" 2>/dev/null; }
# apart A B: the largest difference between two texts of `maps`.
apart() { awk -v a="$1" -v b="$2" 'BEGIN {n = split(a, x, /[^0-9.]+/); split(b, y, /[^0-9.]+/); for (i = 1; i <= n; i++) if (x[i] ~ /^0[.]/) {d = x[i] - y[i]; if (d < 0) d = -d; if (d > m) m = d}; printf "%.4f", m}'; }
pipeline first --profile lite --gpus 1; code=$?
if [ $code != 0 ]; then lost "training" $code run-first.log
else
  first=$(maps first)
  row "training" ok "$first; $(sed -n 's/^hashpipe: ran /ran /p' "$logs/run-first.log.err" | cut -d, -f1)"
  pipeline second --profile lite --gpus 1; code=$?
  if [ $code != 0 ]; then lost "the same training again" $code run-second.log
  elif [ "$(sums first)" = "$(sums second)" ] && [ -n "$(sums first)" ]; then row "the same training again" ok "$(sums first | wc -l) files with the same bytes"
  else row "the same training again" FAILED "other bytes: $(diff <(sums first) <(sums second) | awk '/^[<>]/ {print $3}' | sort -u | head -3 | tr '\n' ' ')"; fi
  rm -rf "$work/second"
  # The same cache, after all is done: nothing may run.
  pipeline first --profile lite --gpus 1; code=$?
  if [ $code != 0 ]; then lost "a second run" $code run-first.log
  elif grep -q 'nothing to do' "$logs/run-first.log" "$logs/run-first.log.err"; then row "a second run" ok "nothing to do"
  else row "a second run" FAILED "it worked again"; fi
  pipeline cpu --profile lite --gpus 0; code=$?
  # A slow processor is no fault of the GPU's.
  if [ $code = 124 ]; then row "the same on the CPU" skipped "the CPU was too slow"
  elif [ $code != 0 ]; then lost "the same on the CPU" $code run-cpu.log
  else
    difference=$(apart "$first" "$(maps cpu)")
    row "the same on the CPU" "$(awk -v d="$difference" 'BEGIN {print d < 0.1 ? "ok" : "FAILED"}')" "$(maps cpu); mAP differs by at most $difference"
  fi
  # Codes are compared exactly, wherever.
  codes="$work/first/output/shapes-lite/export.hashnet@bits=64"
  for device_of in cpu cuda; do
    timed 30 "search-$device_of.log" "$binary" search --codes "$codes/database_code_64.npy" --query "$codes/query_code_64.npy" --top 50 --device $device_of; code=$?
    [ $code = 0 ] || break
  done
  if [ $code != 0 ]; then lost "search on the GPU" $code "search-$device_of.log"
  elif cmp -s "$logs/search-cpu.log" "$logs/search-cuda.log" && [ -s "$logs/search-cpu.log" ]; then row "search on the GPU" ok "the CPU's answer"
  else row "search on the GPU" FAILED "another answer than the CPU's"; fi
  rm -f "$logs"/search-*.log
fi

# ---- speeds ----
number() { sed -n "s/.*\"$1\": *\"\{0,1\}\([^,\"}]*\).*/\1/p" | head -1; }
# figures LOG: a row for each line of JSON.
figures() {
  local line
  while IFS= read -r line; do
    row "$(number what <<<"$line" | awk '{print $1}') $(number precision <<<"$line"), batch $(number batch <<<"$line")" ok \
      "$(awk -v r="$(number images_per_second <<<"$line")" -v a="$(number p10 <<<"$line")" -v b="$(number p90 <<<"$line")" -v f="$(number floor <<<"$line")" \
        'BEGIN {limit = ""; if (f + 0 > 0) limit = sprintf(", %.0f %% of the limit", 100 * r / f); printf("%.0f images/s (%.0f to %.0f)%s", r, a, b, limit)}')"
  done < <(grep '^{' "$logs/$1")
}
bench() { # WHAT BATCHES PRECISION SECONDS LIMIT
  local what=$1 batch=$2 precision=$3 seconds=$4 limit=$5 log=bench-$1-$3.jsonl code size=(); [ $tiny = 0 ] || size=(--backbone small --side 32)
  timed "$limit" "$log" "$binary" bench "$what" --device cuda --batch "$batch" --precision "$precision" --seconds "$seconds" --json "${size[@]}"; code=$?
  if [ $code = 0 ]; then figures "$log"; return; fi
  lost "bench $what $precision" $code "$log"
  # Which of them it was.
  case $code,$batch in 125,* | 124,*) ;; *,*,*)
    for batch in ${batch//,/ }; do
      log=bench-$what-$precision-$batch.jsonl
      timed 20 "$log" "$binary" bench "$what" --device cuda --batch "$batch" --precision "$precision" --seconds "$seconds" --json "${size[@]}"; code=$?
      if [ $code = 0 ]; then figures "$log"; else lost "$what $precision, batch $batch" $code "$log"; fi
    done ;;
  esac
}
for precision in f32 tf32 bf16; do
  if [ $tiny = 1 ]; then bench train 2,4 $precision 0.1 60; else bench train 64,128,512 $precision 2 45; fi
done
for precision in f32 tf32 bf16; do
  if [ $tiny = 1 ]; then bench forward 2,4 $precision 0.1 60; else bench forward 64,512 $precision 1.5 30; fi
done
for what in search evaluate; do
  sizes=(--database 1000000 --queries 1000 --seconds 1); [ $tiny = 0 ] || sizes=(--database 1000 --queries 5 --seconds 0)
  timed 40 "bench-$what.jsonl" "$binary" bench $what --device cuda --json "${sizes[@]}"; code=$?
  if [ $code = 0 ]; then row "$(number what <"$logs/bench-$what.jsonl" | cut -d' ' -f1), 64 bits" ok "$(number microseconds_per_query <"$logs/bench-$what.jsonl" | awk '{printf "%.1f", $1}') us per query; ${sizes[1]} codes"
  else lost "bench $what" $code "bench-$what.jsonl"; fi
done

# ---- PyTorch ----
torch=$([ "$(left)" -lt 10 ] || timeout 60 "$python" -c 'import torch; print(torch.__version__ if torch.cuda.is_available() or '$tiny' else "")' 2>/dev/null)
if [ -z "$torch" ]; then row PyTorch skipped "\`$python\` has no PyTorch that sees a GPU"
elif [ ! -f benches/gpu/network.py ]; then row PyTorch skipped "no benches/gpu/network.py"
else
  for precision in f32 tf32 bf16; do
    # Compiling takes longer than there is time for; the whole comparison is `benches/gpu/network.py` by itself.
    log=torch-$precision.jsonl how=(--batch 128 --rounds 2 --seconds 1.5)
    # An emulated GPU is none for PyTorch.
    [ $tiny = 0 ] || how=(--batch 4 --rounds 1 --seconds 0.1 --network small --device cpu)
    timed 60 "$log" "$python" benches/gpu/network.py --hashpipe "$binary" --precision $precision --what train --without compiled "${how[@]}" --json; code=$?
    while IFS= read -r line; do
      name="train $precision, batch $(number batch <<<"$line")"
      ratio=$(sed -n 's/.*"ratio": {"median": \([0-9.]*\).*/\1/p' <<<"$line") rate=$(sed -n 's/.*"images_per_second": {"median": \([0-9.]*\).*/\1/p' <<<"$line")
      if [ -n "$ratio" ]; then row "$name: hashpipe / $(number best <<<"$line")" ok "x $(awk '{printf "%.2f", $1}' <<<"$ratio")"
      elif [ -n "$rate" ]; then row "$name: $(number who <<<"$line")" ok "$(awk '{printf "%.0f", $1}' <<<"$rate") images/s"; fi
    done < <(grep '^{' "$logs/$log")
    [ $code = 0 ] || lost "PyTorch $precision" $code "$log"
  done
fi

# ---- four trainings at once on the card ----
if [ $tiny = 0 ]; then
  pipeline four --gpus 1 --set 'resources.train={gpu_memory="8GiB"}'; code=$?
  if [ $code = 0 ]; then row "four lengths side by side" ok "$(maps four); $(sed -n 's/^hashpipe: ran /ran /p' "$logs/run-four.log.err" | cut -d, -f1)"
  else lost "four lengths side by side" $code run-four.log; fi
fi
row time ok "$((SECONDS - began)) s"
exit $failed

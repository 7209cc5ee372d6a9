#!/usr/bin/env bash
# Checks hashpipe on a machine with a GPU, in one call of at most 8 minutes and without network: every CUDA test, a short
# training that must give the same bytes twice, speeds, and PyTorch beside them. Prints one table; the exit code is 1 if a
# check failed, 2 if it could not begin.
#
#   scripts/gpu-check.sh [--binary FILE] [--tests FILE] [--device N] [--seconds N] [--out DIR] [--built-in DIR]
#
#   --binary FILE    a hashpipe built with `--features cuda,cudnn` (default: target/gpu-check/hashpipe, then
#                    target/release/hashpipe; else it is built)
#   --tests FILE     the library's test program, of `cargo test --no-run --features cuda,cudnn --lib` (default:
#                    target/gpu-check/tests; else it is built, and where that cannot be the tests are left out)
#   --device N       which GPU (default 0)
#   --seconds N      time for everything (default 460); parts for which none is left are skipped and said
#   --out DIR        logs and results (default: $OUT, else target/gpu-check/results)
#   --built-in DIR   the repository's folder where --tests was built, if it is not here: tests look for their files there,
#                    so a link to this folder is put in its place
#   --tiny           the smallest sizes, to see that this script works (on the emulator: tests/cuda/emulator)
#
# To take along what was built elsewhere:
#   scripts/cuda-toolkit.sh build; eval "$(scripts/cuda-toolkit.sh env)"; mkdir -p target/gpu-check
#   cp target/release/hashpipe target/gpu-check/
#   cp "$(cargo test --no-run --features cuda,cudnn --lib --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')" target/gpu-check/tests
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 2

say() { printf 'gpu-check: %s\n' "$*" >&2; }
die() { say "$@"; exit 2; }

binary='' tests='' device=0 total=460 out=${OUT:-$root/target/gpu-check/results} built_in='' tiny=
while [ $# -gt 0 ]; do
  case $1 in
  --tiny) tiny=1; shift; continue ;;
  --binary | --tests | --device | --seconds | --out | --built-in) [ $# -gt 1 ] || die "$1 needs a value" ;;
  -h | --help) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
  *) die "unknown: \`$1\`; see --help" ;;
  esac
  case $1 in
  --binary) binary=$2 ;; --tests) tests=$2 ;; --device) device=$2 ;; --seconds) total=$2 ;; --out) out=$2 ;; --built-in) built_in=$2 ;;
  esac
  shift 2
done
mkdir -p "$out" || die "cannot write to \`$out\`"
out=$(cd "$out" && pwd)
began=$SECONDS
# What a former check left would be found as a result of this one.
rm -rf "$out/work"; mkdir -p "$out/work"

rows=() failed=0
# row NAME RESULT DETAIL
row() { rows+=("$1"$'\t'"$2"$'\t'"$3"); say "$1: $2${3:+: $3}"; [ "$2" != FAILED ] || failed=1; }
left() { echo $((total - (SECONDS - began))); }
# timed LIMIT LOG COMMAND..: runs for at most LIMIT seconds and what is left; code 124 if that was too short, 125 if nothing was left.
timed() {
  local limit=$1 log=$2 rest; shift 2
  rest=$(left)
  [ "$rest" -gt 3 ] || return 125
  [ "$limit" -le "$rest" ] || limit=$rest
  timeout --kill-after=5 "$limit" "$@" >"$log" 2>"$log.err"
}
# why CODE LOG: the end of a failure in one line.
why() {
  case $1 in 124 | 137) echo "no end within its time" ;; *)
    { grep -hE '^ *error' "$2.err" "$2"; grep -hE 'Err.? value|panicked|CUDA|not found' "$2.err" "$2"; } 2>/dev/null | head -1 | cut -c1-140 | grep . || echo "exit code $1; $2" ;;
  esac
}

# ---- what to check ----
uses_cuda() { [ -x "$1" ] && { command -v readelf >/dev/null || return 0; readelf -d "$1" 2>/dev/null | grep -q libcuda.so; }; }
if [ -z "$binary" ]; then
  for f in target/gpu-check/hashpipe target/release/hashpipe; do uses_cuda "$f" && { binary=$root/$f; break; }; done
fi
if [ -z "$binary" ] && command -v cargo >/dev/null; then
  say "building hashpipe with CUDA (this is outside the time limit)"
  if [ -z "${CUDA_HOME:-}" ] && [ -x scripts/cuda-toolkit.sh ]; then scripts/cuda-toolkit.sh setup && eval "$(scripts/cuda-toolkit.sh env)"; fi
  cargo build --release --features cuda,cudnn >&2 || die "the build failed"
  binary=${CARGO_TARGET_DIR:-$root/target}/release/hashpipe
  began=$SECONDS
fi
[ -n "$binary" ] || die "no hashpipe with CUDA: give --binary, or install Rust to have it built"
[ -x "$binary" ] || die "\`$binary\` is no program"
binary=$(cd "$(dirname "$binary")" && pwd)/$(basename "$binary")
if [ -z "$tests" ]; then
  [ ! -x target/gpu-check/tests ] || tests=$root/target/gpu-check/tests
  if [ -z "$tests" ] && command -v cargo >/dev/null && [ -n "${CUDA_HOME:-}" ]; then
    say "building the tests with CUDA (this is outside the time limit)"
    tests=$(cargo test --no-run --features cuda,cudnn --lib --message-format=json 2>/dev/null | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1)
    began=$SECONDS
  fi
fi
if [ -n "$built_in" ] && [ ! -e "$built_in" ]; then
  mkdir -p "$(dirname "$built_in")" && ln -s "$root" "$built_in" || say "cannot link \`$built_in\` to this folder: tests that read files will fail"
fi

# ---- libraries ----
# Folders that may hold CUDA's libraries, the likeliest first.
folders() {
  [ -z "${CUDA_EMULATOR:-}" ] || echo "$CUDA_EMULATOR"
  tr ':' '\n' <<<"${LD_LIBRARY_PATH:-}"
  python3 - 2>/dev/null <<'PY'
import glob, os, site, sys, sysconfig
roots = list(sys.path) + [sysconfig.get_paths()[k] for k in ("purelib", "platlib")] + [site.getusersitepackages()]
for root in dict.fromkeys(os.path.realpath(r) for r in roots if r):
    for folder in sorted(glob.glob(root + "/nvidia/*/lib") + glob.glob(root + "/torch/lib")): print(folder)
PY
  printf '%s\n' "${XDG_CACHE_HOME:-$HOME/.cache}"/hashpipe-cuda-13.0/nvidia/*/lib "${CUDA_HOME:-/nowhere}"/{lib64,lib} /usr/local/cuda*/lib64 /usr/local/cuda*/targets/*/lib \
    /usr/local/nvidia/lib64 /usr/local/nvidia/lib /usr/lib/x86_64-linux-gnu /usr/lib/aarch64-linux-gnu /usr/lib64 /usr/lib/wsl/lib
  command -v ldconfig >/dev/null && ldconfig -p 2>/dev/null | awk '/libcu|libnv|libnccl/ {print $NF}' | xargs -r -n1 dirname
}
missing_of() { ldd "$1" 2>/dev/null | awk '/not found/ {print $1}' | sort -u; }
[ -z "${CUDA_EMULATOR:-}" ] || export LD_LIBRARY_PATH=$CUDA_EMULATOR
found_in=
for round in 1 2 3; do # a library that was found may want others
  missing=$(for f in "$binary" $tests; do missing_of "$f"; done | sort -u)
  [ -n "$missing" ] || break
  places=$(folders | awk 'NF && !seen[$0]++')
  for library in $missing; do
    while IFS= read -r folder; do
      # A stand-in for linking is no driver.
      case $folder in */stubs | */link) continue ;; esac
      if [ -e "$folder/$library" ]; then
        case ":${LD_LIBRARY_PATH:-}:" in *":$folder:"*) ;; *) export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder; found_in="$found_in $library in $folder;" ;; esac
        break
      fi
    done <<<"$places"
  done
done
missing=$(missing_of "$binary" | tr '\n' ' ')
if [ -n "$missing" ]; then
  say "not found: $missing"
  case $missing in *libcuda.so.1*) say "libcuda.so.1 comes with NVIDIA's driver: is there a GPU here?" ;; esac
  say "the others come with PyTorch for CUDA 13 (\`pip install torch\`), or by \`scripts/cuda-toolkit.sh libraries\`; put their folders into LD_LIBRARY_PATH"
  exit 2
fi
[ -z "$found_in" ] || say "libraries:$found_in"

gpu=$(command -v nvidia-smi >/dev/null && nvidia-smi -i "$device" --query-gpu=name,driver_version,memory.total,memory.used,utilization.gpu --format=csv,noheader 2>/dev/null | head -1)
row "GPU $device" "$([ -n "$gpu" ] && echo ok || echo unknown)" "${gpu:-nvidia-smi says nothing}"
case $gpu in *", 0 %" | '') ;; *) say "another program uses this GPU: the speeds below are not what it can do" ;; esac
# The one GPU and no other, under the number 0, for everything below.
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
  chosen=$(cut -d, -f$((device + 1)) <<<"$CUDA_VISIBLE_DEVICES"); [ -n "$chosen" ] && export CUDA_VISIBLE_DEVICES=$chosen
elif [ "$device" != 0 ]; then export CUDA_VISIBLE_DEVICES=$device; fi

# ---- tests ----
if [ -z "$tests" ]; then row tests skipped "no test program: give --tests"
else
  timed 200 "$out/tests.log" "$tests" cuda --test-threads=4; code=$?
  result=$(grep -E '^test result' "$out/tests.log" | tail -1 | sed 's/^test result: //; s/; finished.*//')
  skips=$(cat "$out/tests.log" "$out/tests.log.err" | grep -c 'skipped: no GPU')
  if [ $code = 125 ]; then row tests skipped "no time left"
  elif [ $code != 0 ]; then row tests FAILED "${result:-$(why $code "$out/tests.log")}; $(grep -E '^test .*[.][.][.] FAILED' "$out/tests.log" | awk '{print $2}' | head -3 | tr '\n' ' ')"
  elif grep -q ' 0 passed' <<<"$result"; then row tests FAILED "no test has cuda in its name: built without the feature?"
  else row tests ok "$result"; fi
  [ "$skips" = 0 ] || row "tests without a GPU" FAILED "$skips tests found none"
fi

# ---- a training, twice ----
pipeline() { # NAME ARGUMENTS..
  local name=$1; shift
  timed 70 "$out/run-$name.log" "$binary" run pipelines/shapes.toml --profile lite --cache "$out/work/$name/cache" --output "$out/work/$name/output" "$@"
}
# What a training leaves, without what has times in it.
sums() { (cd "$out/work/$1/output" 2>/dev/null && find . -type f ! -name 'report.*' ! -name epochs.jsonl ! -name inference_log.json ! -name '*.log' | sort | xargs sha256sum); }
# Of what the run shows: bits and mAP.
maps() { awk '$1 ~ /^[0-9]+$/ && $2 ~ /^0[.][0-9]+$/ {printf "%s%s bits: mAP %s", n++ ? ", " : "", $1, $2}' "$out/run-$1.log" "$out/run-$1.log.err" 2>/dev/null; }
pipeline first --gpus 1; code=$?
if [ $code = 125 ]; then row "training" skipped "no time left"
elif [ $code != 0 ]; then row "training" FAILED "$(why $code "$out/run-first.log")"
else
  row "training" ok "$(maps first)"
  pipeline second --gpus 1; code=$?
  if [ $code = 125 ]; then row "the same training again" skipped "no time left"
  elif [ $code != 0 ]; then row "the same training again" FAILED "$(why $code "$out/run-second.log")"
  elif [ "$(sums first)" = "$(sums second)" ] && [ -n "$(sums first)" ]; then row "the same training again" ok "$(sums first | wc -l) files with the same bytes"
  else row "the same training again" FAILED "other bytes: $(diff <(sums first) <(sums second) | awk '/^[<>]/ {print $3}' | sort -u | head -3 | tr '\n' ' ')"; fi
  if [ -z "$tiny" ]; then
    pipeline cpu --gpus 0; code=$?
    if [ $code = 0 ]; then row "the same on the CPU" ok "$(maps cpu)"; else row "the same on the CPU" skipped "$(why $code "$out/run-cpu.log")"; fi
  fi
fi

# ---- speeds ----
number() { sed -n "s/.*\"$1\": *\"\{0,1\}\([^,\"}]*\).*/\1/p" | head -1; }
bench() { # WHAT BATCHES PRECISIONS SECONDS LIMIT
  local what=$1 log=$out/bench-$1.jsonl code line size=(); [ -z "$tiny" ] || size=(--backbone small --side 32)
  timed "$5" "$log" "$binary" bench "$what" --device cuda --batch "$2" --precision "$3" --seconds "$4" --json "${size[@]}"; code=$?
  case $code in
  0) while IFS= read -r line; do
       row "$what $(number precision <<<"$line"), batch $(number batch <<<"$line")" ok "$(number images_per_second <<<"$line" | awk '{printf "%.0f", $1}') images/s ($(number p10 <<<"$line" | awk '{printf "%.0f", $1}') to $(number p90 <<<"$line" | awk '{printf "%.0f", $1}'))"
     done < <(grep '^{' "$log") ;;
  125) row "bench $what" skipped "no time left" ;;
  *) row "bench $what" FAILED "$(why $code "$log")" ;;
  esac
}
if [ -n "$tiny" ]; then
  bench train 2,4 f32,tf32,bf16 0.1 60
  bench forward 2,4 f32,tf32,bf16 0.1 60
else
  bench train 64,128,512 f32,tf32,bf16 2 80
  bench forward 64,512 f32,tf32,bf16 1.5 60
fi

# ---- PyTorch ----
torch=$(timeout 60 python3 -c 'import torch; print(torch.__version__ if torch.cuda.is_available() or "'"$tiny"'" else "")' 2>/dev/null)
if [ -z "$torch" ]; then row PyTorch skipped "python3 has no PyTorch that sees a GPU"
elif [ ! -f benches/gpu/network.py ]; then row PyTorch skipped "no benches/gpu/network.py"
else
  # Compiling takes longer than there is time for; the whole comparison is `benches/gpu/network.py` by itself.
  log=$out/torch.jsonl
  timed 150 "$log" python3 benches/gpu/network.py --hashpipe "$binary" --batch 128 --precision f32,bf16 --what train --without compiled --rounds 2 --seconds 1.5 --json; code=$?
  case $code in
  0) while IFS= read -r line; do
       ratio=$(number ratio <<<"$line"); [ -z "$ratio" ] || row "train $(number precision <<<"$line"), batch $(number batch <<<"$line"): hashpipe / $(number best <<<"$line")" ok "$ratio"
       ratio=; who=$(number who <<<"$line"); rate=$(number median <<<"$line"); [ -z "$rate" ] || [ -z "$who" ] || row "train $(number precision <<<"$line"), batch $(number batch <<<"$line"): $who" ok "$(awk '{printf "%.0f", $1}' <<<"$rate") images/s"
     done < <(grep '^{' "$log") ;;
  125) row PyTorch skipped "no time left" ;;
  *) row PyTorch FAILED "$(why $code "$log")" ;;
  esac
fi
row time ok "$((SECONDS - began)) s"

{
  printf 'check\tresult\twhat\n'
  printf '%s\n' "${rows[@]}"
} | if command -v column >/dev/null; then column -t -s $'\t'; else cat; fi | tee "$out/table.txt"
exit $failed

#!/usr/bin/env bash
# Tests that need hardware: the suite over the real NCCL and the real driver, c10d and PyTorch in one communicator, and
# times in comparison with PyTorch. One GPU is enough.
#
#   run.sh build DIR        builds the programs, and puts them and these scripts into DIR, to be copied to a machine
#   run.sh DIR [PART..]     runs them there and prints a table. Parts: suite two ends torch world1 staged (default: all)
#
# Parts: two: NCCL with two ranks on one GPU; ends: timeout and abort; torch: one communicator with PyTorch; world1:
# times of NCCL with one rank; staged: times of all-reduces through host memory.
# C10D_NCCL_LIB or VIRTUAL_ENV selects NCCL. If they select none, and none is installed, PyTorch's NCCL is used.
# C10D_TORCH_PYTHON is a Python whose PyTorch has CUDA (default: python3). Rows that compare with PyTorch use its NCCL.
# C10D_HARDWARE_MAX is the largest size that is timed, in bytes (default: 256 MiB).
# C10D_HARDWARE_LIMIT is how long a row may take, in seconds (default: 120).
# C10D_HARDWARE_LOGS is a folder for the output of the rows' programs (default: a temporary one, which is removed).
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if [ "${1:-}" = build ]; then
  mkdir -p "${2:?where to}" || exit 1
  dir=$(cd "$2" && pwd)
  cd "$here/../.." || exit 1
  cargo build --release --locked -p c10d-cli --features nccl || exit 1
  cargo build --release --locked -p c10d-nccl --example hardware || exit 1
  cargo test --release --locked -p c10d-nccl --no-run --message-format=json >"$dir/tests.json" || exit 1
  built=${CARGO_TARGET_DIR:-target}/release
  cp "$built/c10d" "$built/examples/hardware" "$here"/run.sh "$here"/torch_*.py "$dir/" || exit 1
  tests="main suites"
  for name in $tests; do
    file=$(sed -n 's/.*"name":"'$name'".*"executable":"\([^"]*\)".*/\1/p' "$dir/tests.json" | tail -1)
    cp "${file:?cargo names no $name}" "$dir/$name" || exit 1
  done
  rm "$dir/tests.json"
  # Half of the programs' size is debug information, which need not be copied to the other machine.
  for name in c10d hardware $tests; do
    ! command -v strip >/dev/null || strip --strip-debug "$dir/$name"
  done
  du -sh "$dir"
  exit
fi

bin=$(cd "${1:-$here}" && pwd) || exit 1
shift $(($# > 0))
parts=${*:-suite two ends torch world1 staged}
for part in $parts; do
  case $part in suite | two | ends | torch | world1 | staged) ;; *) echo "there is no part $part" && exit 1 ;; esac
done
part() { [[ " $parts " = *" $1 "* ]]; }
limit=${C10D_HARDWARE_LIMIT:-120}
out=${C10D_HARDWARE_LOGS:-$(mktemp -d)}
mkdir -p "$out" || exit 1
[ -n "${C10D_HARDWARE_LOGS:-}" ] || trap 'rm -rf "$out"' EXIT
# All rows use one GPU.
export C10D_HARDWARE=1 CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}

# Prints PyTorch's version, the libnccl that it loads, and whether it has both implementations of its backend for NCCL
# (called engines here). If PyTorch cannot be used, prints why.
python=${C10D_TORCH_PYTHON:-python3}
unset TORCH_DIST_USE_NCCL2
torch=$("$python" - 2>"$out/torch.err" <<'END'
from importlib.metadata import entry_points
import torch
import torch.distributed as dist
if not torch.cuda.is_available():
    raise SystemExit(f"skipped: PyTorch {torch.__version__} sees no CUDA device")
if not dist.is_nccl_available():
    raise SystemExit(f"skipped: PyTorch {torch.__version__} has no NCCL")
maps = [line.split()[-1] for line in open("/proc/self/maps") if "/libnccl.so" in line]
backends = [entry.name for entry in entry_points(group="torch.distributed.backends")]
print(torch.__version__, maps[0] if maps else "-", "both" if "nccl-legacy" in backends else "first")
END
) || torch=
read -r torch_version torch_nccl torch_engines <<<"${torch:-- - -}"
why=$(grep '^skipped: ' "$out/torch.err" | tail -1)
why=${why:-"skipped: no Python with PyTorch (C10D_TORCH_PYTHON names one): $(tail -1 "$out/torch.err")"}

usable() { "$bin/c10d" info --json | tr -d '\n' | grep -q '"name": "nccl",[^}]*"available": true'; }
if [ -z "${C10D_NCCL_LIB:-}" ] && [ "$torch_nccl" != - ] && ! usable; then
  export C10D_NCCL_LIB=$torch_nccl
fi
if ! usable; then
  echo "skipped: no CUDA device, or no NCCL:"
  "$bin/c10d" info | sed -n '/^ *nccl /p'
  exit 0
fi
# If their times are compared, or if they are in one communicator, c10d and PyTorch use the same libnccl.
same=(env)
[ "$torch_nccl" = - ] || same=(env "C10D_NCCL_LIB=$torch_nccl")

date -u +%F
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null
library=$("$bin/c10d" info | sed -n '/^Libraries/,/^ *nccl /p' | tail -1)
echo "$library"
read -r _ nccl_version _ <<<"$library"
[ -n "$torch" ] && echo "PyTorch $torch_version, $torch_nccl"
printf '%-62s %s\n' "what" "result"

say() { printf '%-62s %s\n' "$1" "$2"; }

limited() { if declare -F "$1" >/dev/null; then "$@"; else timeout -k 10 "$limit" "$@"; fi; }

# row WHAT COMMAND..: runs the command with a limit, and prints the result
row() {
  local what=$1 log=$out/${1//[^a-zA-Z0-9]/_} code since=$SECONDS result
  shift
  limited "$@" >"$log" 2>&1
  code=$?
  if [ $code = 0 ]; then
    result=$(sed -n 's/^test result: //p; s/^.*\(ok: .*\)/\1/p' "$log" | tail -1)
  else
    result="failed ($code): $(grep -m1 -A2 '^---- ' "$log" | tail -1)$(sed -n 's/^.*\(failed: .*\)/\1/p' "$log" | head -1)"
    [ $code != 124 ] || result="did not end within $limit s"
  fi
  say "$what" "$result ($((SECONDS - since)) s)"
}

# lines NAME COMMAND..: runs the command, and keeps the comma-separated lines that it prints, even if it fails
lines() {
  local name=$1 code
  shift
  timeout -k 10 "$limit" "$@" >"$out/$name.log" 2>&1
  code=$?
  grep -o '[a-z_]*,[0-9]*,[0-9.,]*$' "$out/$name.log" >"$out/$name"
  [ $code = 0 ] || echo "$name: failed ($code): $(tail -1 "$out/$name.log")"
}

# NCCL rejects two ranks on one GPU. Since NCCL 2.30, a variable allows it. With earlier versions, processes can pretend
# to be on two hosts.
one_gpu=(NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_MAX_CTAS=8)
two_hosts=(C10D_HARDWARE_HOSTID=1 NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1)
row_of_230() {
  local what=$1
  shift
  if [ "$(printf '%s\n' 2.30 "$nccl_version" | sort -V | head -1)" = 2.30 ]; then
    row "$what" env "${one_gpu[@]}" "$@"
  else
    say "$what" "skipped: this is NCCL $nccl_version"
  fi
}

if part suite; then
  row "NCCL, world 1, every op and type" "$bin/suites" nccl_processes/w1/
  # The test of ranks that disagree is left out, since it needs simulated drivers.
  row "kernels, every type and operation" "$bin/main" kernels::reduce_ kernels::scale_ kernels::all_halves_ --skip disagree
  row "sparse over NCCL, world 1" env C10D_HARDWARE_RANKS=1 "$bin/main" sparse::sums_of_anything
  row "staged, 2 processes on one GPU" "$bin/suites" staged_processes/w2/
  row "staged, 4 processes on one GPU" "$bin/suites" staged_processes/w4/
fi
if part two; then
  row_of_230 "NCCL 2.30 or later, 2 processes on one GPU" "$bin/suites" nccl_processes/w2/
  row_of_230 "NCCL 2.30 or later, 2 threads on one GPU" "$bin/suites" nccl_threads/w2/
  row_of_230 "sparse over NCCL 2.30 or later, 2 threads on one GPU" C10D_HARDWARE_RANKS=2 "$bin/main" sparse::sums_of_anything
  row "NCCL over sockets, 2 processes that say they are two hosts" env "${two_hosts[@]}" "$bin/suites" nccl_processes/w2/
  row_of_230 "split and shrink, 2 ranks on one GPU" "$bin/c10d" run -n 2 -- "$bin/hardware" derived
  row "split and shrink, 2 processes that say they are two hosts" \
    env "${two_hosts[@]}" "$bin/c10d" run -n 2 -- "$bin/hardware" derived
fi
if part ends; then
  row_of_230 "timeout and abort, 2 ranks on one GPU" "$bin/c10d" run -n 2 -- "$bin/hardware" ends
  row "timeout and abort, 2 processes that say they are two hosts" \
    env "${two_hosts[@]}" "$bin/c10d" run -n 2 -- "$bin/hardware" ends
fi

# mixed DIALECT BACKEND: rank 0 is PyTorch, rank 1 is c10d, and both use PyTorch's libnccl
mixed() (
  log=$out/mixed_$1
  MASTER_PORT=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  export MASTER_ADDR=127.0.0.1 MASTER_PORT WORLD_SIZE=2 NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1 "${one_gpu[@]}"
  RANK=0 NCCL_HOSTID=0 timeout -k 10 "$limit" "$python" "$bin/torch_mixed.py" "$2" >"$log.torch" 2>&1 &
  RANK=1 NCCL_HOSTID=1 timeout -k 10 "$limit" "${same[@]}" "$bin/hardware" mixed "$1" >"$log" 2>&1
  code=$?
  wait $! || code=$?
  cat "$log" "$log.torch"
  [ $code = 0 ] || echo "failed: $(tail -1 "$log.torch")"
  exit $code
)
if part torch; then
  if [ -z "$torch" ]; then
    say "one communicator with PyTorch" "$why"
  elif [ "$torch_engines" = both ]; then
    row "one communicator with PyTorch, nccl (second engine)" mixed torch-nccl2 nccl
    row "one communicator with PyTorch, nccl-legacy (first engine)" mixed torch-legacy nccl-legacy
  else
    row "one communicator with PyTorch, nccl (first engine)" mixed torch-legacy nccl
  fi
fi

# theirs NAME COMMAND..: the same as `lines`, for a program of PyTorch; if PyTorch cannot be used, prints why
theirs() {
  if [ -n "$torch" ]; then
    lines "$@"
  else
    : >"$out/$1"
    echo "$1: $why"
  fi
}

if part world1; then
  echo
  # c10d makes NCCL's calls on another thread, so the times to start an op cannot be compared.
  echo "NCCL, world 1: end to end, processor time of all threads, and time to start an op (us)"
  lines world1 "${same[@]}" "$bin/hardware" world1
  theirs torch_world1 "$python" "$bin/torch_world1.py"
  printf '%-22s %10s %10s %10s %10s %10s %10s %10s\n' op bytes ours PyTorch "ours, CPU" "PT, CPU" "ours, st." "PT, st."
  awk -F, 'FILENAME == ARGV[1] { start[$1 $2] = $3; cpu[$1 $2] = $4; end[$1 $2] = $5; next }
    { printf "%-22s %10s %10s %10s %10s %10s %10s %10s\n", $1, $2, $5, end[$1 $2], $4, cpu[$1 $2], $3, start[$1 $2] }' \
    "$out/torch_world1" "$out/world1"
fi

if part staged; then
  for ranks in 2 4; do
    echo
    echo "all-reduce of CUDA tensors through host memory, $ranks processes on one GPU (us; copies: only copying the same bytes out and in)"
    lines "staged_$ranks" "$bin/c10d" run -n $ranks -- "$bin/hardware" staged
    theirs "torch_gloo_$ranks" env GLOO_SOCKET_IFNAME=lo "$bin/c10d" run -n $ranks -- "$python" "$bin/torch_gloo.py"
    printf '%12s %12s %12s %12s %14s %10s\n' bytes ours Gloo copies "of the copies" faster
    awk -F, 'FILENAME == ARGV[1] { gloo[$2] = $3; next }
      $1 == "all_reduce" { ours[$2] = $3; order[++n] = $2 }
      $1 == "copies" { copies[$2] = $3 }
      END { for (i = 1; i <= n; i++) { b = order[i]
        printf "%12s %12s %12s %12s %13.0f%% %10s\n", b, ours[b], gloo[b], copies[b], 100 * copies[b] / ours[b],
          gloo[b] ? sprintf("%.2f x", gloo[b] / ours[b]) : "" } }' "$out/torch_gloo_$ranks" "$out/staged_$ranks"
  done
fi

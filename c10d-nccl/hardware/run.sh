#!/usr/bin/env bash
# What only hardware can show: the suite over the real NCCL and the real driver, PyTorch in the same communicator, and times
# beside PyTorch's. One GPU is enough.
#
#   run.sh build DIR    builds the programs, and puts them and these scripts into DIR, to be taken to the machine
#   run.sh DIR          runs them there and prints a table; C10D_NCCL_LIB or VIRTUAL_ENV says which NCCL
#
# C10D_HARDWARE_MAX is the largest size that is timed, in bytes (256 MiB).
# C10D_TORCH_PYTHON names a Python whose PyTorch has CUDA (else python3 is tried); its NCCL is taken where it is compared.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if [ "${1:-}" = build ]; then
  dir=${2:?where to}
  mkdir -p "$dir"
  cd "$here/../.."
  cargo build --release --locked -p c10d-cli --features nccl || exit 1
  cargo build --release --locked -p c10d-nccl --example hardware || exit 1
  built=${CARGO_TARGET_DIR:-target}/release
  cp "$built/c10d" "$built/examples/hardware" "$here"/run.sh "$here"/torch_*.py "$dir/"
  cargo test --release --locked -p c10d-nccl --no-run --message-format=json |
    sed -n 's/.*"name":"\(kernels\|nccl_processes\|nccl_threads\|sparse\|staged_processes\)".*"executable":"\([^"]*\)".*/\1 \2/p' |
    while read -r name file; do cp "$file" "$dir/$name"; done
  exit
fi

bin=${1:-$here}
export C10D_HARDWARE=1
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

if ! "$bin/c10d" info --json | tr -d '\n' | grep -q '"name": "nccl",[^}]*"available": true'; then
  echo "skipped: no CUDA device, or no NCCL:"
  "$bin/c10d" info | sed -n '/^ *nccl /p'
  exit 0
fi

# What of PyTorch there is: its version and the libnccl that it loads, or why not.
python=${C10D_TORCH_PYTHON:-python3}
torch=$("$python" - 2>"$out/torch.err" <<'END'
import torch
if not torch.cuda.is_available():
    raise SystemExit(f"skipped: PyTorch {torch.__version__} sees no CUDA device")
if not torch.distributed.is_nccl_available():
    raise SystemExit(f"skipped: PyTorch {torch.__version__} has no NCCL")
torch.distributed.HashStore()
maps = [line.split()[-1] for line in open("/proc/self/maps") if "libnccl" in line]
print(torch.__version__, maps[0] if maps else "", "legacy" if hasattr(torch.distributed, "ProcessGroupNCCL2") else "")
END
) || torch=
why=$(tail -1 "$out/torch.err")
case $why in skipped:*) ;; *) why="skipped: no Python with PyTorch (C10D_TORCH_PYTHON names one)" ;; esac
read -r torch_version torch_nccl torch_legacy <<<"$torch"

date -u +%F
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null
"$bin/c10d" info | sed -n '/^Libraries/,/ nccl /p' | tail -1
[ -n "$torch" ] && echo "PyTorch $torch_version, $torch_nccl"
printf '%-62s %s\n' "what" "result"

say() { printf '%-62s %s\n' "$1" "$2"; }

limited() { if declare -F "$1" >/dev/null; then "$@"; else timeout 900 "$@"; fi; }

# row WHAT COMMAND..: runs it, with a limit, and says how it went
row() {
  local what=$1 log=$out/$RANDOM code
  shift
  limited "$@" >"$log" 2>&1
  code=$?
  if [ $code = 0 ]; then
    say "$what" "$(sed -n 's/^test result: //p; s/^.*\(ok: .*\)/\1/p' "$log" | tail -1)"
  else
    say "$what" "failed ($code): $(grep -m1 -A2 '^---- ' "$log" | tail -1)$(sed -n 's/^.*\(failed: .*\)/\1/p' "$log" | head -1)"
  fi
}

# lines NAME COMMAND..: runs it, and keeps its comma-separated lines
lines() {
  local name=$1
  shift
  timeout 900 "$@" >"$out/$name.log" 2>&1 || return 1
  grep -o '[a-z_]*,[0-9]*,[0-9.,]*$' "$out/$name.log" >"$out/$name"
}

row "NCCL, world 1, every op and type" "$bin/nccl_processes" w1/
row "kernels, every type and operation" "$bin/kernels" reduce_ scale_ all_halves_
row "sparse over NCCL, world 1" env C10D_HARDWARE_RANKS=1 "$bin/sparse" sums_of_anything
row "staged, 2 processes on one GPU" "$bin/staged_processes" w2/
row "staged, 4 processes on one GPU" "$bin/staged_processes" w4/
multi=(env NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_MAX_CTAS=8)
row "NCCL 2.30 or later, 2 threads on one GPU" "${multi[@]}" "$bin/nccl_threads" w2/
row "NCCL 2.30 or later, 2 processes on one GPU" "${multi[@]}" "$bin/nccl_processes" w2/
row "sparse over NCCL 2.30 or later, 2 threads on one GPU" "${multi[@]}" C10D_HARDWARE_RANKS=2 "$bin/sparse" sums_of_anything
hosts=(env C10D_HARDWARE_HOSTID=1 NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1)
row "NCCL over sockets, 2 processes that say they are two hosts" "${hosts[@]}" "$bin/nccl_processes" w2/
row "timeout and abort, 2 ranks on one GPU" "${multi[@]}" "$bin/c10d" run -n 2 -- "$bin/hardware" ends
row "timeout and abort, 2 processes that say they are two hosts" "${hosts[@]}" "$bin/c10d" run -n 2 -- "$bin/hardware" ends

# mixed DIALECT BACKEND: rank 0 is PyTorch, rank 1 is ours, over PyTorch's libnccl
mixed() (
  log=$out/mixed
  MASTER_PORT=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  export MASTER_ADDR=127.0.0.1 MASTER_PORT WORLD_SIZE=2 NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1
  RANK=0 NCCL_HOSTID=0 timeout 300 "$python" "$bin/torch_mixed.py" "$2" >"$log.torch" 2>&1 &
  RANK=1 NCCL_HOSTID=1 C10D_NCCL_LIB=$torch_nccl timeout 300 "$bin/hardware" mixed "$1" >"$log" 2>&1
  code=$?
  wait $! || code=$?
  cat "$log" "$log.torch"
  [ $code = 0 ] || echo "failed: $(tail -1 "$log.torch")"
  exit $code
)
if [ -z "$torch" ]; then
  say "one communicator with PyTorch" "$why"
elif [ -n "$torch_legacy" ]; then
  row "one communicator with PyTorch, nccl (second engine)" mixed torch-nccl2 nccl
  row "one communicator with PyTorch, nccl-legacy (first engine)" mixed torch-legacy nccl-legacy
else
  row "one communicator with PyTorch, nccl (first engine)" mixed torch-legacy nccl
fi

echo
echo "NCCL, world 1: host time to start an op, and end to end (us)"
same=(env)
[ -n "$torch_nccl" ] && same=(env "C10D_NCCL_LIB=$torch_nccl")
lines ours "${same[@]}" "$bin/hardware" world1 || echo "failed: $(tail -1 "$out/ours.log")"
if [ -n "$torch" ] && lines theirs "$python" "$bin/torch_world1.py"; then :; else
  echo "PyTorch's times: ${torch:+failed: $(tail -1 "$out/theirs.log" 2>/dev/null)}${torch:-$why}"
  : >"$out/theirs"
fi
printf '%-22s %10s %10s %10s %12s %12s\n' op bytes ours PyTorch "ours, end" "PyTorch, end"
awk -F, 'FILENAME == ARGV[1] { start[$1 $2] = $3; end[$1 $2] = $4; next }
  { printf "%-22s %10s %10s %10s %12s %12s\n", $1, $2, $3, start[$1 $2], $4, end[$1 $2] }' "$out/theirs" "$out/ours"

for ranks in 2 4; do
  echo
  echo "all-reduce of CUDA tensors through host memory, $ranks processes on one GPU (us; copies: the same bytes out and in, no more)"
  lines ours "$bin/c10d" run -n $ranks -- "$bin/hardware" staged || echo "failed: $(tail -1 "$out/ours.log")"
  if [ -n "$torch" ] && lines theirs "$bin/c10d" run -n $ranks -- "$python" "$bin/torch_gloo.py"; then :; else
    echo "PyTorch's Gloo: ${torch:+failed: $(tail -1 "$out/theirs.log" 2>/dev/null)}${torch:-$why}"
    : >"$out/theirs"
  fi
  printf '%12s %12s %12s %12s %14s %10s\n' bytes ours Gloo copies "of the copies" faster
  awk -F, 'FILENAME == ARGV[1] { gloo[$2] = $3; next }
    $1 == "all_reduce" { ours[$2] = $3; order[++n] = $2 }
    $1 == "copies" { copies[$2] = $3 }
    END { for (i = 1; i <= n; i++) { b = order[i]
      printf "%12s %12s %12s %12s %13.0f%% %10s\n", b, ours[b], gloo[b], copies[b], 100 * copies[b] / ours[b],
        gloo[b] ? sprintf("%.2f x", gloo[b] / ours[b]) : "" } }' "$out/theirs" "$out/ours"
done

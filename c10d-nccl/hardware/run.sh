#!/usr/bin/env bash
# What only hardware can show: the suite over the real NCCL and the real driver. One GPU is enough.
#
#   run.sh build DIR    builds the programs, and puts them and this script into DIR, to be taken to the machine
#   run.sh DIR          runs them there and prints a table; C10D_NCCL_LIB or VIRTUAL_ENV says which NCCL
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if [ "${1:-}" = build ]; then
  dir=${2:?where to}
  mkdir -p "$dir"
  cd "$here/../.."
  cargo build --release --locked -p c10d-cli --features nccl || exit 1
  cp "${CARGO_TARGET_DIR:-target}/release/c10d" "$here/run.sh" "$dir/"
  cargo test --release --locked -p c10d-nccl --no-run --message-format=json |
    sed -n 's/.*"name":"\(nccl_processes\|nccl_threads\|staged_processes\)".*"executable":"\([^"]*\)".*/\1 \2/p' |
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

date -u +%F
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null
"$bin/c10d" info | sed -n '/^Libraries/,/^$/p'
printf '%-62s %s\n' "what" "result"
# row WHAT COMMAND..: runs it, with a limit, and says how it went
row() {
  local what=$1 log
  shift
  log="$out/$RANDOM"
  if timeout 900 "$@" >"$log" 2>&1; then
    printf '%-62s %s\n' "$what" "$(sed -n 's/^test result: //p' "$log" | tail -1)"
  else
    printf '%-62s failed (%s): %s\n' "$what" "$?" "$(grep -m1 -A2 '^---- ' "$log" | tail -1)"
  fi
}
row "NCCL, world 1, every op and type" "$bin/nccl_processes" w1/
row "staged, 2 processes on one GPU" "$bin/staged_processes" w2/
row "staged, 4 processes on one GPU" "$bin/staged_processes" w4/
multi=(env NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_MAX_CTAS=8)
row "NCCL 2.30 or later, 2 threads on one GPU" "${multi[@]}" "$bin/nccl_threads" w2/
row "NCCL 2.30 or later, 2 processes on one GPU" "${multi[@]}" "$bin/nccl_processes" w2/
sockets=(env C10D_HARDWARE_HOSTID=1 NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1)
row "NCCL over sockets, 2 processes that say they are two hosts" "${sockets[@]}" "$bin/nccl_processes" w2/

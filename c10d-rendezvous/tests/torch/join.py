"""Runs one of two ranks that meet by tcp://. The arguments are the port and the rank. The other rank is in Rust."""

import sys
from datetime import timedelta

import torch.distributed as dist

port, rank = int(sys.argv[1]), int(sys.argv[2])
store, found, size = next(dist.rendezvous(f"tcp://127.0.0.1:{port}?rank={rank}&world_size=2", timeout=timedelta(seconds=60)))
assert (found, size) == (rank, 2)
store.set(f"rank{rank}", str(rank))
assert store.multi_get(["rank0", "rank1"]) == [b"0", b"1"]
store.barrier("end", 2)
print("python succeeded", flush=True)

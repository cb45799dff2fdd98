"""Rank 0 of a communicator whose rank 1 is `hardware mixed`. Runs the same ops as that rank.

Usage: torch_mixed.py BACKEND, where BACKEND is `nccl` or `nccl-legacy`.
"""

import sys

import torch
import torch.distributed as dist

torch.cuda.set_device(0)
dist.init_process_group(sys.argv[1])
rank = dist.get_rank()
tensor = lambda *values: torch.tensor(values, dtype=torch.float32, device="cuda")


def same(what, got, want):
    assert got.tolist() == want, f"{what} gave {got.tolist()} instead of {want}"


x = tensor(1.0 + rank, 10.0)
dist.all_reduce(x)
same("all_reduce", x, [3.0, 20.0])
all_ = [tensor(9.0), tensor(9.0)]
dist.all_gather(all_, tensor(float(rank)))
same("all_gather", torch.cat(all_), [0.0, 1.0])
x = tensor(0.0)
dist.reduce_scatter(x, [tensor(1.0), tensor(2.0)])
same("reduce_scatter", x, [2.0 * (1.0 + rank)])
x = tensor(0.0, 0.0)
dist.all_to_all_single(x, tensor(10.0 * rank, 10.0 * rank + 1.0))
same("all_to_all_single", x, [float(rank), 10.0 + rank])
dist.barrier()
dist.send(tensor(7.0), 1)
x = tensor(0.0)
dist.recv(x, 1)
same("recv", x, [8.0])
dist.destroy_process_group()
print("all ops of PyTorch's rank succeeded")

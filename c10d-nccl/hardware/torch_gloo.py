"""Measures all-reduce of CUDA tensors by PyTorch's Gloo, all ranks on one GPU. Prints lines like `hardware staged`."""

import os
import time

import torch
import torch.distributed as dist

torch.cuda.set_device(0)
dist.init_process_group("gloo")
first = dist.get_rank() == 0
most = int(os.environ.get("C10D_HARDWARE_MAX", 1 << 40))
median = lambda times: sorted(times)[len(times) // 2]
if first:
    print("op,bytes,us")
for size in [1 << power for power in range(12, 29, 4) if 1 << power <= most]:
    x, times = torch.zeros(size // 4, device="cuda"), []
    for i in range((20 if size > 8 << 20 else 100) + 3):
        dist.barrier()
        begun = time.perf_counter()
        dist.all_reduce(x, dist.ReduceOp.MAX)
        torch.cuda.synchronize()
        if i >= 3:
            times.append((time.perf_counter() - begun) * 1e6)
    if first:
        print(f"all_reduce,{size},{median(times):.2f}")
dist.destroy_process_group()

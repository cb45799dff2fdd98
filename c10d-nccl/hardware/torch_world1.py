"""Measures NCCL in a group of one rank through PyTorch. Prints lines as `hardware world1` does."""

import os
import time

import torch
import torch.distributed as dist

for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
    os.environ.setdefault(name, value)
torch.cuda.set_device(0)
dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
ops = {
    "all_reduce": lambda x, y: dist.all_reduce(x, async_op=True),
    "broadcast": lambda x, y: dist.broadcast(x, 0, async_op=True),
    "all_gather_into": lambda x, y: dist.all_gather_into_tensor(y, x, async_op=True),
    "reduce_scatter_into": lambda x, y: dist.reduce_scatter_tensor(y, x, async_op=True),
}
most = int(os.environ.get("C10D_HARDWARE_MAX", 1 << 40))
median = lambda times: sorted(times)[len(times) // 2]
print("op,bytes,enqueue_us,cpu_us,end_to_end_us")
for name, op in ops.items():
    for size in [s for s in [4, 4 << 10, 1 << 20, 16 << 20, 256 << 20] if s <= most]:
        x, y = torch.zeros(size // 4, device="cuda"), torch.zeros(size // 4, device="cuda")
        torch.cuda.synchronize()
        enqueue, cpu, whole = [], [], []
        for i in range((20 if size > 8 << 20 else 100) + 5):
            begun, used = time.perf_counter(), time.process_time()
            work = op(x, y)
            started = time.perf_counter()
            work.wait()
            torch.cuda.synchronize()
            if i >= 5:
                enqueue.append((started - begun) * 1e6)
                whole.append((time.perf_counter() - begun) * 1e6)
                cpu.append((time.process_time() - used) * 1e6)
        print(f"{name},{size},{median(enqueue):.2f},{median(cpu):.2f},{median(whole):.2f}")
dist.destroy_process_group()

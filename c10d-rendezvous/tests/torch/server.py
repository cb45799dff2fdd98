"""PyTorch's server: prints its port, and serves until its standard input ends."""

import sys
from datetime import timedelta

import torch.distributed as dist

store = dist.TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=30), wait_for_workers=False)
store.set("from python", "hello")
print("port", store.port, flush=True)
sys.stdin.read()

"""A rank of PyTorch, as NCCL and the store see it: it uses torch's own stores, and makes the NCCL calls of PyTorch's
backend.

peer.py LIBRARY PORT RANK DIALECT: this is rank RANK of two ranks. LIBRARY is the fake of both the CUDA driver and NCCL.
DIALECT is a value of the setting `nccl.compat`: torch-legacy or torch-nccl2.
"""

import ctypes
import os
import sys
from array import array

from torch.distributed import PrefixStore, TCPStore

library, port, rank, dialect = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
legacy = dialect == "torch-legacy"
c = ctypes
lib = c.CDLL(library, mode=os.RTLD_NOW | os.RTLD_LOCAL | os.RTLD_DEEPBIND)
F32, SUM = 7, 0


class UniqueId(c.Structure):
    _fields_ = [("bytes", c.c_char * 128)]


def call(name, *args):
    code = getattr(lib, name)(*args)
    assert code == 0, f"{name} gave {code}"


def size(n):
    return c.c_size_t(n)


def handle():
    return c.c_uint64()


call("cuInit", 0)
context, stream, event = handle(), handle(), handle()
call("cuDevicePrimaryCtxRetain", c.byref(context), rank)
call("cuCtxSetCurrent", context)
call("cuStreamCreateWithPriority", c.byref(stream), 1, 0)
call("cuEventCreate", c.byref(event), 0)


def finish():
    call("cuEventRecord", event, stream)
    while lib.cuEventQuery(event) != 0:
        pass


class Tensor:
    def __init__(self, values):
        self.at, self.count = handle(), len(values)
        call("cuMemAlloc_v2", c.byref(self.at), size(4 * self.count))
        host = array("f", values)
        call("cuMemcpyHtoDAsync_v2", self.at, c.c_uint64(host.buffer_info()[0]), size(4 * self.count), stream)
        finish()

    def values(self):
        host = array("f", [0.0] * self.count)
        call("cuMemcpyDtoHAsync_v2", c.c_uint64(host.buffer_info()[0]), self.at, size(4 * self.count), stream)
        finish()
        return list(host)

    def part(self, start):
        return c.c_uint64(self.at.value + 4 * start)


# init_process_group and its helper nest the prefixes like this.
store = TCPStore("127.0.0.1", port, is_master=False)
for prefix in ["default_pg", "0/", "cuda/"]:
    store = PrefixStore(prefix, store)


def connect(store, keys, makers, rank, size_):
    """Returns a communicator. For each key, `makers` has the rank that makes the id."""
    for key, maker in zip(keys, makers):
        if rank == maker:
            unique = UniqueId()
            call("ncclGetUniqueId", c.byref(unique))
            store.set(key, bytes(unique))
    ids = (UniqueId * len(keys))(*[UniqueId.from_buffer_copy(store.get(key)) for key in keys])
    comm = handle()
    if len(keys) == 1:
        call("ncclCommInitRank", c.byref(comm), size_, ids[0], rank)
    else:
        call("ncclCommInitRankScalable", c.byref(comm), size_, rank, len(keys), ids, None)
        state = c.c_int(7)
        while state.value == 7:
            call("ncclCommGetAsyncError", comm, c.byref(state))
    return comm


roots = 2 if os.environ.get("TORCH_NCCL_RANKS_PER_ROOT") == "1" else 1
if legacy:
    keys = ["0"] if roots == 1 else ["UniqueNCCLID:0", "UniqueNCCLID:1"]
    comm = connect(store, keys, [0, 1], rank, 2)
else:
    keys = ["nccl_storekey_0"] if roots == 1 else ["nccl_storekey_0_0", "nccl_storekey_0_1"]
    comm = connect(PrefixStore("0", store), keys, [0, 1], rank, 2)


def group(*calls):
    call("ncclGroupStart")
    for name, *args in calls:
        call(name, *args)
    call("ncclGroupEnd")


def on(comm):
    return comm, stream


def check(what, got, want):
    assert got == want, f"{what}: {got} instead of {want}"


x = Tensor([1.0 + rank, 10.0])
call("ncclAllReduce", x.at, x.at, size(2), F32, SUM, *on(comm))
check("all_reduce", x.values(), [3.0, 20.0])

token = Tensor([0.0])
call("ncclAllReduce", token.at, token.at, size(1), F32, SUM, *on(comm))

# all_gather and reduce_scatter with lists of tensors of equal length: torch-legacy makes one NCCL call for a list,
# torch-nccl2 makes one call for each tensor.
x, flat = Tensor([float(rank), 5.0]), Tensor([0.0] * 4)
if legacy:
    call("ncclAllGather", x.at, flat.at, size(2), F32, *on(comm))
else:
    group(*[("ncclBroadcast", x.at, flat.part(2 * r), size(2), F32, r, *on(comm)) for r in (0, 1)])
check("all_gather", flat.values(), [0.0, 5.0, 1.0, 5.0])

x, out = Tensor([1.0, 2.0, 3.0, 4.0]), Tensor([0.0] * 2)
if legacy:
    call("ncclReduceScatter", x.at, out.at, size(2), F32, SUM, *on(comm))
else:
    to = [out.at if r == rank else x.part(2 * r) for r in (0, 1)]
    group(*[("ncclReduce", x.part(2 * r), to[r], size(2), F32, SUM, r, *on(comm)) for r in (0, 1)])
check("reduce_scatter", out.values(), [[2.0, 4.0], [6.0, 8.0]][rank])

x, out = Tensor([float(10 * rank), float(10 * rank + 1)]), Tensor([0.0] * 2)
call("ncclAlltoAll", x.at, out.at, size(1), F32, *on(comm))
check("all_to_all_single", out.values(), [float(rank), float(10 + rank)])

# Messages: rank 0 sends first and rank 1 receives first, since both directions share a stream.
pair = connect(store, ["0:1"], [0], rank, 2) if legacy else comm
x, out, peer = Tensor([7.0 + rank]), Tensor([0.0]), 1 - rank
send = ("ncclSend", x.at, size(1), F32, peer, *on(pair))
recv = ("ncclRecv", out.at, size(1), F32, peer, *on(pair))
for message in [send, recv] if rank == 0 else [recv, send]:
    group(message)
check("messages", out.values(), [7.0 + peer])
# The other rank may still be at its last message. When it has finished, the test closes this process's standard input.
sys.stdin.read()
for of in {pair.value, comm.value}:
    call("ncclCommAbort", c.c_uint64(of))
print("all ops succeeded")

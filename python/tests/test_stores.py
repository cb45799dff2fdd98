"""Our backend over PyTorch's stores, and PyTorch's Gloo over our store."""

import os
import subprocess

import job
import pytest
import torch
import torch.distributed as dist


def over(r, kind):
    if kind == "tcp":
        port_file = os.path.join(r.folder, "port")
        if r.rank == 0:
            store = dist.TCPStore("127.0.0.1", 0, r.world, True, wait_for_workers=False)
            with open(port_file + ".new", "w") as file:
                file.write(str(store.port))
            os.rename(port_file + ".new", port_file)
        else:
            r.await_mark("port")
            store = dist.TCPStore("127.0.0.1", int(open(port_file).read()), r.world, False, wait_for_workers=False)
    elif kind == "file":
        store = dist.FileStore(os.path.join(r.folder, "own"), r.world)
    else:
        store = dist.HashStore()
    # The program may give the store a prefix.
    r.init(store=dist.PrefixStore("mine", store) if kind == "tcp" else store)
    x = torch.ones(3)
    dist.all_reduce(x)
    assert x.tolist() == [r.world] * 3
    for _ in range(3):
        dist.all_reduce(x, group=dist.new_group())
    store.set(f"still-{r.rank}", "here")
    dist.barrier()
    if kind != "hash":
        assert store.get(f"still-{(r.rank + 1) % r.world}") == b"here"
    dist.barrier()


@pytest.mark.parametrize("kind,world", [("tcp", 1), ("tcp", 3), ("file", 3), ("hash", 1)])
def test_groups_work_over_pytorchs_stores(kind, world):
    job.run(over, world, kind)


def absent(r):
    if r.rank == 1:
        return None
    # The timeout is short, so ranks 0 and 2 must begin to join together.
    r.meet("here", (0, 2))
    with pytest.raises(dist.DistBackendError, match="rank 1.*did not come|1 of 3 ranks"):
        r.init(timeout=5)


def test_a_rank_that_does_not_join_is_named():
    job.run(absent, 3)


def gloo(r, port):
    store = dist.TCPStore("127.0.0.1", port, r.world, False, wait_for_workers=False)
    r.init("gloo", store=store)
    x = torch.ones(3)
    dist.all_reduce(x)
    assert x.tolist() == [r.world] * 3


def test_gloo_works_over_our_store():
    program = os.environ.get("C10D_PROGRAM")
    if not program:
        pytest.skip("skipped: C10D_PROGRAM does not name the program c10d, which serves the store")
    server = subprocess.Popen([program, "store", "--bind", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
    try:
        words = server.stdout.readline()
        port = int(words.strip().rsplit(":", 1)[-1].split()[0])
        job.run(gloo, 3, port)
    finally:
        server.kill()
        server.wait()



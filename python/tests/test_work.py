"""Works and futures, threads, the profiler, and the GIL."""

import os
import threading
import time
from datetime import timedelta

import job
import pytest
import torch
import torch.distributed as dist


def handles(r):
    r.init()
    n, me = r.world, r.rank
    x = torch.ones(4) * me
    work = dist.all_reduce(x, async_op=True)
    assert work.wait() is True
    assert work.is_completed() and work.is_success()
    # PyTorch 2.10 cannot convert the exception of any backend to Python.
    assert job.TORCH_2_10 or work.exception() is None
    assert [t.data_ptr() for t in work.result()] == [x.data_ptr()]
    assert x.tolist() == [sum(range(n))] * 4
    # A future with a callback.
    y = torch.ones(2)
    then = dist.all_reduce(y, async_op=True).get_future().then(lambda f: f.value()[0] / n)
    assert then.wait().tolist() == [1.0, 1.0]
    # A callback that starts another op, and waits for it.
    z = torch.ones(3)

    def more(future):
        inner = dist.all_reduce(future.value()[0], async_op=True)
        return inner.get_future().wait()[0]

    assert dist.all_reduce(z, async_op=True).get_future().then(more).wait().tolist() == [n * n] * 3
    # The future of an op with a list of outputs.
    outs = [torch.zeros(1) for _ in range(n)]
    future = dist.all_gather(outs, torch.tensor([float(me)]), async_op=True).get_future()
    assert [t.item() for t in future.wait()] == list(range(n))
    # Ops whose works are dropped continue, and keep their tensors.
    for _ in range(20):
        dist.all_reduce(torch.ones(1000), async_op=True)
    dist.barrier()
    many = [torch.full((10,), float(i)) for i in range(50)]
    works = [dist.all_reduce(t, async_op=True) for t in many]
    for work in reversed(works):
        work.wait()
    assert [t[0].item() for t in many] == [i * n for i in range(50)]
    # Ops on the same tensor run in their order.
    for count in (2, 1000):
        same = torch.ones(count)
        works += [dist.all_reduce(same, async_op=True) for _ in range(5)]
        works[-1].wait()
        assert same.tolist() == [n**5] * count
    while not works[0].is_completed():
        time.sleep(0.001)
    backend = dist.group.WORLD._get_backend(torch.device("cpu"))
    assert backend.name() == "c10d_rs"
    before = backend._get_sequence_number_for_group() if hasattr(backend, "_get_sequence_number_for_group") else None
    dist.barrier()
    if before is not None:
        assert backend._get_sequence_number_for_group() == before + 1


def failures(r):
    """A failed work and its future have the error. Every later call of the group gets the same error."""
    r.init()
    me = r.rank
    told = []
    work = dist.all_reduce(torch.ones(3 + me), async_op=True)
    future = work.get_future().then(lambda f: told.append(f) or f.value())
    with pytest.raises(dist.DistBackendError, match="Mismatch") as e:
        work.wait()
    assert (e.value.kind, e.value.guilty_ranks, e.value.op) == ("Mismatch", (1 - me,), "all_reduce"), e.value
    assert e.value.guilty_global_ranks == (1 - me,) and e.value.rank == me and e.value.group_failed
    assert e.value.seq is not None and "all_reduce" in str(e.value)
    assert work.is_completed() and not work.is_success()
    assert job.TORCH_2_10 or "Mismatch" in str(work.exception())
    with pytest.raises(RuntimeError, match="Mismatch"):
        future.wait()
    assert len(told) == 1
    for later in (lambda: dist.barrier(), lambda: dist.all_reduce(torch.ones(1), async_op=True).wait()):
        with pytest.raises(dist.DistBackendError) as again:
            later()
        assert again.value.group_failed and again.value.guilty_ranks == (1 - me,), again.value


def on_this_thread(r):
    """A blocking op needs no other thread than its caller's."""
    r.init()
    count = lambda: len(os.listdir("/proc/self/task"))
    dist.all_reduce(torch.ones(100))
    before = count()
    for _ in range(20):
        dist.all_reduce(torch.ones(100))
        dist.broadcast(torch.ones(100), 0)
        dist.all_gather_into_tensor(torch.zeros(100 * r.world), torch.ones(100))
        dist.barrier()
    assert count() == before


def patience(r):
    r.init()
    if r.rank == 0:
        x = torch.zeros(1)
        work = dist.irecv(x, 1)
        assert not work.is_completed()
        with pytest.raises(dist.DistBackendError, match="Operation timed out"):
            work.wait(timedelta(milliseconds=50))
        # Only the wait has timed out. The op continues.
        dist.barrier()
        work.wait(timedelta(seconds=job.TIMEOUT))
        assert x.item() == 5
    else:
        dist.barrier()
        dist.send(torch.tensor([5.0]), 0)
    if r.rank == 0:
        x = torch.zeros(1)
        work = dist.group.WORLD.recv_anysource([x], 3)
        work.wait()
        assert work._source_rank() == 1 and x.item() == 6
    else:
        dist.send(torch.tensor([6.0]), 0, tag=3)


def threads(r):
    """Other Python threads run while a thread waits for an op, since the waiting thread releases the GIL."""
    r.init()
    if r.rank == 0:

        def answer():
            for op in ("barrier", "recv"):
                r.await_mark(f"asked-in-{op}")
                r.mark(f"answered-in-{op}")

        thread = threading.Thread(target=answer)
        thread.start()
        dist.barrier()
        r.mark("waiting-in-barrier")
        dist.barrier()
        r.mark("waiting-in-recv")
        dist.recv(torch.zeros(1), 1)
        thread.join()
    else:
        dist.barrier()
        for op in ("barrier", "recv"):
            r.await_mark(f"waiting-in-{op}")
            time.sleep(0.3)  # Now rank 0 probably waits in the op. If not, the test does not check the GIL.
            r.mark(f"asked-in-{op}")
            r.await_mark(f"answered-in-{op}")
            dist.barrier() if op == "barrier" else dist.send(torch.ones(1), 0)
    # Several threads wait for one op.
    work = dist.all_reduce(torch.ones(100_000), async_op=True)
    waiters = [threading.Thread(target=work.wait) for _ in range(8)]
    [w.start() for w in waiters]
    [w.join(job.TIMEOUT) for w in waiters]
    assert not any(w.is_alive() for w in waiters)


def profiled(r):
    r.init()
    from torch.profiler import ProfilerActivity, profile

    x, outs = torch.ones(6), [torch.zeros(6) for _ in range(r.world)]
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as prof:
        dist.all_reduce(x)
        dist.all_reduce(x, async_op=True).wait()
        dist.broadcast(x, 0)
        dist.all_gather(outs, x)
        dist.reduce(x, 0)
        dist.all_gather_into_tensor(torch.zeros(6 * r.world), x)
        dist.reduce_scatter_tensor(torch.zeros(3), torch.ones(3 * r.world))
        dist.gather(x, outs if r.rank == 0 else None, 0)
        dist.scatter(x, outs if r.rank == 0 else None, 0)
        dist.all_to_all(outs, [torch.ones(6) for _ in outs])
        if r.rank == 0:
            dist.send(x, 1)
            dist.recv(x, 1)
        else:
            dist.recv(x)
            dist.send(x, 0)
        dist.barrier()
    names = [event.name for event in prof.events()]
    messages = ["send", "recv" if r.rank == 0 else "recvAnySource"]
    ops = ["all_reduce", "broadcast", "all_gather", "reduce", "reduce_scatter", "gather", "scatter", "all_to_all", "barrier"]
    for name in ops + messages:
        assert f"c10d_rs:{name}" in names, (name, sorted(set(names)))


def timed(r):
    r.init()
    backend = dist.group.WORLD._get_backend(torch.device("cpu"))
    dist.group.WORLD._enable_collectives_timing()
    work = dist.all_reduce(torch.ones(10), async_op=True)
    work.wait()
    assert work._get_duration() >= 0
    del backend


def recorded(r):
    """PyTorch's flight recorder records the ops."""
    import pickle

    r.init()
    dist.all_reduce(torch.ones(3))
    from torch._C._distributed_c10d import _dump_fr_trace

    names = [entry["profiling_name"] for entry in pickle.loads(_dump_fr_trace(backend="c10d_rs"))["entries"]]
    assert any("all_reduce" in name or "ALLREDUCE" in name.upper() for name in names), names


@pytest.mark.parametrize("world", (1, 2, 3, 4))
def test_handles(world):
    job.run(handles, world)


@pytest.mark.parametrize("body", [failures, on_this_thread, patience, threads, profiled, timed], ids=lambda body: body.__name__)
def test_work(body):
    job.run(body, 2)


@pytest.mark.skipif(job.TORCH_2_10, reason="PyTorch 2.10's flight recorder records only PyTorch's own backends")
def test_flight_recorder():
    job.run(recorded, 2)


def hinted(r):
    import c10d_rs

    r.init(pg_options=c10d_rs.Options({"gloo-like.transport": "tcp"}))
    dist.barrier()
    # In PyTorch 2.10, backends do not show their options.
    return None if job.TORCH_2_10 else dist.group.WORLD._get_backend(torch.device("cpu")).options.hints


def misspelt(r):
    import c10d_rs

    r.init(pg_options=c10d_rs.Options({"gloo-like.transport": "unknown"}))


def test_options():
    assert job.run(hinted, 2) == [None if job.TORCH_2_10 else {"gloo-like.transport": "tcp"}] * 2
    for raised in job.outcomes(misspelt, 2):
        assert "it must be auto, shm or tcp" in raised.words, raised

"""A rank is killed or stopped, raises, leaves, or calls another op. All other ranks name it. None crashes or hangs."""

import datetime
import os
import signal
import subprocess
import sys

import c10d_rs
import job
import pytest
import torch
import torch.distributed as dist
from torch import nn

GUILTY = 1
# PyTorch before 2.15 has no `set_timeout`, and can change the timeout only of its own backends.
CAN_SET_TIMEOUT = hasattr(dist, "set_timeout")


def survive(r, fault, form):
    r.init(timeout=job.TIMEOUT if CAN_SET_TIMEOUT or fault != "stopped" else 30)
    net = nn.parallel.DistributedDataParallel(nn.Linear(64, 64)) if form == "ddp" else None
    dist.barrier()
    out = net(torch.ones(2, 64)).sum() if net else None
    if fault == "stopped":
        # `init` has a long timeout, because ranks may start late. From here on the timeout is short.
        if CAN_SET_TIMEOUT:
            dist.set_timeout(datetime.timedelta(seconds=8))
        r.meet("ready", range(r.world))
    if r.rank == GUILTY:
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault == "leaves":
            dist.destroy_process_group()
            return None
    try:
        if r.rank == GUILTY:
            # The guilty rank calls another op than its peers.
            dist.all_gather([torch.zeros(7) for _ in range(r.world)], torch.ones(7))
        elif form == "blocking":
            dist.all_reduce(torch.ones(1000))
        elif form == "async":
            dist.all_reduce(torch.ones(1000), async_op=True).wait()
        elif form == "future":
            dist.all_reduce(torch.ones(1000), async_op=True).get_future().then(lambda f: f.value()).wait()
        elif form == "ddp":
            out.backward()
        return "nothing was raised"
    except c10d_rs.BackendError as e:
        return "named", e.kind, e.guilty_ranks, str(e)
    except Exception as e:
        # Autograd and futures raise exceptions of other classes, which have the same text but not the attributes.
        return "words", None, None, str(e)


@pytest.mark.parametrize("form", ["blocking", "async", pytest.param("future", marks=pytest.mark.long), "ddp"])
@pytest.mark.parametrize("fault", ["killed", "stopped", "leaves", "another"])
def test_the_guilty_rank_is_named(fault, form):
    world = 3
    found = job.outcomes(survive, world, fault, form, gone={GUILTY})
    kinds = {"killed": ("PeerDead",), "leaves": ("PeerDead",), "stopped": ("Timeout",), "another": ("Mismatch",)}[fault]
    for rank in (r for r in range(world) if r != GUILTY):
        assert isinstance(found[rank], tuple), f"{rank}: {found[rank]!r}"
        how, kind, guilty, words = found[rank]
        assert any(k in words for k in kinds), words
        assert f"rank {GUILTY}" in words, words
        if how == "named":
            assert kind in kinds and guilty == (GUILTY,), found[rank]
        if form in ("blocking", "async"):
            assert how == "named", found[rank]


def abort(r):
    r.init()
    dist.barrier()
    # When all ranks have called `meet`, no rank is in the barrier any more.
    r.meet("there", range(r.world))
    if r.rank == 0:
        dist.distributed_c10d._abort_process_group()
        return None
    try:
        dist.all_reduce(torch.ones(3))
    except c10d_rs.BackendError as e:
        return e.kind, e.guilty_ranks


def test_abort():
    found = job.run(abort, 3)
    assert found[1:] == [("Aborted", (0,))] * 2, found


# PyTorch before 2.15 does not look for entry points, so the program must import the package.
IMPORT = "" if CAN_SET_TIMEOUT else "import c10d_rs\n"
SCRIPT = """
import datetime, os, sys
import torch, torch.distributed as dist
rank, world, where, what, form = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:6]
dist.init_process_group("c10d_rs", init_method=f"file://{where}", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=120))
net = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(64, 64)) if form == "ddp" else None
dist.barrier()
out = net(torch.ones(2, 64)).sum() if net else None
if rank == 0:
    if what == "raises":
        raise RuntimeError("a mistake of the program's")
    if what == "in flight":
        works = [dist.all_reduce(torch.ones(10), async_op=True) for _ in range(3)]
        future = works[0].get_future().then(lambda f: print("told"))
        box = torch.zeros(1)
        late = dist.irecv(box, 1) if world > 1 else None
    sys.exit(0)
try:
    if form == "ddp":
        out.backward()
    else:
        work = dist.all_reduce(torch.ones(20 if what == "in flight" else 10), async_op=form == "async")
        if work:
            work.wait()
    print("nothing was raised")
except RuntimeError as e:  # DistBackendError, or what autograd makes of it
    print("CAUGHT", e)
"""


LONG = pytest.mark.long


@pytest.mark.parametrize("world", [pytest.param(1, marks=LONG), 2, pytest.param(3, marks=LONG), pytest.param(4, marks=LONG)])
@pytest.mark.parametrize("what", ["raises", "leaves", "in flight"])
@pytest.mark.parametrize("form", ["blocking", pytest.param("async", marks=LONG), pytest.param("ddp", marks=LONG)])
def test_the_interpreter_ends(form, what, world, tmp_path):
    """The interpreter ends without a hang or crash, even if ops are running. The errors of other ranks name rank 0."""
    script = tmp_path / "script.py"
    script.write_text(IMPORT + SCRIPT)
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(world), tmp_path / "store", what, form],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        for rank in range(world)
    ]
    try:
        outs = [p.communicate(timeout=600) for p in ranks]
    finally:
        for p in ranks:
            p.kill()
            p.wait()
    assert ranks[0].returncode == (1 if what == "raises" else 0), outs[0]
    for rank, (out, err) in list(zip(ranks, outs))[1:]:
        assert rank.returncode == 0, err
        assert "CAUGHT" in out and "rank 0" in out and "nothing was raised" not in out, (out, err)

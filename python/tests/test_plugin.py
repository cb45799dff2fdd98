"""A plugin's own collectives behind torch.distributed, on CPU tensors. `test_devices` tests the plugin's device."""

import datetime
import os
import signal
import subprocess
import sys

import c10d_rs
import job
import pytest
import test_ops
import torch
import torch.distributed as dist

HERE = os.path.dirname(os.path.abspath(__file__))
PLUGIN = os.path.join(HERE, "..", "..", "c10d-privateuse")
NAME = "c-collectives"
BACKENDS = f"cpu:{NAME}"


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    """The environment variables by which the library finds the plugin."""
    folder = tmp_path_factory.mktemp("plugins")
    folder.chmod(0o755)
    source, out = os.path.join(PLUGIN, "vendors", NAME, f"{NAME}.c"), folder / f"libc10d_{NAME}.so"
    include = os.path.join(PLUGIN, "include")
    subprocess.run(["cc", "-std=c11", "-O2", "-shared", "-fPIC", "-pthread", "-I", include, source, "-o", out], check=True)
    out.chmod(0o755)
    return {"C10D_PLUGIN_PATH": str(folder)}


def test_the_info_command_lists_the_plugin(env):
    done = subprocess.run([sys.executable, "-m", "c10d_rs", "info"], capture_output=True, text=True, env={**os.environ, **env})
    assert f"libc10d_{NAME}.so: loaded" in done.stdout and f"backend {NAME} of plugin" in done.stdout, done


def init(r):
    return r.init(pg_options=c10d_rs.Options(backends=BACKENDS))


def users(r):
    """Uses a group as programs do: reductions, DDP, a sub-group, works and futures."""
    init(r)
    n, me = r.world, r.rank
    for dtype in (torch.uint8, torch.int32, torch.int64, torch.float32, torch.float64):
        for op in (dist.ReduceOp.SUM, dist.ReduceOp.PRODUCT, dist.ReduceOp.MIN, dist.ReduceOp.MAX):
            want = test_ops.folded(n, op, dtype)
            x = test_ops.mine(me, dtype=dtype)
            dist.all_reduce(x, op=op)
            test_ops.same(x, want, f"all_reduce {op} {dtype}")
            x = test_ops.mine(me, dtype=dtype)
            dist.reduce(x, n - 1, op=op)
            if me == n - 1:
                test_ops.same(x, want, f"reduce {op} {dtype}")
    # The plugin does not reduce this type.
    with pytest.raises(c10d_rs.BackendError, match=NAME) as e:
        dist.all_reduce(torch.ones(3, dtype=torch.float16))
    assert not e.value.group_failed, e.value
    x = torch.ones(3)
    then = dist.all_reduce(x, async_op=True).get_future().then(lambda f: f.value()[0] / n)
    assert then.wait().tolist() == [1.0] * 3
    net = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4, bias=False))
    net(torch.full((2, 4), float(me))).sum().backward()
    assert net.module.weight.grad.tolist() == [[(n - 1.0)] * 4] * 4
    ranks = list(range(1, n)) or [0]
    group = dist.new_group(ranks, pg_options=c10d_rs.Options(backends=BACKENDS))
    if me in ranks:
        x = torch.ones(3)
        dist.all_reduce(x, group=group)
        assert x.tolist() == [len(ranks)] * 3
    if n > 1:
        out = [None] * n
        dist.all_gather_object(out, me)
        assert out == list(range(n))
        if not job.TORCH_2_10:
            dist.monitored_barrier(wait_all_ranks=True)
    dist.barrier()


# The list lacks `test_ops.reductions`, because the plugin reduces only five types.
BODIES = [users, test_ops.movements, test_ops.lists]


@pytest.mark.parametrize("world", [pytest.param(1, marks=pytest.mark.long), 2, pytest.param(3, marks=pytest.mark.long), 4])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_the_collectives_of_a_plugin(body, world, env):
    job.run(body, world, *([BACKENDS] if body is not users else []), env=env)


def splits(r, backends):
    """A sub-group has the backend of its parent group, unless its options name another backend."""
    r.init(pg_options=c10d_rs.Options(backends=backends))
    limit = datetime.timedelta(seconds=job.TIMEOUT)
    options = None if backends else c10d_rs.Options(timeout=limit, backends=BACKENDS)
    part = dist.split_group(split_ranks=[list(range(r.world))], timeout=limit, pg_options=options)
    with pytest.raises(c10d_rs.BackendError, match=f"Mismatch.*backend {NAME}"):
        dist.all_reduce(torch.ones(3 + r.rank), group=part)


@pytest.mark.skipif(job.TORCH_2_10, reason="skipped: PyTorch 2.10 splits groups of CUDA only")
@pytest.mark.parametrize("backends", [BACKENDS, ""], ids=["named by the parent group", "named by the options"])
def test_sub_groups_have_the_right_backend(backends, env):
    job.run(splits, 2, backends, env=env)


def faulty(r, fault):
    init(r)
    dist.barrier()
    if r.rank == 1 and fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(c10d_rs.BackendError) as e:
        for _ in range(1000):
            dist.all_reduce(torch.ones(4 if r.rank == 1 else 3))
    return e.value.kind, e.value.guilty_ranks, e.value.op, str(e.value)


@pytest.mark.parametrize("fault,kind", [("killed", "PeerDead"), ("other count", "Mismatch")])
def test_a_guilty_rank_is_named_over_a_plugin(fault, kind, env):
    found = job.outcomes(faulty, 3, fault, env=env, gone={1} if fault == "killed" else ())
    for rank in (0, 2):
        assert found[rank][:3] == (kind, (1,), "all_reduce"), found[rank]
        assert f"backend {NAME}" in found[rank][3], found[rank]

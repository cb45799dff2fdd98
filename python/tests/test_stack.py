"""PyTorch's parts that use a backend: DDP, FSDP2, DTensor, functional collectives, objects, groups, checkpoints."""

import copy
import datetime
import os
import signal

import job
import pytest
import torch
import torch.distributed as dist
from torch import nn

LONG = pytest.mark.long
WORLDS = (pytest.param(1, marks=LONG), 2, pytest.param(3, marks=LONG), pytest.param(4, marks=LONG))


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def batch(rank, step=0, rows=6):
    g = torch.Generator().manual_seed(100 * step + rank)
    return torch.randn(rows, 8, generator=g)


def alone(world, steps=3):
    """The parameters after one process trained on the batches of all ranks."""
    net = model()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(steps):
        opt.zero_grad()
        (sum(net(batch(r, step)).pow(2).mean() for r in range(world)) / world).backward()
        opt.step()
    return [p.detach() for p in net.parameters()]


def ddp(r):
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
    from torch.nn.parallel import DistributedDataParallel as DDP

    r.init()
    for more in ({}, {"bucket_cap_mb": 0.0001}, {"find_unused_parameters": True}, {"static_graph": True}):
        net = DDP(model(), **more)
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        for step in range(3):
            opt.zero_grad()
            net(batch(r.rank, step)).pow(2).mean().backward()
            opt.step()
        for have, want in zip(net.parameters(), alone(r.world)):
            torch.testing.assert_close(have.detach(), want, msg=str(more))
    net = DDP(model())
    with net.no_sync():
        net(batch(r.rank, 0)).sum().backward()
    net(batch(r.rank, 1)).sum().backward()
    grads = [torch.zeros_like(net.module[0].weight.grad) for _ in range(r.world)]
    dist.all_gather(grads, net.module[0].weight.grad)
    assert all(torch.equal(g, grads[0]) for g in grads)
    # Ranks have unequal numbers of batches.
    net = DDP(model())
    with net.join():
        for step in range(r.rank + 1):
            net(batch(r.rank, step)).sum().backward()
    # Communication hooks.
    net = DDP(model())
    net.register_comm_hook(None, default_hooks.fp16_compress_hook)
    net(batch(r.rank)).sum().backward()
    net = DDP(nn.Linear(32, 32, bias=False))
    state = powerSGD_hook.PowerSGDState(process_group=None, matrix_approximation_rank=1, start_powerSGD_iter=2)
    net.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    for _ in range(4):
        net(torch.randn(4, 32)).sum().backward()
    grads = [torch.zeros_like(net.module.weight.grad) for _ in range(r.world)]
    dist.all_gather(grads, net.module.weight.grad)
    assert all(torch.equal(g, grads[0]) for g in grads)
    # A module with channels-last tensors, buffers and integers.
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    net = DDP(net)
    net(torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)).sum().backward()


def fsdp(r):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    r.init()
    mesh = init_device_mesh("cpu", (r.world,))
    net = model()
    for layer in net:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(3):
        opt.zero_grad()
        net(batch(r.rank, step)).pow(2).mean().backward()
        opt.step()
    for have, want in zip(net.parameters(), alone(r.world)):
        torch.testing.assert_close(have.full_tensor().detach(), want)


def dtensor(r):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor

    r.init()
    mesh = init_device_mesh("cpu", (r.world,))
    whole = torch.arange(60.0).reshape(12, 5)
    t = distribute_tensor(whole, mesh, [Shard(0)])
    assert torch.equal(t.full_tensor(), whole)
    assert torch.equal(t.redistribute(mesh, [Shard(1)]).full_tensor(), whole)
    assert torch.equal((t.t() @ t).redistribute(mesh, [Replicate()]).to_local(), whole.t() @ whole)
    from torch.distributed.tensor import DTensor

    p = DTensor.from_local(torch.ones(4), mesh, [Partial()])
    assert p.full_tensor().tolist() == [r.world] * 4
    if r.world == 4:
        grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
        t = distribute_tensor(whole, grid, [Shard(0), Shard(1)])
        assert torch.equal(t.full_tensor(), whole)
        assert grid["a"].size() == 2


def functional(r):
    import torch.distributed._functional_collectives as fc

    r.init()
    n, me = r.world, r.rank
    group = dist.group.WORLD
    x = torch.ones(4) * me
    assert fc.all_reduce(x, "sum", group).tolist() == [sum(range(n))] * 4
    assert fc.all_gather_tensor(x, 0, group).tolist() == [float(i) for i in range(n) for _ in range(4)]
    assert fc.reduce_scatter_tensor(torch.ones(4 * n), "sum", 0, group).tolist() == [n] * 4
    out = fc.all_to_all_single(torch.full((n,), float(me)), [1] * n, [1] * n, group)
    assert out.tolist() == list(range(n))
    a, b = fc.all_reduce_coalesced([torch.ones(2), torch.ones(3)], "sum", group)
    assert a.tolist() == [n] * 2 and b.tolist() == [n] * 3
    assert fc.broadcast(x, 0, group).tolist() == [0.0] * 4

    @torch.compile(backend="aot_eager", fullgraph=True)
    def step(t):
        return fc.all_reduce(t * 2, "sum", group) + 1

    assert step(torch.ones(3)).tolist() == [2 * n + 1] * 3


def objects(r):
    r.init()
    n, me = r.world, r.rank
    out = [None] * n
    dist.all_gather_object(out, {"rank": me, "list": list(range(me))})
    assert [o["rank"] for o in out] == list(range(n)) and len(out[n - 1]["list"]) == n - 1
    box = ["x" * 1000, {1: 2}] if me == 0 else [None, None]
    dist.broadcast_object_list(box, 0)
    assert box[1] == {1: 2}
    got = [None]
    dist.scatter_object_list(got, list(range(n)) if me == 0 else None, 0)
    assert got == [me]
    into = [None] * n if me == n - 1 else None
    dist.gather_object(("r", me), into, n - 1)
    if into:
        assert into == [("r", i) for i in range(n)]
    if n > 1:
        if me == 0:
            dist.send_object_list([{"a": 1}], 1)
        elif me == 1:
            box = [None]
            dist.recv_object_list(box, 0)
            assert box == [{"a": 1}]


def groups(r):
    r.init()
    n, me = r.world, r.rank
    made = []
    for i in range(12):
        ranks = [k for k in range(n) if (k + i) % 3 != 0] or [0]
        group = dist.new_group(ranks)
        if me in ranks:
            x = torch.ones(3)
            dist.all_reduce(x, group=group)
            assert x.tolist() == [len(ranks)] * 3
            made.append(group)
            own = dist.get_group_rank(group, me)
            assert ranks[own] == me
    if n > 1:
        local = dist.new_group([0, 1], use_local_synchronization=True) if me < 2 else None
        if local:
            dist.barrier(group=local)
    # Ranks destroy the groups in different orders.
    for group in made if me % 2 else reversed(made):
        dist.destroy_process_group(group)
    dist.barrier()


def summed(group, value=1.0):
    x = torch.full((3,), float(value))
    dist.all_reduce(x, group=group)
    return x[0].item()


def splits(r):
    import c10d_rs

    r.init(pg_options=c10d_rs.Options({"gloo-like.transport": "tcp"}))
    n, me = r.world, r.rank
    first, second = list(range(n // 2)), list(range(n // 2, n))
    mine = first if me in first else second
    half = dist.split_group(split_ranks=[ranks for ranks in (first, second) if ranks])
    assert summed(half, me) == sum(mine)
    backend = lambda group: group._get_backend(torch.device("cpu"))
    assert job.TORCH_2_10 or backend(half).options.hints == {"gloo-like.transport": "tcp"}
    limit = datetime.timedelta(seconds=job.TIMEOUT)
    given = dist.split_group(split_ranks=[[0]], timeout=limit, pg_options=c10d_rs.Options({"gloo-like.transport": "shm"}, limit))
    assert (given != dist.GroupMember.NON_GROUP_MEMBER) == (me == 0)
    if me == 0:
        assert job.TORCH_2_10 or backend(given).options.hints == {"gloo-like.transport": "shm"}
        assert summed(given) == 1
    # Errors of this group have the numbers of the ranks in the default group, too.
    if me in second:
        last = dist.split_group(half, split_ranks=[list(range(len(second)))])
        assert summed(last) == len(second)
        if len(second) > 1:
            with pytest.raises(c10d_rs.BackendError) as e:
                dist.all_reduce(torch.ones(3 + me), group=last)
            assert {second[k] for k in e.value.guilty_ranks} == set(e.value.guilty_global_ranks)
    assert summed(dist.group.WORLD) == n


def merges(r):
    """The ranks of two unrelated groups merge the groups into one."""
    n, me = r.world, r.rank
    own = list(range(n // 2)) if me < n // 2 else list(range(n // 2, n))
    group = job.Rank(own.index(me), len(own), r.folder)
    group.init(store=dist.PrefixStore(f"group-{own[0]}", dist.FileStore(os.path.join(r.folder, "own"), n)))
    assert summed(dist.group.WORLD, me) == sum(own)
    store = dist.FileStore(os.path.join(r.folder, "both"), n)
    both = dist.group.WORLD.merge_remote_group(store, n, datetime.timedelta(seconds=job.TIMEOUT), "both")
    assert both.size() == n and both._get_backend(torch.device("cpu")).name() == "c10d_rs"
    x = torch.tensor([2.0**me])
    both.allreduce([x]).wait()
    assert x.item() == 2**n - 1
    assert summed(dist.group.WORLD, me) == sum(own)


def shrinks(r):
    import c10d_rs

    r.init()
    n, me = r.world, r.rank
    if n == 1:
        return
    pair, gone = dist.new_group(list(range(n))), n - 1
    dist.barrier()
    if me == gone:
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(c10d_rs.BackendError) as e:
        for _ in range(1000):
            dist.all_reduce(torch.ones(3), group=pair)
    assert e.value.guilty_ranks == (gone,)
    left = dist.shrink_group(list(e.value.guilty_ranks), group=pair)
    assert dist.get_world_size(left) == n - 1 and summed(left, me) == sum(range(n - 1))
    # PyTorch also ends all other groups here.
    whole = dist.shrink_group([gone])
    assert dist.get_world_size() == n - 1 and summed(whole) == n - 1
    net = nn.parallel.DistributedDataParallel(model())
    net(batch(me)).sum().backward()


def barriers(r):
    r.init()
    dist.monitored_barrier()
    if r.world < 2:
        return
    group = dist.new_group()
    limit = datetime.timedelta(seconds=1)
    if r.rank == 0:
        late = "Rank 1" if r.world == 2 else "Ranks " + ", ".join(map(str, range(1, r.world)))
        with pytest.raises(RuntimeError, match=rf"\[Rank 0\]: {late} failed to pass monitoredBarrier in 1000 ms") as e:
            dist.monitored_barrier(group, limit, wait_all_ranks=True)
        assert e.value.guilty_ranks == tuple(range(1, r.world))
        r.mark("over")
    else:
        r.await_mark("over")


def detail(r):
    os.environ["TORCH_DISTRIBUTED_DEBUG"] = "DETAIL"
    dist.set_debug_level_from_env()
    r.init()
    x = torch.ones(3)
    dist.all_reduce(x)
    assert x.tolist() == [r.world] * 3
    dist.all_gather_into_tensor(torch.zeros(3 * r.world), x)
    assert summed(dist.new_group()) == r.world
    net = nn.parallel.DistributedDataParallel(model())
    net(batch(r.rank)).sum().backward()
    if r.world > 1:
        with pytest.raises(RuntimeError, match="Detected mismatch between collectives"):
            dist.all_reduce(torch.ones(3 + r.rank))


def checkpoints(r):
    import torch.distributed.checkpoint as dcp

    r.init("cpu:c10d_rs")
    state = {"net": model().state_dict(), "rank": torch.tensor(r.rank)}
    where = os.path.join(r.folder, "saved")
    # Saving uses its own group, so the default group can be used in the meantime.
    saved = dcp.async_save(state, checkpoint_id=where, process_group=dist.new_group())
    for _ in range(20):
        assert summed(dist.group.WORLD) == r.world
    saved.result(job.TIMEOUT)
    dist.barrier()
    read = copy.deepcopy(state)
    for t in read["net"].values():
        t.zero_()
    dcp.load(read, checkpoint_id=where)
    for name, t in state["net"].items():
        assert torch.equal(read["net"][name], t)


def twice(r):
    """Groups are made and destroyed repeatedly, over one store of the program."""
    store = dist.FileStore(os.path.join(r.folder, "own"), r.world)
    for i in range(3):
        r.init(store=dist.PrefixStore(f"trial{i}", store) if i else store)
        x = torch.ones(2)
        dist.all_reduce(x)
        assert x.tolist() == [r.world] * 2
        dist.destroy_process_group()


# PyTorch before 2.15 has no `set_timeout`. It splits and shrinks only groups of CUDA, and has monitored barriers for
# Gloo only.
NEW = pytest.mark.skipif(not hasattr(dist, "set_timeout"), reason="skipped: this PyTorch does this only with its own backends")


@NEW
@pytest.mark.parametrize("world", WORLDS)
def test_monitored_barriers(world):
    job.run(barriers, world)


@NEW
@pytest.mark.parametrize("world", WORLDS)
def test_splits(world):
    job.run(splits, world)


@NEW
@pytest.mark.parametrize("world", WORLDS[1:])
def test_merges(world):
    job.run(merges, world)


@NEW
@pytest.mark.parametrize("world", WORLDS)
def test_shrinks(world):
    gone = {world - 1} if world > 1 else set()
    found = job.outcomes(shrinks, world, gone=gone)
    assert found == [None] * world, found


BODIES = [ddp, fsdp, dtensor, functional, objects, groups, detail, checkpoints, twice]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_stack(body, world):
    job.run(body, world, limit=900)

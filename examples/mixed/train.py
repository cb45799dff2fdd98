"""A job with ranks in Python and in Rust: the ranks in Python train a model on data that the rank in Rust serves.

    cargo build --release --example mixed
    torchrun --nproc-per-node 4 examples/mixed/train.py

The last rank becomes the Rust program `target/release/examples/mixed`. `c10d run` can start the job, too.
"""

import datetime
import os

HERE = os.path.dirname(os.path.abspath(__file__))
RUST = os.environ.get("MIXED_RUST") or os.path.join(HERE, "..", "..", "target", "release", "examples", "mixed")
RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
if RANK == WORLD - 1:
    os.execv(RUST, [RUST])

import torch
import torch.distributed as dist

import c10d_rs  # PyTorch before 2.15 does not look for entry points

STEPS, ROWS, WIDTH = 20, 16, 5


def train(server):
    weight = torch.zeros(WIDTH - 1, 1, requires_grad=True)
    opt = torch.optim.SGD([weight], lr=1.0)
    for _ in range(STEPS):
        batch = torch.zeros(ROWS, WIDTH)
        dist.scatter(batch, None, src=server)
        loss = (batch[:, :-1] @ weight - batch[:, -1:]).pow(2).mean()
        opt.zero_grad()
        loss.backward()
        # The gradients of all trainers are added; the server contributes zeros.
        dist.all_reduce(weight.grad)
        weight.grad /= WORLD - 1
        opt.step()
        total = loss.detach().reshape(1)
        dist.reduce(total, server)


def every_op(group, members):
    """Runs the ops in the order of `mixed.rs`. `members` has the ranks of the group; the last of them is the server."""
    me, n, server = members.index(RANK), len(members), members[-1]
    everybody = [float(r) for r in range(n)]
    mine = lambda count=2: torch.full((count,), float(me))
    for root in (0, n - 1):
        x = mine()
        dist.broadcast(x, members[root], group)
        assert x.tolist() == [root] * 2
        x = mine()
        dist.reduce(x, members[root], group=group)
        assert me != root or x.tolist() == [sum(everybody)] * 2
        lists = [torch.zeros(2) for _ in range(n)] if me == root else None
        dist.gather(mine(), lists, members[root], group)
        assert me != root or [t.tolist() for t in lists] == [[r] * 2 for r in everybody]
        x = torch.zeros(2)
        lists = [torch.full((2,), r) for r in everybody] if me == root else None
        dist.scatter(x, lists, members[root], group)
        assert x.tolist() == [me] * 2
    x = mine()
    dist.all_reduce(x, group=group)
    assert x.tolist() == [sum(everybody)] * 2
    x = torch.full((3,), me, dtype=torch.int16)
    dist.all_reduce(x, op=dist.ReduceOp.MAX, group=group)
    assert x.tolist() == [n - 1] * 3
    # Each rank has an entry of its own, and all have entry 0.
    x = torch.sparse_coo_tensor([[0, me + 1]], [1.0, 2.0], (n + 1,))
    dist.all_reduce(x, group=group)
    assert x.to_dense().tolist() == [n] + [2] * n
    lists = [torch.zeros(r + 1) for r in range(n)]
    dist.all_gather(lists, mine(me + 1), group)
    assert [t.tolist() for t in lists] == [[float(r)] * (r + 1) for r in range(n)]
    flat = torch.zeros(2 * n)
    dist.all_gather_into_tensor(flat, mine(), group)
    assert flat.tolist() == [r for r in everybody for _ in range(2)]
    part = torch.zeros(2)
    dist.reduce_scatter(part, [torch.ones(2) for _ in range(n)], group=group)
    assert part.tolist() == [n] * 2
    dist.reduce_scatter_tensor(part, torch.ones(2 * n), group=group)
    assert part.tolist() == [n] * 2
    outs = [torch.zeros(2) for _ in range(n)]
    dist.all_to_all(outs, [mine() for _ in range(n)], group)
    assert [t.tolist() for t in outs] == [[r] * 2 for r in everybody]
    out = torch.zeros(n)
    dist.all_to_all_single(out, mine(n), group=group)
    assert out.tolist() == everybody
    # Each rank sends i + 1 elements to rank i.
    out = torch.zeros(n * (me + 1))
    dist.all_to_all_single(out, mine(sum(range(n + 1))), [me + 1] * n, [r + 1 for r in range(n)], group)
    assert out.tolist() == [r for r in everybody for _ in range(me + 1)]
    pair = [mine(), mine(3)]
    rows = [[torch.zeros(2), torch.zeros(3)] for _ in range(n)]
    sums = [t.clone() for t in pair]
    dist.all_reduce_coalesced(sums, group=group)
    assert [t.tolist() for t in sums] == [[sum(everybody)] * 2, [sum(everybody)] * 3]
    dist.all_gather_coalesced(rows, pair, group)
    assert [[t.tolist() for t in row] for row in rows] == [[[r] * 2, [r] * 3] for r in everybody]
    flats = [torch.zeros(2 * n), torch.zeros(3 * n)]
    with dist._coalescing_manager(group):
        for flat, t in zip(flats, pair):
            dist.all_gather_into_tensor(flat, t, group)
    assert [t.tolist() for t in flats] == [[r for r in everybody for _ in range(k)] for k in (2, 3)]
    parts = [torch.zeros(2), torch.zeros(3)]
    with dist._coalescing_manager(group):
        for part_, k in zip(parts, (2, 3)):
            dist.reduce_scatter_tensor(part_, torch.ones(k * n), group=group)
    assert [t.tolist() for t in parts] == [[n] * 2, [n] * 3]
    if me == 0:
        dist.send(torch.full((2,), 7.0), server, group, tag=3)
        dist.recv(part, server, group, tag=4)
        assert part.tolist() == [8.0] * 2
        dist.send(torch.full((2,), 9.0), server, group, tag=5)
        assert dist.recv(part, None, group, tag=6) == server and part.tolist() == [10.0] * 2
    dist.monitored_barrier(group, wait_all_ranks=True)
    dist.barrier(group)


def main():
    dist.init_process_group("c10d_rs", timeout=datetime.timedelta(seconds=600))
    server = WORLD - 1
    train(server)
    every_op(dist.group.WORLD, list(range(WORLD)))
    # A group of the first trainer and the server. PyTorch names it "1", so the server uses this name, too.
    small = dist.new_group([0, server])
    if RANK == 0:
        every_op(small, [0, server])
    print(f"python rank {RANK}: every op agrees with Rust's ranks", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

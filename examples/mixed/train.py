"""A job of both kinds: ranks in Python train a model on data that a rank in Rust serves.

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

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

import c10d_rs  # noqa: E402, F401  # PyTorch before 2.15 does not look for entry points

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


def every_op(server):
    """The ops in the order of `mixed.rs`."""
    everybody = [float(r) for r in range(WORLD)]
    mine = lambda: torch.full((2,), float(RANK))  # noqa: E731
    x = mine()
    dist.broadcast(x, 0)
    assert x.tolist() == [0.0] * 2
    x = mine()
    dist.all_reduce(x)
    assert x.tolist() == [sum(everybody)] * 2
    x = torch.full((3,), RANK, dtype=torch.int16)
    dist.all_reduce(x, op=dist.ReduceOp.MAX)
    assert x.tolist() == [WORLD - 1] * 3
    dist.reduce(mine(), server)
    lists = [torch.zeros(r + 1) for r in range(WORLD)]
    dist.all_gather(lists, torch.full((RANK + 1,), float(RANK)))
    assert [t.tolist() for t in lists] == [[float(r)] * (r + 1) for r in range(WORLD)]
    flat = torch.zeros(2 * WORLD)
    dist.all_gather_into_tensor(flat, mine())
    assert flat.tolist() == [r for r in everybody for _ in range(2)]
    part = torch.zeros(2)
    dist.reduce_scatter(part, [torch.ones(2) for _ in range(WORLD)])
    assert part.tolist() == [WORLD] * 2
    dist.reduce_scatter_tensor(part, torch.ones(2 * WORLD))
    assert part.tolist() == [WORLD] * 2
    dist.gather(mine(), None, dst=server)
    outs = [torch.zeros(2) for _ in range(WORLD)]
    dist.all_to_all(outs, [mine() for _ in range(WORLD)])
    assert [t.tolist() for t in outs] == [[r] * 2 for r in everybody]
    out = torch.zeros(WORLD)
    dist.all_to_all_single(out, torch.full((WORLD,), float(RANK)))
    assert out.tolist() == everybody
    pair = [mine(), torch.full((3,), float(RANK))]
    rows = [[torch.zeros(2), torch.zeros(3)] for _ in range(WORLD)]
    sums = [t.clone() for t in pair]
    dist.all_reduce_coalesced(sums)
    assert [t.tolist() for t in sums] == [[sum(everybody)] * 2, [sum(everybody)] * 3]
    dist.all_gather_coalesced(rows, pair)
    assert [[t.tolist() for t in row] for row in rows] == [[[r] * 2, [r] * 3] for r in everybody]
    flats = [torch.zeros(2 * WORLD), torch.zeros(3 * WORLD)]
    with dist._coalescing_manager():
        for flat, t in zip(flats, pair):
            dist.all_gather_into_tensor(flat, t)
    assert [t.tolist() for t in flats] == [[r for r in everybody for _ in range(n)] for n in (2, 3)]
    parts = [torch.zeros(2), torch.zeros(3)]
    with dist._coalescing_manager():
        for part_, n in zip(parts, (2, 3)):
            dist.reduce_scatter_tensor(part_, torch.ones(n * WORLD))
    assert [t.tolist() for t in parts] == [[WORLD] * 2, [WORLD] * 3]
    if RANK == 0:
        dist.send(torch.full((2,), 7.0), server, tag=3)
        dist.recv(part, server, tag=4)
        assert part.tolist() == [8.0] * 2
    dist.monitored_barrier(wait_all_ranks=True)
    dist.barrier()


def main():
    dist.init_process_group("c10d_rs", timeout=datetime.timedelta(seconds=600))
    server = WORLD - 1
    train(server)
    every_op(server)
    # A group of the first trainer and the server. PyTorch names it "1", so the server uses this name, too.
    small = dist.new_group([0, server])
    if RANK == 0:
        x = torch.zeros(3)
        dist.all_reduce(x, op=dist.ReduceOp.MAX, group=small)
        assert x.tolist() == [float(server)] * 3
    print(f"python rank {RANK}: every op agrees with Rust's ranks", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""Faults in a job with ranks in Rust and in Python. All ranks of the group except the guilty one name this rank."""

import datetime
import os
import re
import signal
import sys
import time

import c10d_rs
import job
import pytest
import torch
import torch.distributed as dist

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RUST = os.environ.get("RANK_IN_RUST") or os.path.join(ROOT, "target", "release", "examples", "rank_in_rust")
# For each of the four ranks, whether it is in Rust. Rank 1 or rank 2 has the fault.
IN_RUST = (False, True, False, True)
WORLD = len(IN_RUST)
# In seconds. `SHORT` is the timeout of the call if a rank is stopped. Each error must come within `SOON` of the fault.
SHORT, SOON = 8, 20
CAN_SET_TIMEOUT = hasattr(dist, "set_timeout")


def call(what, form, group):
    """Makes the usual call, all_reduce, or a call that differs from it in one respect, as in `rank.rs`."""
    x, options = torch.ones(1001 if what == "count" else 1000, dtype=torch.float64 if what == "dtype" else torch.float32), {}
    if what == "reduce_op":
        options["op"] = dist.ReduceOp.MAX
    if what == "op":
        outs = torch.ones(7 * dist.get_world_size(group))
        work = dist.all_gather_into_tensor(outs, torch.ones(7), group, async_op=form == "async")
    else:
        work = dist.all_reduce(x, group=group, async_op=form == "async", **options)
    if work is not None:
        work.wait()


def act(r, fault, guilty, form):
    """Runs a rank in Python. Returns the lines that a rank in Rust would print."""
    r.init(init_method="env://", timeout=job.TIMEOUT if CAN_SET_TIMEOUT or fault != "stopped" else 30)
    group = dist.new_group(list(range(1, r.world))) if form == "subgroup" else None
    if form == "subgroup" and r.rank == 0:
        return []
    dist.barrier(group)
    if fault == "stopped" and CAN_SET_TIMEOUT:
        dist.set_timeout(datetime.timedelta(seconds=SHORT), group)
    r.meet("ready", range(1 if form == "subgroup" else 0, r.world))
    what = "all_reduce"
    if r.rank == guilty:
        with open(os.path.join(r.folder, "fault"), "w") as file:
            file.write(str(time.monotonic()))
        if fault in ("killed", "stopped"):
            os.kill(os.getpid(), signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
        elif fault == "left":
            dist.destroy_process_group()
            return []
        elif fault == "exited":
            sys.exit(0)
        elif fault == "raised":
            raise RuntimeError("a mistake of the program's")
        else:
            what = fault
    try:
        call(what, form, group)
        return [f"none|||{time.monotonic()}|nothing was raised"]
    except c10d_rs.BackendError as e:
        guilty_ranks = ",".join(map(str, e.guilty_ranks))
        lines = [f"{e.kind}|{guilty_ranks}|{e.op}|{time.monotonic()}|{' '.join(str(e).splitlines())}"]
        if group is not None:
            assert e.guilty_global_ranks == tuple(k + 1 for k in e.guilty_ranks), e.guilty_global_ranks
        if fault == "killed" and CAN_SET_TIMEOUT:
            # The survivors continue together.
            left = dist.shrink_group(list(e.guilty_ranks), group=group)
            # PyTorch 2.15's `get_rank` is wrong in the sub-group, as docs/pytorch.md says.
            x = torch.tensor([float(left.rank())])
            dist.all_reduce(x, group=left)
            lines.append(f"{x.item():g} of {dist.get_world_size(left)}")
        return lines


def one(r, port, fault, guilty, form, folder):
    r.folder = folder
    os.environ.update(RANK=str(r.rank), WORLD_SIZE=str(r.world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    # The test serves the store, as torchrun does.
    os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="0")
    arguments = [fault, str(guilty), form, folder]
    program = [RUST] if IN_RUST[r.rank] else [sys.executable, os.path.abspath(__file__)]
    if IN_RUST[r.rank] or r.rank == guilty and fault in ("exited", "raised"):
        # The process becomes this program.
        file = os.open(os.path.join(folder, f"printed-{r.rank}"), os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1)
        os.execv(program[0], program + arguments)
    return act(r, fault, guilty, form)


def faulty(fault, guilty, form, folder):
    """Runs the job. Returns the lines of each rank."""
    folder = str(folder)
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    gone = {guilty} if fault in ("killed", "stopped") else set()
    found = job.outcomes(one, WORLD, store.port, fault, guilty, form, folder, gone=gone)
    for rank in range(WORLD):
        path = os.path.join(folder, f"printed-{rank}")
        if os.path.exists(path) and rank not in gone:
            expected = {"raised": 101 if IN_RUST[rank] else 1}.get(fault, 0) if rank == guilty else 0
            assert found[rank].exitcode == expected, f"rank {rank} ended with {found[rank].exitcode}: {open(path).read()}"
            found[rank] = open(path).read().splitlines()
    return found


FAULTS = {
    "killed": "PeerDead", "stopped": "Timeout", "left": "PeerDead", "exited": "PeerDead", "raised": "PeerDead",
    "op": "Mismatch", "dtype": "Mismatch", "count": "Mismatch", "reduce_op": "Mismatch",
}  # fmt: skip


@pytest.mark.parametrize("form", ["blocking", pytest.param("async", marks=pytest.mark.long), "subgroup"])
@pytest.mark.parametrize("guilty", [1, 2], ids=["rust", "python"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_guilty_rank_is_named_on_ranks_of_both_kinds(fault, guilty, form, tmp_path):
    if not os.path.exists(RUST):
        pytest.skip(f"skipped: {RUST} is not built (cargo build --release -p c10d-python --example rank_in_rust)")
    found = faulty(fault, guilty, form, tmp_path)
    begin = float((tmp_path / "fault").read_text())
    members = range(1, WORLD) if form == "subgroup" else range(WORLD)
    named = guilty - members[0]
    for rank in (k for k in members if k != guilty):
        assert isinstance(found[rank], list) and found[rank], f"rank {rank}: {found[rank]!r}"
        kind, guilty_ranks, op, at, text = found[rank][0].split("|", 4)
        assert (kind, guilty_ranks, op) == (FAULTS[fault], str(named), "all_reduce"), f"rank {rank}: {found[rank]}"
        assert re.search(rf"\brank {named}\b", text), f"rank {rank}: {text}"
        took = float(at) - begin
        print(f"{fault} {form}: rank {rank} had the error after {took:.3f} s")
        assert took < SOON or not CAN_SET_TIMEOUT, f"rank {rank} had the error after {took} s"
        if fault == "killed" and CAN_SET_TIMEOUT:
            left = len(members) - 1
            assert found[rank][1:] == [f"{sum(range(left))} of {left}"], f"rank {rank}: {found[rank]}"
    if FAULTS[fault] == "Mismatch":
        # The error of the guilty rank names other ranks.
        kind, guilty_ranks, op, _, text = found[guilty][0].split("|", 4)
        others = {str(k - members[0]) for k in members if k != guilty}
        assert kind == "Mismatch" and guilty_ranks and set(guilty_ranks.split(",")) <= others, found[guilty]
        assert op == ("all_gather_into" if fault == "op" else "all_reduce"), found[guilty]


if __name__ == "__main__":
    rank = job.Rank(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), sys.argv[4])
    print("\n".join(act(rank, sys.argv[1], int(sys.argv[2]), sys.argv[3])))

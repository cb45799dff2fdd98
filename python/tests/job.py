"""Runs a function once per rank, each in its own process, with a time limit.

The caller gets the value that each rank returned, or the exception that it raised. A job that takes too long is killed,
and the error names the ranks that were not finished.
"""

import datetime
import importlib.metadata
import multiprocessing
import os
import tempfile
import time
import traceback
from multiprocessing import connection

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "torch.distributed", "torch.testing", "c10d_rs", "job"])

# The timeout of ops in seconds, unless a test sets another.
TIMEOUT = 120

# PyTorch 2.10 has limits, which docs/pytorch.md lists.
TORCH_2_10 = importlib.metadata.version("torch").startswith("2.10.")


class Died(Exception):
    """The process of a rank ended without a result."""


class Rank:
    """The arguments of a rank, and the files by which ranks wait for each other."""

    def __init__(self, rank, world, folder):
        self.rank, self.world, self.folder = rank, world, folder

    def init(self, backend="c10d_rs", timeout=TIMEOUT, **more):
        """Makes the default group. Unless the arguments name another store, its store is a file."""
        import torch.distributed as dist

        if "store" not in more:
            more.setdefault("init_method", f"file://{self.folder}/store")
        limit = datetime.timedelta(seconds=timeout)
        dist.init_process_group(backend, rank=self.rank, world_size=self.world, timeout=limit, **more)
        return self

    def mark(self, name):
        """Makes a file with this name, for which other ranks may wait."""
        open(os.path.join(self.folder, name), "w").close()

    def meet(self, name, ranks):
        """Waits until all of these ranks have called `meet` with this name."""
        self.mark(f"{name}-{self.rank}")
        for rank in ranks:
            self.await_mark(f"{name}-{rank}")

    def await_mark(self, name, limit=TIMEOUT):
        """Waits until a rank has called `mark` with this name."""
        until = time.monotonic() + limit
        while not os.path.exists(os.path.join(self.folder, name)):
            assert time.monotonic() < until, f"no rank made {name}"
            time.sleep(0.01)


def _one(body, rank, world, folder, env, pipe, args):
    os.environ.update(env)
    import torch

    torch.set_num_threads(1)
    try:
        pipe.send(("done", body(Rank(rank, world, folder), *args)))
    except BaseException as e:
        facts = {name: getattr(e, name) for name in ("kind", "guilty_ranks", "guilty_global_ranks") if hasattr(e, name)}
        pipe.send(("raised", (type(e).__name__, str(e), facts, traceback.format_exc())))
    finally:
        pipe.close()
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


class Raised:
    """The exception of a rank."""

    def __init__(self, kind, words, facts, trace):
        self.type, self.words, self.trace = kind, words, trace
        self.kind = facts.get("kind")
        self.guilty_ranks = facts.get("guilty_ranks")

    def __repr__(self):
        return f"{self.type}: {self.words}\n{self.trace}"


def outcomes(body, world, *args, limit=600, env=None, gone=()):
    """Returns for each rank its return value, `Raised` or `Died`.

    Does not wait for the ranks in `gone`: it kills them after the others have ended, and returns None for them.
    """
    with tempfile.TemporaryDirectory(prefix="c10d_rs-test-") as folder:
        ranks = []
        for rank in range(world):
            mine, theirs = _CONTEXT.Pipe(duplex=False)
            process = _CONTEXT.Process(target=_one, args=(body, rank, world, folder, env or {}, theirs, args))
            process.start()
            theirs.close()
            ranks.append((process, mine))
        try:
            return _collect(ranks, limit, gone)
        finally:
            for process, mine in ranks:
                process.kill()
                process.join()
                mine.close()


def _collect(ranks, limit, gone):
    until = time.monotonic() + limit
    found = [None] * len(ranks)
    open_ = {mine: i for i, (_, mine) in enumerate(ranks) if i not in gone}
    while open_:
        ready = connection.wait(list(open_), max(0, until - time.monotonic()))
        assert ready, f"ranks {sorted(open_.values())} were not finished after {limit} s; the others: {found}"
        for pipe in ready:
            i = open_.pop(pipe)
            try:
                what, value = pipe.recv()
                found[i] = value if what == "done" else Raised(*value)
            except EOFError:
                found[i] = Died()
    for i, (process, _) in enumerate(ranks):
        if i in gone:
            continue
        process.join(max(0.1, until - time.monotonic()))
        assert process.exitcode is not None, f"rank {i} returned, but its process did not end"
        if isinstance(found[i], Died):
            found[i].exitcode = process.exitcode
        else:
            assert process.exitcode == 0, f"rank {i} returned {found[i]}, but its process ended with {process.exitcode}"
    return found


def run(body, world, *args, **more):
    """Returns the return value of each rank. Fails if a rank raised or died."""
    found = outcomes(body, world, *args, **more)
    bad = [f"rank {i}: {value!r}" for i, value in enumerate(found) if isinstance(value, (Raised, Died))]
    assert not bad, "\n".join(bad)
    return found


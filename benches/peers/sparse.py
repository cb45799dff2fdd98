"""Measures sparse all-reduce of PyTorch's Gloo and of `c10d perf` in turn, on the same inputs. Prints a Markdown table.

    python sparse.py --c10d target/release/c10d [--ranks 2,4] [--nnz 1000,..] [--row 1,64,256] [--overlap 0,50,100]

Python needs torch and numpy. Gloo and `c10d perf` do the same for each op: copy the input, run a barrier, then time the
op. A batch is several such ops, one after another; its time is the mean time of its ops on the slowest rank. The result
of a repetition is the median of its batches (for Gloo, --batches, default 3). The table shows the median of --repeat
repetitions (default 3). The ranks of `c10d perf` are bound to cores. Gloo runs once with ranks that are bound to cores
and once with ranks that are not, and the better result is shown.

A point is a combination of ranks, nnz (the entries of a rank), row (the elements of an entry) and overlap. A point is
left out if the result of its all-reduce needs more than --limit MiB (default 1024). Gloo gathers the inputs of all
ranks on each rank. A point is also left out if these copies need, on all ranks together, more than 8 times this limit.
"""

import argparse, csv, io, os, socket, statistics, subprocess, sys, time

PLACES = 10
LARGE = 256 << 20


def shuffled(np, n):
    """Returns the numbers below n in the pseudo-random order in which `c10d perf` and this program take indices."""
    u = np.uint64
    x = (np.arange(n, dtype=u) + u(1)) * u(0x9E3779B97F4A7C15)
    x = (x ^ x >> u(30)) * u(0xBF58476D1CE4E5B9)
    x = (x ^ x >> u(27)) * u(0x94D049BB133111EB)
    return np.argsort(x ^ x >> u(31))


def tensor(np, torch, rank, ranks, nnz, row, overlap):
    common = nnz * overlap // 100
    own = nnz - common
    order = shuffled(np, nnz * PLACES)
    mine = np.sort(np.concatenate([order[:common], order[common + rank * own : common + (rank + 1) * own]]))
    values = ((mine[:, None] + np.arange(row)[None, :]) % 5 + rank % 2).astype(np.float32)
    size = (nnz * PLACES,) if row == 1 else (nnz * PLACES, row)
    values = values[:, 0] if row == 1 else values
    t = torch.sparse_coo_tensor(torch.from_numpy(mine)[None, :], torch.from_numpy(values.copy()), size)
    return t.coalesce()


def rank_main():
    """Runs a rank of Gloo, which reads points from standard input."""
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if "--pin" in sys.argv[1:]:
        os.sched_setaffinity(0, {rank % os.cpu_count()})
    import numpy as np, torch, torch.distributed as dist

    torch.set_num_threads(1)
    torch.ones(16 << 20, dtype=torch.uint8)  # once this is freed, glibc reuses freed blocks of up to this size, as in `c10d perf`
    dist.init_process_group("gloo")
    last = None
    for line in sys.stdin:
        nnz, row, overlap, iterations, count = map(int, line.split())
        if count == 0:
            last = t = x = None
            continue
        if last is None or last[0] != (nnz, row, overlap):
            last = ((nnz, row, overlap), tensor(np, torch, rank, ranks, nnz, row, overlap))
        t = last[1]
        batches = []
        for batch in range(count + 1):  # the first batch warms up
            spent = 0.0
            for _ in range(iterations):
                x = t.clone()
                dist.barrier()
                start = time.perf_counter()
                dist.all_reduce(x)
                spent += time.perf_counter() - start
            slowest = torch.tensor([spent / iterations])
            dist.all_reduce(slowest, dist.ReduceOp.MAX)
            batches.append(slowest.item())
        if rank == 0:
            print(statistics.median(batches[1:]) * 1e6, flush=True)


class Gloo:
    def __init__(self, ranks, *options):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        env = dict(os.environ, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(ranks), OMP_NUM_THREADS="1")
        start = lambda r: subprocess.Popen(
            [sys.executable, __file__, "--rank", *options], env=dict(env, RANK=str(r)), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE if r == 0 else subprocess.DEVNULL,
        )
        self.ranks = [start(r) for r in range(ranks)]

    def measure(self, nnz, row, overlap, iterations, batches):
        for p in self.ranks:
            print(nnz, row, overlap, iterations, batches, file=p.stdin, flush=True)
        return float(self.ranks[0].stdout.readline())

    def forget(self):
        """Frees the tensors, so that `c10d perf` has enough memory while it is timed."""
        for p in self.ranks:
            print(0, 0, 0, 0, 0, file=p.stdin, flush=True)

    def end(self):
        for p in self.ranks:
            p.stdin.close()
        for p in self.ranks:
            p.wait()


def ours(args, transport, ranks, nnz, row, overlap, iterations):
    command = [args.c10d, "perf", "-n", str(ranks), "--ops", "all_reduce_sparse", "--transport", transport, "--pin"]
    command += ["--nnz", str(nnz), "--row", str(row), "--overlap", str(overlap), "--format", "csv"]
    command += ["--iters", str(iterations * 5)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(csv.DictReader(io.StringIO(out)))
    if line["errors"] != "0":
        sys.exit(f"wrong results: {line}")
    return float(line["median_us"])


def number(us):
    return f"{us / 1000:.1f} ms" if us >= 10000 else f"{us:.0f}" if us >= 100 else f"{us:.1f}"


def main():
    numbers = lambda text: [int(n) for n in text.split(",")]
    p = argparse.ArgumentParser()
    p.add_argument("--c10d", required=True)
    p.add_argument("--ranks", type=numbers, default=[2, 4])
    p.add_argument("--nnz", type=numbers, default=[1000, 10000, 100000, 1000000])
    p.add_argument("--row", type=numbers, default=[1, 64, 256])
    p.add_argument("--overlap", type=numbers, default=[0, 50, 100])
    p.add_argument("--batches", type=int, default=3)
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--limit", type=lambda mib: int(mib) << 20, default=1 << 30)
    args = p.parse_args()
    print("| ranks | nnz | row | overlap | Gloo | ours, TCP | Gloo / ours | ours, shm | Gloo / ours |")
    print("| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for ranks in args.ranks:
        gloos = {"bound": Gloo(ranks, "--pin"), "free": Gloo(ranks)}
        for nnz in args.nnz:
            for row in args.row:
                for overlap in args.overlap:
                    common = nnz * overlap // 100
                    union = common + ranks * (nnz - common)
                    entry = 4 * row + 8
                    if union * entry > args.limit or ranks * ranks * nnz * entry > 8 * args.limit:
                        continue
                    iterations = max(1, min(50, 2_000_000 // (nnz * (row + 4))))
                    point = (nnz, row, overlap, iterations)
                    times = {key: [] for key in (*gloos, "tcp", "shm")}
                    for _ in range(args.repeat):
                        for key, gloo in gloos.items():
                            times[key].append(gloo.measure(*point, args.batches))
                            if ranks * nnz * entry > LARGE:
                                gloo.forget()
                        for transport in ("tcp", "shm"):
                            times[transport].append(ours(args, transport, ranks, *point))
                    medians = {key: statistics.median(of) for key, of in times.items()}
                    g, t, s = min(medians["bound"], medians["free"]), medians["tcp"], medians["shm"]
                    cells = [ranks, nnz, row, f"{overlap} %", number(g), number(t), f"{g / t:.1f}", number(s), f"{g / s:.1f}"]
                    print("| " + " | ".join(map(str, cells)) + " |", flush=True)
        for gloo in gloos.values():
            gloo.end()


if __name__ == "__main__":
    rank_main() if "--rank" in sys.argv[1:] else main()

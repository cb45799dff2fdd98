"""Compares `c10d perf` over shared memory with `ideal.c`, which does the same ops by hand. Prints CSV.

    python ideal.py [--c10d target/release/c10d] [--ranks 2] [--ops all_reduce,..] [--bytes 1M,4M,16M,64M]

In each of --rounds rounds (default 3), both programs are timed in turn for each op and size. `ideal.c` tries several
ways, and `way` is the fastest. --budget is the time in ms (default 100) for a way of `ideal.c`, and for a point of
`c10d perf`. A time in µs is the shortest of all batches of all rounds; with --column median_us, it is the shortest of
the medians of the rounds. `ideal.c` has more batches than `c10d perf`, since it tries more. `share` is the time of the
ideal way divided by that of c10d: 0.9 means that c10d reaches 90 % of the ideal speed. Rank r of both programs is
bound to core r mod cores. The script needs a C compiler, and memory for two buffers of each rank.
"""

import argparse, csv, io, os, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
OPS = "all_reduce,reduce_scatter_into,all_gather_into,all_to_all_single,broadcast,reduce,gather,scatter,send_recv"


def rows(command):
    """Runs a program, and returns the rows of its CSV."""
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if ran.returncode:
        sys.exit(f"{' '.join(command)} ended with status {ran.returncode}")
    return list(csv.DictReader(io.StringIO(ran.stdout[ran.stdout.index("op,") :])))


def ideal(program, args, op, size):
    """Returns the time of the fastest way, and its name with the chunk size."""
    found = rows([program, str(args.ranks), size, op, str(args.budget)])
    best = min(found, key=lambda row: float(row[args.column]))
    return float(best[args.column]), f"{best['way']} {int(best['chunk']) >> 10}K"


def c10d(args, op, size):
    command = [args.c10d, "perf", "-n", str(args.ranks), "--alone", "--transport", "shm", "--pin", "--ops", op]
    (row,) = rows([*command, "--bytes", size, "--budget-ms", str(args.budget), "--format", "csv"])
    if row["errors"] != "0":
        sys.exit(f"wrong results: {row}")
    return float(row[args.column]), int(row["bytes"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--c10d", default="target/release/c10d")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--ops", default=OPS)
    parser.add_argument("--bytes", default="1M,4M,16M,64M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=100)
    parser.add_argument("--column", choices=["min_us", "median_us"], default="min_us")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "ideal")
        source = os.path.join(HERE, "ideal.c")
        subprocess.run(["cc", "-O3", "-march=native", "-o", program, source], check=True)
        print("op,ranks,bytes,ideal_us,way,c10d_us,share")
        for op in args.ops.split(","):
            for size in args.bytes.split(","):
                times = [(ideal(program, args, op, size), c10d(args, op, size)) for _ in range(args.rounds)]
                best, way = min(one for one, _ in times)
                ours, count = min(other for _, other in times)
                print(f"{op},{args.ranks},{count},{best:.2f},{way},{ours:.2f},{best / ours:.2f}", flush=True)


if __name__ == "__main__":
    main()

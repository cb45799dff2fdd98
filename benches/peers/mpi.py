"""Measures an all-reduce by `mpi.c` over an MPI library, and by `c10d perf` over `mpi` and `gloo-like`, in turn.

    python mpi.py --c10d target/release/c10d --lib PATH/libmpi_abi.so.1 [--ranks 2,4] [--bytes 8,..] [--rounds 5]

Prints a Markdown table of times in µs: for each of the five ways to run the op, the shortest time of --rounds rounds
(default 5). `mpi` / best is the time of `mpi` divided by the shorter of `messages` and `collective`. In a round, each
way is timed for all sizes, with --budget ms (default 50) for each size. `c10d` must have the feature `mpi`, and
the script needs a C compiler. Rank r of each way is bound to core r mod cores. All ranks belong to one session of the
operating system, because Linux may divide a core's time between sessions instead of processes.
"""

import argparse, csv, io, os, selectors, socket, subprocess, sys, tempfile, uuid

HERE = os.path.dirname(os.path.abspath(__file__))
SIZES = "8,64,1024,8192,65536,262144,1048576,4194304,16777216,67108864"


def answer(line, state, rank, ranks):
    """Returns the answer to one line of a rank in the protocol PMI-1.

    `None` means that the line begins a barrier. The caller answers all ranks when each has sent such a line.
    """
    ask = dict(word.split("=", 1) for word in line.split(" value=")[0].split(" ") if "=" in word)
    command, values = ask.get("cmd"), state["values"]
    if command == "init":
        return "cmd=response_to_init rc=0 pmi_version=1 pmi_subversion=1"
    if command == "get_maxes":
        return "cmd=maxes rc=0 kvsname_max=256 keylen_max=64 vallen_max=1024"
    if command == "get_my_kvsname":
        return f"cmd=my_kvsname rc=0 kvsname={state['name']}"
    if command == "put":
        values[ask["key"]] = line.split(" value=", 1)[1]
        return "cmd=put_result rc=0"
    if command == "get":
        value = values.get(ask["key"])
        return "cmd=get_result rc=1" if value is None else f"cmd=get_result rc=0 value={value}"
    if command == "barrier_in":
        state["waiting"].append(rank)
        return None
    return {"get_appnum": "cmd=appnum rc=0 appnum=0", "finalize": "cmd=finalize_ack rc=0"}.get(command, f"cmd={command}_result rc=1")


def run_c(program, library, ranks, budget, sizes):
    """Starts the ranks of the C program, answers their PMI requests, and returns their rows `way,bytes,µs`."""
    state = {"name": uuid.uuid4().hex, "values": {"PMI_process_mapping": f"(vector,(0,1,{ranks}))"}, "waiting": []}
    sockets, children = [], []
    for rank in range(ranks):
        ours, theirs = socket.socketpair()
        own = {"PMI_FD": str(theirs.fileno()), "PMI_RANK": str(rank), "PMI_SIZE": str(ranks), "MPIR_CVAR_PMI_VERSION": "1"}
        command = [program, library, str(budget), sizes]
        child = subprocess.Popen(command, env={**os.environ, **own}, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE)
        theirs.close()
        sockets.append(ours)
        children.append(child)
    with selectors.DefaultSelector() as open_ones:
        for rank, ours in enumerate(sockets):
            open_ones.register(ours, selectors.EVENT_READ, (rank, ours.makefile("rb")))
        while open_ones.get_map():
            for key, _ in open_ones.select():
                rank, lines = key.data
                line = lines.readline().decode().rstrip("\n")
                if not line:
                    open_ones.unregister(key.fileobj)
                    continue
                said = answer(line, state, rank, ranks)
                if said is not None:
                    sockets[rank].sendall((said + "\n").encode())
                if len(state["waiting"]) == ranks:
                    state["waiting"].clear()
                    for other in sockets:
                        other.sendall(b"cmd=barrier_out rc=0\n")
    texts = [child.communicate()[0].decode() for child in children]
    if any(child.returncode for child in children):
        sys.exit(f"{program} failed")
    return [row.split(",") for row in texts[0].splitlines() if row.count(",") == 2]


def run_c10d(program, backend, library, ranks, budget, sizes):
    command = [program, "perf", "-n", str(ranks), "--alone", "--ops", "all_reduce", "--pin", "--bytes", sizes]
    command += ["--budget-ms", str(budget), "--format", "csv", "--backend", f"cpu:{backend}"]
    environment = {**os.environ, "C10D_MPI_LIB": library}
    text = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout
    lines = text[text.index("op,") :]
    return [(backend, row["bytes"], row["median_us"]) for row in csv.DictReader(io.StringIO(lines))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--c10d", required=True)
    parser.add_argument("--lib", required=True)
    parser.add_argument("--ranks", default="2,4")
    parser.add_argument("--bytes", default=SIZES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=50)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "mpi")
        source = os.path.join(HERE, "mpi.c")
        subprocess.run(["cc", "-O3", "-march=native", "-o", program, source, "-ldl"], check=True)
        print("| ranks | bytes | messages | collective | blocking | `mpi` | `mpi` / best | `gloo-like` |")
        print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for ranks in map(int, args.ranks.split(",")):
            times = {}
            for _ in range(args.rounds):
                rows = run_c(program, args.lib, ranks, args.budget, args.bytes)
                for backend in ("mpi", "gloo-like"):
                    rows += run_c10d(args.c10d, backend, args.lib, ranks, args.budget, args.bytes)
                for way, size, micros in rows:
                    times.setdefault((way, int(size)), []).append(float(micros))
            for size in map(int, args.bytes.split(",")):
                ways = ("messages", "collective", "blocking", "mpi", "gloo-like")
                at = {way: min(times[way, size]) for way in ways}
                ratio = at["mpi"] / min(at["messages"], at["collective"])
                shown = [f"{at[way]:.3g}" for way in ways]
                print("|", " | ".join([str(ranks), str(size), *shown[:4], f"{ratio:.2f}", shown[4]]), "|", flush=True)


if __name__ == "__main__":
    main()

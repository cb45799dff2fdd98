"""Compares `torch.distributed` over a backend that does nothing, over Gloo, and over c10d_rs. It prints Markdown tables.

    python benches/peers/torch_backend.py [--ranks 2,4] [--bytes 8,64,..] [--ops all_reduce,..] [--models mlp-1m,..]

Python needs torch, c10d_rs and a C++ compiler. The time over the first backend (`nothing`) is torch's own cost. All
backends are measured in turns: --batches batches of ops, each after a barrier. The time of a batch is the time of its
slowest rank. A cell has the median over --repeat repetitions of the median of the batches. Ranks are bound to cores.
Gloo is also measured with ranks that are not bound, and the better result is shown. With --realtime, the ranks run
under `chrt -r 1` if there are at least as many cores as ranks. The results of all backends except the first are
checked. Times are µs per op; the time of `send_recv` is half a round trip. `cost` is (G - N) / (C - N), with the times
G over Gloo, N over the first backend and C over c10d_rs. `direct` is a backend that passes each call to the library of
c10d_rs and waits for it. `bridge` is the time of c10d_rs minus the time of `direct`: the cost of the Python package.

The second table has the time of a step of DistributedDataParallel (forward, backward, SGD), in ms. `hidden` is the
share of the all-reduce time that computation hides. 100 % means that the step takes no longer than over `nothing`. 0 %
means that the step takes longer than over `nothing` by the time that the all-reduces of the gradients take alone, or by
more.
"""

import argparse
import datetime
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

OPS = "all_reduce all_gather_into_tensor broadcast reduce_scatter_tensor all_to_all_single send_recv barrier".split()
JOBS = (("nothing", True), ("gloo", True), ("gloo", False), ("c10d_rs", True), ("direct", True))

NOTHING = r"""
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/utils/pybind.h>
#include <pybind11/chrono.h>
#include "shim/library.hpp"
using namespace c10d;
using Tensors = std::vector<at::Tensor>;
using Ref = c10::intrusive_ptr<Work>;
struct Done : Work {
  using Work::Work;
  bool isCompleted() override { return true; }
  bool wait(std::chrono::milliseconds) override { return true; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    auto future = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()));
    future->markCompleted(c10::IValue(tensors));
    return future;
  }
  Tensors tensors;
};
struct Nothing : Backend {
  using Backend::Backend;
  const std::string getBackendName() const override { return "nothing"; }
  Ref done(OpType op, Tensors tensors = {}) {
    auto work = c10::make_intrusive<Done>(rank_, op);
    work->tensors = std::move(tensors);
    return work;
  }
  Ref allreduce(Tensors& t, const AllreduceOptions&) override { return done(OpType::ALLREDUCE, t); }
  Ref broadcast(Tensors& t, const BroadcastOptions&) override { return done(OpType::BROADCAST, t); }
  // DistributedDataParallel compares the gathered values, so they must be right.
  Ref allgather(std::vector<Tensors>& outputs, Tensors& inputs, const AllgatherOptions&) override {
    for (auto& output : outputs.at(0)) output.copy_(inputs.at(0));
    return done(OpType::ALLGATHER);
  }
  Ref _allgather_base(at::Tensor&, at::Tensor&, const AllgatherOptions&) override { return done(OpType::_ALLGATHER_BASE); }
  Ref _reduce_scatter_base(at::Tensor&, at::Tensor&, const ReduceScatterOptions&) override {
    return done(OpType::_REDUCE_SCATTER_BASE);
  }
  Ref alltoall_base(at::Tensor&, at::Tensor&, std::vector<int64_t>&, std::vector<int64_t>&, const AllToAllOptions&) override {
    return done(OpType::ALLTOALL_BASE);
  }
  Ref send(Tensors&, int, int) override { return done(OpType::SEND); }
  Ref recv(Tensors&, int, int) override { return done(OpType::RECV); }
  Ref barrier(const BarrierOptions&) override { return done(OpType::BARRIER); }
};
// Passes every call to the library of c10d_rs, waits for it, and does nothing else.
struct Direct : Nothing {
  using List = std::vector<c10drs_tensor>;
  Direct(int rank, int size, const std::string& library, const std::string& url) : Nothing(rank, size) {
    load(library);
    c10drs_init init{};
    std::string name = "direct";
    init.bytes = sizeof(init);
    init.timeout_ms = 300000;
    init.name = text(name);
    init.url = text(url);
    c10drs_error* error = nullptr;
    TORCH_CHECK(lib.open(&init, &group, &error) == 0, error->text);
  }
  static List of(const at::Tensor& t) {
    bool wide = t.scalar_type() == at::kDouble;
    return {{t.data_ptr(), 0, static_cast<uint64_t>(t.numel()), wide ? C10DRS_TYPE_f64 : C10DRS_TYPE_f32}};
  }
  Ref run(OpType type, uint32_t op, const List& in, const List& out, uint32_t reduce = 0, int root = 0, int peer = 0) {
    c10drs_call call{};
    call.op = op;
    call.reduce = reduce;
    call.root = static_cast<uint32_t>(root);
    call.peer = static_cast<uint32_t>(peer);
    call.timeout_ms = -1;
    call.device_kind = 1;
    call.inputs = in.data();
    call.inputs_len = in.size();
    call.outputs = out.data();
    call.outputs_len = out.size();
    uint32_t source = 0;
    c10drs_error* error = nullptr;
    // PyTorch starts every message, and then waits for it.
    if (op == C10DRS_OP_send || op == C10DRS_OP_recv) {
      auto* work = lib.start(group, &call, [](void*) {}, nullptr, &error);
      TORCH_CHECK(work && lib.work_wait(work, -1, &source, &error) == 0, error->text);
      lib.work_free(work);
    } else {
      TORCH_CHECK(lib.run(group, &call, &source, &error) == 0, error->text);
    }
    return done(type);
  }
  Ref allreduce(Tensors& t, const AllreduceOptions& o) override {
    return run(OpType::ALLREDUCE, C10DRS_OP_all_reduce, {}, of(t[0]), static_cast<uint32_t>(o.reduceOp.op_));
  }
  Ref broadcast(Tensors& t, const BroadcastOptions& o) override {
    return run(OpType::BROADCAST, C10DRS_OP_broadcast, {}, of(t[0]), 0, static_cast<int>(o.rootRank));
  }
  Ref _allgather_base(at::Tensor& out, at::Tensor& in, const AllgatherOptions&) override {
    return run(OpType::_ALLGATHER_BASE, C10DRS_OP_all_gather_into, of(in), of(out));
  }
  Ref _reduce_scatter_base(at::Tensor& out, at::Tensor& in, const ReduceScatterOptions&) override {
    return run(OpType::_REDUCE_SCATTER_BASE, C10DRS_OP_reduce_scatter_into, of(in), of(out));
  }
  Ref alltoall_base(at::Tensor& out, at::Tensor& in, std::vector<int64_t>&, std::vector<int64_t>&, const AllToAllOptions&) override {
    return run(OpType::ALLTOALL_BASE, C10DRS_OP_all_to_all_single, of(in), of(out));
  }
  Ref send(Tensors& t, int to, int) override { return run(OpType::SEND, C10DRS_OP_send, of(t[0]), {}, 0, 0, to); }
  Ref recv(Tensors& t, int from, int) override { return run(OpType::RECV, C10DRS_OP_recv, {}, of(t[0]), 0, 0, from); }
  Ref barrier(const BarrierOptions&) override { return run(OpType::BARRIER, C10DRS_OP_barrier, {}, {}); }
  void shutdown() override { lib.close(std::exchange(group, nullptr)); }
  c10drs_group* group = nullptr;
};
PYBIND11_MODULE(NAME, m) {
  m.def("direct", [](int rank, int size, std::string library, std::string url) -> c10::intrusive_ptr<Backend> {
    return c10::make_intrusive<Direct>(rank, size, library, url);
  });
  m.def("open", [](int rank, int size) -> c10::intrusive_ptr<Backend> { return c10::make_intrusive<Nothing>(rank, size); });
}
"""


def nothing(path):
    """Loads and registers the backends `nothing` and `direct`."""
    import importlib.util

    import torch.distributed as dist

    spec = importlib.util.spec_from_file_location("_nothing", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dist.Backend.register_backend("nothing", lambda _store, rank, size, _timeout: module.open(rank, size), devices=["cpu"])

    def direct(_store, rank, size, _timeout):
        from c10d_rs import _locate

        url = f"tcp://127.0.0.1:{os.environ['DIRECT_PORT']}?rank={rank}&world_size={size}"
        return module.direct(rank, size, _locate.library(), url)

    dist.Backend.register_backend("direct", direct, devices=["cpu"])


# ---- the ranks


def prepared(torch, dist, op, nbytes):
    """Returns the op to measure, and a function that checks its result."""
    me, n = dist.get_rank(), dist.get_world_size()
    count = max(1, nbytes // 4)
    part = max(1, count // n)
    everybody = n * (n + 1) / 2

    def filled(size, value=float(me + 1)):
        return torch.full((size,), value)

    def is_(tensor, value):
        return bool((tensor == value).all())

    if op == "all_reduce":
        x = filled(count)
        run = lambda: dist.all_reduce(x)

        def right():
            x.fill_(float(me + 1))
            run()
            return is_(x, everybody)

    elif op == "all_gather_into_tensor":
        x, out = filled(part), torch.zeros(part * n)
        run = lambda: dist.all_gather_into_tensor(out, x)

        def right():
            run()
            return all(is_(out[r * part : (r + 1) * part], r + 1) for r in range(n))

    elif op == "broadcast":
        x, root = filled(count), 0

        def run():
            # The roots take turns, because small ops from a fixed root do not wait for the other ranks.
            nonlocal root
            root = (root + 1) % n
            dist.broadcast(x, root)

        def right():
            x.fill_(float(me + 1))
            run()
            return is_(x, root + 1)
    elif op == "reduce_scatter_tensor":
        x, out = filled(part * n), torch.zeros(part)
        run = lambda: dist.reduce_scatter_tensor(out, x)

        def right():
            run()
            return is_(out, everybody)

    elif op == "all_to_all_single":
        x, out = filled(part * n), torch.zeros(part * n)
        run = lambda: dist.all_to_all_single(out, x)

        def right():
            run()
            return all(is_(out[r * part : (r + 1) * part], r + 1) for r in range(n))

    elif op == "send_recv":
        x, out = filled(count), torch.zeros(count)
        peer = me ^ 1

        def run():
            if me % 2 == 0:
                dist.send(x, peer)
                dist.recv(out, peer)
            else:
                dist.recv(out, peer)
                dist.send(x, peer)

        def right():
            run()
            return is_(out, peer + 1)

    else:
        run = dist.barrier
        right = lambda: run() is None
    return run, right


def slowest(torch, dist, seconds):
    box = torch.tensor([seconds], dtype=torch.float64)
    dist.all_reduce(box, dist.ReduceOp.MAX)
    return box.item()


def timed_op(torch, dist, op, nbytes, batches, budget):
    """Returns the time of an op in microseconds, and whether its results were correct."""
    run, right = prepared(torch, dist, op, nbytes)

    def batch(iterations):
        dist.barrier()
        start = time.perf_counter()
        for _ in range(iterations):
            run()
        return slowest(torch, dist, time.perf_counter() - start) / iterations

    few = batch(3)
    iterations = int(min(2000, max(2, budget / batches / max(batch(3), min(few, 1e-6)))))
    ok = right()
    us = statistics.median(batch(iterations) for _ in range(batches)) * 1e6
    return us / (2 if op == "send_recv" else 1), ok and right()


def model(torch, name):
    """Returns a module and its input."""
    nn = torch.nn
    if name != "resnet18":
        width = {"mlp-1m": 576, "mlp-25m": 2880}[name]
        layers = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)]
        return nn.Sequential(*layers), torch.randn(16, width)

    class Block(nn.Module):
        def __init__(self, into, out, stride):
            super().__init__()
            self.a = nn.Sequential(nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())
            self.b = nn.Sequential(nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out))
            short = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            self.short = nn.Identity() if stride == 1 and into == out else short

        def forward(self, x):
            return torch.relu(self.b(self.a(x)) + self.short(x))

    widths = [64, 64, 128, 256, 512]
    blocks = [b for i, (a, w) in enumerate(zip(widths, widths[1:])) for b in (Block(a, w, 1 + (i > 0)), Block(w, w, 1))]
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
    return nn.Sequential(*stem, *blocks, *head), torch.randn(2, 3, 64, 64)


def timed_step(torch, dist, name, batches, checked):
    """Returns the seconds of a step, those of its all-reduces alone, and whether all ranks have the same parameters."""
    torch.manual_seed(0)
    net, x = model(torch, name)
    net = torch.nn.parallel.DistributedDataParallel(net)
    opt = torch.optim.SGD(net.parameters(), lr=1e-3)

    def step():
        opt.zero_grad()
        net(x).square().mean().backward()
        opt.step()

    # The sizes of DDP's buckets: 1 MiB, then 25 MiB each.
    total, buckets, most = sum(p.numel() for p in net.parameters()), [], 1 << 18
    while total > 0:
        buckets.append(torch.zeros(min(total, most)))
        total, most = total - most, 25 << 18

    def alone():
        for work in [dist.all_reduce(b, async_op=True) for b in buckets]:
            work.wait()

    def batch(what):
        dist.barrier()
        start = time.perf_counter()
        what()
        return slowest(torch, dist, time.perf_counter() - start)

    for _ in range(3):
        step()
        alone()
    steps, alones = [batch(step) for _ in range(batches)], [batch(alone) for _ in range(batches)]
    same = True
    if checked:
        for p in net.parameters():
            low, high = p.detach().clone(), p.detach().clone()
            dist.all_reduce(low, dist.ReduceOp.MIN)
            dist.all_reduce(high, dist.ReduceOp.MAX)
            same = same and torch.equal(low, high)
    return statistics.median(steps), statistics.median(alones), same


def rank_main(backend, bound, path):
    """Runs a rank. It reads what to measure from standard input, one measurement per line; rank 0 prints the results."""
    if bound == "bound":
        os.sched_setaffinity(0, {int(os.environ["RANK"]) % os.cpu_count()})
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    torch.ones(16 << 20, dtype=torch.uint8)  # freed at once; after that, glibc reuses freed blocks of up to this size
    if backend in ("nothing", "direct"):
        nothing(path)
    dist.init_process_group(backend, timeout=datetime.timedelta(seconds=300))
    for line in sys.stdin:
        what, size, batches, budget = line.split()
        if what in OPS:
            answer = timed_op(torch, dist, what, int(size), int(batches), float(budget))
        else:
            answer = timed_step(torch, dist, what, int(batches), backend != "nothing")
        if dist.get_rank() == 0:
            print(*answer, flush=True)
    dist.destroy_process_group()


# ---- the process that starts the ranks


class Job:
    """The ranks of one backend."""

    def __init__(self, backend, bound, ranks, path, realtime):
        with socket.socket() as s, socket.socket() as t:
            s.bind(("127.0.0.1", 0))
            t.bind(("127.0.0.1", 0))
            port, direct = s.getsockname()[1], t.getsockname()[1]
        self.backend = backend
        env = dict(os.environ, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(ranks), OMP_NUM_THREADS="1")
        env["DIRECT_PORT"] = str(direct)
        command = [sys.executable, os.path.abspath(__file__), "--rank", backend, "bound" if bound else "free", path]
        if realtime and ranks <= os.cpu_count():
            command = ["chrt", "-r", "1", *command]
        self.ranks = [
            subprocess.Popen(
                command, env=dict(env, RANK=str(r)), text=True, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if r == 0 else subprocess.DEVNULL,
            )
            for r in range(ranks)
        ]  # fmt: skip

    def ask(self, *point):
        for p in self.ranks:
            print(*point, file=p.stdin, flush=True)
        answer = self.ranks[0].stdout.readline().split()
        if not answer or (answer[-1] != "True" and self.backend != "nothing"):
            sys.exit(f"{self.backend}: no results or wrong results for {point}: {answer}")
        return [float(number) for number in answer[:-1]]

    def end(self):
        for p in self.ranks:
            p.stdin.close()
        for p in self.ranks:
            p.wait()


def compiled(folder):
    from c10d_rs import _build

    source, out = os.path.join(folder, "nothing.cpp"), os.path.join(folder, "_nothing.so")
    with open(source, "w") as file:
        file.write(NOTHING.replace("NAME", "_nothing"))
    subprocess.run([*_build.command(source, out), "-I", os.path.dirname(_build.__file__)], check=True)
    return out


def size_name(n):
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n} {unit}"
        n //= 1024


def main():
    numbers = lambda text: [int(n) for n in text.split(",")]
    words = lambda text: text.split(",") if text else []
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ranks", type=numbers, default=[2, 4])
    p.add_argument("--bytes", type=numbers, default=[8, 1 << 10, 64 << 10, 4 << 20, 64 << 20])
    p.add_argument("--ops", type=words, default=OPS)
    p.add_argument("--models", type=words, default=["mlp-1m", "mlp-25m", "resnet18"])
    p.add_argument("--batches", type=int, default=5)
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--budget", type=float, default=0.05, help="seconds per point, backend and repetition")
    p.add_argument("--realtime", action="store_true", help="real-time priority, if there is a core for each rank")
    p.add_argument("--nothing", help="the file of the backend that does nothing, if it was built before")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.nothing or compiled(folder)
        for ranks in args.ranks:
            jobs = [Job(*job, ranks, path, args.realtime) for job in JOBS]
            try:
                if args.ops:
                    ops_table(args, ranks, jobs)
                if args.models:
                    steps_table(args, ranks, jobs)
            finally:
                for job in jobs:
                    job.end()


def asked(args, jobs, *point):
    """Returns the median times over `nothing`, Gloo (bound or not, the better), c10d_rs, and `direct` if measured."""
    found = [[job.ask(*point) for job in jobs] for _ in range(args.repeat)]
    none, bound, free, *rest = [[statistics.median(numbers) for numbers in zip(*answers)] for answers in zip(*found)]
    return none, min(bound, free), *rest


def ops_table(args, ranks, jobs):
    print(f"\n{ranks} ranks, µs\n\n| op | size | nothing | Gloo | c10d_rs | Gloo / ours | cost | bridge |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for op in args.ops:
        for nbytes in args.bytes if op != "barrier" else [0]:
            (none,), (gloo,), (ours,), (direct,) = asked(args, jobs, op, nbytes, args.batches, args.budget)
            cost = f"{(gloo - none) / (ours - none):.1f}" if ours > none else "∞"
            size = size_name(nbytes) if nbytes else ""
            cells = [op, size, f"{none:.1f}", f"{gloo:.1f}", f"{ours:.1f}", f"{gloo / ours:.1f}", cost, f"{ours - direct:.1f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


def steps_table(args, ranks, jobs):
    print(f"\n{ranks} ranks, ms\n\n| step of | nothing | Gloo | c10d_rs | hidden, Gloo | hidden, ours |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in args.models:
        (none, _), gloo, ours = asked(args, jobs[:4], name, 0, 2 * args.batches, 0)
        hidden = [f"{100 * min(1, max(0, 1 - (step - none) / alone)):.0f} %" for step, alone in (gloo, ours)]
        cells = [name, *(f"{s * 1e3:.1f}" for s in (none, gloo[0], ours[0])), *hidden]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    rank_main(*sys.argv[2:]) if sys.argv[1:2] == ["--rank"] else main()

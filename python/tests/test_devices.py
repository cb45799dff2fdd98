"""Tensors that are not on the CPU: a plugin's device as PyTorch's PrivateUse1, and CUDA over a simulated driver."""

import ctypes as c
import importlib.util
import os
import struct
import subprocess
import sys
import types

import job
import pytest
import torch
import torch.distributed as dist
from c10d_rs import _backend, _build

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PLUGINS = os.path.join(ROOT, "c10d-privateuse")
# The plugins of the tests, and how errors name their backends.
SAMPLES = {"c-device": "cdev staged by gloo-like", "c-collectives": "cdev"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the extension of this test, and with two plugins for a device that PyTorch calls `cdev`.

    The plugin `c-device` has no collectives, `c-collectives` has its own.
    """
    folder = tmp_path_factory.mktemp("device")
    include = os.path.join(PLUGINS, "include")
    for sample in SAMPLES:
        with open(os.path.join(PLUGINS, "vendors", sample, f"{sample}.c")) as file:
            plugin = file.read().replace(f'"{sample}"', '"cdev"')
        (folder / f"{sample}.c").write_text(plugin)
        (folder / sample).mkdir(mode=0o755)
        built = folder / sample / "libc10d_cdev.so"
        cc = ["cc", "-std=gnu11", "-shared", "-fPIC", "-pthread", "-I", include, str(folder / f"{sample}.c"), "-o", str(built)]
        subprocess.run(cc, check=True, timeout=600)
        built.chmod(0o755)
    command = _build.command(os.path.join(HERE, "device.cpp"), str(folder / "_c10d_rs_device.so"))
    done = subprocess.run([*command, "-O0", "-I", include], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    return str(folder)


def extension(folder):
    spec = importlib.util.spec_from_file_location("_c10d_rs_device", os.path.join(folder, "_c10d_rs_device.so"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def device_of_plugin(folder, sample="c-device"):
    """Makes PyTorch's PrivateUse1 the plugin's device."""
    torch.utils.rename_privateuse1_backend("cdev")
    module = types.SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, _is_in_bad_fork=lambda: False, device_count=lambda: 1,
        current_device=lambda: 0, _lazy_init=lambda: None,
    )  # fmt: skip
    torch._register_device_module("cdev", module)
    extension(folder).open(os.path.join(folder, sample, "libc10d_cdev.so"))


def on_plugin(r, folder, sample):
    device_of_plugin(folder, sample)
    r.init("cpu:c10d_rs,cdev:c10d_rs")
    n, me = r.world, r.rank
    mine = lambda count=3: torch.full((count,), float(me)).to("cdev")
    total = float(sum(range(n)))
    x = mine()
    dist.all_reduce(x)
    assert x.device.type == "cdev" and x.cpu().tolist() == [total] * 3
    work = dist.all_reduce(x, async_op=True)
    work.wait()
    assert x.cpu().tolist() == [total * n] * 3
    # A part of a tensor, and a tensor that is not contiguous.
    whole = torch.arange(8.0).to("cdev")
    dist.all_reduce(whole[2:5])
    assert whole.cpu().tolist() == [i * n if 2 <= i < 5 else i for i in range(8)]
    square = torch.arange(6.0).reshape(2, 3).to("cdev")
    dist.all_reduce(square.t())
    assert torch.equal(square.cpu(), torch.arange(6.0).reshape(2, 3) * n)
    dist.all_reduce(square.t(), async_op=True).wait()
    assert torch.equal(square.cpu(), torch.arange(6.0).reshape(2, 3) * n * n)
    x = mine()
    dist.broadcast(x, n - 1)
    assert x.cpu().tolist() == [n - 1] * 3
    outs = [torch.zeros(i + 1).to("cdev") for i in range(n)]
    dist.all_gather(outs, mine(me + 1))
    assert [t.cpu().tolist() for t in outs] == [[float(i)] * (i + 1) for i in range(n)]
    out = torch.zeros(2 * n).to("cdev")
    dist.all_gather_into_tensor(out, mine(2))
    assert out.cpu().tolist() == [float(i) for i in range(n) for _ in range(2)]
    part = torch.zeros(2).to("cdev")
    dist.reduce_scatter_tensor(part, torch.ones(2 * n).to("cdev"))
    assert part.cpu().tolist() == [n] * 2
    dist.all_to_all_single(out, torch.full((2 * n,), float(me)).to("cdev"))
    assert out.cpu().tolist() == [float(i) for i in range(n) for _ in range(2)]
    if hasattr(dist, "gather_single"):
        dist.gather_single(mine(2), out if me == 0 else None, dst=0)
    if n > 1 and me < 2:
        if me == 0:
            dist.send(torch.ones(5).to("cdev"), 1)
        else:
            box = torch.zeros(5).to("cdev")
            dist.recv(box, 0)
            assert box.cpu().tolist() == [1.0] * 5
    # CPU tensors of the same group.
    x = torch.ones(3)
    dist.all_reduce(x)
    assert x.tolist() == [n] * 3
    dist.barrier()
    # The tensors of one call must be on one device.
    with pytest.raises(ValueError, match="the tensors of the call are on cdev:0 and on cpu|on cpu and on cdev:0"):
        dist.group.WORLD._get_backend(torch.device("cpu"))._allgather_base(torch.zeros(n).to("cdev"), torch.zeros(1))
    group = dist.new_group(backend="cpu:c10d_rs,cdev:c10d_rs")
    x = mine()
    dist.all_reduce(x, group=group)
    assert x.cpu().tolist() == [total] * 3
    if n > 1:
        # The error names the backend that ran the op.
        with pytest.raises(dist.DistBackendError, match=rf"backend {SAMPLES[sample]}[],]") as e:
            dist.all_reduce(mine(3 + me), group=group)
        assert e.value.kind == "Mismatch" and e.value.guilty_ranks, e.value


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_the_device_of_a_plugin(world, sample, built):
    job.run(on_plugin, world, built, sample, env={"C10D_PLUGIN_PATH": os.path.join(built, sample)})


def leaves_a_torn_store(r, folder):
    """Leaves a group whose store does not answer any more, as if a rank had died while it wrote to the file."""
    device_of_plugin(folder, "c-collectives")
    path = os.path.join(r.folder, "own")
    r.init("cpu:c10d_rs,cdev:c10d_rs", store=dist.FileStore(path, r.world))
    dist.all_reduce(torch.ones(3).to("cdev"))
    r.meet("used", range(r.world))
    if r.rank == 0:
        with open(path, "ab") as file:
            file.write(struct.pack("=I", 100) + b"a part of a key")
    r.meet("torn", range(r.world))
    dist.group.WORLD._get_backend(torch.device("cdev")).shutdown()
    r.meet("left", range(r.world))
    # At a normal exit, PyTorch would use the store and hang.
    os._exit(0)


def test_a_store_that_hangs_does_not_keep_a_rank_in_its_group(built):
    env = {"C10D_PLUGIN_PATH": os.path.join(built, "c-collectives")}
    found = job.outcomes(leaves_a_torn_store, 2, built, limit=120, env=env)
    assert [(type(end).__name__, getattr(end, "exitcode", end)) for end in found] == [("Died", 0)] * 2


def without_plugin(r, folder):
    device_of_plugin(folder)
    r.init("cpu:c10d_rs,cdev:c10d_rs")
    x = torch.ones(3).to("cdev")
    with pytest.raises(dist.DistBackendError, match="cdev") as e:
        dist.all_reduce(x)
    assert not e.value.group_failed, e.value
    x = torch.ones(3)
    dist.all_reduce(x)
    assert x.tolist() == [r.world] * 3
    return str(e.value)


def test_a_missing_plugin_is_named(built):
    words = job.run(without_plugin, 2, built, env={"C10D_PLUGIN_PATH": os.path.join(built, "none")})
    print(words)


def other_device(r):
    r.init("cpu:c10d_rs,meta:c10d_rs")


def test_a_device_without_ops_is_an_error():
    for raised in job.outcomes(other_device, 2):
        assert "this backend has no ops for tensors on meta" in raised.words, raised


def no_driver(r):
    r.init("cpu:c10d_rs,cuda:c10d_rs")


def test_cuda_without_a_driver_is_an_error():
    if torch.cuda.is_available():
        pytest.skip("skipped: this machine has a GPU")
    for raised in job.outcomes(no_driver, 2):
        assert raised.type == "BackendError", raised
        # A library that was built in a checkout may lack the cargo feature `nccl`.
        assert "libcuda.so.1" in raised.words or 'no backend is named "nccl"' in raised.words, raised


def cpu_alone(r):
    """If the group uses c10d_rs only for CPU tensors, c10d_rs does not ask the library for a CUDA backend."""
    native, asked = _backend.shim(), []
    make = native.open

    def seen(*args):
        asked.append(args[-1]._backends)
        return make(*args)

    native.open = seen
    r.init("cpu:c10d_rs")
    dist.all_reduce(torch.ones(3))
    assert asked == ["cpu:gloo-like"]


def test_a_cpu_group_asks_for_no_cuda_backend():
    job.run(cpu_alone, 2)


def on_cuda(r, folder):
    torch_device = extension(folder)
    driver = c.CDLL("libcuda.so.1")
    r.init("cpu:c10d_rs,cuda:c10d_rs")
    n, me = r.world, r.rank
    driver.cuInit(0)
    context = c.c_uint64()
    assert driver.cuDevicePrimaryCtxRetain(c.byref(context), me) == 0 and driver.cuCtxSetCurrent(context) == 0
    stream = c.c_uint64()
    assert driver.cuStreamCreate(c.byref(stream), 1) == 0

    def tensor(values):
        address, data = c.c_uint64(), (c.c_float * len(values))(*values)
        assert driver.cuMemAlloc_v2(c.byref(address), c.c_size_t(c.sizeof(data))) == 0
        assert driver.cuMemcpyHtoDAsync_v2(address, c.c_uint64(c.addressof(data)), c.c_size_t(c.sizeof(data)), stream) == 0
        made = torch_device.cuda_tensor(address.value, len(values), me, stream.value)
        made_of.append(data)
        return made

    def values(tensor):
        data = (c.c_float * tensor.numel())()
        address = c.c_uint64(tensor.data_ptr())
        assert driver.cuMemcpyDtoHAsync_v2(c.c_uint64(c.addressof(data)), address, c.c_size_t(c.sizeof(data)), stream) == 0
        assert driver.cuStreamSynchronize(stream) == 0
        return list(data)

    made_of = []
    x = tensor([float(me), 1.0, 2.0])
    assert x.device == torch.device("cuda", me)
    # If the op runs before the copy on the stream, the simulated driver reports a race.
    dist.all_reduce(x)
    assert values(x) == [float(sum(range(n))), n, 2.0 * n]
    work = dist.all_reduce(x, async_op=True)
    work.wait()
    assert values(x) == [float(sum(range(n))) * n, n * n, 2.0 * n * n]
    whole = tensor([0.0] * (2 * n))
    dist.all_gather_into_tensor(whole, tensor([float(me)] * 2))
    assert values(whole) == [float(i) for i in range(n) for _ in range(2)]
    y = torch.ones(3)
    dist.all_reduce(y)
    assert y.tolist() == [n] * 3
    dist.destroy_process_group()


def whole_nccl(fake, folder):
    """A library with the simulated NCCL, and with the functions of NCCL that PyTorch links but the simulation lacks.

    A call of such a function aborts the process.
    """
    cuda = os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cuda.so")
    named = lambda which, file: {
        line.split()[-1].split("@")[0]
        for line in subprocess.run(["nm", "-D", which, file], capture_output=True, text=True, check=True).stdout.splitlines()
    }
    missing = sorted(n for n in named("--undefined-only", cuda) - named("--defined-only", fake) if n.startswith(("nccl", "pnccl")))
    source, whole = folder / "whole.c", folder / "whole_nccl.so"
    source.write_text("#include <stdlib.h>\n" + "".join(f"void {name}(void) {{ abort(); }}\n" for name in missing))
    os.symlink(fake, folder / "libc10d_fake_nccl.so")
    link = ["-L", str(folder), "-Wl,--no-as-needed", "-lc10d_fake_nccl"]
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(whole), *link], check=True, timeout=600)
    return whole


def test_cuda_tensors_work_over_a_simulated_driver(built, tmp_path):
    if not torch.version.cuda:
        pytest.skip("skipped: this PyTorch is built without CUDA")
    folders = [os.path.join(ROOT, "target", kind, *deps) for kind in ("debug", "release") for deps in ([], ["deps"])]
    fakes = [os.path.join(folder, "libc10d_fake_nccl.so") for folder in folders]
    fake = max(filter(os.path.exists, fakes), key=os.path.getmtime, default=None)
    if fake is None:
        pytest.skip("skipped: the simulated driver is not built (cargo build -p c10d-fake-nccl)")
    os.symlink(fake, tmp_path / "libcuda.so.1")
    os.symlink(whole_nccl(fake, tmp_path), tmp_path / "libnccl.so.2")
    # Some releases of PyTorch load NCCL from the first folder `nccl/lib` in `sys.path`.
    (tmp_path / "nccl" / "lib").mkdir(parents=True)
    os.symlink(tmp_path / "libnccl.so.2", tmp_path / "nccl" / "lib" / "libnccl.so.2")
    # The linker must find the simulated libraries before PyTorch's own, so these ranks are not forked from `job`'s
    # server.
    python_path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    env = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "LD_PRELOAD": "libnccl.so.2", "PYTHONPATH": python_path}
    ranks = [
        subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), str(rank), "2", str(tmp_path), built],
            env={**env, "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        outs = [p.communicate(timeout=300)[0] for p in ranks]
    finally:
        for p in ranks:
            p.kill()
            p.wait()
    assert [p.returncode for p in ranks] == [0, 0], "\n".join(outs)


if __name__ == "__main__":
    on_cuda(job.Rank(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]), sys.argv[4])

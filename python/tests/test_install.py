"""The folders of the shim, its build, the fallback without it, and the import, which starts nothing."""

import ast
import inspect
import os
import re
import stat
import subprocess
import sys

import job
import pytest
import torch
import torch.distributed as dist
from c10d_rs import _backend, _build, _interface


def python(code, **env):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_starts_and_builds_nothing(tmp_path):
    out = python(
        "import threading, os, torch, torch.distributed as d\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "import c10d_rs\n"
        "assert len(os.listdir('/proc/self/task')) == before\n"
        "assert 'c10d_rs' in d.Backend.backend_list\n"
        "print(os.listdir(os.environ['C10D_RS_CACHE']))",
        C10D_RS_CACHE=str(tmp_path),
    )
    assert out.strip() == "[]"


FORK = """
import os, sys, datetime
import torch, torch.distributed as dist
import c10d_rs

def rank(me, store, limit=60):
    dist.init_process_group("c10d_rs", init_method=f"file://{store}", rank=me, world_size=2,
                            timeout=datetime.timedelta(seconds=limit))
    x = torch.ones(3)
    dist.all_reduce(x)
    dist.all_reduce(x, async_op=True).get_future().wait()
    assert x.tolist() == [4.0] * 3

def forked(body):
    child = os.fork()
    if child == 0:
        try:
            body()
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    return child

children = [forked(lambda: rank(me, sys.argv[1])) for me in range(2)]
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
# PyTorch's FileStore counts every process that drops it as a member that leaves. If forks drop it, the file may be
# removed and made anew while the members use it, and then PyTorch reads it in an endless loop. So the forks keep it.
kept = []

# A fork of a rank neither uses nor ends the group.
def parent(me):
    rank(me, sys.argv[2])
    def child():
        kept.append(dist.distributed_c10d._get_default_store())
        try:
            dist.all_reduce(torch.ones(3))
            raise AssertionError("a fork took part in the group")
        except dist.DistBackendError:
            pass
        dist.destroy_process_group()
    grandchild = forked(child)
    assert os.waitpid(grandchild, 0)[1] == 0
    x = torch.ones(3)
    dist.all_reduce(x)
    assert x.tolist() == [2.0] * 3
    dist.destroy_process_group()
children = [forked(lambda: parent(me)) for me in range(2)]
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
print("forked")
"""


def test_forks_work_after_the_import(tmp_path):
    command = [sys.executable, "-c", FORK, str(tmp_path / "a"), str(tmp_path / "b")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout == "forked\n", done.stdout + done.stderr


def stand_in(path):
    """A program in place of the compiler, which counts its calls and makes the output file."""
    path.write_text(f"#!/bin/sh\nset -e\necho one >> {path}.calls\nsleep 1\nwhile [ $# -gt 0 ]; do [ $1 = -o ] && : > $2; shift; done\n")
    path.chmod(0o755)
    return str(path)


def test_several_processes_build_the_shim_once(tmp_path):
    code = "from c10d_rs import _build; print(_build.build())"
    env = {**os.environ, "CXX": stand_in(tmp_path / "cxx"), "C10D_RS_CACHE": str(tmp_path / "cache")}
    all_ = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env) for _ in range(3)]
    paths = {p.communicate(timeout=600)[0].strip() for p in all_}
    assert len(paths) == 1 and os.path.exists(paths.pop())
    assert (tmp_path / "cxx.calls").read_text() == "one\n"


def test_what_others_may_write_to_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", stand_in(tmp_path / "cxx"))
    open_to_all = tmp_path / "cache" / "c10d_rs"
    open_to_all.mkdir(parents=True)
    open_to_all.chmod(0o777)
    monkeypatch.delenv("C10D_RS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    made = _build.build()
    assert made.startswith(str(tmp_path / "tmp")), made
    # A file that others may write to is not loaded either.
    os.chmod(made, os.stat(made).st_mode | stat.S_IWOTH)
    assert _build.existing() is None


def test_the_output_of_a_failed_compiler_is_quoted(tmp_path, monkeypatch):
    cxx = tmp_path / "cxx"
    cxx.write_text("#!/bin/sh\necho no such thing >&2\nexit 1\n")
    cxx.chmod(0o755)
    monkeypatch.setenv("CXX", str(cxx))
    monkeypatch.setenv("C10D_RS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(_build.CannotBuild, match="no such thing"):
        _build.build()


def test_without_a_writable_cache_the_temporary_folder_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", stand_in(tmp_path / "cxx"))
    monkeypatch.delenv("C10D_RS_CACHE", raising=False)
    # Root may write everywhere, so a file is in place of the folder.
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = _build.build()
    assert made.startswith(str(tmp_path / f"c10d_rs-{os.getuid()}")) and _build.existing() == made
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "home"))
    with pytest.raises(_build.CannotBuild, match="none of .* is a folder that only this user may write to"):
        _build.build()


def command(*args, **env):
    env = {**os.environ, **env}
    return subprocess.run([sys.executable, "-m", "c10d_rs", *args], capture_output=True, text=True, timeout=600, env=env)


def test_the_build_command_builds_the_shim(tmp_path):
    there = {"CXX": stand_in(tmp_path / "cxx"), "C10D_RS_CACHE": str(tmp_path / "cache")}
    done = command("build", **there)
    assert done.returncode == 0 and os.path.exists(done.stdout.splitlines()[-1]), done
    none = command("build", PATH="", CXX="", C10D_RS_CACHE=str(tmp_path / "other"))
    assert none.returncode == 1 and "there is no C++ compiler" in none.stderr, none


def test_the_info_command_prints_versions_and_backends(tmp_path):
    done = command("info", C10D_RS_CACHE=str(tmp_path))
    facts = dict(line.split(maxsplit=1) for line in done.stdout.split("\n\n")[0].splitlines())
    assert done.returncode == 0, done
    assert facts["torch"] == torch.__version__ and os.path.exists(facts["library"]), facts
    assert facts["shim"].startswith("not built yet"), facts
    assert "backend gloo-like of c10d-gloo-like, devices cpu: available" in done.stdout, done.stdout
    table = [line.split()[:2] for line in done.stdout.splitlines()]
    assert all([op, "gloo-like"] in table for op in _interface.OPS), done.stdout
    none = command("info", C10D_RS_CACHE=str(tmp_path), PATH="", CXX="")
    assert "none: the fallback in Python is used" in none.stdout, none


@pytest.mark.parametrize("name", ["__init__", "dlpack"])
def test_type_stubs_match_the_modules(name):
    module = __import__("c10d_rs" if name == "__init__" else f"c10d_rs.{name}", fromlist=["*"])
    with open(os.path.join(os.path.dirname(_build.__file__), f"{name}.pyi")) as file:
        stub = ast.parse(file.read())
    told = {node.name for node in stub.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    told |= {node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)}
    assert told == set(module.__all__)
    for node in stub.body:
        if isinstance(node, ast.FunctionDef):
            names = list(inspect.signature(getattr(module, node.name)).parameters)
            assert [arg.arg for arg in node.args.args] == names, node.name


# Methods of PyTorch's backends that the shim does not override, with the reason.
LEFT = {
    "PyTorch calls the method with the older name": """all_gather_single all_gather_single_coalesced gather_single
        reduce_scatter_single reduce_scatter_single_coalesced all_to_all_single""",
    "PyTorch's own implementation is right": """isInitialized addEphemeralTimeout setGroupUid getBoundDeviceId setBoundDeviceId
        eagerConnectSingleDevice supportsTensorAlloc""",
    "PyTorch's own implementation says that the backend lacks this optional feature": """supportsTimeEstimation
        startTimeEstimate endTimeEstimate supportsWindow new_window supportsAbortHooks registerAbortHook unregisterAbortHook supportsCompletionHooks registerCompletionHook
        unregisterCompletionHook registerOnCompletionHook waitForPendingWorks getMemAllocator allocateTensor suspend resume
        getMemoryStats supportsReconfigure get_reconfigure_handle reconfigure""",
}


def test_the_shim_has_every_method():
    """If PyTorch has a new method, this test fails, so that a maintainer decides whether the shim needs the method."""
    headers = os.path.join(os.path.dirname(torch.__file__), "include", "torch", "csrc", "distributed", "c10d")
    shim = os.path.join(os.path.dirname(_build.__file__), "shim")
    with open(os.path.join(headers, "Backend.hpp")) as file:
        methods = set(re.findall(r"\bvirtual [^;{}]*?(\w+)\s*\(", file.read()))
    ours = set()
    for name in ("backend.hpp", "ops.hpp"):
        with open(os.path.join(shim, name)) as file:
            ours |= set(re.findall(r"^  [\w:<>*& ]+ [*&]?(\w+)\(", file.read(), re.MULTILINE))
    left = set(" ".join(LEFT.values()).split())
    assert len(methods) > 40 and not left & ours, left & ours
    assert not methods - ours - left, methods - ours - left


def without_a_shim(r):
    import warnings

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        r.init()
        dist.new_group()
    assert len([w for w in told if "without its C++ shim" in str(w.message)]) == 1
    n, me = r.world, r.rank
    x = torch.ones(2, 3).t()
    dist.all_reduce(x)
    assert x.sum().item() == 6 * n
    then = dist.all_reduce(torch.ones(2), async_op=True).get_future().then(lambda f: f.value()[0] / n)
    assert then.wait().tolist() == [1.0, 1.0]
    for _ in range(10):
        dist.all_reduce(torch.ones(100), async_op=True)
    outs = [torch.zeros(i + 1) for i in range(n)]
    dist.all_gather(outs, torch.full((me + 1,), float(me)))
    assert [t[0].item() for t in outs] == list(range(n))
    out = torch.zeros(n)
    dist.all_to_all_single(out, torch.full((n,), float(me)))
    assert out.tolist() == list(range(n))
    dist.reduce_scatter_tensor(torch.zeros(2), torch.ones(2 * n))
    dist.monitored_barrier()
    if n > 1:
        dist.send(torch.ones(1), 1) if me == 0 else (dist.recv(torch.zeros(1), 0) if me == 1 else None)
    out = [None] * n
    dist.all_gather_object(out, me)
    assert out == list(range(n))
    net = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
    net(torch.ones(2, 4)).sum().backward()
    if n > 1:
        with pytest.raises(dist.DistBackendError, match="Mismatch") as e:
            dist.all_reduce(torch.ones(3 + me))
        assert e.value.guilty_ranks


def no_shim_and_no_fallback(r):
    why = "there is no C\\+\\+ shim: C10D_RS_SHIM turns the shim off.* there is no fallback"
    with pytest.raises(RuntimeError, match=why):
        r.init()


@pytest.mark.skipif(_backend.takes_python(), reason="skipped: this PyTorch accepts backends in Python")
def test_without_fallback_a_missing_shim_is_an_error():
    job.run(no_shim_and_no_fallback, 1, env={"C10D_RS_SHIM": "0"})


@pytest.mark.skipif(not _backend.takes_python(), reason="skipped: this PyTorch accepts no backends in Python")
@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_fallback_runs_without_a_shim(world):
    job.run(without_a_shim, world, env={"C10D_RS_SHIM": "0"})

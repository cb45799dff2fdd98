"""torchrun and `c10d run` start jobs, also jobs that have ranks in Python and ranks in Rust."""

import os
import subprocess
import sys

import pytest
import torch.distributed as dist

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TRAIN = os.path.join(ROOT, "examples", "mixed", "train.py")
RUST = os.environ.get("MIXED_RUST") or os.path.join(ROOT, "target", "release", "examples", "mixed")
PROGRAM = os.environ.get("C10D_PROGRAM") or os.path.join(ROOT, "target", "release", "c10d")


def run(command, limit=900, **env):
    """Runs a launcher. A launcher that takes too long gets SIGTERM, so that it ends its ranks."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env={**os.environ, **env}, **pipes) as launcher:
        try:
            out, err = launcher.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            launcher.terminate()
            try:
                out, err = launcher.communicate(timeout=60)
            finally:
                launcher.kill()
            pytest.fail(f"{command} was not finished after {limit} s\n{out[-3000:]}\n{err[-5000:]}")
    assert launcher.returncode == 0, f"{command}\n{out[-3000:]}\n{err[-5000:]}"
    return out


def torchrun(ranks, script, *more):
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *more, script]


@pytest.mark.skipif(not hasattr(dist, "set_timeout"), reason="skipped: this PyTorch has monitored_barrier for Gloo only")
@pytest.mark.parametrize("launcher", ["torchrun", "c10d run"])
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_in_rust_and_python(world, launcher, tmp_path):
    if not os.path.exists(RUST):
        pytest.skip(f"skipped: {RUST} is not built (cargo build --release --example mixed)")
    if launcher == "torchrun":
        # Each rank has its own file, because lines may mix in an output that ranks share.
        logs = ["--redirects=3", f"--log-dir={tmp_path}"]
        run(torchrun(world, TRAIN, *logs), MIXED_RUST=RUST)
        out = "\n".join(log.read_text() for log in sorted(tmp_path.rglob("stdout.log")))
    elif not os.path.exists(PROGRAM):
        pytest.skip(f"skipped: {PROGRAM} is not built")
    else:
        out = run([PROGRAM, "run", "-n", str(world), "--", sys.executable, TRAIN], MIXED_RUST=RUST)
    for rank in range(world - 1):
        assert f"python rank {rank}: every op agrees" in out, out
    assert f"rust rank {world - 1}: every op agrees" in out, out


LONG = pytest.mark.long
RESTARTS = """
import os, sys
import c10d_rs
import torch, torch.distributed as dist
dist.init_process_group("c10d_rs")
x = torch.ones(1)
dist.all_reduce(x)
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and dist.get_rank() == dist.get_world_size() - 1:
    os._exit(3)
dist.all_reduce(x)
# Each rank has its own file, because lines may mix in the output that the ranks of torchrun share.
with open(f"{sys.argv[1]}/{dist.get_rank()}", "w") as file:
    file.write(str(x.item()))
dist.destroy_process_group()
"""


@pytest.mark.parametrize("world", [pytest.param(1, marks=LONG), 2, pytest.param(3, marks=LONG), pytest.param(4, marks=LONG)])
def test_torchrun_restarts(world, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(RESTARTS)
    run([*torchrun(world, str(script), "--max-restarts=1"), str(tmp_path)])
    assert [(tmp_path / str(rank)).read_text() for rank in range(world)] == [f"{world * world:.1f}"] * world

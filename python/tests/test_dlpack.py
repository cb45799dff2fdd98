"""Tensors that are passed between PyTorch and Rust by address."""

import ctypes as c
import os
import shutil
import subprocess
import sys
import sysconfig

import numpy
import pytest
import torch
from c10d_rs import dlpack

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

TYPES = [
    torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128, torch.float8_e4m3fn,
    torch.float8_e5m2,
]  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_tensor_keeps_its_type_and_memory_on_the_way_back(dtype):
    tensor = torch.zeros(2, 3, dtype=dtype)
    back = dlpack.from_address(dlpack.to_address(tensor))
    assert (back.dtype, back.shape, back.data_ptr()) == (dtype, tensor.shape, tensor.data_ptr())
    back.view(torch.uint8).fill_(1)
    assert tensor.view(torch.uint8).sum() == tensor.nbytes


def test_the_memory_is_kept_until_the_last_tensor_is_gone():
    array = numpy.arange(4.0)
    before = sys.getrefcount(array)
    address = dlpack.to_address(array)
    assert sys.getrefcount(array) == before + 1
    tensor = dlpack.from_address(address)
    array[0] = 7
    assert tensor.tolist() == [7.0, 1.0, 2.0, 3.0]
    del tensor
    assert sys.getrefcount(array) == before


def test_tensors_that_dlpack_cannot_describe_are_refused():
    with pytest.raises((BufferError, RuntimeError), match="grad"):
        dlpack.to_address(torch.ones(2, requires_grad=True))
    with pytest.raises((BufferError, RuntimeError)):
        dlpack.to_address(torch.ones(2).to_sparse())


class Managed(c.Structure):
    """A `DLManagedTensorVersioned`, which `c10d::dlpack::export` makes."""

    _fields_ = [
        ("major", c.c_uint32), ("minor", c.c_uint32), ("context", c.c_void_p), ("deleter", c.c_void_p), ("flags", c.c_uint64),
        ("data", c.c_void_p), ("device", c.c_int32), ("index", c.c_int32), ("ndim", c.c_int32), ("code", c.c_uint8),
        ("bits", c.c_uint8), ("lanes", c.c_uint16), ("shape", c.POINTER(c.c_int64)), ("strides", c.c_void_p),
        ("byte_offset", c.c_uint64),
    ]  # fmt: skip


def given(bits):
    """A tensor of two elements, the objects that it needs, and the list of calls of its deleter."""
    data, shape, times = (c.c_float * 2)(1, 2), (c.c_int64 * 1)(2), []
    deleter = c.CFUNCTYPE(None, c.c_void_p)(times.append)
    managed = Managed(
        major=1, deleter=c.cast(deleter, c.c_void_p).value, data=c.addressof(data), device=1, ndim=1, code=2, bits=bits,
        lanes=1, shape=shape,
    )  # fmt: skip
    return managed, (data, shape, deleter), times


def test_a_buffer_from_rust_is_freed_once():
    managed, _alive, times = given(32)
    tensor = dlpack.from_address(c.addressof(managed))
    part = tensor[1:]
    del tensor
    assert part.tolist() == [2.0] and not times
    del part
    assert times == [c.addressof(managed)]


def test_a_refused_buffer_is_freed_once():
    managed, _alive, times = given(7)
    with pytest.raises((BufferError, RuntimeError)):
        dlpack.from_address(c.addressof(managed))
    assert times == [c.addressof(managed)]


@pytest.mark.parametrize("world", [1, 2])
def test_a_rust_program_can_embed_python(world):
    program = os.environ.get("C10D_PROGRAM")
    if not program or not shutil.which("cargo") or not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        pytest.skip("skipped: needs C10D_PROGRAM to name the program c10d, cargo, and Python as a shared library")
    manifest, target = os.path.join(ROOT, "examples", "embed", "Cargo.toml"), os.path.join(ROOT, "target", "embed")
    env = {**os.environ, "PYO3_PYTHON": sys.executable}
    build = ["cargo", "build", "--manifest-path", manifest, "--target-dir", target]
    done = subprocess.run(build, env=env, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-5000:]
    # An embedded Python does not use the virtual environment of this Python, so it gets the search path of this Python.
    env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    env["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [sysconfig.get_config_var("LIBDIR"), env.get("LD_LIBRARY_PATH")]))
    run = [program, "run", "-n", str(world), "--timeout", "300", "--", os.path.join(target, "debug", "embed")]
    done = subprocess.run(run, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in range(world):
        assert f"rank {rank}: PyTorch and Rust see the same memory" in done.stdout, done.stdout + done.stderr

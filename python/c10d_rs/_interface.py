"""The C interface of libc10d_rs (c10d_rs.h) for ctypes."""

import ctypes as c

import torch

from ._locate import library

ABI = 2
OPS = (
    "send recv recv_any_source broadcast all_reduce all_reduce_coalesced reduce all_gather all_gather_into "
    "all_gather_coalesced all_gather_into_coalesced reduce_scatter reduce_scatter_into reduce_scatter_into_coalesced gather "
    "scatter all_to_all all_to_all_single barrier monitored_barrier"
).split()
TYPES = {
    torch.uint8: 0, torch.int8: 1, torch.uint16: 2, torch.int16: 3, torch.uint32: 4, torch.int32: 5, torch.uint64: 6,
    torch.int64: 7, torch.float16: 8, torch.bfloat16: 9, torch.float32: 10, torch.float64: 11, torch.bool: 12,
    torch.complex64: 13, torch.complex128: 14, torch.float8_e4m3fn: 15, torch.float8_e5m2: 16,
}  # fmt: skip
UNSIGNED = {1: 0, 2: 2, 4: 4, 8: 6}


class Text(c.Structure):
    _fields_ = [("data", c.c_void_p), ("len", c.c_size_t)]


Put = c.CFUNCTYPE(None, c.c_void_p, c.c_void_p, c.c_size_t)
Ask = c.CFUNCTYPE(
    c.c_int, c.c_void_p, c.c_uint32, c.POINTER(Text), c.c_size_t, c.c_int64, c.c_int64, c.POINTER(c.c_int64), c.c_void_p,
    Put,
)  # fmt: skip
Release = c.CFUNCTYPE(None, c.c_void_p)
# The function by which the library releases tensors: C's `free`. It does nothing, because `start` gets a null pointer
# as the owner.
NOTHING = c.cast(c.CDLL(None).free, c.c_void_p)


class Store(c.Structure):
    _fields_ = [("context", c.c_void_p), ("call", Ask), ("release", Release)]


class Init(c.Structure):
    _fields_ = [
        ("bytes", c.c_size_t), ("rank", c.c_uint32), ("size", c.c_uint32), ("timeout_ms", c.c_int64), ("name", Text),
        ("prefix", Text), ("backends", Text), ("url", Text), ("hints", c.POINTER(Text)), ("hints_len", c.c_size_t),
        ("store", c.POINTER(Store)), ("device_kind", c.c_uint32), ("device_index", c.c_uint32), ("private_use1", Text),
    ]  # fmt: skip


class Tensor(c.Structure):
    _fields_ = [("data", c.c_void_p), ("offset", c.c_uint64), ("count", c.c_uint64), ("dtype", c.c_uint32)]


class Call(c.Structure):
    _fields_ = [
        ("op", c.c_uint32), ("reduce", c.c_uint32), ("factor", c.c_double), ("root", c.c_uint32), ("peer", c.c_uint32),
        ("tag", c.c_uint32), ("wait_all_ranks", c.c_uint32), ("timeout_ms", c.c_int64), ("device_kind", c.c_uint32),
        ("device_index", c.c_uint32), ("stream", c.c_uint64), ("inputs", c.POINTER(Tensor)), ("inputs_len", c.c_size_t),
        ("outputs", c.POINTER(Tensor)), ("outputs_len", c.c_size_t), ("input_splits", c.POINTER(c.c_uint64)),
        ("input_splits_len", c.c_size_t), ("output_splits", c.POINTER(c.c_uint64)), ("output_splits_len", c.c_size_t),
    ]  # fmt: skip


class Error(c.Structure):
    _fields_ = [
        ("text", c.c_char_p), ("kind", c.c_char_p), ("op", c.c_char_p), ("phase", c.c_char_p), ("seq", c.c_int64),
        ("rank", c.c_int64), ("failed", c.c_uint32), ("timed_out", c.c_uint32), ("guilty", c.POINTER(c.c_uint32)),
        ("guilty_len", c.c_size_t),
    ]  # fmt: skip


ErrorOut = c.POINTER(c.POINTER(Error))


class Library:
    """The functions of libc10d_rs. ctypes releases the GIL while they run."""

    def __init__(self):
        self._lib = lib = c.CDLL(library())
        for name, result, args in (
            ("abi", c.c_uint32, []),
            ("info", None, [c.c_void_p, Put]),
            ("open", c.c_int, [c.POINTER(Init), c.POINTER(c.c_void_p), ErrorOut]),
            ("abort", None, [c.c_void_p, Text]),
            ("shutdown", c.c_int, [c.c_void_p, c.c_int64, ErrorOut]),
            ("close", None, [c.c_void_p]),
            ("error_free", None, [c.POINTER(Error)]),
            ("run", c.c_int, [c.c_void_p, c.POINTER(Call), c.POINTER(c.c_uint32), ErrorOut]),
            ("start", c.c_void_p, [c.c_void_p, c.POINTER(Call), c.c_void_p, c.c_void_p, ErrorOut]),
            ("work_done", c.c_int, [c.c_void_p]),
            ("work_wait", c.c_int, [c.c_void_p, c.c_int64, c.POINTER(c.c_uint32), ErrorOut]),
            ("work_free", None, [c.c_void_p]),
        ):
            function = getattr(lib, f"c10drs_{name}")
            function.restype, function.argtypes = result, args
            setattr(self, "_" + name if name == "info" else name, function)
        if self.abi() != ABI:
            raise ImportError(f"c10d_rs: {library()} has interface {self.abi()}, the package needs {ABI}")

    def info(self):
        """The library's version, its backends and plugins, and the backend of each op."""
        words = []
        put = Put(lambda _, data, size: words.append(c.string_at(data, size).decode()))
        self._info(None, put)
        return "".join(words)

    def failure(self, error, ranks):
        """Makes an exception of the error, and frees the error."""
        from ._backend import BackendError

        if not error:
            return BackendError("c10d_rs: the library reported an error without a text")
        e = error.contents
        made = BackendError(e.text.decode())
        made.kind, made.op, made.phase = e.kind.decode(), e.op.decode(), e.phase.decode()
        made.seq = e.seq if e.seq >= 0 else None
        made.rank = e.rank if e.rank >= 0 else None
        made.group_failed = bool(e.failed)
        made.guilty_ranks = tuple(e.guilty[: e.guilty_len])
        made.guilty_global_ranks = tuple(ranks[r] if r < len(ranks) else r for r in made.guilty_ranks)
        self.error_free(error)
        return made


def text(value):
    """Makes a string for the library. The bytes are valid while the returned value, or a struct that has it, exists."""
    data = value.encode()
    return Text(c.cast(c.c_char_p(data), c.c_void_p), len(data))

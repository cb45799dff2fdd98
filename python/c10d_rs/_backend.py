"""The functions that `torch.distributed` calls to register the backend and to make a group."""

import atexit
import functools
import os
import re
import sys
import threading
import warnings

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Backend as _Backend

NAME = "c10d_rs"

# The library's backend for each type of device. For devices of plugins, the library selects the backend.
_BACKENDS = {"cpu": "gloo-like", "cuda": "nccl"}

# When the interpreter ends, it waits at most this long for peers that have not yet received this rank's data.
LEAVE_WITHIN_MS = 3000


class BackendError(dist.DistBackendError):
    """An error of the library. Its text has the rank, the op, the phase, the elapsed time, and what to do.

    Attributes: ``kind`` (a name such as ``"PeerDead"``), ``guilty_ranks`` (ranks of the group), ``guilty_global_ranks``
    (the same ranks, numbered as in the default group), ``op``, ``seq``, ``phase``, ``rank`` (the reporting rank), and
    ``group_failed`` (False: the group can still be used).
    """

    kind = ""
    op = ""
    phase = ""
    seq = None
    rank = None
    group_failed = False
    guilty_ranks = ()
    guilty_global_ranks = ()


_lock = threading.Lock()


def takes_python():
    """Whether this PyTorch accepts backends in Python. Version 2.10 does not."""
    try:
        _Backend(0, 1)
    except TypeError:
        return False
    return True


@functools.lru_cache(maxsize=None)
def _shim_of(pid):
    with _lock:
        from . import _build, _native

        try:
            shim = _native.load()
        except _build.CannotBuild as e:
            if not takes_python():
                raise RuntimeError(
                    f"c10d_rs: there is no C++ shim: {e}. PyTorch {torch.__version__} accepts no backend in Python, so there "
                    "is no fallback."
                ) from e
            warnings.warn(
                f"c10d_rs works without its C++ shim: {e}. The fallback in Python is slower, and lacks Work.is_completed, "
                "exception, result and source_rank, recv from any rank, coalescing, sparse tensors and profiler events.",
                stacklevel=2,
            )
            return None
        shim.set_error_class(BackendError)
        atexit.register(_leave, shim)
        return shim


def shim():
    """The C++ shim, or None if it cannot be built. The first group or `Options` loads it; the import does not."""
    return _shim_of(os.getpid())


def _leave(shim):
    shim.leave_all(LEAVE_WITHIN_MS)
    shim.end(2000)


def Options(hints=None, timeout=None, backends=""):
    """Options for ``pg_options``.

    ``hints`` are settings of the backends, such as ``{"gloo-like.transport": "tcp"}``. ``backends`` names the library's
    backend for each device, such as ``"cpu:gloo-like,cuda:nccl"``. Without ``backends``, each device that the program
    named in ``init_process_group`` is served by its default backend.
    """
    native = shim()
    hints = {str(name): str(value) for name, value in (hints or {}).items()}
    if native is None:
        from ._fallback import Options as Fallback

        return Fallback(hints)
    options = native.Options(hints) if timeout is None else native.Options(hints, timeout)
    options._backends = backends
    return options


# Older releases of PyTorch put this prefix before the keys of a restarted job.
_ATTEMPT = re.compile(r"^/?worker/attempt_\d+$")


def meeting(store, prefixes):
    """Returns how many of a store's outer prefixes are PyTorch's own, and the prefix by which the caller replaces them.

    Ranks in Rust that join by `env://` use this prefix, ``c10drs/<run>``. The prefixes that a program added stay.
    """
    if "default_pg" not in prefixes:
        return 0, ""
    outer = prefixes.index("default_pg") + 1
    while outer < len(prefixes) and _ATTEMPT.match(prefixes[outer]):
        outer += 1
    run = os.environ.get("TORCHELASTIC_RUN_ID", "").strip() or "none"
    return outer, f"c10drs/{run}"


def _devices():
    """Returns the types of the devices whose tensors the group gives to this backend.

    PyTorch does not pass these types to `_create`. So this function reads them from a local variable of the function of
    PyTorch that calls `_create`. If there is no such variable, it returns ``{"cpu"}``.
    """
    frame = sys._getframe(1)
    while frame is not None:
        config = frame.f_locals.get("backend_config")
        if hasattr(config, "get_device_backend_map"):
            return {device for device, name in config.get_device_backend_map().items() if name == NAME}
        frame = frame.f_back
    return {"cpu"}


def _serve(options, devices, bound):
    """Sets which of the library's backends serve these devices; ``bound`` is the device of this rank, or None."""
    private = torch._C._get_privateuse1_backend_name()
    unknown = devices - {"cpu", "cuda", private}
    if unknown:
        raise ValueError(f"c10d_rs: this backend has no ops for tensors on {', '.join(sorted(unknown))}")
    if private in devices:
        # An empty name means the library's default PrivateUse1 device.
        options._private_use1 = "" if private == "privateuseone" else private
    elif not options._backends:
        options._backends = ",".join(f"{device}:{_BACKENDS[device]}" for device in sorted(devices))
    if bound is not None and bound.type in devices:
        options._device = bound


def _create(opts, options):
    """Makes the backend of one group. `torch.distributed` calls this function on every member."""
    native = shim()
    if native is None:
        from ._fallback import create

        return create(opts, options)
    if options is None or isinstance(options, dict):
        options = native.Options({str(k): str(v) for k, v in (options or {}).items()})
    elif not isinstance(options, native.Options):
        # These options are for another backend of the same group.
        options = native.Options()
    else:
        given, options = options, native.Options(dict(options.hints))
        options._backends = given._backends
    _serve(options, _devices(), getattr(getattr(opts, "process_group", None), "bound_device_id", None))
    options._timeout = opts.timeout
    ranks = list(opts.global_ranks_in_group)
    options.global_ranks_in_group = ranks or list(range(opts.group_size))
    options.group_name = opts.group_id
    root, prefixes = native.unwrap(opts.store)
    outer, prefix = meeting(root, prefixes)
    store = opts.store
    if outer:
        store = root
        for kept in reversed(prefixes[outer:]):
            store = dist.PrefixStore(kept, store)
    # Ranks in Rust call the default group "default".
    name = opts.group_id if ranks else "default"
    return native.open(store, opts.group_rank, opts.group_size, name, prefix, options)


def register():
    """Registers the backend, and starts and builds nothing. PyTorch finds this function as an entry point."""
    if NAME.upper() not in dist.Backend._plugins:
        dist.Backend.register_backend(NAME, _create, extended_api=True, devices=["cpu"])

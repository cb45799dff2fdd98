"""What `torch.distributed` calls: the registration, and the function that makes a group."""

import atexit
import functools
import os
import re
import threading
import warnings

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Backend as _Backend

NAME = "c10d_rs"

# How long the interpreter waits at its end for peers that have not yet received what this rank sent.
LEAVE_WITHIN_MS = 3000


class BackendError(dist.DistBackendError):
    """An error of the library. Its text says which rank, which op, in which phase, after how long, and what to do.

    Attributes: ``kind`` (a name such as ``"PeerDead"``), ``guilty_ranks`` (ranks of the group), ``guilty_global_ranks``
    (the same ranks in the default group), ``op``, ``seq``, ``phase``, ``rank`` (the rank that reports), and
    ``group_failed`` (False: nothing was sent, and the group can still be used).
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
        # At the end of the interpreter, peers are told that this rank leaves, and callbacks no longer ask for the GIL.
        atexit.register(_leave, shim)
        return shim


def shim():
    """The C++ shim, or None if it cannot be built. It is loaded when a group is made, never at import."""
    return _shim_of(os.getpid())


def _leave(shim):
    shim.leave_all(LEAVE_WITHIN_MS)
    shim.end(2000)


def Options(hints=None, timeout=None):
    """Options for ``pg_options``: settings of the backend, such as ``{"gloo-like.transport": "tcp"}``."""
    native = shim()
    hints = {str(name): str(value) for name, value in (hints or {}).items()}
    if native is None:
        from ._fallback import Options as Fallback

        return Fallback(hints)
    return native.Options(hints) if timeout is None else native.Options(hints, timeout)


# Older releases of PyTorch put this before the keys of a restarted job.
_ATTEMPT = re.compile(r"^/?worker/attempt_\d+$")


def meeting(store, prefixes):
    """How many of the outer prefixes of a group's keys are PyTorch's own, and the prefix that replaces them.

    Ranks in Rust do not know PyTorch's prefixes. With `env://` their keys begin with ``c10drs/<run>``. So PyTorch's
    prefixes are removed, and those that a program added stay.
    """
    if "default_pg" not in prefixes:
        return 0, ""
    outer = prefixes.index("default_pg") + 1
    while outer < len(prefixes) and _ATTEMPT.match(prefixes[outer]):
        outer += 1
    run = os.environ.get("TORCHELASTIC_RUN_ID", "").strip() or "none"
    return outer, f"c10drs/{run}"


def _create(opts, options):
    """Makes the backend of one group. `torch.distributed` calls it on every member."""
    native = shim()
    if native is None:
        from ._fallback import create

        return create(opts, options)
    if options is None or isinstance(options, dict):
        options = native.Options({str(k): str(v) for k, v in (options or {}).items()})
    elif not isinstance(options, native.Options):
        # For example, the options of another backend of the same group.
        options = native.Options()
    else:
        options = native.Options(dict(options.hints))
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
    # Ranks in Rust call their group "default", too.
    name = opts.group_id if ranks else "default"
    return native.open(store, opts.group_rank, opts.group_size, name, prefix, options)


def register():
    """Registers the backend. It is the entry point of ``torch.distributed.backends``, and starts and builds nothing."""
    if NAME.upper() not in dist.Backend._plugins:
        dist.Backend.register_backend(NAME, _create, extended_api=True, devices=["cpu"])

"""The backend without a C++ shim: pure Python over the same Rust library, for CPU tensors.

PyTorch forwards only `wait` and `get_future` to a `Work` that is written in Python, so its other methods are missing.
"""

import ctypes as c
import datetime
import threading

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Backend as _Base
from torch._C._distributed_c10d import Work as _BaseWork

from ._interface import (
    Ask, Call, Error, Init, Library, NOTHING, OPS, Release, Store, TYPES, Tensor, Text, UNSIGNED, text,
)  # fmt: skip


class Options:
    """Options with hints, like the shim's class `Options`."""

    def __init__(self, hints):
        self.hints = hints


def _store_of(store, alive):
    """Makes a store of the library that passes its requests to a store of PyTorch."""

    def ask(_, verb, args, count, number, timeout_ms, out, sink, put):
        try:
            values = [c.string_at(args[i].data, args[i].len) if args[i].len else b"" for i in range(count)]
            key = values[0].decode() if values else ""
            limit = datetime.timedelta(milliseconds=timeout_ms)
            given = None
            if verb == 0:
                store.set(key, values[1])
            elif verb == 1:
                store.wait([key], limit)
                given = store.get(key)
            elif verb == 2:
                store.wait([v.decode() for v in values], limit)
            elif verb == 3:
                out[0] = store.add(key, number)
            elif verb == 4:
                given = store.compare_set(key, values[1], values[2])
            elif verb == 5:
                store.append(key, values[1])
            elif verb == 6:
                out[0] = int(store.check([v.decode() for v in values]))
            elif verb == 7:
                out[0] = int(store.delete_key(key))
            else:
                out[0] = store.num_keys()
            if given is not None:
                put(sink, c.cast(c.create_string_buffer(given, len(given)), c.c_void_p), len(given))
            return 0
        except Exception as e:
            words = str(e).encode()
            put(sink, c.cast(c.create_string_buffer(words, len(words)), c.c_void_p), len(words))
            return 1

    made = Store(None, Ask(ask), Release(lambda _: None))
    alive.append(made)
    return made


class _Lent:
    """The tensors of one call, and the contiguous copies of those that are not contiguous."""

    def __init__(self, moves):
        self.moves, self.tensors, self.copies = moves, [], []

    def add(self, tensor, write, read):
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise ValueError(f"c10d_rs: the op takes dense CPU tensors, not {tensor.layout} on {tensor.device}")
        plain = tensor.detach()
        if not plain.is_contiguous() or plain.is_conj() or plain.is_neg():
            plain = torch.empty(tensor.shape, dtype=tensor.dtype)
            if read:
                plain.copy_(tensor.detach())
            if write:
                self.copies.append((tensor.detach(), plain))
        self.tensors.append(plain)
        code, size = TYPES.get(plain.dtype), plain.element_size()
        count = plain.numel()
        if code is None:
            if not self.moves:
                raise TypeError(f"c10d_rs: tensors of {plain.dtype} cannot be reduced")
            code = UNSIGNED.get(size, 0)
            count *= 1 if size in UNSIGNED else size
        return Tensor(plain.data_ptr() or None, 0, count, code)

    def copy_back(self):
        for to, plain in self.copies:
            to.copy_(plain)


class _Work(_BaseWork):
    def __init__(self, backend, lent, results, outcome=None, handle=None):
        super().__init__()
        self._backend, self._lent, self._results = backend, lent, results
        self._handle, self._error, self._done = handle, outcome, handle is None
        self._lock = threading.Lock()
        self._future = None

    def wait(self, timeout=datetime.timedelta(0)):
        millis = int(timeout.total_seconds() * 1000) or -1
        with self._lock:
            if not self._done:
                lib, error = self._backend._lib, c.POINTER(Error)()
                code = lib.work_wait(self._handle, millis, None, c.byref(error))
                if code == 2:
                    raise dist.DistBackendError(f"Operation timed out! It is not finished after {millis} ms, and continues")
                self._done = True
                lib.work_free(self._handle)
                if code:
                    self._error = lib.failure(error, self._backend._ranks)
                else:
                    self._lent.copy_back()
        if self._error is not None:
            raise self._error
        return True

    def runs(self):
        """Whether the library may still use the tensors."""
        with self._lock:
            return not self._done and not self._backend._lib.work_done(self._handle)

    def get_future(self):
        if self._future is None:
            future = self._future = torch.futures.Future()

            def end():
                try:
                    self.wait()
                    future.set_result(self._results)
                except Exception as e:
                    future.set_exception(e)

            if self._done:
                end()
            else:
                threading.Thread(target=end, daemon=True).start()
        return self._future


class Backend(_Base):
    """One rank of a group."""

    def __init__(self, lib, group, rank, size, timeout, ranks, alive):
        super().__init__(rank, size)
        self._lib, self._group, self._timeout, self._ranks, self._alive = lib, group, timeout, ranks, alive
        self._number = 0
        self._left = False
        self._running = []

    def getBackendName(self):
        return "c10d_rs"

    def name(self):
        return "c10d_rs"

    def _get_sequence_number_for_group(self):
        return self._number

    def _millis(self, opts):
        timeout = getattr(opts, "timeout", None)
        millis = -1 if timeout is None else int(timeout.total_seconds() * 1000)
        return self._timeout if millis < 0 else millis

    def _give(self, op, opts, inputs=(), outputs=(), results=(), both=False, splits=((), ()), wait=False, **fields):
        reduce = getattr(opts, "reduceOp", None) if "reduce" in op else None
        lent = _Lent(reduce is None)
        ins = [lent.add(t, False, True) for t in inputs]
        outs = [lent.add(t, True, both) for t in outputs]
        call = Call(op=OPS.index(op), timeout_ms=self._millis(opts), device_kind=1, **fields)
        if reduce is not None:
            kind = reduce.op if hasattr(reduce, "op") else reduce
            call.reduce = int(getattr(kind, "value", kind))
        call.root = getattr(opts, "rootRank", 0)
        call.inputs, call.inputs_len = (Tensor * len(ins))(*ins), len(ins)
        call.outputs, call.outputs_len = (Tensor * len(outs))(*outs), len(outs)
        call.input_splits, call.input_splits_len = (c.c_uint64 * len(splits[0]))(*splits[0]), len(splits[0])
        call.output_splits, call.output_splits_len = (c.c_uint64 * len(splits[1]))(*splits[1]), len(splits[1])
        error = c.POINTER(Error)()
        self._number += op not in ("send", "recv", "recv_any_source")
        if wait or getattr(opts, "asyncOp", True) is False:
            code = self._lib.run(self._group, c.byref(call), None, c.byref(error))
            if code == 0:
                lent.copy_back()
            outcome = self._lib.failure(error, self._ranks) if code else None
            return _Work(self, lent, list(results), outcome)
        handle = self._lib.start(self._group, c.byref(call), NOTHING, None, c.byref(error))
        outcome = None if handle else self._lib.failure(error, self._ranks)
        work = _Work(self, lent, list(results), outcome, handle)
        # An op continues even if the program drops its work. This list keeps the work and its tensors.
        self._running = [w for w in self._running if w.runs()]
        self._running.append(work)
        return work

    def broadcast(self, tensors, opts):
        return self._give("broadcast", opts, outputs=tensors, results=tensors, both=True)

    def allreduce(self, tensors, opts):
        return self._give("all_reduce", opts, outputs=tensors, results=tensors, both=True)

    def allreduce_coalesced(self, tensors, opts):
        return self._give("all_reduce_coalesced", opts, outputs=tensors, results=tensors, both=True)

    def reduce(self, tensors, opts):
        return self._give("reduce", opts, outputs=tensors, results=tensors, both=True)

    def allgather(self, outputs, inputs, opts):
        return self._give("all_gather", opts, inputs, outputs[0], outputs[0])

    def all_gather_single(self, output, input, opts):
        return self._give("all_gather_into", opts, [input], [output], [output])

    def all_gather_single_coalesced(self, outputs, inputs, opts):
        return self._give("all_gather_into_coalesced", opts, inputs, outputs, outputs)

    def allgather_coalesced(self, outputs, inputs, opts):
        flat = [row[i] for i in range(len(inputs)) for row in outputs]
        return self._give("all_gather_coalesced", opts, inputs, flat, flat)

    def gather(self, outputs, inputs, opts):
        own = outputs[0] if self.rank() == opts.rootRank else []
        return self._give("gather", opts, inputs, own, own)

    def scatter(self, outputs, inputs, opts):
        own = inputs[0] if self.rank() == opts.rootRank else []
        return self._give("scatter", opts, own, outputs, outputs)

    def reduce_scatter(self, outputs, inputs, opts):
        return self._give("reduce_scatter", opts, inputs[0], outputs, outputs)

    def reduce_scatter_single(self, output, input, opts):
        return self._give("reduce_scatter_into", opts, [input], [output], [output])

    def reduce_scatter_single_coalesced(self, outputs, inputs, opts):
        return self._give("reduce_scatter_into_coalesced", opts, inputs, outputs, outputs)

    def alltoall(self, outputs, inputs, opts):
        return self._give("all_to_all", opts, inputs, outputs, outputs)

    def all_to_all_single(self, output, input, output_splits, input_splits, opts):
        def elements(rows, tensor):
            row = tensor.numel() // tensor.size(0) if rows and tensor.size(0) else 0
            return [n * row for n in rows]

        splits = (elements(input_splits, input), elements(output_splits, output))
        return self._give("all_to_all_single", opts, [input], [output], [output], splits=splits)

    # PyTorch before 2.14 uses these names.
    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced
    alltoall_base = all_to_all_single

    def send(self, tensors, to, tag):
        return self._give("send", None, inputs=tensors, results=tensors, peer=to, tag=tag)

    def recv(self, tensors, source, tag):
        return self._give("recv", None, outputs=tensors, results=tensors, peer=source, tag=tag)

    def recv_anysource(self, tensors, tag):
        return self._give("recv_any_source", None, outputs=tensors, results=tensors, tag=tag)

    def barrier(self, opts):
        return self._give("barrier", opts)

    def monitored_barrier(self, opts, wait_all_ranks=False):
        self._give("monitored_barrier", opts, wait=True, wait_all_ranks=int(wait_all_ranks)).wait()

    def abort(self):
        self._lib.abort(self._group, text("torch.distributed aborted the group"))

    def shutdown(self):
        if not self._left:
            self._left = True
            error = c.POINTER(Error)()
            if self._lib.shutdown(self._group, min(self._timeout, 10000), c.byref(error)):
                self._lib.error_free(error)


_library = []


def create(opts, options):
    """Makes the backend of one group."""
    from . import _backend

    if not _library:
        _library.append(Library())
    lib, alive = _library[0], []
    ranks = list(opts.global_ranks_in_group) or list(range(opts.group_size))
    hints = options if isinstance(options, dict) else getattr(options, "hints", {})
    default = not opts.global_ranks_in_group
    root, prefix = opts.store, ""
    # The prefix stores, outermost first.
    layers = []
    while isinstance(root, dist.PrefixStore):
        layers.append(root)
        root = root.underlying_store
    # The number of PyTorch's own prefixes.
    own = 3 if default else 4
    if len(layers) >= own:
        store = layers[own - 1].underlying_store
        prefix = _backend.meeting(None, ["default_pg"])[1]
    else:
        store = opts.store
    pairs = [part for pair in hints.items() for part in map(text, pair)]
    alive.append(pairs)
    native = _store_of(store, alive)
    timeout = int(opts.timeout.total_seconds() * 1000)
    init = Init(
        bytes=c.sizeof(Init), rank=opts.group_rank, size=opts.group_size, timeout_ms=timeout,
        name=text("default" if default else opts.group_id), prefix=text(prefix), backends=text("cpu:gloo-like"),
        url=text(""),
        hints=(Text * len(pairs))(*pairs), hints_len=len(pairs), store=c.pointer(native),
    )  # fmt: skip
    group, error = c.c_void_p(), c.POINTER(Error)()
    if lib.open(c.byref(init), c.byref(group), c.byref(error)):
        raise lib.failure(error, ranks)
    return Backend(lib, group, opts.group_rank, opts.group_size, timeout, ranks, alive)

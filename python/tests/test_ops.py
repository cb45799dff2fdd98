"""Every op, in worlds of 1 to 4, on every type that both PyTorch and the library have."""

import c10d_rs
import job
import pytest
import torch
import torch.distributed as dist

WORLDS = (1, 2, 3, 4)
INTEGERS = [torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64, torch.int64]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
COMPLEX = [torch.complex64, torch.complex128]
EIGHTS = [torch.float8_e4m3fn, torch.float8_e5m2]
REDUCED = INTEGERS + FLOATS + COMPLEX + [torch.bool]
# The library does not have some of these types. It moves tensors of such a type as bytes.
MOVED = REDUCED + EIGHTS + [torch.complex32, torch.float8_e4m3fnuz, torch.float8_e8m0fnu]


def of(values, dtype):
    """Small numbers as a tensor of any type."""
    values = torch.as_tensor(values, dtype=torch.float64)
    if dtype == torch.bool:
        return values % 2 == 1
    if dtype == torch.float8_e8m0fnu:
        return values.abs().to(torch.uint8).view(dtype)
    return values.to(torch.complex128).to(dtype) if dtype.is_complex else values.to(dtype)


def same(have, want, msg):
    assert have.dtype == want.dtype and have.shape == want.shape, f"{msg}: {have} has another type or shape than {want}"
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    as_bits = lambda t: torch.view_as_real(t.resolve_conj()) if t.dtype.is_complex else t
    have, want = as_bits(have.contiguous()), as_bits(want.contiguous())
    kind = bits[have.element_size()]
    assert torch.equal(have.view(kind), want.view(kind)), f"{msg}: {have} instead of {want}"


def mine(rank, count=5, dtype=torch.float32):
    return of([(rank * 3 + i) % 5 for i in range(count)], dtype)


def folded(world, op, dtype, count=5):
    """The result of a reduction of the tensors `mine` of all ranks."""
    wide = {torch.bool: torch.int64}.get(dtype, torch.complex128 if dtype.is_complex else torch.float64)
    all_ = torch.stack([mine(r, count, dtype).to(wide) for r in range(world)])
    if op == dist.ReduceOp.SUM:
        out = all_.sum(0)
    elif op == dist.ReduceOp.AVG:
        out = all_.sum(0) / world
    elif op == dist.ReduceOp.PRODUCT:
        out = all_.prod(0)
    elif op == dist.ReduceOp.MIN:
        out = all_.amin(0)
    elif op == dist.ReduceOp.MAX:
        out = all_.amax(0)
    else:
        out = all_.to(torch.int64)
        bit = {dist.ReduceOp.BAND: torch.bitwise_and, dist.ReduceOp.BOR: torch.bitwise_or, dist.ReduceOp.BXOR: torch.bitwise_xor}
        out = __import__("functools").reduce(bit[op], list(out))
    return (out != 0) if dtype == torch.bool else out.to(dtype)


def meanings(dtype):
    """The reduce operations that are defined on the type."""
    op = dist.ReduceOp
    if dtype.is_complex:
        return [op.SUM, op.AVG]
    base = [op.SUM, op.PRODUCT, op.MIN, op.MAX]
    return base + ([op.AVG] if dtype.is_floating_point else [op.BAND, op.BOR, op.BXOR])


def reductions(r):
    r.init()
    for dtype in REDUCED:
        for op in meanings(dtype):
            what = f"{op} on {dtype}"
            want = folded(r.world, op, dtype)
            # The backend may round an average differently, so the last bits may differ.
            equal = torch.testing.assert_close if op == dist.ReduceOp.AVG else same
            x = mine(r.rank, dtype=dtype)
            dist.all_reduce(x, op=op)
            equal(x, want, msg=f"all_reduce {what}")
            root = r.world - 1
            x = mine(r.rank, dtype=dtype)
            dist.reduce(x, root, op=op)
            if r.rank == root:
                equal(x, want, msg=f"reduce {what}")
    for dtype in (torch.float32, torch.bfloat16, torch.int16):
        parts = [mine(r.rank, i + 2, dtype) for i in range(r.world)]
        out = of([0.0] * (r.rank + 2), dtype)
        dist.reduce_scatter(out, parts)
        same(out, folded(r.world, dist.ReduceOp.SUM, dtype, r.rank + 2), f"uneven reduce_scatter on {dtype}")
        whole = mine(r.rank, 3 * r.world, dtype)
        out = of([0.0] * 3, dtype)
        dist.reduce_scatter_tensor(out, whole)
        want = folded(r.world, dist.ReduceOp.SUM, dtype, 3 * r.world)[3 * r.rank : 3 * r.rank + 3]
        same(out, want, f"reduce_scatter_tensor on {dtype}")
        pair = [mine(r.rank, 4, dtype), mine(r.rank, 7, dtype)]
        dist.all_reduce_coalesced(pair)
        for x, n in zip(pair, (4, 7)):
            same(x, folded(r.world, dist.ReduceOp.SUM, dtype, n), f"all_reduce_coalesced on {dtype}")
    x = mine(r.rank)
    dist.all_reduce(x, op=dist._make_nccl_premul_sum(0.5))
    same(x, folded(r.world, dist.ReduceOp.SUM, torch.float32) / 2, "premul_sum")
    # Types that the library only moves, and undefined operations, are rejected.
    for bad, op in ((of([1.0], torch.float8_e4m3fn), dist.ReduceOp.SUM), (mine(0), dist.ReduceOp.BAND)):
        try:
            dist.all_reduce(bad, op=op)
            raise AssertionError("the call was not rejected")
        except RuntimeError as e:
            assert "InvalidArgument" in str(e), e
            assert not e.group_failed
    x = mine(r.rank)
    dist.all_reduce(x)
    same(x, folded(r.world, dist.ReduceOp.SUM, torch.float32), "after a rejection")


def movements(r, backends=""):
    r.init(pg_options=c10d_rs.Options(backends=backends))
    n, me = r.world, r.rank
    for dtype in MOVED:
        x = mine(me, dtype=dtype)
        dist.broadcast(x, n - 1)
        same(x, mine(n - 1, dtype=dtype), f"broadcast {dtype}")
        # Each rank sends a different number of elements.
        out = [of([0.0] * (i + 1), dtype) for i in range(n)]
        dist.all_gather(out, mine(me, me + 1, dtype))
        for i, t in enumerate(out):
            same(t, mine(i, i + 1, dtype), f"uneven all_gather {dtype}")
        whole = of([0.0] * (3 * n), dtype)
        dist.all_gather_into_tensor(whole, mine(me, 3, dtype))
        for i in range(n):
            same(whole[3 * i : 3 * i + 3], mine(i, 3, dtype), f"all_gather_into_tensor {dtype}")
        root = n // 2
        into = [of([0.0] * (i + 1), dtype) for i in range(n)] if me == root else None
        dist.gather(mine(me, me + 1, dtype), into, root)
        for i, t in enumerate(into or []):
            same(t, mine(i, i + 1, dtype), f"uneven gather {dtype}")
        out = of([0.0] * (me + 1), dtype)
        dist.scatter(out, [mine(i, i + 1, dtype) for i in range(n)] if me == root else None, root)
        same(out, mine(me, me + 1, dtype), f"uneven scatter {dtype}")
        outs = [of([0.0] * (me + i), dtype) for i in range(n)]
        dist.all_to_all(outs, [mine(me, me + i, dtype) for i in range(n)])
        for i, t in enumerate(outs):
            same(t, mine(i, me + i, dtype), f"uneven all_to_all {dtype}")
        splits = [me + i for i in range(n)]
        flat = torch.cat([mine(me, s, dtype).view(torch.uint8) for s in splits]).view(dtype)
        out = of([0.0] * sum(splits), dtype)
        dist.all_to_all_single(out, flat, splits, splits)
        at = 0
        for i, s in enumerate(splits):
            same(out[at : at + s], mine(i, s, dtype), f"uneven all_to_all_single {dtype}")
            at += s
        if n > 1:
            to, source = (me + 1) % n, (me - 1) % n
            out = of([0.0] * 5, dtype)
            works = dist.batch_isend_irecv([dist.P2POp(dist.isend, mine(me, dtype=dtype), to), dist.P2POp(dist.irecv, out, source)])
            for work in works:
                work.wait()
            same(out, mine(source, dtype=dtype), f"batch_isend_irecv {dtype}")
            if me:
                dist.send(mine(me, dtype=dtype), 0, tag=7)
            else:
                seen = set()
                for _ in range(1, n):
                    source = dist.recv(out, tag=7)
                    same(out, mine(source, dtype=dtype), f"recv from any rank {dtype}")
                    seen.add(source)
                assert seen == set(range(1, n)), seen


def shapes(r):
    r.init()
    n, me = r.world, r.rank
    # Tensors that are not contiguous: transposed, strided, and (as an input) expanded.
    x = torch.arange(6.0).reshape(2, 3).t()
    dist.all_reduce(x)
    same(x, torch.arange(6.0).reshape(2, 3).t() * n, "all_reduce, transposed")
    base = torch.zeros(10)
    strided = base[::2]
    strided += me
    work = dist.all_reduce(strided, async_op=True)
    work.wait()
    assert base.tolist() == [float(sum(range(n))), 0.0] * 5, base
    out = torch.zeros(n * 4, 2)[:, 0]
    dist.all_gather_into_tensor(out, torch.full((1,), float(me)).expand(4))
    same(out, torch.arange(n, dtype=torch.float32).repeat_interleave(4), "all_gather of an expanded tensor")
    # Tensors without elements, and without dimensions.
    for dtype in (torch.float32, torch.int16):
        empty = torch.empty(0, dtype=dtype)
        dist.all_reduce(empty)
        dist.broadcast(empty, 0)
        dist.all_gather([torch.empty(0, dtype=dtype) for _ in range(n)], empty)
        dist.all_gather_into_tensor(torch.empty(0, dtype=dtype), empty)
        dist.reduce_scatter_tensor(torch.empty(0, dtype=dtype), empty)
        dist.all_to_all_single(torch.empty(0, dtype=dtype), empty)
        scalar = torch.tensor(me, dtype=dtype)
        dist.all_reduce(scalar)
        assert scalar.item() == sum(range(n))
    # Only rank 0 has elements.
    sizes = [4 if i == 0 else 0 for i in range(n)]
    out = [torch.zeros(s) for s in sizes]
    dist.all_gather(out, torch.ones(sizes[me]))
    assert [t.sum().item() for t in out] == sizes
    # Outputs may be parameters and inference tensors.
    p = torch.nn.Parameter(torch.ones(3, 2).t().contiguous().t())
    dist.all_reduce(p.data.t())
    dist.broadcast(p, 0)
    same(p.detach(), torch.ones(3, 2) * n, "a parameter")
    with torch.inference_mode():
        t = torch.ones(2, 2).t()
    dist.all_reduce(t)
    assert t.sum().item() == 4 * n
    # In place: this rank's part of the output is the input.
    whole = torch.zeros(n * 2)
    own = whole[2 * me : 2 * me + 2]
    own.fill_(me + 1)
    dist.all_gather_into_tensor(whole, own)
    same(whole, torch.arange(1, n + 1, dtype=torch.float32).repeat_interleave(2), "all_gather_into_tensor in place")


def lists(r, backends=""):
    r.init(pg_options=c10d_rs.Options(backends=backends))
    n, me = r.world, r.rank
    outs = [torch.zeros(n * 2), torch.zeros(n * 3)]
    ins = [torch.full((2,), float(me)), torch.full((3,), me + 10.0)]
    with dist._coalescing_manager(async_ops=True) as works:
        for o, i in zip(outs, ins):
            dist.all_gather_into_tensor(o, i)
    works.wait()
    same(outs[0], torch.arange(float(n)).repeat_interleave(2), "coalesced all_gather_into_tensor 0")
    same(outs[1], torch.arange(10.0, 10 + n).repeat_interleave(3), "coalesced all_gather_into_tensor 1")
    outs = [torch.zeros(2), torch.zeros(3)]
    with dist._coalescing_manager(async_ops=True) as works:
        dist.reduce_scatter_tensor(outs[0], torch.ones(n * 2))
        dist.reduce_scatter_tensor(outs[1], torch.ones(n * 3) * 2)
    works.wait()
    assert outs[0].tolist() == [n] * 2 and outs[1].tolist() == [2 * n] * 3
    a, b = torch.ones(2), torch.ones(3)
    with dist._coalescing_manager():
        dist.all_reduce(a)
        dist.all_reduce(b)
    assert a.tolist() == [n] * 2 and b.tolist() == [n] * 3
    rows = [[torch.zeros(2), torch.zeros(1, dtype=torch.float32)] for _ in range(n)]
    dist.all_gather_coalesced(rows, [torch.full((2,), float(me)), torch.full((1,), me + 10.0)])
    for i, (x, y) in enumerate(rows):
        assert x.tolist() == [i, i] and y.tolist() == [i + 10]
    if hasattr(dist, "gather_single"):
        out = torch.zeros(n * 2) if me == 0 else None
        dist.gather_single(torch.full((2,), float(me)), out, dst=0)
        if me == 0:
            same(out, torch.arange(float(n)).repeat_interleave(2), "gather_single")


def sparse(r):
    r.init()
    n, me = r.world, r.rank
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int64):
        for dense in ((), (2,)):
            # Each rank has a different number of entries. All have entry 0, twice.
            rows = [0, 0] + list(range(1, me + 2))
            values = torch.ones((len(rows), *dense), dtype=dtype)
            t = torch.sparse_coo_tensor(torch.tensor([rows]), values, (n + 2, *dense))
            want = sum(torch.sparse_coo_tensor(torch.tensor([[0, 0] + list(range(1, i + 2))]), torch.ones((i + 3, *dense), dtype=dtype), (n + 2, *dense)).to_dense() for i in range(n))
            dist.all_reduce(t)
            same(t.to_dense(), want, f"sparse all_reduce {dtype} {dense}")
            assert t.is_coalesced()
            work = dist.all_reduce(t, async_op=True)
            work.wait()
            same(t.to_dense(), want * n, f"sparse all_reduce, async, {dtype} {dense}")
    empty = torch.sparse_coo_tensor(torch.empty((1, 0), dtype=torch.int64), torch.empty(0), (5,))
    dist.all_reduce(empty)
    assert empty._nnz() == 0


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("body", [reductions, movements, shapes, lists, sparse], ids=lambda body: body.__name__)
def test_ops(body, world):
    job.run(body, world)


@pytest.mark.parametrize("body", [reductions, movements], ids=lambda body: body.__name__)
def test_ops_over_tcp(body):
    job.run(body, 2, env={"C10D_TRANSPORT": "tcp"})

//! Runs any op in a group of three ranks, which can have different arguments.

use std::time::Duration;

use c10d::backend::{Params, Shape};
use c10d::{Buffers, Call, Element, OpKind, ProcessGroup, ReduceOp, Result, op};

/// The rank that has the fault.
pub(crate) const VICTIM: u32 = 1;
/// The world size of the fault tests.
pub(crate) const WORLD: u32 = 3;

/// The arguments of one rank.
#[derive(Clone, Copy)]
pub(crate) struct Arguments {
    pub(crate) op: OpKind,
    /// The number of elements per rank.
    pub(crate) count: usize,
    /// Whether the elements are `i64`, not `i32`.
    pub(crate) wide: bool,
    pub(crate) reduce: ReduceOp,
    pub(crate) root: u32,
    /// Whether the input splits of `all_to_all_single` differ from those that the other ranks expect.
    pub(crate) shifted: bool,
    pub(crate) timeout: Duration,
    /// Whether the op is started, and its handle dropped.
    pub(crate) started: bool,
}

impl Arguments {
    pub(crate) fn of(op: OpKind, count: usize, timeout: Duration) -> Arguments {
        Arguments { op, count, wide: false, reduce: ReduceOp::Sum, root: 0, shifted: false, timeout, started: false }
    }
}

/// Runs the op. Point-to-point ops are between the victim and each other rank.
pub(crate) fn act(pg: &ProcessGroup, a: &Arguments) -> Result {
    if a.wide { typed::<i64>(pg, a) } else { typed::<i32>(pg, a) }
}

/// Runs a call, or starts it and drops its handle.
fn go<B: Buffers + 'static>(pg: &ProcessGroup, a: &Arguments, call: Call<B>) -> Result {
    let call = call.timeout(a.timeout);
    if a.started {
        drop(pg.start(call));
        return Ok(());
    }
    pg.run(call).map(drop).map_err(c10d::Error::from)
}

fn typed<T: Element + Default>(pg: &ProcessGroup, a: &Arguments) -> Result {
    let n = pg.size() as usize;
    let tensors = |how_many: usize, parts: usize| vec![vec![T::default(); a.count * parts]; how_many];
    let (is_root, none) = (pg.rank() == a.root, || tensors(0, 0));
    let (inputs, outputs) = match a.op.row().shape {
        Shape::Source | Shape::Target => return point_to_point(pg, a, tensors(1, 1).remove(0)),
        Shape::Nothing => (none(), none()),
        Shape::InPlace => (none(), tensors(1, 1)),
        Shape::InPlaceList => (none(), tensors(2, 1)),
        Shape::GatherList => (tensors(1, 1), tensors(n, 1)),
        Shape::GatherFlat => (tensors(1, 1), tensors(1, n)),
        Shape::GatherLists => (tensors(2, 1), tensors(2 * n, 1)),
        Shape::GatherFlats => (tensors(2, 1), tensors(2, n)),
        Shape::ScatterList => (tensors(n, 1), tensors(1, 1)),
        Shape::ScatterFlat => (tensors(1, n), tensors(1, 1)),
        Shape::ScatterFlats => (tensors(2, n), tensors(2, 1)),
        Shape::RootGather => (tensors(1, 1), if is_root { tensors(n, 1) } else { none() }),
        Shape::RootScatter => (if is_root { tensors(n, 1) } else { none() }, tensors(1, 1)),
        Shape::ExchangeList => (tensors(n, 1), tensors(n, 1)),
        Shape::ExchangeFlat => (tensors(1, n), tensors(1, n)),
    };
    let mut params = Params::default();
    (params.reduce, params.root, params.wait_all_ranks) = (a.reduce, a.root, true);
    if a.shifted && a.op == OpKind::AllToAllSingle {
        let mut splits = vec![a.count; n];
        splits[0] -= 1;
        splits[n - 1] += 1;
        params.set_splits(splits, vec![a.count; n]);
    }
    go(pg, a, op::any(a.op, params, inputs, outputs))
}

/// For `send`, all others send to the victim; otherwise the victim sends to all others.
fn point_to_point<T: Element>(pg: &ProcessGroup, a: &Arguments, buffer: Vec<T>) -> Result {
    const TAG: u32 = 3;
    let others = (0..pg.size()).filter(|rank| *rank != VICTIM);
    match (a.op, pg.rank() == VICTIM) {
        (OpKind::Send, false) => go(pg, a, op::send(buffer.clone(), VICTIM, TAG)),
        (OpKind::Send, true) => {
            for from in others {
                go(pg, a, op::recv(buffer.clone(), from, TAG))?;
            }
            Ok(())
        }
        (_, true) => {
            for to in others {
                go(pg, a, op::send(buffer.clone(), to, TAG))?;
            }
            Ok(())
        }
        (OpKind::Recv, false) => go(pg, a, op::recv(buffer.clone(), VICTIM, TAG)),
        (_, false) => go(pg, a, op::recv_any_source(buffer.clone(), TAG)),
    }
}

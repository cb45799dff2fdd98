//! Every op of the table in a world of three, as a fault test needs it: on each rank, possibly with other arguments than
//! the others have.

use std::time::Duration;

use c10d::ops::{BarrierOptions, Missing};
use c10d::{Element, OpKind, ProcessGroup, ReduceOp, Result, Root, op};

/// The rank to which things happen.
pub(crate) const VICTIM: u32 = 1;
/// The world of the fault tests.
pub(crate) const WORLD: u32 = 3;

/// The arguments of one rank.
#[derive(Clone, Copy)]
pub(crate) struct Arguments {
    pub(crate) op: OpKind,
    /// Elements per rank.
    pub(crate) count: usize,
    pub(crate) wide: bool,
    pub(crate) reduce: ReduceOp,
    pub(crate) root: u32,
    /// Whether the parts of a flat exchange are shifted.
    pub(crate) shifted: bool,
    pub(crate) timeout: Duration,
}

impl Arguments {
    pub(crate) fn of(op: OpKind, count: usize, timeout: Duration) -> Arguments {
        Arguments { op, count, wide: false, reduce: ReduceOp::Sum, root: 0, shifted: false, timeout }
    }
}

/// Does the op. Point-to-point ops are between the victim and each of the others.
pub(crate) fn act(pg: &ProcessGroup, a: &Arguments) -> Result {
    if a.wide { typed::<i64>(pg, a) } else { typed::<i32>(pg, a) }
}

fn typed<T: Element + Default>(pg: &ProcessGroup, a: &Arguments) -> Result {
    let n = pg.size() as usize;
    let one = || vec![T::default(); a.count];
    let flat = || vec![T::default(); a.count * n];
    let list = || vec![one(); n];
    let mut out = one();
    let is_root = pg.rank() == a.root;
    match a.op {
        OpKind::Broadcast => pg.run(op::broadcast(&mut out, a.root).timeout(a.timeout)).map(drop),
        OpKind::AllReduce => pg.run(op::all_reduce(&mut out, a.reduce).timeout(a.timeout)).map(drop),
        OpKind::AllReduceCoalesced => {
            pg.run(op::all_reduce_coalesced(vec![one(), one()], a.reduce).timeout(a.timeout)).map(drop)
        }
        OpKind::Reduce => pg.run(op::reduce(&mut out, a.reduce, a.root).timeout(a.timeout)).map(drop),
        OpKind::AllGather => pg.run(op::all_gather(one(), list()).timeout(a.timeout)).map(drop),
        OpKind::AllGatherInto => pg.run(op::all_gather_into(one(), flat()).timeout(a.timeout)).map(drop),
        OpKind::AllGatherCoalesced => {
            let call = op::all_gather_coalesced(vec![one(), one()], vec![list(), list()]);
            pg.run(call.timeout(a.timeout)).map(drop)
        }
        OpKind::AllGatherIntoCoalesced => {
            let call = op::all_gather_into_coalesced(vec![one(), one()], vec![flat(), flat()]);
            pg.run(call.timeout(a.timeout)).map(drop)
        }
        OpKind::ReduceScatter => pg.run(op::reduce_scatter(list(), one(), a.reduce).timeout(a.timeout)).map(drop),
        OpKind::ReduceScatterInto => {
            pg.run(op::reduce_scatter_into(flat(), one(), a.reduce).timeout(a.timeout)).map(drop)
        }
        OpKind::ReduceScatterIntoCoalesced => {
            let call = op::reduce_scatter_into_coalesced(vec![flat(), flat()], vec![one(), one()], a.reduce);
            pg.run(call.timeout(a.timeout)).map(drop)
        }
        OpKind::Gather => {
            let root = if is_root { Root::Me(list()) } else { Root::At(a.root) };
            pg.run(op::gather(one(), root).timeout(a.timeout)).map(drop)
        }
        OpKind::Scatter => {
            let root = if is_root { Root::Me(list()) } else { Root::At(a.root) };
            pg.run(op::scatter(root, one()).timeout(a.timeout)).map(drop)
        }
        OpKind::AllToAll => pg.run(op::all_to_all(list(), list()).timeout(a.timeout)).map(drop),
        OpKind::AllToAllSingle => {
            let mut call = op::all_to_all_single(flat(), flat());
            if a.shifted {
                // One element of the part for the first goes to the last.
                let mut splits = vec![a.count; n];
                splits[0] -= 1;
                splits[n - 1] += 1;
                call = call.splits(&splits, &vec![a.count; n]);
            }
            pg.run(call.timeout(a.timeout)).map(drop)
        }
        OpKind::Barrier => pg.run(op::barrier(BarrierOptions::default()).timeout(a.timeout)),
        OpKind::MonitoredBarrier => pg.run(op::monitored_barrier(Missing::All).timeout(a.timeout)),
        OpKind::Send | OpKind::Recv | OpKind::RecvAnySource => point_to_point(pg, a, out),
    }
}

/// `send`: all others send to the victim; else it sends to them.
fn point_to_point<T: Element>(pg: &ProcessGroup, a: &Arguments, mut buffer: Vec<T>) -> Result {
    const TAG: u32 = 3;
    let others = (0..pg.size()).filter(|rank| *rank != VICTIM);
    match (a.op, pg.rank() == VICTIM) {
        (OpKind::Send, false) => pg.run(op::send(&buffer, VICTIM, TAG).timeout(a.timeout)).map(drop),
        (OpKind::Send, true) => {
            for from in others {
                pg.run(op::recv(&mut buffer, from, TAG).timeout(a.timeout))?;
            }
            Ok(())
        }
        (_, true) => {
            for to in others {
                pg.run(op::send(&buffer, to, TAG).timeout(a.timeout))?;
            }
            Ok(())
        }
        (OpKind::Recv, false) => pg.run(op::recv(&mut buffer, VICTIM, TAG).timeout(a.timeout)).map(drop),
        (_, false) => pg.run(op::recv_any_source(&mut buffer, TAG).timeout(a.timeout)).map(drop),
    }
}

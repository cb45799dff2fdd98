//! Every op of the table in a world of three, as a fault test needs it: on each rank, possibly with other arguments than
//! the others have.

use std::time::Duration;

use c10d::ops::{BarrierOptions, Missing};
use c10d::{Buffers, Call, Element, OpKind, ProcessGroup, ReduceOp, Result, Root, op};

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
    /// Whether the op is started, and its handle dropped.
    pub(crate) started: bool,
}

impl Arguments {
    pub(crate) fn of(op: OpKind, count: usize, timeout: Duration) -> Arguments {
        Arguments { op, count, wide: false, reduce: ReduceOp::Sum, root: 0, shifted: false, timeout, started: false }
    }
}

/// Does the op. Point-to-point ops are between the victim and each of the others.
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
    pg.run(call).map(drop)
}

fn typed<T: Element + Default>(pg: &ProcessGroup, a: &Arguments) -> Result {
    let n = pg.size() as usize;
    let one = || vec![T::default(); a.count];
    let flat = || vec![T::default(); a.count * n];
    let list = || vec![one(); n];
    let out = one();
    let is_root = pg.rank() == a.root;
    match a.op {
        OpKind::Broadcast => go(pg, a, op::broadcast(out, a.root)),
        OpKind::AllReduce => go(pg, a, op::all_reduce(out, a.reduce)),
        OpKind::AllReduceCoalesced => go(pg, a, op::all_reduce_coalesced(vec![one(), one()], a.reduce)),
        OpKind::Reduce => go(pg, a, op::reduce(out, a.reduce, a.root)),
        OpKind::AllGather => go(pg, a, op::all_gather(one(), list())),
        OpKind::AllGatherInto => go(pg, a, op::all_gather_into(one(), flat())),
        OpKind::AllGatherCoalesced => {
            let call = op::all_gather_coalesced(vec![one(), one()], vec![list(), list()]);
            go(pg, a, call)
        }
        OpKind::AllGatherIntoCoalesced => {
            let call = op::all_gather_into_coalesced(vec![one(), one()], vec![flat(), flat()]);
            go(pg, a, call)
        }
        OpKind::ReduceScatter => go(pg, a, op::reduce_scatter(list(), one(), a.reduce)),
        OpKind::ReduceScatterInto => go(pg, a, op::reduce_scatter_into(flat(), one(), a.reduce)),
        OpKind::ReduceScatterIntoCoalesced => {
            let call = op::reduce_scatter_into_coalesced(vec![flat(), flat()], vec![one(), one()], a.reduce);
            go(pg, a, call)
        }
        OpKind::Gather => {
            let root = if is_root { Root::Me(list()) } else { Root::At(a.root) };
            go(pg, a, op::gather(one(), root))
        }
        OpKind::Scatter => {
            let root = if is_root { Root::Me(list()) } else { Root::At(a.root) };
            go(pg, a, op::scatter(root, one()))
        }
        OpKind::AllToAll => go(pg, a, op::all_to_all(list(), list())),
        OpKind::AllToAllSingle => {
            let mut call = op::all_to_all_single(flat(), flat());
            if a.shifted {
                // One element of the part for the first goes to the last.
                let mut splits = vec![a.count; n];
                splits[0] -= 1;
                splits[n - 1] += 1;
                call = call.splits(&splits, &vec![a.count; n]);
            }
            go(pg, a, call)
        }
        OpKind::Barrier => go(pg, a, op::barrier(BarrierOptions::default())),
        OpKind::MonitoredBarrier => go(pg, a, op::monitored_barrier(Missing::All)),
        OpKind::Send | OpKind::Recv | OpKind::RecvAnySource => point_to_point(pg, a, out),
    }
}

/// `send`: all others send to the victim; else it sends to them.
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

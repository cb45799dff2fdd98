//! Converts a request to an exchange (see [`exchange`](crate::exec::exchange)), or to spaces and a plan. For a plan,
//! the op's tensors are put into the spaces end to end, rank by rank, and the chosen algorithm fills in the plan.
#![allow(unsafe_code)]

use std::sync::Arc;

use c10d_core::backend::{OpSet, Request};
use c10d_core::{DType, OpKind, Span};

use crate::exec::exchange::{Bytes, Exchange, MAIL_BYTES, MOST_BYTES, MOST_RANKS, Others, PerRank, Use};
use crate::exec::{Reduction, Spaces};
use crate::plan::Plan;
use crate::schedule::{Algorithm, Blocks, Fabric, Hosts, Member, Selection, direct, exact};

/// Converts requests, and reuses its memory from one request to the next.
pub(crate) struct Layout {
    me: Member,
    selection: Arc<Selection>,
    /// The ops whose small calls are exchanges.
    exchanged: OpSet,
    hosts: Hosts,
    /// The start of each rank's block in the input and in the output, and the end of the last block.
    starts: [Vec<usize>; 2],
}

impl Layout {
    pub(crate) fn new(me: Member, fabric: Fabric, selection: Arc<Selection>, hosts: Hosts) -> Layout {
        let exchanged = exchanged(me.world, fabric, &selection);
        Layout { me, selection, exchanged, hosts, starts: Default::default() }
    }

    /// Returns the number of ranks.
    pub(crate) fn world(&self) -> u32 {
        self.me.world
    }

    /// Returns the algorithm for this request.
    #[inline]
    fn algorithm(&self, request: &Request, dtype: Option<DType>, bytes: usize) -> Algorithm {
        let exact = dtype.is_some_and(|d| exact(d, request.params.reduce));
        self.selection.choose(request.op, bytes, exact)
    }

    /// Returns the request as an exchange, if its op allows that and all its items are small. Another rank may have
    /// larger items in the same call, and run the plan instead. This works because the plan of such an op sends the
    /// same items as the exchange.
    #[inline(always)]
    pub(crate) fn exchange<'a>(&self, request: &'a Request, reduction: Option<Reduction>) -> Option<Exchange<'a>> {
        if !self.exchanged.contains(request.op) {
            return None;
        }
        let (inputs, outputs) = (request.inputs(), request.outputs());
        let root = request.params.root;
        let is_root = self.me.rank == root;
        let all = |spans: &[Span]| spans.first().map_or(Bytes::NONE, Bytes::of);
        let nothing = Use::Copied { to: PerRank::Whole(Bytes::NONE), own: false };
        let copied = |to| Use::Copied { to, own: true };
        let even = |whole: &[Span]| {
            let Bytes { at, len } = all(whole);
            PerRank::Even(Bytes { at, len: len / self.me.world as usize })
        };
        let everybody = |send, take| Exchange { to: Others::All, send, from: Others::All, take };
        let rooted = |to_root: bool, send, take| match (is_root, to_root) {
            (true, true) => Exchange { to: Others::Nobody, send, from: Others::All, take },
            (true, false) => Exchange { to: Others::All, send, from: Others::Nobody, take },
            (false, true) => Exchange { to: Others::One(root), send, from: Others::Nobody, take: nothing },
            (false, false) => Exchange { to: Others::Nobody, send, from: Others::One(root), take },
        };
        let exchange = match request.op {
            OpKind::AllReduce => {
                let own = all(outputs);
                everybody(PerRank::Whole(own), Use::Reduced { own, to: own.at, by: reduction? })
            }
            OpKind::Reduce => {
                let own = all(outputs);
                rooted(true, PerRank::Whole(own), Use::Reduced { own, to: own.at, by: reduction? })
            }
            OpKind::Broadcast => {
                let own = PerRank::Whole(all(outputs));
                rooted(false, own, Use::Copied { to: own, own: false })
            }
            OpKind::AllGather => everybody(PerRank::Whole(all(inputs)), copied(PerRank::List(outputs))),
            OpKind::AllGatherInto => everybody(PerRank::Whole(all(inputs)), copied(even(outputs))),
            OpKind::ReduceScatter | OpKind::ReduceScatterInto => {
                let send = if request.op == OpKind::ReduceScatter { PerRank::List(inputs) } else { even(inputs) };
                let own = send.of(self.me.rank);
                everybody(send, Use::Reduced { own, to: all(outputs).at, by: reduction? })
            }
            OpKind::Gather => rooted(true, PerRank::Whole(all(inputs)), copied(PerRank::List(outputs))),
            OpKind::Scatter if is_root => rooted(false, PerRank::List(inputs), copied(PerRank::Whole(all(outputs)))),
            OpKind::Scatter => {
                let to = PerRank::Whole(all(outputs));
                rooted(false, PerRank::Whole(Bytes::NONE), Use::Copied { to, own: false })
            }
            OpKind::AllToAll => everybody(PerRank::List(inputs), copied(PerRank::List(outputs))),
            OpKind::AllToAllSingle
                if request.params.input_splits().is_empty() && request.params.output_splits().is_empty() =>
            {
                everybody(even(inputs), copied(even(outputs)))
            }
            OpKind::Barrier | OpKind::MonitoredBarrier => everybody(PerRank::Whole(Bytes::NONE), nothing),
            _ => return None,
        };
        let largest = exchange.largest();
        let fits = largest <= MAIL_BYTES
            || largest <= MOST_BYTES && {
                let exact = request.dtype().is_some_and(|d| exact(d, request.params.reduce));
                is_one_round(&self.selection, request.op, deciding_bytes(request), exact)
            };
        fits.then_some(exchange)
    }

    /// Fills `spaces` and `plan`, which are empty, for this request, whose element type is `dtype`.
    pub(crate) fn fill(&mut self, request: &Request, dtype: Option<DType>, spaces: &mut Spaces, plan: &mut Plan) {
        let me = self.me;
        let world = me.world as usize;
        let root = request.params.root;
        let elem = dtype.map_or(1, |d| d.size());
        let (inputs, outputs) = (request.inputs(), request.outputs());
        let bytes = |spans: &[Span]| spans.iter().map(Span::bytes).sum::<usize>();
        match request.op {
            OpKind::Broadcast => {
                let total = put(spaces, Operand::Output, outputs);
                let how = self.algorithm(request, dtype, total);
                how.broadcast(me, root, total, elem, plan);
            }
            OpKind::AllReduce | OpKind::AllReduceCoalesced => {
                let total = put(spaces, Operand::Output, outputs);
                let how = self.algorithm(request, dtype, total);
                how.all_reduce(me, &self.hosts, total, elem, plan);
            }
            OpKind::Reduce => {
                let total = put(spaces, Operand::Input, outputs);
                if me.rank == root {
                    put(spaces, Operand::Output, outputs);
                }
                let how = self.algorithm(request, dtype, total);
                how.reduce(me, root, total, elem, plan);
            }
            OpKind::AllGather => {
                put(spaces, Operand::Input, inputs);
                put(spaces, Operand::Output, outputs);
                let how = self.algorithm(request, dtype, bytes(outputs));
                how.all_gather(me, &self.hosts, list(&mut self.starts[1], outputs.iter().map(Span::bytes)), plan);
            }
            OpKind::AllGatherInto => {
                put(spaces, Operand::Input, inputs);
                put(spaces, Operand::Output, outputs);
                let how = self.algorithm(request, dtype, bytes(outputs));
                how.all_gather(me, &self.hosts, Blocks::uniform(me.world, bytes(inputs)), plan);
            }
            OpKind::AllGatherCoalesced => {
                put(spaces, Operand::Input, inputs);
                let of = |p: usize| outputs.iter().skip(p).step_by(world);
                for p in 0..world {
                    of(p).for_each(|span| put_part(spaces, Operand::Output, span, 0, span.bytes()));
                }
                let how = self.algorithm(request, dtype, bytes(outputs));
                let blocks = list(&mut self.starts[1], (0..world).map(|p| of(p).map(Span::bytes).sum()));
                how.all_gather(me, &self.hosts, blocks, plan);
            }
            OpKind::AllGatherIntoCoalesced => {
                put(spaces, Operand::Input, inputs);
                put_blocks(spaces, Operand::Output, outputs, world);
                let how = self.algorithm(request, dtype, bytes(outputs));
                how.all_gather(me, &self.hosts, Blocks::uniform(me.world, bytes(inputs)), plan);
            }
            OpKind::ReduceScatter => {
                put(spaces, Operand::Input, inputs);
                put(spaces, Operand::Output, outputs);
                let how = self.algorithm(request, dtype, bytes(inputs));
                how.reduce_scatter(me, &self.hosts, list(&mut self.starts[0], inputs.iter().map(Span::bytes)), plan);
            }
            OpKind::ReduceScatterInto => {
                put(spaces, Operand::Input, inputs);
                put(spaces, Operand::Output, outputs);
                let how = self.algorithm(request, dtype, bytes(inputs));
                how.reduce_scatter(me, &self.hosts, Blocks::uniform(me.world, bytes(outputs)), plan);
            }
            OpKind::ReduceScatterIntoCoalesced => {
                put_blocks(spaces, Operand::Input, inputs, world);
                put(spaces, Operand::Output, outputs);
                let how = self.algorithm(request, dtype, bytes(inputs));
                how.reduce_scatter(me, &self.hosts, Blocks::uniform(me.world, bytes(outputs)), plan);
            }
            OpKind::Gather => {
                let own = put(spaces, Operand::Input, inputs);
                put(spaces, Operand::Output, outputs);
                direct::gather(me, root, own, list(&mut self.starts[1], outputs.iter().map(Span::bytes)), plan);
            }
            OpKind::Scatter => {
                put(spaces, Operand::Input, inputs);
                let own = put(spaces, Operand::Output, outputs);
                direct::scatter(me, root, own, list(&mut self.starts[0], inputs.iter().map(Span::bytes)), plan);
            }
            OpKind::AllToAll | OpKind::AllToAllSingle => {
                let sent = put(spaces, Operand::Input, inputs);
                let received = put(spaces, Operand::Output, outputs);
                let [from, to] = &mut self.starts;
                let single = request.op == OpKind::AllToAllSingle;
                let params = &request.params;
                let from = parts(from, single, params.input_splits(), elem, sent, inputs, world);
                let to = parts(to, single, params.output_splits(), elem, received, outputs, world);
                direct::all_to_all(me, from, to, plan);
            }
            OpKind::Barrier | OpKind::MonitoredBarrier => {
                let how = self.algorithm(request, dtype, 0);
                how.barrier(me, plan);
            }
            OpKind::Send | OpKind::Recv | OpKind::RecvAnySource => debug_assert!(false, "messages have no plan"),
        }
    }
}

/// Returns the ops whose small calls are exchanges: those for which the table chooses, at every small size, an
/// algorithm with one round in which each rank sends directly. Only with such an algorithm does the plan send the same
/// items as the exchange. It must, since a rank that has begun an exchange may have to continue with the plan, and its
/// peers may run the plan from the start. Unless all ranks share memory and are at most [`MOST_RANKS`], there are none.
fn exchanged(world: u32, fabric: Fabric, selection: &Selection) -> OpSet {
    use OpKind::*;
    let ops = [
        Broadcast,
        AllReduce,
        Reduce,
        AllGather,
        AllGatherInto,
        ReduceScatter,
        ReduceScatterInto,
        Gather,
        Scatter,
        AllToAll,
        AllToAllSingle,
        Barrier,
        MonitoredBarrier,
    ];
    if fabric != Fabric::Shm || world > MOST_RANKS {
        return OpSet::NONE;
    }
    let always = |op: &OpKind| {
        let items = match op {
            AllGatherInto | ReduceScatterInto => world as usize,
            _ => 1,
        };
        (0..=MAIL_BYTES)
            .flat_map(|item| [(item, false), (item, true)])
            .all(|(item, exact)| is_one_round(selection, *op, item * items, exact))
    };
    OpSet::of(&ops.into_iter().filter(always).collect::<Vec<_>>())
}

/// Whether the table chooses an algorithm with one round in which each rank sends directly.
fn is_one_round(selection: &Selection, op: OpKind, bytes: usize, exact: bool) -> bool {
    match selection.choose(op, bytes, exact) {
        Algorithm::Local | Algorithm::OneShot => true,
        Algorithm::Direct => op != OpKind::AllReduce,
        _ => false,
    }
}

/// Returns the number of bytes by which the table chooses the algorithm of this request.
fn deciding_bytes(request: &Request) -> usize {
    let spans = match request.op {
        OpKind::ReduceScatter | OpKind::ReduceScatterInto => request.inputs(),
        _ => request.outputs(),
    };
    spans.iter().map(Span::bytes).sum()
}

#[derive(Clone, Copy)]
enum Operand {
    Input,
    Output,
}

/// Puts whole tensors end to end. Returns their number of bytes.
fn put(spaces: &mut Spaces, operand: Operand, spans: &[Span]) -> usize {
    spans.iter().map(|span| (put_part(spaces, operand, span, 0, span.bytes()), span.bytes()).1).sum()
}

/// Puts the blocks of tensors end to end, rank by rank. Each tensor has `world` blocks.
fn put_blocks(spaces: &mut Spaces, operand: Operand, spans: &[Span], world: usize) {
    for p in 0..world {
        for span in spans {
            let len = span.bytes() / world;
            put_part(spaces, operand, span, p * len, len);
        }
    }
}

fn put_part(spaces: &mut Spaces, operand: Operand, span: &Span, offset: usize, len: usize) {
    // Dispatch gives this backend only host memory.
    let Some(at) = span.host_ptr() else { return };
    // SAFETY: the bytes are a part of a span of a job that this backend holds, and the spaces are cleared before the
    // job is completed. Tensors of an op overlap only in the in-place layouts that dispatch allows.
    unsafe {
        let at = at.add(offset);
        match operand {
            Operand::Input => spaces.add_input(at, len),
            Operand::Output => spaces.add_output(at, len),
        }
    }
}

/// Makes blocks of these lengths; `starts` is the memory for their offsets.
fn list(starts: &mut Vec<usize>, lens: impl Iterator<Item = usize>) -> Blocks<'_> {
    starts.clear();
    starts.push(0);
    let mut end = 0;
    starts.extend(lens.map(|len| {
        end += len;
        end
    }));
    Blocks::Listed(starts)
}

/// Returns the blocks that this rank sends in an all-to-all, or those that it receives.
fn parts<'a>(
    starts: &'a mut Vec<usize>,
    single: bool,
    splits: &[usize],
    elem: usize,
    bytes: usize,
    spans: &[Span],
    world: usize,
) -> Blocks<'a> {
    if !single {
        list(starts, spans.iter().map(Span::bytes))
    } else if splits.is_empty() {
        Blocks::uniform(world as u32, bytes / world)
    } else {
        list(starts, splits.iter().map(|n| n * elem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Table;

    #[test]
    fn small_ops_are_exchanges_if_all_share_memory_and_the_table_chooses_one_round() {
        let of = |world, fabric, table: Table| exchanged(world, fabric, &Selection::new(&table, world, fabric));
        for world in 1..=MOST_RANKS {
            for op in OpKind::ALL.iter().filter(|op| !op.is_p2p()) {
                let coalesced = op.name().contains("coalesced");
                assert_eq!(of(world, Fabric::Shm, Table::builtin()).contains(*op), !coalesced, "{op} {world}");
            }
        }
        assert_eq!(of(MOST_RANKS + 1, Fabric::Shm, Table::builtin()), OpSet::NONE);
        assert_eq!(of(2, Fabric::Tcp, Table::builtin()), OpSet::NONE);
        let tree = of(4, Fabric::Shm, Table::builtin().preferring(Algorithm::Tree));
        assert!(
            !tree.contains(OpKind::AllReduce) && !tree.contains(OpKind::Broadcast) && tree.contains(OpKind::Barrier)
        );
    }
}

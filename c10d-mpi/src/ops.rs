//! The data that each op sends, receives and reduces. Elements are reduced in rank order.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use c10d_core::backend::let_go;
use c10d_core::{Error, ErrorKind, OpKind, Phase, Result, Span};

use crate::exchange::{Exchange, Few, Received, SHORT, Step, Transfer};
use crate::health::Health;
use crate::memory::{Reduction, Space, spaces};
use crate::task::Task;

/// The largest number of bytes that one rank sends to another in one step, if the group is small.
const WINDOW: usize = 1 << 20;
/// The largest number of bytes that one rank sends and receives in one step, with all peers together. In large groups,
/// this limit makes the window smaller than [`WINDOW`], see [`Collectives::window`].
const ALL: usize = 64 << 20;
/// In an all-reduce of up to this many bytes, each rank sends all its data to all others. Two ranks do so with any
/// number of bytes.
const DIRECT: usize = 8 << 10;
/// Every library sends a message of this many bytes without a handshake. If the library uses a handshake for larger
/// messages, it is faster to send up to [`EAGER_STEPS`] times as many bytes in steps of this size.
const EAGER: usize = 4 << 10;
const EAGER_STEPS: usize = 4;

/// The data that one rank sends to another, or receives from another, in a call.
struct Block {
    peer: u32,
    start: usize,
    len: usize,
}

/// The collectives of one rank of a group. They run one after the other.
pub(crate) struct Collectives {
    rank: u32,
    size: u32,
    health: Arc<Health>,
    /// The object that exchanges messages with the other ranks; `None` if the group has one rank only.
    exchange: Option<Exchange>,
    /// Whether a message of more than [`EAGER`] bytes costs more than several smaller ones.
    by_handshake: bool,
}

struct Call<'a> {
    task: &'a Task,
    deadline: &'a dyn Fn() -> Instant,
    number: u32,
}

impl<'a> Call<'a> {
    fn step(&mut self) -> Step<'a> {
        let number = self.number;
        self.number += 1;
        let Task { fingerprint, timeout, .. } = *self.task;
        Step { fingerprint, timeout, deadline: self.deadline, number }
    }
}

impl Collectives {
    pub(crate) fn new(
        (rank, size): (u32, u32),
        health: Arc<Health>,
        exchange: Option<Exchange>,
        by_handshake: bool,
    ) -> Collectives {
        Collectives { rank, size, health, exchange, by_handshake }
    }

    /// Returns the number of payload bytes sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.exchange.as_ref().map_or(0, |e| e.sent)
    }

    /// Runs a collective to its end, but does not complete its job.
    pub(crate) fn run(&mut self, task: &Task, deadline: &dyn Fn() -> Instant) -> Result {
        self.health.begin()?;
        let world = self.size as usize;
        let (rank, root) = (self.rank, task.params.root);
        let (inputs, outputs) = (&task.inputs[..], &task.outputs[..]);
        let call = &mut Call { task, deadline, number: 0 };
        let (input, output) = spaces(task, world);
        let (of_input, of_output) = (|| lens(inputs, &[], task, world), || lens(outputs, &[], task, world));
        match task.op {
            OpKind::Broadcast => {
                let len = output.len();
                let (mut sends, mut recvs) = (Vec::new(), Vec::new());
                if rank == root {
                    sends.extend(self.others().map(|peer| Block { peer, start: 0, len }));
                } else {
                    recvs.push(Block { peer: root, start: 0, len });
                }
                self.ring(&mut sends, &mut recvs);
                self.stream(call, &output, &sends, &output, &recvs)
            }
            OpKind::AllReduce | OpKind::AllReduceCoalesced => self.all_reduce(call, &output),
            OpKind::Reduce => self.reduce(call, &output, root),
            OpKind::AllGather | OpKind::AllGatherInto | OpKind::AllGatherCoalesced | OpKind::AllGatherIntoCoalesced => {
                let lens = match task.op {
                    OpKind::AllGather => of_output(),
                    OpKind::AllGatherCoalesced => {
                        let of = |p: usize| outputs.iter().skip(p).step_by(world).map(Span::bytes).sum();
                        (0..world).map(of).collect()
                    }
                    _ => vec![input.len(); world],
                };
                let starts = starts(&lens);
                let len = input.len();
                let sends: Vec<Block> = self.others().map(|peer| Block { peer, start: 0, len }).collect();
                let recvs = self.blocks(&starts, &lens);
                output.copy_from(starts[rank as usize], &input, 0..len);
                self.stream(call, &input, &sends, &output, &recvs)
            }
            OpKind::ReduceScatter | OpKind::ReduceScatterInto | OpKind::ReduceScatterIntoCoalesced => {
                let lens = if task.op == OpKind::ReduceScatter { of_input() } else { vec![output.len(); world] };
                self.reduce_scatter(call, &input, &lens, &output)
            }
            OpKind::Gather => {
                let (mut sends, mut recvs) = (Vec::new(), Vec::new());
                if rank == root {
                    let lens = of_output();
                    let starts = starts(&lens);
                    recvs = self.blocks(&starts, &lens);
                    output.copy_from(starts[rank as usize], &input, 0..input.len());
                } else {
                    sends.push(Block { peer: root, start: 0, len: input.len() });
                }
                self.ring(&mut sends, &mut recvs);
                self.stream(call, &input, &sends, &output, &recvs)
            }
            OpKind::Scatter => {
                let (mut sends, mut recvs) = (Vec::new(), Vec::new());
                if rank == root {
                    let lens = of_input();
                    let starts = starts(&lens);
                    sends = self.blocks(&starts, &lens);
                    let own = starts[rank as usize];
                    output.copy_from(0, &input, own..own + output.len());
                } else {
                    recvs.push(Block { peer: root, start: 0, len: output.len() });
                }
                self.ring(&mut sends, &mut recvs);
                self.stream(call, &input, &sends, &output, &recvs)
            }
            OpKind::AllToAll | OpKind::AllToAllSingle => {
                let from = lens(inputs, task.params.input_splits(), task, world);
                let to = lens(outputs, task.params.output_splits(), task, world);
                let (sent, received) = (starts(&from), starts(&to));
                let (sends, recvs) = (self.blocks(&sent, &from), self.blocks(&received, &to));
                let (own, at) = (sent[rank as usize], received[rank as usize]);
                output.copy_from(at, &input, own..own + from[rank as usize]);
                self.stream(call, &input, &sends, &output, &recvs)
            }
            OpKind::Barrier => {
                let none = |peer| Block { peer, start: 0, len: 0 };
                let all = || self.others().map(none).collect::<Vec<Block>>();
                let (sends, recvs) = (all(), all());
                self.stream(call, &input, &sends, &output, &recvs)
            }
            OpKind::MonitoredBarrier => self.monitored_barrier(call),
            OpKind::Send | OpKind::Recv | OpKind::RecvAnySource => {
                Err(Error::new(ErrorKind::Internal, "a point-to-point job was given to the collectives"))
            }
        }
    }

    fn others(&self) -> impl Iterator<Item = u32> + use<> {
        let rank = self.rank;
        (0..self.size).filter(move |r| *r != rank)
    }

    fn blocks(&self, starts: &[usize], lens: &[usize]) -> Vec<Block> {
        self.others().map(|peer| Block { peer, start: starts[peer as usize], len: lens[peer as usize] }).collect()
    }

    /// Adds an empty block to each of the next two ranks and from each of the two ranks before this one, unless there
    /// is a block already. An empty block is sent as a header with the fingerprint of the call. So each rank compares
    /// its call at least with the calls of the two ranks before it.
    fn ring(&self, sends: &mut Vec<Block>, recvs: &mut Vec<Block>) {
        let (rank, size) = (self.rank, self.size);
        for away in 1..=2.min(size - 1) {
            let (next, before) = ((rank + away) % size, (rank + size - away) % size);
            if sends.iter().all(|b| b.peer != next) {
                sends.push(Block { peer: next, start: 0, len: 0 });
            }
            if recvs.iter().all(|b| b.peer != before) {
                recvs.push(Block { peer: before, start: 0, len: 0 });
            }
        }
    }

    /// Returns the window: the largest number of bytes that one rank sends to another in one step.
    fn window(&self) -> usize {
        (ALL / (2 * self.size as usize)).clamp(SHORT, WINDOW) & !63
    }

    /// Moves blocks of any length, in steps of at most one window per peer (see [`Collectives::window`]).
    fn stream(&mut self, call: &mut Call<'_>, from: &Space, sends: &[Block], to: &Space, recvs: &[Block]) -> Result {
        let window = self.window();
        let Some(exchange) = &mut self.exchange else { return Ok(()) };
        let longest = sends.iter().chain(recvs).map(|b| b.len).max().unwrap_or(0);
        for at in (0..longest.max(1)).step_by(window) {
            let part = |block: &Block| {
                let (from, to) = (at.min(block.len), (at + window).min(block.len));
                let range = block.start + from..block.start + to;
                (at == 0 || from < to).then_some(Transfer { peer: block.peer, range, total: block.len })
            };
            let (sends, recvs): (Few<_>, Few<_>) =
                (sends.iter().filter_map(part).collect(), recvs.iter().filter_map(part).collect());
            let received = exchange.run(&call.step(), from, &sends, &recvs)?;
            recvs.iter().zip(&received).for_each(|(recv, received)| to.write(recv.range.clone(), received.bytes()));
            exchange.recycle(received);
        }
        Ok(())
    }

    fn reduction(&self, task: &Task) -> Result<Reduction> {
        let made = task.dtype.and_then(|dtype| Reduction::new(task.params.reduce, dtype, self.size));
        made.ok_or_else(|| Error::new(ErrorKind::Internal, "the reduction is not defined for this type"))
    }

    fn all_reduce(&mut self, call: &mut Call<'_>, space: &Space) -> Result {
        let reduction = self.reduction(call.task)?;
        let (rank, size, window, total) = (self.rank as usize, self.size as usize, self.window(), space.len());
        let direct = size <= 2 || total <= DIRECT;
        let per_step = match direct {
            true if self.by_handshake && total <= EAGER_STEPS * EAGER => EAGER,
            true => window,
            false => window * size,
        };
        for at in (0..total.max(1)).step_by(per_step) {
            let end = (at + per_step).min(total);
            if direct {
                self.fold(call, &reduction, (space, |_| at..end), |_| total, (space, at..end))?;
                continue;
            }
            // Each rank reduces one block, and then sends the result to all others.
            let elements = (end - at) / reduction.elem;
            let edge = |p: usize| at + elements * p / size * reduction.elem;
            let own = edge(rank)..edge(rank + 1);
            self.fold(call, &reduction, (space, |p| edge(p)..edge(p + 1)), |_| total, (space, own))?;
            let block = |peer: u32, p: usize| {
                let range = edge(p)..edge(p + 1);
                Transfer { peer, total: range.len(), range }
            };
            let sends: Few<Transfer> = self.others().map(|peer| block(peer, rank)).collect();
            let recvs: Few<Transfer> = self.others().map(|peer| block(peer, peer as usize)).collect();
            let Some(exchange) = &mut self.exchange else { return Ok(()) };
            let received = exchange.run(&call.step(), space, &sends, &recvs)?;
            recvs.iter().zip(&received).for_each(|(recv, received)| space.write(recv.range.clone(), received.bytes()));
            exchange.recycle(received);
        }
        Ok(())
    }

    fn reduce_scatter(&mut self, call: &mut Call<'_>, input: &Space, lens: &[usize], output: &Space) -> Result {
        let reduction = self.reduction(call.task)?;
        let (starts, window) = (starts(lens), self.window());
        let longest = lens.iter().copied().max().unwrap_or(0);
        for at in (0..longest.max(1)).step_by(window) {
            let range = |p: usize| starts[p] + at.min(lens[p])..starts[p] + (at + window).min(lens[p]);
            let own = range(self.rank as usize);
            let to = at.min(output.len())..at.min(output.len()) + own.len();
            self.fold(call, &reduction, (input, &range), |p| lens[p], (output, to))?;
        }
        Ok(())
    }

    /// Sends each rank its range of `from`, receives the data of all ranks for this rank, and reduces it into `to`.
    /// `total(p)` is the [`Transfer::total`] of the data that are sent to rank `p`.
    fn fold(
        &mut self,
        call: &mut Call<'_>,
        reduction: &Reduction,
        (from, range): (&Space, impl Fn(usize) -> Range<usize>),
        total: impl Fn(usize) -> usize,
        to: (&Space, Range<usize>),
    ) -> Result {
        let rank = self.rank as usize;
        let own = range(rank);
        let to_peer = |peer: u32| Transfer { peer, range: range(peer as usize), total: total(peer as usize) };
        let sends: Few<Transfer> = self.others().map(to_peer).collect();
        let recvs: Few<Transfer> =
            self.others().map(|peer| Transfer { peer, range: own.clone(), total: total(rank) }).collect();
        let received = match &mut self.exchange {
            Some(exchange) => exchange.run(&call.step(), from, &sends, &recvs)?,
            None => Few::new(),
        };
        reduction.run((from, own), &in_rank_order(&received, rank), to);
        if let Some(exchange) = &mut self.exchange {
            exchange.recycle(received);
        }
        Ok(())
    }

    fn reduce(&mut self, call: &mut Call<'_>, space: &Space, root: u32) -> Result {
        let reduction = self.reduction(call.task)?;
        let (rank, window, total) = (self.rank, self.window(), space.len());
        for at in (0..total.max(1)).step_by(window) {
            let range = at..(at + window).min(total);
            let len = range.len();
            let block = |peer| Block { peer, start: at, len };
            let (mut sends, mut recvs) = (Vec::new(), Vec::new());
            if rank == root {
                recvs.extend(self.others().map(block))
            } else {
                sends.push(block(root))
            }
            if at == 0 {
                self.ring(&mut sends, &mut recvs);
            }
            let transfer = |b: &Block| Transfer { peer: b.peer, range: b.start..b.start + b.len, total: b.len };
            let (sends, recvs): (Few<_>, Few<_>) =
                (sends.iter().map(transfer).collect(), recvs.iter().map(transfer).collect());
            let received = match &mut self.exchange {
                Some(exchange) => exchange.run(&call.step(), space, &sends, &recvs)?,
                None => Few::new(),
            };
            if rank == root {
                let values = in_rank_order(&received, rank as usize);
                reduction.run((space, range.clone()), &values, (space, range));
            }
            if let Some(exchange) = &mut self.exchange {
                exchange.recycle(received);
            }
        }
        Ok(())
    }

    /// Runs a monitored barrier: rank 0 finds out which ranks are missing, and sends their list to the ranks that have
    /// arrived. The list has all missing ranks if the caller asked for all, otherwise only the first.
    fn monitored_barrier(&mut self, call: &mut Call<'_>) -> Result {
        let (rank, peers) = (self.rank, self.others().collect::<Vec<u32>>());
        let wait_all = call.task.params.wait_all_ranks;
        let (mut sends, mut recvs) = (Vec::new(), Vec::new());
        self.ring(&mut sends, &mut recvs);
        let others = |blocks: &[Block]| blocks.iter().map(|b| b.peer).filter(|p| *p != 0).collect::<Vec<u32>>();
        let (next, before) = (others(&sends), others(&recvs));
        let Some(exchange) = &mut self.exchange else { return Ok(()) };
        let missing = match rank {
            0 => exchange.collect(&call.step(), &peers)?,
            _ => {
                // If ranks are missing, rank 0 answers only at its deadline. So the other ranks wait beyond their own
                // deadline.
                let deadline = call.deadline;
                let later = || deadline() + let_go(call.task.timeout) / 2;
                let Task { fingerprint, timeout, .. } = *call.task;
                let step = Step { fingerprint, timeout, deadline: &later, number: 0 };
                exchange.report(&step, &next, &before)?
            }
        };
        let named = if wait_all { &missing[..] } else { &missing[..missing.len().min(1)] };
        if rank == 0 {
            let here: Vec<u32> = peers.into_iter().filter(|peer| !missing.contains(peer)).collect();
            exchange.answer(&call.step(), &here, named)?;
        }
        match named {
            [] => Ok(()),
            named => {
                let what = "ranks did not reach the monitored barrier";
                let error = Error::new(ErrorKind::Timeout, what).guilty(named.iter().copied()).phase(Phase::Announce);
                Err(self.health.fail(error))
            }
        }
    }

    /// Exchanges goodbyes with the peers. If this succeeds, everything that this rank sent to them has arrived.
    pub(crate) fn farewell(&mut self, until: Instant) -> Result {
        match &mut self.exchange {
            Some(exchange) => exchange.farewell(self.size, until),
            None => Ok(()),
        }
    }
}

/// Returns the data from all other ranks in rank order, with `None` in the place of this rank.
fn in_rank_order(received: &[Received], rank: usize) -> Few<Option<&[u8]>> {
    let mut values: Few<Option<&[u8]>> = received.iter().map(|c| Some(c.bytes())).collect();
    values.insert(rank, None);
    values
}

/// Returns the size in bytes of each rank's block of the inputs, or of the outputs.
fn lens(spans: &[Span], splits: &[usize], task: &Task, world: usize) -> Vec<usize> {
    let elem = task.dtype.map_or(1, |d| d.size());
    if !splits.is_empty() {
        splits.iter().map(|n| n * elem).collect()
    } else if task.op == OpKind::AllToAllSingle {
        vec![spans.iter().map(Span::bytes).sum::<usize>() / world; world]
    } else {
        spans.iter().map(Span::bytes).collect()
    }
}

/// Returns the offset of each rank's block, and one more element: the end of the last block.
fn starts(lens: &[usize]) -> Vec<usize> {
    let ends = lens.iter().scan(0, |end, len| {
        *end += len;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

/// Returns the name of the algorithm of a call, or `None` for point-to-point operations.
pub(crate) fn algorithm(op: OpKind, size: u32, bytes: usize) -> Option<&'static str> {
    match op {
        OpKind::Send | OpKind::Recv | OpKind::RecvAnySource => None,
        OpKind::AllReduce | OpKind::AllReduceCoalesced if size > 2 && bytes > DIRECT => Some("scatter-gather"),
        _ => Some("direct"),
    }
}

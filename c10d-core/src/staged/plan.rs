//! Which pieces an op moves between device and host in each chunk. This is arithmetic only.
//!
//! Ops whose counts all ranks know are cut over the virtual concatenation of their tensors. If other ranks do not know
//! the counts, each tensor is cut by itself, after the ranks have told each other the longest length; see
//! [`announce`](super::announce).

use crate::catalog::{OpKind, Shape};

/// Which list a tensor is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Input,
    Output,
}

/// A range of elements of a device tensor, and its place in the chunk's host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) operand: Operand,
    pub(super) tensor: usize,
    /// The first element in the tensor.
    pub(super) first: usize,
    pub(super) count: usize,
    /// Bytes from the start of the host memory.
    pub(super) at: usize,
}

/// A tensor in host memory: its offset in bytes, and its number of elements.
pub(super) type HostSpan = (usize, usize);

/// One round: copies of pieces to the host, an op of the CPU backend, copies of pieces to the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) out: Vec<Piece>,
    pub(super) inputs: Vec<HostSpan>,
    pub(super) outputs: Vec<HostSpan>,
    pub(super) back: Vec<Piece>,
    /// If one host tensor has blocks for several ranks: the elements of each block of input and output.
    pub(super) splits: Option<(Vec<usize>, Vec<usize>)>,
    /// Bytes of host memory that it takes.
    pub(super) bytes: usize,
}

impl Chunk {
    /// The same chunk, this many bytes further in the host memory.
    pub(super) fn behind(mut self, bytes: usize) -> Chunk {
        self.out.iter_mut().chain(&mut self.back).for_each(|piece| piece.at += bytes);
        self.inputs.iter_mut().chain(&mut self.outputs).for_each(|(at, _)| *at += bytes);
        self
    }
}

/// The facts of a call that a plan depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallShape<'a> {
    pub(super) op: OpKind,
    pub(super) rank: usize,
    pub(super) world: usize,
    pub(super) root: usize,
    /// Bytes of an element; 1 if there are no elements.
    pub(super) size: usize,
    /// Elements of each input and output, or of each block if one tensor has a block per rank by split sizes.
    pub(super) inputs: &'a [usize],
    pub(super) outputs: &'a [usize],
}

impl CallShape<'_> {
    /// Whether one tensor has a block per rank.
    fn in_blocks(&self) -> bool {
        self.op.row().shape == Shape::ExchangeFlat
    }
}

/// How many rounds fit into the fingerprint's `step`.
pub(super) const STEPS: usize = 255;

/// Host tensors begin at multiples of this.
const ALIGN: usize = 64;

/// How an op is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Outputs are read and written in place.
    InPlace { read: bool, write: bool },
    /// Every rank gets the inputs of all ranks.
    Gather,
    /// Every rank has a part of the output for every rank.
    Scatter,
    /// Each tensor by itself.
    Apart,
}

fn cut(facts: &CallShape<'_>) -> Cut {
    let is_root = facts.rank == facts.root;
    match (facts.op.row().shape, facts.op) {
        (Shape::InPlace, OpKind::Broadcast) => Cut::InPlace { read: is_root, write: !is_root },
        (Shape::InPlace, OpKind::Reduce) => Cut::InPlace { read: true, write: is_root },
        (Shape::InPlace | Shape::InPlaceList, _) => Cut::InPlace { read: true, write: true },
        (Shape::GatherFlat | Shape::GatherFlats, _) => Cut::Gather,
        (Shape::ScatterFlat | Shape::ScatterFlats, _) => Cut::Scatter,
        _ => Cut::Apart,
    }
}

/// An op in rounds.
#[derive(Clone, Debug)]
pub(super) struct Plan<'a> {
    facts: CallShape<'a>,
    cut: Cut,
    /// This rank's elements in all tensors that are cut, or the elements of the longest tensor of any rank if each is
    /// cut by itself.
    total: usize,
    /// The elements per round; the last round may have fewer.
    each: usize,
    rounds: usize,
}

impl<'a> Plan<'a> {
    /// Makes rounds of about `chunk` bytes of the larger side, or one round if the sizes are not known to all ranks.
    pub(super) fn new(facts: CallShape<'a>, chunk: usize) -> Plan<'a> {
        let cut = cut(&facts);
        match cut {
            Cut::Apart => Plan { facts, cut, total: usize::MAX, each: usize::MAX, rounds: 1 },
            Cut::Gather => Plan::cut(facts, cut, facts.inputs.iter().sum(), chunk, STEPS),
            _ => Plan::cut(facts, cut, facts.outputs.iter().sum(), chunk, STEPS),
        }
    }

    /// The same for tensors that are cut by themselves, where the longest of any rank has `longest` elements.
    pub(super) fn apart(facts: CallShape<'a>, chunk: usize, longest: usize) -> Plan<'a> {
        Plan::cut(facts, Cut::Apart, longest, chunk, STEPS - 1)
    }

    fn cut(facts: CallShape<'a>, cut: Cut, total: usize, chunk: usize, most: usize) -> Plan<'a> {
        let fan = match (cut, facts.op.row().shape) {
            (Cut::InPlace { .. }, _) | (_, Shape::Source | Shape::Target) => 1,
            (_, Shape::GatherLists) => facts.inputs.len().max(1) * facts.world,
            _ => facts.world,
        };
        let bytes = total.saturating_mul(facts.size).saturating_mul(fan);
        let rounds = bytes.div_ceil(chunk.max(1)).clamp(1, most);
        let each = total.div_ceil(rounds).max(1);
        let rounds = total.div_ceil(each).max(1);
        Plan { facts, cut, total, each, rounds }
    }

    /// The same op in at most `most` rounds.
    pub(super) fn limited(self, chunk: usize, most: usize) -> Plan<'a> {
        if self.rounds <= most { self } else { Plan::cut(self.facts, self.cut, self.total, chunk, most) }
    }

    /// Whether there is nothing to be cut.
    pub(super) fn is_empty(&self) -> bool {
        self.total == 0
    }

    pub(super) fn rounds(&self) -> usize {
        self.rounds
    }

    /// This rank's elements in a full round; 0 if the op is not cut.
    pub(super) fn each(&self) -> usize {
        if self.rounds == 1 { 0 } else { self.each }
    }

    /// The step number of the first round: step 0 is the announcement if counts differ.
    pub(super) fn first_step(&self) -> usize {
        usize::from(self.facts.op.is_uneven())
    }

    /// Round number `k`.
    pub(super) fn chunk(&self, k: usize) -> Chunk {
        if self.cut == Cut::Apart {
            return self.apart_chunk(k);
        }
        let (from, to) = (self.total.min(k * self.each), self.total.min((k + 1) * self.each));
        let (size, world) = (self.facts.size, self.facts.world);
        let count = to - from;
        let one = count * size;
        let all = one * world;
        let mut chunk = Chunk::default();
        match self.cut {
            Cut::InPlace { read, write } => {
                let pieces: Vec<Piece> = self.pieces(Operand::Output, from, to, 0, None).collect();
                chunk.outputs = vec![(0, count)];
                chunk.bytes = one;
                if read {
                    chunk.out.clone_from(&pieces);
                }
                if write {
                    chunk.back = pieces;
                }
            }
            Cut::Gather => {
                let beyond = one.next_multiple_of(ALIGN);
                chunk.out = self.pieces(Operand::Input, from, to, 0, None).collect();
                chunk.inputs = vec![(0, count)];
                chunk.outputs = vec![(beyond, count * world)];
                let back = (0..world).flat_map(|r| self.pieces(Operand::Output, from, to, beyond + r * one, Some(r)));
                chunk.back = back.collect();
                chunk.bytes = beyond + all;
            }
            Cut::Scatter => {
                let beyond = all.next_multiple_of(ALIGN);
                let out = (0..world).flat_map(|r| self.pieces(Operand::Input, from, to, r * one, Some(r)));
                chunk.out = out.collect();
                chunk.inputs = vec![(0, count * world)];
                chunk.outputs = vec![(beyond, count)];
                chunk.back = self.pieces(Operand::Output, from, to, beyond, None).collect();
                chunk.bytes = beyond + one;
            }
            Cut::Apart => {}
        }
        chunk
    }

    /// A round of tensors that are cut by themselves.
    fn apart_chunk(&self, k: usize) -> Chunk {
        let CallShape { inputs, outputs, size, .. } = self.facts;
        let blocks = self.facts.in_blocks();
        let mut chunk = Chunk::default();
        let mut lay = |operand, counts: &[usize]| {
            let (mut pieces, mut start) = (Vec::with_capacity(counts.len()), 0);
            for (i, &len) in counts.iter().enumerate() {
                let from = len.min(k.saturating_mul(self.each));
                let count = self.each.min(len - from);
                let (tensor, first) = if blocks { (0, start + from) } else { (i, from) };
                pieces.push(Piece { operand, tensor, first, count, at: chunk.bytes });
                chunk.bytes += count * size;
                start += len;
                if !blocks {
                    chunk.bytes = chunk.bytes.next_multiple_of(ALIGN);
                }
            }
            chunk.bytes = chunk.bytes.next_multiple_of(ALIGN);
            pieces
        };
        (chunk.out, chunk.back) = (lay(Operand::Input, inputs), lay(Operand::Output, outputs));
        let spans = |pieces: &[Piece]| -> Vec<HostSpan> {
            match pieces {
                [first, ..] if blocks => vec![(first.at, pieces.iter().map(|p| p.count).sum())],
                _ => pieces.iter().map(|p| (p.at, p.count)).collect(),
            }
        };
        (chunk.inputs, chunk.outputs) = (spans(&chunk.out), spans(&chunk.back));
        if blocks {
            let counts = |pieces: &[Piece]| pieces.iter().map(|p| p.count).collect();
            chunk.splits = Some((counts(&chunk.out), counts(&chunk.back)));
        }
        for pieces in [&mut chunk.out, &mut chunk.back] {
            pieces.retain(|p| p.count > 0);
            pieces.dedup_by(|next, last| {
                let joins = blocks && last.first + last.count == next.first;
                last.count += if joins { next.count } else { 0 };
                joins
            });
        }
        chunk
    }

    /// The pieces for the elements `from..to` of the concatenation, placed from `at` on in host memory. `block`: only
    /// this block of tensors that have one block per rank.
    fn pieces(
        &self,
        operand: Operand,
        from: usize,
        to: usize,
        at: usize,
        block: Option<usize>,
    ) -> impl Iterator<Item = Piece> + use<'_, 'a> {
        let counts = if self.cut == Cut::Gather { self.facts.inputs } else { self.facts.outputs };
        let size = self.facts.size;
        let starts = counts.iter().scan(0, |start, count| {
            let here = *start;
            *start += count;
            Some((here, *count))
        });
        starts.enumerate().filter_map(move |(tensor, (start, count))| {
            let (first, last) = (from.max(start), to.min(start + count));
            let in_tensor = first - start + block.unwrap_or(0) * count;
            let at = at + (first - from) * size;
            (first < last).then(|| Piece { operand, tensor, first: in_tensor, count: last - first, at })
        })
    }
}

#[cfg(test)]
mod tests;

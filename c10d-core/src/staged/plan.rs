//! Plans: the pieces of tensors that an op copies between device and host in each round. This module only computes
//! positions.
//!
//! If all ranks know the counts of an op, its tensors are cut into rounds as if they were one tensor. Otherwise, the
//! ranks announce the lengths of their longest tensors (see [`announce`](super::announce)), and each tensor is cut
//! separately.

use crate::catalog::{OpKind, Shape};

/// Whether a tensor is an input or an output of the op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Input,
    Output,
}

/// A range of elements of a device tensor, and its position in the round's host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) operand: Operand,
    pub(super) tensor: usize,
    /// The index of the first element in the tensor.
    pub(super) first: usize,
    pub(super) count: usize,
    /// The offset in bytes in the host memory.
    pub(super) at: usize,
}

/// A tensor in host memory: its offset in bytes, and its number of elements.
pub(super) type HostSpan = (usize, usize);

/// A round: copies of pieces to the host, an op of the CPU backend, and copies of pieces to the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) out: Vec<Piece>,
    pub(super) inputs: Vec<HostSpan>,
    pub(super) outputs: Vec<HostSpan>,
    pub(super) back: Vec<Piece>,
    /// If one host tensor has blocks for several ranks: the number of elements of each block of input and output.
    pub(super) splits: Option<(Vec<usize>, Vec<usize>)>,
    /// The number of bytes of host memory that the round needs.
    pub(super) bytes: usize,
}

impl Chunk {
    /// Returns the same round, `bytes` later in the host memory.
    pub(super) fn behind(mut self, bytes: usize) -> Chunk {
        self.out.iter_mut().chain(&mut self.back).for_each(|piece| piece.at += bytes);
        self.inputs.iter_mut().chain(&mut self.outputs).for_each(|(at, _)| *at += bytes);
        self
    }
}

/// The properties of a call on which a plan depends.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallShape<'a> {
    pub(super) op: OpKind,
    pub(super) rank: usize,
    pub(super) world: usize,
    pub(super) root: usize,
    /// The size of an element in bytes; 1 for a call without tensors.
    pub(super) size: usize,
    /// The number of elements of each input, or of each block if one tensor has a block per rank. `outputs` is the same
    /// for outputs.
    pub(super) inputs: &'a [usize],
    pub(super) outputs: &'a [usize],
}

impl CallShape<'_> {
    /// Returns whether the input and the output are one tensor each, with a block per rank.
    fn in_blocks(&self) -> bool {
        self.op.row().shape == Shape::ExchangeFlat
    }
}

/// The number of rounds that the fingerprint's `step` can distinguish.
pub(super) const STEPS: usize = 255;

/// The alignment of tensors in host memory, in bytes.
const ALIGN: usize = 64;

/// How the tensors of an op are cut into rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The outputs are cut as one tensor. `read`: they are copied to the host first. `write`: the results are copied
    /// back.
    InPlace { read: bool, write: bool },
    /// The inputs are cut as one tensor; every rank gets the inputs of all ranks.
    Gather,
    /// The outputs are cut as one tensor; each input has a block for each rank.
    Scatter,
    /// Each tensor is cut separately.
    Apart,
}

fn cut(facts: &CallShape<'_>) -> Cut {
    let is_root = facts.rank == facts.root;
    match (facts.op.row().shape, facts.op) {
        (Shape::InPlace | Shape::InPlaceList, op) => {
            Cut::InPlace { read: op != OpKind::Broadcast || is_root, write: op.writes_outputs(is_root) }
        }
        (Shape::GatherFlat | Shape::GatherFlats, _) => Cut::Gather,
        (Shape::ScatterFlat | Shape::ScatterFlats, _) => Cut::Scatter,
        _ => Cut::Apart,
    }
}

/// The plan of an op: its rounds.
#[derive(Clone, Debug)]
pub(super) struct Plan<'a> {
    facts: CallShape<'a>,
    cut: Cut,
    /// The number of elements that are cut into rounds: those of all inputs or all outputs of this rank or, if tensors
    /// are cut separately, those of the longest tensor of any rank.
    total: usize,
    /// The number of elements per round. The last round may have fewer.
    each: usize,
    rounds: usize,
}

impl<'a> Plan<'a> {
    /// Makes a plan. A round has about `chunk` bytes of inputs or of outputs, whichever are larger. A round has more if
    /// there would be more than [`STEPS`] rounds. If not all ranks know the counts, the plan has one round.
    pub(super) fn new(facts: CallShape<'a>, chunk: usize) -> Plan<'a> {
        let cut = cut(&facts);
        match cut {
            Cut::Apart => Plan { facts, cut, total: usize::MAX, each: usize::MAX, rounds: 1 },
            Cut::Gather => Plan::cut(facts, cut, facts.inputs.iter().sum(), chunk, STEPS),
            _ => Plan::cut(facts, cut, facts.outputs.iter().sum(), chunk, STEPS),
        }
    }

    /// Makes a plan for tensors that are cut separately. The longest tensor of any rank has `longest` elements.
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

    /// Returns a plan with at most `most` rounds for the same op.
    pub(super) fn limited(self, chunk: usize, most: usize) -> Plan<'a> {
        if self.rounds <= most { self } else { Plan::cut(self.facts, self.cut, self.total, chunk, most) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.total == 0
    }

    pub(super) fn rounds(&self) -> usize {
        self.rounds
    }

    /// Returns the number of elements per round; 0 if the op has only one round.
    pub(super) fn each(&self) -> usize {
        if self.rounds == 1 { 0 } else { self.each }
    }

    /// Returns the step number of the first round: 1 for an uneven op, whose announcement is step 0; else 0.
    pub(super) fn first_step(&self) -> usize {
        usize::from(self.facts.op.is_uneven())
    }

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

    /// Returns round `k` of tensors that are cut separately.
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

    /// Returns the pieces of the elements `from..to`, numbered as if all tensors were one. Their bytes begin at offset
    /// `at` in host memory. If `block` is given, the elements are those of this rank's block in a tensor with one block
    /// per rank.
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

//! What an op moves between device and host, chunk by chunk: arithmetic alone.
//!
//! Ops whose counts all ranks know are cut over the virtual concatenation of their tensors. Where another rank's counts
//! are its own affair, no cut could be the same everywhere, so those go in one piece.

use crate::ops::{OpKind, Shape};

/// Which list a tensor is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Input,
    Output,
}

/// Elements of a device tensor, and where they are in the chunk's host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) side: Side,
    pub(super) tensor: usize,
    /// The first element in the tensor.
    pub(super) first: usize,
    pub(super) count: usize,
    /// Bytes from the start of the host memory.
    pub(super) at: usize,
}

/// A tensor in host memory: bytes from its start, and elements.
pub(super) type HostSpan = (usize, usize);

/// One round: pieces to the host, an op of the CPU backend there, pieces to the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) out: Vec<Piece>,
    pub(super) inputs: Vec<HostSpan>,
    pub(super) outputs: Vec<HostSpan>,
    pub(super) back: Vec<Piece>,
    /// How much host memory it takes.
    pub(super) bytes: usize,
}

/// The facts of a call that a plan depends on.
#[derive(Clone, Debug)]
pub(super) struct Facts<'a> {
    pub(super) op: OpKind,
    pub(super) rank: usize,
    pub(super) world: usize,
    pub(super) root: usize,
    /// Bytes of an element; 1 where there are none.
    pub(super) size: usize,
    /// Elements of each input and output.
    pub(super) inputs: &'a [usize],
    pub(super) outputs: &'a [usize],
}

/// How many rounds fit the fingerprint's step.
pub(super) const STEPS: usize = 255;

/// Host tensors begin at multiples of this.
const ALIGN: usize = 64;

/// How an op is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Outputs that are read and written in place.
    InPlace { read: bool, write: bool },
    /// Inputs, of which every rank gets every rank's.
    Gather,
    /// Outputs, whose parts every rank has for every rank.
    Scatter,
    /// Not at all.
    Whole,
}

fn cut(facts: &Facts<'_>) -> Cut {
    let is_root = facts.rank == facts.root;
    match (facts.op.row().shape, facts.op) {
        (Shape::InPlace, OpKind::Broadcast) => Cut::InPlace { read: is_root, write: !is_root },
        (Shape::InPlace, OpKind::Reduce) => Cut::InPlace { read: true, write: is_root },
        (Shape::InPlace | Shape::InPlaceList, _) => Cut::InPlace { read: true, write: true },
        (Shape::GatherFlat | Shape::GatherFlats, _) => Cut::Gather,
        (Shape::ScatterFlat | Shape::ScatterFlats, _) => Cut::Scatter,
        _ => Cut::Whole,
    }
}

/// An op in rounds.
#[derive(Clone, Debug)]
pub(super) struct Plan<'a> {
    facts: Facts<'a>,
    cut: Cut,
    /// Elements of this rank in all tensors that are cut.
    total: usize,
    /// Elements of this rank in a round; the last may have fewer.
    each: usize,
    rounds: usize,
}

impl<'a> Plan<'a> {
    /// Rounds of about `chunk` bytes of the larger side.
    pub(super) fn new(facts: Facts<'a>, chunk: usize) -> Plan<'a> {
        Plan::with_rounds(facts, chunk, STEPS)
    }

    /// At most so many rounds.
    pub(super) fn with_rounds(facts: Facts<'a>, chunk: usize, most: usize) -> Plan<'a> {
        let cut = cut(&facts);
        let tensors = if cut == Cut::Gather { facts.inputs } else { facts.outputs };
        let total: usize = if cut == Cut::Whole { 0 } else { tensors.iter().sum() };
        let fan = if matches!(cut, Cut::Gather | Cut::Scatter) { facts.world } else { 1 };
        let bytes = total.saturating_mul(facts.size).saturating_mul(fan);
        let rounds = bytes.div_ceil(chunk.max(1)).clamp(1, most);
        let each = total.div_ceil(rounds).max(1);
        let rounds = total.div_ceil(each).max(1);
        Plan { facts, cut, total, each, rounds }
    }

    /// The same op in at most so many rounds.
    pub(super) fn limited(self, chunk: usize, most: usize) -> Plan<'a> {
        if self.rounds <= most { self } else { Plan::with_rounds(self.facts, chunk, most) }
    }

    /// Whether it is an op that is cut, and has something to be cut.
    pub(super) fn is_cut(&self) -> bool {
        self.cut != Cut::Whole && self.total > 0
    }

    pub(super) fn rounds(&self) -> usize {
        self.rounds
    }

    /// Elements of this rank in a full round; 0 where the op goes in one piece.
    pub(super) fn each(&self) -> usize {
        if self.rounds == 1 { 0 } else { self.each }
    }

    /// Round number `k`.
    pub(super) fn chunk(&self, k: usize) -> Chunk {
        let (from, to) = (self.total.min(k * self.each), self.total.min((k + 1) * self.each));
        let (size, world) = (self.facts.size, self.facts.world);
        let count = to - from;
        let one = count * size;
        let all = one * world;
        let mut chunk = Chunk::default();
        match self.cut {
            Cut::InPlace { read, write } => {
                let pieces: Vec<Piece> = self.parts(Side::Output, from, to, 0, None).collect();
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
                chunk.out = self.parts(Side::Input, from, to, 0, None).collect();
                chunk.inputs = vec![(0, count)];
                chunk.outputs = vec![(beyond, count * world)];
                let back = (0..world).flat_map(|r| self.parts(Side::Output, from, to, beyond + r * one, Some(r)));
                chunk.back = back.collect();
                chunk.bytes = beyond + all;
            }
            Cut::Scatter => {
                let beyond = all.next_multiple_of(ALIGN);
                let out = (0..world).flat_map(|r| self.parts(Side::Input, from, to, r * one, Some(r)));
                chunk.out = out.collect();
                chunk.inputs = vec![(0, count * world)];
                chunk.outputs = vec![(beyond, count)];
                chunk.back = self.parts(Side::Output, from, to, beyond, None).collect();
                chunk.bytes = beyond + one;
            }
            Cut::Whole => {
                let mut at = 0;
                let mut whole = |side, counts: &[usize]| {
                    let place = |(tensor, count): (usize, &usize)| {
                        let piece = Piece { side, tensor, first: 0, count: *count, at };
                        at += (count * size).next_multiple_of(ALIGN);
                        piece
                    };
                    counts.iter().enumerate().map(place).collect::<Vec<Piece>>()
                };
                chunk.out = whole(Side::Input, self.facts.inputs);
                chunk.back = whole(Side::Output, self.facts.outputs);
                chunk.bytes = at;
                let span = |p: &Piece| (p.at, p.count);
                chunk.inputs = chunk.out.iter().map(span).collect();
                chunk.outputs = chunk.back.iter().map(span).collect();
                chunk.out.retain(|p| p.count > 0);
                chunk.back.retain(|p| p.count > 0);
            }
        }
        chunk
    }

    /// The pieces of `from..to` of the concatenation, at `at` and behind it in host memory. `block`: in tensors that have
    /// one block per rank, those of this block.
    fn parts(
        &self,
        side: Side,
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
            (first < last).then(|| Piece { side, tensor, first: in_tensor, count: last - first, at })
        })
    }
}

#[cfg(test)]
mod tests;

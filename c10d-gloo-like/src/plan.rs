//! A plan: the steps of one rank in one op, over ranges of bytes. The pure functions in [`crate::schedule`] make plans,
//! and [`crate::exec`] runs them.

use std::ops::Range;
use std::slice;

/// One of the op's three address spaces. `Input` is the concatenation of the op's input tensors, and `Output` that of
/// its output tensors. If the op has one block per rank, the blocks are in rank order. `Scratch` is memory of the
/// backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    Input,
    Output,
    Scratch,
}

impl Space {
    pub(crate) fn at(self, offset: usize, len: usize) -> Region {
        Region { space: self, offset, len }
    }
}

/// A range of bytes of a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) space: Space,
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

impl Region {
    pub(crate) fn lies_in(&self, other: &Region) -> bool {
        self.space == other.space && self.offset >= other.offset && self.offset + self.len <= other.offset + other.len
    }
}

/// A step's index in its plan.
pub(crate) type StepId = u32;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Sends bytes to a peer. `copies` is the number of adjacent steps that send these bytes, each to another peer. If
    /// it is more than 1, the bytes may go through the multicast ring.
    Send { peer: u32, from: Region, copies: u32 },
    /// Receives bytes from a peer.
    Recv { peer: u32, to: Region },
    /// Reduces this rank's region and the data of each peer into `to`, in rank order. Each peer sends as many bytes as
    /// the region has. `peers` is a range of [`Plan::peers`], in ascending order. If `last` is set, no later step adds
    /// values to `to`; for an average, this step then divides the sum.
    Reduce { peers: Range<u32>, own: Region, to: Region, last: bool },
    /// Copies bytes to a region of the same length.
    Copy { from: Region, to: Region },
}

impl Action {
    /// The region that the action reads, if it reads one.
    pub(crate) fn source(&self) -> Option<Region> {
        match self {
            Action::Send { from, .. } | Action::Copy { from, .. } => Some(*from),
            Action::Reduce { own, .. } => Some(*own),
            Action::Recv { .. } => None,
        }
    }

    /// The region that the action writes, if it writes one.
    pub(crate) fn target(&self) -> Option<Region> {
        match self {
            Action::Recv { to, .. } | Action::Reduce { to, .. } | Action::Copy { to, .. } => Some(*to),
            Action::Send { .. } => None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Action::Send { from, .. } => from.len,
            Action::Recv { to, .. } | Action::Reduce { to, .. } | Action::Copy { to, .. } => to.len,
        }
    }
}

/// The dependency of a step.
///
/// The result of a plan is the same as if its steps ran one after the other. Steps with the same peer and direction run
/// in plan order. All other steps may overlap as far as their dependencies allow. Two steps that touch the same bytes
/// need no dependency if a message from a peer orders them. For example, a rank sends a block, and later receives the
/// block's result into the same place: the peer cannot send the result before it has received the block. The simulator
/// in `schedule` checks this.
///
/// In the texts of the variants, "that step" is the step with the given id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Nothing,
    /// This step may process a byte as soon as that step has written it. The source of this step lies in the target of
    /// that step.
    Follow(StepId),
    /// This step overwrites bytes that earlier sends read: the sends with ids up to that step's id. This step writes
    /// byte `n` of its target when each of these sends has sent byte `n` of its own source.
    Trail(StepId),
    /// This step starts when all steps up to and including that step are done. It does not wait for sends.
    All(StepId),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) action: Action,
    pub(crate) after: After,
}

/// The steps of one rank in one op.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) peers: Vec<u32>,
    /// The number of bytes of scratch that the plan uses.
    pub(crate) scratch: usize,
}

impl Plan {
    /// Removes the steps. The vectors keep their allocations.
    pub(crate) fn clear(&mut self) {
        self.steps.clear();
        self.peers.clear();
        self.scratch = 0;
    }

    /// Returns the peers that a step sends to or receives from.
    pub(crate) fn partners(&self, id: StepId) -> &[u32] {
        match &self.steps[id as usize].action {
            Action::Send { peer, .. } | Action::Recv { peer, .. } => slice::from_ref(peer),
            Action::Reduce { peers, .. } => &self.peers[peers.start as usize..peers.end as usize],
            Action::Copy { .. } => &[],
        }
    }

    fn push(&mut self, action: Action, after: After) -> StepId {
        self.steps.push(Step { action, after });
        (self.steps.len() - 1) as StepId
    }

    pub(crate) fn send(&mut self, peer: u32, from: Region, after: After) -> StepId {
        self.push(Action::Send { peer, from, copies: 1 }, after)
    }

    /// Appends a step for each peer, which sends these bytes to it. If all ranks of the group share memory, the bytes
    /// may be copied only once, see [`crate::shm::Multicast`]. So each peer must receive the bytes by a receive that
    /// waits for no other step. If it waited, two such items could wait for each other.
    pub(crate) fn send_all(&mut self, peers: impl Iterator<Item = u32> + Clone, from: Region, after: After) {
        let copies = peers.clone().count() as u32;
        for peer in peers {
            self.push(Action::Send { peer, from, copies }, after);
        }
    }

    pub(crate) fn recv(&mut self, peer: u32, to: Region) -> StepId {
        self.push(Action::Recv { peer, to }, After::Nothing)
    }

    pub(crate) fn copy(&mut self, from: Region, to: Region, after: After) -> StepId {
        debug_assert_eq!(from.len, to.len);
        self.push(Action::Copy { from, to }, after)
    }

    /// Appends a reduction of the region `own` of this rank and of the data that `peers` (in any order) send.
    pub(crate) fn reduce(
        &mut self,
        peers: impl IntoIterator<Item = u32>,
        own: Region,
        to: Region,
        last: bool,
        after: After,
    ) -> StepId {
        debug_assert_eq!(own.len, to.len);
        let start = self.peers.len();
        self.peers.extend(peers);
        self.peers[start..].sort_unstable();
        let peers = start as u32..self.peers.len() as u32;
        self.push(Action::Reduce { peers, own, to, last }, after)
    }

    /// Appends the plan of a smaller world, which consists of some of this world's ranks. `fill` appends the steps,
    /// `rank` maps a rank of the smaller world to one of this world, and `offset` is where the smaller world's output
    /// begins in this world's output. An appended step without a dependency waits for all earlier steps of this plan,
    /// except sends.
    pub(crate) fn nest(&mut self, offset: usize, rank: impl Fn(u32) -> u32, fill: impl FnOnce(&mut Plan)) {
        let (first, first_peer) = (self.steps.len(), self.peers.len());
        fill(self);
        let shift = |region: &mut Region| {
            if region.space == Space::Output {
                region.offset += offset;
            }
        };
        for step in &mut self.steps[first..] {
            match &mut step.action {
                Action::Send { peer, from, copies } => {
                    *peer = rank(*peer);
                    // The steps that receive the bytes may wait for others.
                    *copies = 1;
                    shift(from);
                }
                Action::Recv { peer, to } => {
                    *peer = rank(*peer);
                    shift(to);
                }
                Action::Reduce { own: from, to, .. } | Action::Copy { from, to } => {
                    shift(from);
                    shift(to);
                }
            }
            if step.after == After::Nothing && first > 0 {
                step.after = After::All(first as StepId - 1);
            }
        }
        for peer in &mut self.peers[first_peer..] {
            *peer = rank(*peer);
        }
        for step in &self.steps[first..] {
            if let Action::Reduce { peers, .. } = &step.action {
                self.peers[peers.start as usize..peers.end as usize].sort_unstable();
            }
        }
    }

    /// Whether the plan receives bytes, and never reads bytes that it has received or copied.
    pub(crate) fn only_stores_received(&self) -> bool {
        let receives = |step: &Step| matches!(step.action, Action::Recv { .. });
        let reads = |step: &Step| match step.after {
            After::Nothing | After::Trail(_) => false,
            After::Follow(d) => !matches!(self.steps[d as usize].action, Action::Reduce { .. }),
            After::All(_) => true,
        };
        self.steps.iter().any(receives) && !self.steps.iter().any(reads)
    }

    /// Whether no step waits for another step or reduces, and some steps receive or copy bytes.
    pub(crate) fn has_other_work(&self) -> bool {
        let works = |step: &Step| matches!(step.action, Action::Recv { .. } | Action::Copy { .. });
        self.is_independent() && self.steps.iter().any(works)
    }

    /// Whether a step overwrites bytes that this rank sends. Such bytes are not lent: two ranks that lend each other
    /// such bytes would wait for each other.
    pub(crate) fn overwrites_sent(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.after, After::Trail(_)))
    }

    /// Whether no step waits for another step or reduces.
    fn is_independent(&self) -> bool {
        let waits = |step: &Step| step.after != After::Nothing || matches!(step.action, Action::Reduce { .. });
        !self.steps.iter().any(waits)
    }

    pub(crate) fn last(&self) -> StepId {
        (self.steps.len() as StepId).saturating_sub(1)
    }

    /// Allocates `len` more bytes of scratch, aligned to a cache line.
    pub(crate) fn scratch(&mut self, len: usize) -> Region {
        let offset = self.scratch.next_multiple_of(64);
        self.scratch = offset + len;
        Space::Scratch.at(offset, len)
    }
}

//! What one rank does in one op: steps over ranges of bytes, made by the pure functions in [`crate::schedule`] and run
//! by [`crate::exec`].

use std::ops::Range;
use std::slice;

/// Which of the op's three address spaces a region lies in. `Input` and `Output` are the op's tensors laid end to end
/// (rank by rank where the op has one block per rank); `Scratch` is memory of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    Input,
    Output,
    Scratch,
}

impl Space {
    /// The bytes `[offset, offset + len)` of this space.
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
    /// Whether every byte of this region is one of `other`'s.
    pub(crate) fn lies_in(&self, other: &Region) -> bool {
        self.space == other.space && self.offset >= other.offset && self.offset + self.len <= other.offset + other.len
    }
}

/// A step's index in its plan.
pub(crate) type StepId = u32;

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Bytes to a peer.
    Send { peer: u32, from: Region },
    /// Bytes from a peer.
    Recv { peer: u32, to: Region },
    /// Reduces, in rank order, the own region and what each peer sends (as many bytes each) into `to`. `peers` is a
    /// range of [`Plan::peers`], ascending. `last`: nothing is added later, so an average is divided here.
    Reduce { peers: Range<u32>, own: Region, to: Region, last: bool },
    /// Bytes from one place to another, of the same length.
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

    /// How many bytes the action moves.
    pub(crate) fn len(&self) -> usize {
        match self {
            Action::Send { from, .. } => from.len,
            Action::Recv { to, .. } | Action::Reduce { to, .. } | Action::Copy { to, .. } => to.len,
        }
    }
}

/// What a step waits for.
///
/// A plan means what it would mean if its steps ran one after the other; steps that concern one peer and one direction
/// do run in plan order, everything else may overlap as far as this allows. Where no `After` is needed although two
/// steps touch the same bytes, the peers' messages force the order; the simulator in `schedule` checks that they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// Nothing.
    Nothing,
    /// Follows the step byte by byte: this step's source lies in that step's target.
    Follow(StepId),
    /// Stays behind every send up to and including that step, byte by byte: it overwrites, from the same offset, what
    /// they send.
    Trail(StepId),
    /// Starts when every step up to and including that one is over, sends excepted.
    All(StepId),
}

/// A step: an action and what it waits for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) action: Action,
    pub(crate) after: After,
}

/// What one rank does in one op. Kept between ops so that its vectors keep their memory.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) peers: Vec<u32>,
    /// How many bytes of scratch the plan uses.
    pub(crate) scratch: usize,
}

impl Plan {
    /// Forgets the steps, keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.steps.clear();
        self.peers.clear();
        self.scratch = 0;
    }

    /// The peers that a step sends to or receives from.
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

    /// Appends a send.
    pub(crate) fn send(&mut self, peer: u32, from: Region, after: After) -> StepId {
        self.push(Action::Send { peer, from }, after)
    }

    /// Appends a receive.
    pub(crate) fn recv(&mut self, peer: u32, to: Region) -> StepId {
        self.push(Action::Recv { peer, to }, After::Nothing)
    }

    /// Appends a copy.
    pub(crate) fn copy(&mut self, from: Region, to: Region, after: After) -> StepId {
        debug_assert_eq!(from.len, to.len);
        self.push(Action::Copy { from, to }, after)
    }

    /// Appends a reduction of the own region with what `peers` (in any order) send.
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

    /// The step appended last.
    pub(crate) fn last(&self) -> StepId {
        (self.steps.len() as StepId).saturating_sub(1)
    }

    /// Takes `len` bytes more of scratch, on a cache line.
    pub(crate) fn scratch(&mut self, len: usize) -> Region {
        let offset = self.scratch.next_multiple_of(64);
        self.scratch = offset + len;
        Space::Scratch.at(offset, len)
    }
}

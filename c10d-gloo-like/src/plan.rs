//! What one rank does in one op: steps over ranges of bytes, made by the pure functions in [`crate::schedule`] and run
//! by [`crate::exec`].

/// Which of the op's three address spaces a region lies in. `Input` and `Output` are the op's tensors laid end to end
/// (rank by rank where the op has one block per rank); `Scratch` is memory of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    Input,
    Output,
    Scratch,
}

/// A range of bytes of a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) space: Space,
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

/// A step's index in its plan.
pub(crate) type StepId = u32;

/// One thing to do. The steps that concern one peer and one direction happen in plan order; everything else may overlap.
///
/// `after: Some(d)`: this step waits for step `d` and for every receiving step before `d`. Where this step's source
/// region equals `d`'s target, it follows `d` byte by byte instead of waiting for its end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Bytes to a peer.
    Send { peer: u32, from: Region },
    /// Bytes from a peer.
    Recv { peer: u32, to: Region },
    /// Reduces, in rank order, the own region and what each peer sends (as many bytes each) into `to`. `peers` is a
    /// range of [`Plan::peers`], ascending. `last`: nothing is added later, so an average is divided here.
    Reduce { peers: std::ops::Range<u32>, own: Region, to: Region, last: bool },
    /// Bytes from one place to another, of the same length.
    Copy { from: Region, to: Region },
}

/// A step: an action and what it waits for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) action: Action,
    pub(crate) after: Option<StepId>,
}

/// What one rank does in one op. Kept between ops so that its vectors keep their memory.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) peers: Vec<u32>,
    /// How many bytes of scratch the plan uses.
    pub(crate) scratch: usize,
}

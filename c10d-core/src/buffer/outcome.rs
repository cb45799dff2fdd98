//! What an op yields besides its buffers.

use std::any::Any;

/// What a completed op tells beyond "done".
#[derive(Debug, Default)]
pub struct Outcome {
    /// The sender, for `recv_any_source`.
    pub source: u32,
    /// A result whose size is new.
    pub payload: Option<Box<dyn Any + Send>>,
}

impl Outcome {
    /// Of an op that failed: nobody sent anything.
    pub(crate) const NONE: Outcome = Outcome { source: u32::MAX, payload: None };
}

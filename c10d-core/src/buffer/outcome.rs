//! The results of an op besides its buffers.

use std::any::Any;

/// The results of a completed op besides its buffers.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The rank that sent the message, for `recv_any_source`.
    pub source: u32,
    /// A result whose size is not known before the op, such as a sparse tensor.
    pub payload: Option<Box<dyn Any + Send>>,
}

impl Outcome {
    /// The outcome of an op that has no results besides its buffers.
    pub(crate) const NONE: Outcome = Outcome { source: u32::MAX, payload: None };
}

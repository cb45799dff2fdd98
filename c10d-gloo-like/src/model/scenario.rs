//! A call to simulate.

use c10d_core::OpKind;

/// A call to simulate; rooted ones have root 0. Sums may be rounded on the way.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// One of [`OPS`](super::OPS).
    pub op: OpKind,
    /// Of the larger of the call's two sides on a rank.
    pub bytes: usize,
    /// Of an element.
    pub elem: usize,
}

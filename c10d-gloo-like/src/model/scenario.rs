//! A call to simulate.

use c10d_core::OpKind;

/// A call to simulate. Rooted ops have root 0. Sums may be rounded several times.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// One of [`OPS`](super::OPS).
    pub op: OpKind,
    /// The bytes of the larger one of the call's two sides on a rank.
    pub bytes: usize,
    /// The bytes of an element.
    pub elem: usize,
}

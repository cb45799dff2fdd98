//! A call to simulate.

use c10d_core::OpKind;

/// A call to simulate. Rooted ops have root 0. Sums may be rounded several times, so all algorithms are possible.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// One of [`OPS`](super::OPS).
    pub op: OpKind,
    /// The number of bytes of the inputs or of the outputs of one rank (of the root, if the op has one), whichever is
    /// larger.
    pub bytes: usize,
    /// The bytes of an element.
    pub elem: usize,
}

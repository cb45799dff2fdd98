//! The buffers of one point (one op at one size), by the size conventions of nccl-tests.

use c10d::backend::Shape;

use super::ops::PerfOp;

/// The number of tensors of a coalesced call.
const COALESCED: usize = 4;

/// The tensors of one side of a call: its inputs or its outputs. A piece is the part that comes from one rank or goes
/// to one rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TensorList {
    pub(super) tensors: usize,
    /// The number of pieces in each tensor.
    pub(super) pieces: usize,
    /// The number of elements in each piece.
    pub(super) len: usize,
}

impl TensorList {
    fn new(tensors: usize, pieces: usize, len: usize) -> TensorList {
        TensorList { tensors, pieces, len }
    }

    pub(super) fn elements(&self) -> usize {
        self.tensors * self.pieces * self.len
    }
}

/// The tensors of a call on one rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) inputs: TensorList,
    /// The outputs. In-place ops, sends and receives have only outputs.
    pub(super) outputs: TensorList,
}

impl Layout {
    /// Returns the layout for a nominal size of `count` elements. The nominal size is the size of the only buffer, or
    /// of the buffer that has a piece per rank. A piece has at least one element, unless `count` is 0.
    pub(super) fn of(op: PerfOp, count: usize, ranks: u32, is_root: bool) -> Layout {
        let n = ranks as usize;
        let share = |parts: usize| if count == 0 { 0 } else { (count / parts).max(1) };
        let none = TensorList::default();
        let (inputs, outputs) = match op.kind().row().shape {
            Shape::Nothing => (none, none),
            Shape::Source | Shape::Target | Shape::InPlace => (none, TensorList::new(1, 1, count)),
            Shape::InPlaceList => (none, TensorList::new(COALESCED, 1, share(COALESCED))),
            Shape::GatherList => (TensorList::new(1, 1, share(n)), TensorList::new(n, 1, share(n))),
            Shape::GatherFlat => (TensorList::new(1, 1, share(n)), TensorList::new(1, n, share(n))),
            Shape::GatherLists => {
                let len = share(n * COALESCED);
                (TensorList::new(COALESCED, 1, len), TensorList::new(COALESCED * n, 1, len))
            }
            Shape::GatherFlats => {
                let len = share(n * COALESCED);
                (TensorList::new(COALESCED, 1, len), TensorList::new(COALESCED, n, len))
            }
            Shape::ScatterList => (TensorList::new(n, 1, share(n)), TensorList::new(1, 1, share(n))),
            Shape::ScatterFlat => (TensorList::new(1, n, share(n)), TensorList::new(1, 1, share(n))),
            Shape::ScatterFlats => {
                let len = share(n * COALESCED);
                (TensorList::new(COALESCED, n, len), TensorList::new(COALESCED, 1, len))
            }
            Shape::RootGather => {
                (TensorList::new(1, 1, share(n)), if is_root { TensorList::new(n, 1, share(n)) } else { none })
            }
            Shape::RootScatter => {
                (if is_root { TensorList::new(n, 1, share(n)) } else { none }, TensorList::new(1, 1, share(n)))
            }
            Shape::ExchangeList => (TensorList::new(n, 1, share(n)), TensorList::new(n, 1, share(n))),
            Shape::ExchangeFlat => (TensorList::new(1, n, share(n)), TensorList::new(1, n, share(n))),
        };
        Layout { inputs, outputs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_side_has_the_nominal_size() {
        for op in PerfOp::all().filter(|op| !op.is_bare()) {
            for n in 1..=8 {
                let count = 840 * 4;
                let layout = Layout::of(op, count, n, true);
                let larger = layout.inputs.elements().max(layout.outputs.elements());
                assert_eq!(larger, count, "{} on {n}", op.name());
            }
        }
    }

    #[test]
    fn a_chunk_has_at_least_one_element_unless_the_size_is_zero() {
        for op in PerfOp::all().filter(|op| !op.is_bare()) {
            let layout = Layout::of(op, 1, 5, true);
            assert!(layout.inputs.tensors == 0 || layout.inputs.len == 1);
            assert_eq!(layout.outputs.len, 1);
            assert_eq!(Layout::of(op, 0, 5, true).outputs.elements(), 0);
        }
    }
}

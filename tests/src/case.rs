//! A case: the data that a rank needs to run it.

use std::fmt;

use c10d_core::backend::Shape;
use c10d_core::{DType, OpKind, ReduceOp};

/// The number of elements of a tensor. A chunk is the size from which the backend divides transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Size {
    Zero,
    One,
    Odd,
    BelowChunk,
    Chunk,
    AboveChunk,
    Large,
}

impl Size {
    pub(crate) const ALL: [Size; 7] =
        [Size::Zero, Size::One, Size::Odd, Size::BelowChunk, Size::Chunk, Size::AboveChunk, Size::Large];

    fn name(self) -> &'static str {
        match self {
            Size::Zero => "0",
            Size::One => "1",
            Size::Odd => "odd",
            Size::BelowChunk => "chunk-1",
            Size::Chunk => "chunk",
            Size::AboveChunk => "chunk+1",
            Size::Large => "large",
        }
    }
}

/// The way in which the op is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// `run` with borrowed buffers.
    Blocking,
    /// `start` with owned buffers, then `wait`.
    Owned,
    /// `start` with owned buffers, as a future on a small executor.
    Awaited,
    /// `scope` with borrowed buffers.
    Scoped,
    /// `submit_raw` with input and output in the same memory, if the op has a layout for it.
    InPlace,
}

impl Form {
    const USUAL: &[Form] = &[Form::Blocking, Form::Owned, Form::Scoped, Form::Awaited];
    const ALL: &[Form] = &[Form::Blocking, Form::Owned, Form::Scoped, Form::Awaited, Form::InPlace];

    /// Returns the forms that the op has.
    pub(crate) fn of(op: OpKind) -> &'static [Form] {
        use Shape::*;
        match op.row().shape {
            GatherList | GatherFlat | GatherLists | GatherFlats | ScatterList | ScatterFlat | ScatterFlats
            | RootGather | RootScatter => Form::ALL,
            _ => Form::USUAL,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Form::Blocking => "blocking",
            Form::Owned => "owned",
            Form::Awaited => "awaited",
            Form::Scoped => "scoped",
            Form::InPlace => "in-place",
        }
    }
}

/// A case. It is the same on all ranks of a world.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Case {
    pub(crate) op: OpKind,
    pub(crate) dtype: DType,
    pub(crate) reduce: ReduceOp,
    pub(crate) world: u32,
    pub(crate) root: u32,
    pub(crate) size: Size,
    /// The number of elements per rank, from which `len` computes uneven lengths.
    pub(crate) count: usize,
    pub(crate) form: Form,
    /// Whether ranks, or pairs of ranks, have different lengths.
    pub(crate) uneven: bool,
}

/// The number of tensors of a coalesced call.
pub(crate) const COALESCED: usize = 3;

impl Case {
    /// Returns the number of elements of a rank's tensor. In a coalesced call, `list` is the index of the tensor.
    pub(crate) fn len(&self, list: usize, rank: u32) -> usize {
        let count = match list {
            0 => self.count,
            1 => self.count / 3 + 1,
            _ => 0,
        };
        if !self.uneven {
            return count;
        }
        match rank % 3 {
            0 => 0,
            1 => count + 1,
            _ => count.div_ceil(2),
        }
    }

    /// Returns the number of elements that one rank sends to another.
    pub(crate) fn pair(&self, from: u32, to: u32) -> usize {
        self.len(0, from + 2 * to)
    }

    /// Returns the number of bytes of the largest buffer, for `ProcessGroup::algorithm`.
    pub(crate) fn bytes(&self) -> usize {
        let flat = matches!(
            self.op.row().shape,
            Shape::GatherFlat | Shape::GatherFlats | Shape::ScatterFlat | Shape::ScatterFlats | Shape::ExchangeFlat
        );
        self.count * self.dtype.size() * if flat { self.world as usize } else { 1 }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w{}/{}", self.world, self.op)?;
        if self.op.row().shape != Shape::Nothing {
            write!(f, "/{}", self.dtype)?;
            if self.op.reduces() {
                write!(f, "/{}", self.reduce.name())?;
            }
            write!(f, "/{}", self.size.name())?;
        }
        if self.op.is_rooted() || self.op.is_p2p() {
            write!(f, "/root{}", self.root)?;
        }
        write!(f, "/{}{}", self.form.name(), if self.uneven { "/uneven" } else { "" })
    }
}

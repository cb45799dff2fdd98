//! Buffers: the types that callers pass to ops, and the spans that backends see.

mod arguments;
mod buf;
mod coo;
mod device_ptr;
mod outcome;
mod span;
mod zeroed;

pub use arguments::{
    AtRoot, Both, Buffers, Each, Gathered, InPlace, Lists, Many, Nothing, One, RawSpans, Root, Rows, Sink, Source,
    SourceKnown, Target,
};
pub use buf::{Buf, BufMut};
pub use coo::{Coo, CooLayout, Sparse};
pub(crate) use coo::{facts, sparse};
pub use device_ptr::DevicePtr;
pub use outcome::Outcome;
pub use span::{Memory, Span, Spans};
pub use zeroed::zeroed;

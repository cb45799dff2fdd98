//! Buffers: what users hand over, and the spans that backends see.

mod arguments;
mod buf;
mod coo;
mod outcome;
mod place;
mod span;
mod zeroed;

pub use arguments::{
    AtRoot, Both, Buffers, Each, Gathered, InPlace, Lists, Many, Nothing, One, RawSpans, Root, Rows, Sink, Source,
    SourceKnown, Target,
};
pub use buf::{Buf, BufMut};
pub use coo::{Coo, CooLayout, Sparse};
pub(crate) use coo::{facts, sparse};
pub use outcome::Outcome;
pub use place::DevicePtr;
pub use span::{Memory, Span, Spans};
pub use zeroed::zeroed;

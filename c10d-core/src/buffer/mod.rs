//! Buffers: what users hand over, and the spans that backends see.

mod arguments;
mod buf;
mod span;

pub use arguments::{
    AtRoot, Both, Buffers, Each, Many, Nothing, One, RawSpans, Root, Rows, Sink, Source, SourceKnown, Target,
};
pub use buf::{Buf, BufMut};
pub use span::{Memory, Span, Spans};

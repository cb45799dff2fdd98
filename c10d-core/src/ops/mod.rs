//! The ops: their table, their options.

mod table;

pub use table::{OpKind, OpRow, OpSet, Shape, declared};

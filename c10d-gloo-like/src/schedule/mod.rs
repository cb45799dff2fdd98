//! The algorithms: pure functions that say, for one rank of a world, what to send, receive and reduce.
//!
//! Every function here is called by all ranks of an op with the same arguments, but for the rank itself. Each appends to
//! an empty [`Plan`](crate::plan::Plan). All numbers are bytes, in multiples of the element size. An op in place has its
//! data in [`Space::Output`](crate::plan::Space::Output); where the input is the own block of the output, the copy
//! between them is one from a place to itself.

mod blocks;
pub(crate) mod bruck;
pub(crate) mod direct;
pub(crate) mod fill;
pub(crate) mod halving_doubling;
pub(crate) mod hierarchical;
mod member;
pub(crate) mod ring;
pub(crate) mod select;
#[cfg(test)]
mod simulate;
#[cfg(test)]
mod tests;
pub(crate) mod tree;

pub(crate) use blocks::Blocks;
pub(crate) use member::Member;

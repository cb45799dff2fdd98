//! The host's side of the border: makes backends and device runtimes out of plugins' tables.
//!
//! A plugin may hang, lie, answer twice or never. So its functions run on threads that can be given up, it gets only
//! memory that can be written off, and an operation is known to it by a token that is good for one answer.

mod aside;
mod backend;
mod board;
mod call;
mod device;
mod done;
mod flight;
mod group;
mod lanes;
mod lend;
mod listen;
mod make;
mod owners;
mod plugin;
mod serve;
mod slots;
mod stores;
mod verdict;
mod watch;

pub(crate) use plugin::{Hosted, LoadedPlugin};

//! PMI-1, by which a launcher tells MPI processes of each other: served here by a thread of the process itself, with the
//! group's store behind it.

mod mapping;
mod serve;
mod wire;

pub(crate) use mapping::mapping;
pub(crate) use serve::{Progress, Server, absent};

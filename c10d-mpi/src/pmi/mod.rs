//! PMI-1, the protocol by which MPI processes exchange addresses through their launcher. Here, a thread of the process
//! does the work of the launcher: it answers the library, and exchanges the addresses through the group's store.

mod mapping;
mod serve;
mod wire;

pub(crate) use mapping::mapping;
pub(crate) use serve::{Progress, Server, absent};

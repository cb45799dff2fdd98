//! PMI-1, with which a launcher tells MPI processes of each other. Here a thread of the process itself serves it,
//! through the group's store.

mod mapping;
mod serve;
mod wire;

pub(crate) use mapping::mapping;
pub(crate) use serve::{Progress, Server, absent};

//! An MPI library: how it is found, loaded and called.

mod api;
mod environment;
mod library;
mod mapped;
mod requests;
mod search;
mod types;

pub(crate) use api::{Comm, Mpi};
pub(crate) use environment::{at_exit, preload_fabric, with_variables};
pub(crate) use library::{Kind, Library};
pub(crate) use mapped::unlink_segments;
pub(crate) use requests::{Flight, Over, Staging};
pub(crate) use search::VARIABLE;

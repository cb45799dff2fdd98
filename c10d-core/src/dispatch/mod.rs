//! From a call to a kernel: key, validation, turn, number, fingerprint.

mod backend_map;
mod compose;
mod overlap;
mod sparse;
mod sparse_queue;
mod validate;

pub use backend_map::BackendMap;
pub(crate) use backend_map::Named;
pub use compose::{Composed, KernelContext};
pub(crate) use sparse::sparse_key;
pub(crate) use sparse_queue::SparseQueue;
pub(crate) use validate::validate;

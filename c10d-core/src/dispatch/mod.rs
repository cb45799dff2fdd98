//! The path from a call to a kernel: dispatch key, validation, fingerprint, and the steps of composed kernels.

mod compose;
mod overlap;
mod plain;
mod sparse;
mod validate;

pub(crate) use plain::{plain, plain_fingerprint};
pub(crate) use sparse::sparse_key;
pub(crate) use validate::validate;

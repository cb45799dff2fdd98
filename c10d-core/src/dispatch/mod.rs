//! From a call to a kernel: key, validation, turn, number, fingerprint.

mod backend_map;
mod compose;
mod fingerprint;
mod offers;
mod overlap;
mod sparse;
mod summary;
mod validate;

pub use backend_map::BackendMap;
pub use compose::{Composed, KernelContext};
pub use fingerprint::Fingerprint;
pub(crate) use offers::{Choice, Offer, offers, place};
pub(crate) use sparse::sparse_key;
pub(crate) use summary::fingerprint;
pub(crate) use validate::validate;

//! From a call to a kernel: key, validation, turn, number, fingerprint.

mod backend_map;
mod fingerprint;
mod offers;
mod overlap;
mod summary;
mod validate;

pub use backend_map::BackendMap;
pub use fingerprint::Fingerprint;
pub(crate) use offers::{Choice, Offer, offers, place};
pub(crate) use summary::fingerprint;
pub(crate) use validate::validate;

use std::sync::Arc;

use crate::backend::Backend;
use crate::group::Lane;

/// What a kernel may use besides the job.
pub struct KernelContext<'a> {
    pub(crate) lane: &'a Lane,
}

impl KernelContext<'_> {
    /// The backend that serves the job's key in the job's group.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.lane.backend
    }
}

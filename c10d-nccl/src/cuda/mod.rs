//! CUDA devices through the driver: memory, copies, streams, events.

mod api;
mod available;
mod default_index;
mod driver;
mod failure;
mod functions;
mod hold;
mod ledger;
mod reduce;
mod relaxed;
mod work_stream;

pub(crate) use api::CudaApi;
pub use available::available;
pub(crate) use driver::Driver;
#[cfg(feature = "cudarc")]
pub(crate) use failure::failed;
pub(crate) use hold::{release, retain};
pub(crate) use work_stream::{Mark, WorkStream};

//! CUDA devices through the driver: memory, copies, streams, events.

mod api;
mod available;
mod default_index;
mod driver;
mod functions;
mod hold;
mod ledger;
mod line;
mod reduce;
mod relaxed;

pub(crate) use api::CudaApi;
pub use available::available;
pub(crate) use driver::{Driver, failed};
pub(crate) use hold::{release, retain};
pub(crate) use line::{Line, Mark};

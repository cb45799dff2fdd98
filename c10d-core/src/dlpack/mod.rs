//! Exchange of tensors with other libraries by DLPack: PyTorch, NumPy, JAX, CuPy and others export their tensors and
//! import ours without a copy.
//!
//! ```no_run
//! # use c10d_core::dlpack::{ManagedTensorVersioned, Imported, export};
//! # use c10d_core::{ProcessGroup, ReduceOp};
//! # fn f(pg: ProcessGroup, capsule: std::ptr::NonNull<ManagedTensorVersioned>) -> c10d_core::Result<()> {
//! // SAFETY: what a capsule called "dltensor_versioned" holds, taken out of it; nobody else uses the tensor meanwhile.
//! let tensor = unsafe { Imported::versioned(capsule) }?.writable()?;
//! let tensor = pg.all_reduce(tensor, ReduceOp::Sum)?;
//! // Given back to its library.
//! drop(tensor);
//! // The other way round: whoever takes it calls its deleter.
//! let ours = export(vec![0f32; 6], &[2, 3])?;
//! # Ok(()) }
//! ```
//!
//! Tensors must be contiguous (row-major); their library can make them so.

mod abi;
mod export;
mod import;

pub use abi::{DataType, DlDevice, Flags, ManagedTensor, ManagedTensorVersioned, Tensor, Version};
pub use export::{export, export_legacy, export_read_only};
pub use import::{Imported, ImportedMut};

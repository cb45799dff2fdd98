//! Tensors from and for other libraries, by DLPack. PyTorch, NumPy, JAX, CuPy and others can export their tensors to
//! this library and import its tensors without a copy.
//!
//! ```no_run
//! # use c10d_core::dlpack::{ManagedTensorVersioned, Imported, export};
//! # use c10d_core::{ProcessGroup, ReduceOp};
//! # fn f(pg: ProcessGroup, capsule: std::ptr::NonNull<ManagedTensorVersioned>) -> c10d_core::Result<()> {
//! // SAFETY: the pointer was taken out of a capsule called "dltensor_versioned", and no other code uses the tensor.
//! let tensor = unsafe { Imported::versioned(capsule) }?.writable()?;
//! let tensor = pg.all_reduce(tensor, ReduceOp::Sum)?;
//! // This returns the tensor to its library.
//! drop(tensor);
//! // The other direction: the library that imports the tensor calls its deleter.
//! let ours = export(vec![0f32; 6], &[2, 3])?;
//! # Ok(()) }
//! ```
//!
//! Tensors must be contiguous (row-major).

mod abi;
mod export;
mod import;

pub use abi::{DataType, DlDevice, Flags, ManagedTensor, ManagedTensorVersioned, Tensor, Version};
pub use export::{export, export_legacy, export_read_only};
pub use import::{Imported, ImportedMut};

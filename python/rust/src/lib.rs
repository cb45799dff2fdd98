//! A C interface to c10d's ops, which the C++ shim and the `ctypes` fallback of the Python package `c10d_rs` call.
//!
//! The interface is `c10d_rs.h` of the package. `abi` has its functions and structs, and `memory` has buffers in the
//! tensors of other libraries. Only these two modules contain unsafe code. No panic unwinds into the caller.

pub mod abi;
mod call;
mod error;
mod info;
mod memory;
mod sparse;
mod store;
mod work;

pub use error::CError;

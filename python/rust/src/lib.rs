//! c10d's ops behind a C interface, for the Python package `c10d_rs`: its C++ shim and its `ctypes` fallback both call it.
//!
//! The interface is `c10d_rs.h` of the package. `abi` has its functions and structs, and `memory` has tensors of other
//! libraries. Only these two modules contain unsafe code. No panic unwinds into the caller.

pub mod abi;
mod call;
mod error;
mod info;
mod memory;
mod sparse;
mod store;
mod work;

pub use error::CError;

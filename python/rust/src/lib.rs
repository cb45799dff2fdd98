//! c10d's ops behind a C interface, for the Python package `c10d_rs`: its C++ shim and its `ctypes` fallback both call it.
//!
//! The interface is `c10d_rs.h` of the package. `abi` has the functions and the structs that cross the border,
//! `memory` the tensors of others; both are unsafe, and nothing else is. No panic crosses the border.

pub mod abi;
mod call;
mod error;
mod memory;
mod sparse;
mod store;
mod work;

pub use error::Report;

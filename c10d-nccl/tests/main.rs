//! Tests of the backend with the fake library, through the real loader and the real driver bindings.

mod choice;
mod common;
#[cfg(feature = "cudarc")]
mod cudarc;
mod devices;
mod dlpack;
mod fake;
mod faults;
mod held;
mod host_memory;
mod kernels;
mod leaving;
mod loader;
mod peers;
mod pytorch;
mod refused;
mod sparse;
mod streams;
mod strict;
mod whole_device;

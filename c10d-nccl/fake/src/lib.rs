//! A simulated `libcuda.so.1` and `libnccl.so.2` in one library, which the tests of c10d-nccl load instead of the real
//! ones.
//!
//! Device memory is host memory, streams are threads, CUDA kernels are the real sources compiled for the CPU, and each
//! communicator has a CPU backend for collectives. The library is strict: where a real device would give a wrong result
//! or hang, it returns an error with a message. Such cases are two streams that use the same memory without an event
//! between them, messages outside an NCCL group, memory or streams of another device, and communicators that are not
//! ready or do not exist any more. If the driver may behave in several ways, as with pageable memory, the library
//! behaves in the way that is hardest for its caller. The variable `C10D_FAKE_NCCL` makes the library fail on purpose,
//! see [`fault`].
#![allow(unsafe_code)]

pub mod capture;
mod comm;
pub mod cuda;
mod exec;
pub mod fault;
pub mod kernels;
pub mod nccl;
mod world;

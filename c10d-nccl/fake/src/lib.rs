//! A pretended `libcuda.so.1` and `libnccl.so.2` in one library, for the loader.
//!
//! Device memory is host memory, streams are threads, kernels are the real sources compiled for the host, collectives are
//! done by a CPU backend of each communicator's own. It is strict: what a real device would answer with a wrong result or
//! a hang is an error here, in words: two streams that touch the same memory without an event between them, messages
//! outside of a group, memory or streams of another device, communicators that are not ready or gone. Where the driver
//! may do one thing or another, as with pageable memory, it does what is harder on its caller. The variable
//! `C10D_FAKE_NCCL` makes it fail on purpose, see [`fault`].
#![allow(unsafe_code)]

pub mod capture;
mod comm;
pub mod cuda;
mod exec;
pub mod fault;
pub mod kernels;
pub mod nccl;
mod world;

//! A pretended `libcuda.so.1` and `libnccl.so.2` in one library.
//!
//! Device memory is host memory, streams are threads, kernels are the real sources compiled for the host, collectives are
//! done by the CPU backend of a process group of its own. It is strict: what a real device would answer with a wrong result or a hang is an error here, in words: two
//! streams that touch the same memory without an event between them, messages outside of a group, memory or streams of
//! another device, communicators that are not ready or gone. The variable `C10D_FAKE_NCCL` makes it fail on purpose, see
//! [`fault`].
#![allow(unsafe_code)]

mod comm;
mod cuda;
mod exec;
pub mod fault;
mod kernels;
mod nccl;
mod world;

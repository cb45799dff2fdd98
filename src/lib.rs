#![doc = include_str!("../README.md")]
//! # Manual
//!
//! Concepts, a first program, tables for those who come from PyTorch or MPI, settings, errors, tuning, troubleshooting and
//! security: [`manual`].
#![cfg_attr(docsrs, feature(doc_cfg))]

mod builder;
mod builtin;
pub mod manual;
mod mesh;
#[cfg(feature = "objects")]
mod objects;
mod plain;
#[cfg(feature = "plugins")]
pub mod plugins;
mod reductions;
mod tables;
mod within;

pub use builder::{builder, run_ranks};
pub use builtin::builtin;
pub use mesh::Mesh;
#[cfg(feature = "objects")]
pub use objects::{ObjectCollectives, Objects};
pub use plain::{Plain, PlainBuf, plain};
pub use reductions::{Operation, Reductions};
pub use tables::{FillResult, SharedTable, SharedTables, Tables};

pub use c10d_core::{
    Buf, BufMut, Buffers, Builder, Call, Cancel, CancelError, Coo, DType, Device, DeviceCoo, DispatchKey, Element,
    Error, ErrorKind, ErrorReport, HashStore, OpError, OpKind, Phase, PrefixStore, ProcessGroup, ReduceOp, Result,
    Root, Scope, ScopedWork, Status, Store, Work, buffer, device, dlpack, host, op, options, process, store, types,
};
#[cfg(feature = "mpi")]
pub use c10d_mpi as mpi;
#[cfg(feature = "nccl")]
pub use c10d_nccl as nccl;
pub use c10d_rendezvous::{FileStore, Joined, TcpStore, TcpStoreServer, init, launch, tcp_store};

/// For vendors: what a backend implements and is given, and how it is registered. Programs need none of it.
pub mod backend {
    pub use c10d_core::backend::*;
    pub use c10d_core::{submit, submit_device};
}

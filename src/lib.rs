//! Collective communication for Rust. The ranks of a job (processes or threads, on one host or several) send, reduce,
//! gather and scatter buffers together. This is the layer that PyTorch calls c10d.
//!
//! ```
//! use c10d::{ReduceOp, op};
//!
//! # fn main() -> c10d::Result<()> {
//! // Starts four ranks as threads. A rank that is a process calls `c10d::builder().init("env://").build()?` instead.
//! c10d::run_ranks(4, |pg| {
//!     // A blocking call on a borrowed buffer.
//!     let mut x = [pg.rank() as f32; 8];
//!     pg.all_reduce(&mut x, ReduceOp::Sum)?;
//!     assert_eq!(x, [6.0; 8]);
//!
//!     // A started call owns its buffers until `wait` (or `await`) returns them.
//!     let work = pg.start(op::all_gather_into(vec![pg.rank()], vec![0u32; 4]));
//!     let (_input, all) = work.wait()?;
//!     assert_eq!(all, [0, 1, 2, 3]);
//!     Ok(())
//! })?;
//! # Ok(()) }
//! ```
//!
//! # Terms
//!
//! | term | meaning |
//! | --- | --- |
//! | group | The ranks that communicate together, numbered from 0. A [`ProcessGroup`] is one rank's handle of its group; every op is a method of it. |
//! | store | A key–value service that all ranks can reach: [`TcpStore`], [`FileStore`], or [`HashStore`] inside one process. While a group is made, the store carries a few small keys. Plugins and some backends also use the store later. It never carries payload. |
//! | rendezvous | The step in which ranks find each other through the store and form a group. [`Builder::build`] does this. `init("env://")` reads the variables of `c10d run`, `torchrun`, `mpirun` or `srun`. |
//! | lane | One backend of a group, together with the order of the calls on this backend. A backend serves one kind of memory. On each lane, all ranks make the same collectives in the same order. |
//! | rejected | An error after which the group can still be used. A single call returns such an error only before anything was sent. |
//! | failed | An error after data was sent. The group cannot be used any more on any rank, and each later call returns the first error. [`ProcessGroup::shrink_to_survivors`] makes a new group of the ranks that are still alive. |
//!
//! [`Error::status`] says whether a call was rejected or failed, and [`Error::report`] names the ranks that caused the
//! error. Every call has a deadline, and ends by then; [the manual](manual::concepts#deadline) has the only exception.
//!
//! # Where to find what
//!
//! | to | see |
//! | --- | --- |
//! | write a first program | [`manual::first_program`] |
//! | learn the other terms | [`manual::concepts`] |
//! | translate from PyTorch or MPI | [`manual::from_torch`], [`manual::from_mpi`] |
//! | make a group | [`builder`], [`run_ranks`], [`launch`] |
//! | call an op and wait | the methods of [`ProcessGroup`] |
//! | start an op and wait later | [`ProcessGroup::start`] with the functions of [`op`]; [`ProcessGroup::scope`] for borrowed buffers |
//! | reduce by a closure, or reduce types of your own | [`Reductions`], [`Plain`] |
//! | arrange ranks on a grid | [`Mesh`] |
//! | set variables and hints | [`manual::settings`] |
//! | handle an error | [`manual::errors`] |
//! | find out why a program hangs or is slow | [`manual::troubleshooting`], [`manual::tuning`] |
//! | know what must be trusted | [`manual::security`] |
//! | write a backend | [`backend`] |
#![cfg_attr(feature = "document-features", doc = concat!("# Features\n\n", document_features::document_features!()))]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod agree;
mod builder;
mod builtin;
mod group_buf;
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
pub use group_buf::{GroupBuf, GroupMemory};
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

/// For vendors: the traits that a backend implements, the types that its methods receive, and its registration.
/// Programs that only call ops need nothing from this module.
pub mod backend {
    pub use c10d_core::backend::*;
    pub use c10d_core::{submit, submit_device, tiered};
}

/// Runs the README's examples as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

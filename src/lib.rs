#![doc = include_str!("../README.md")]

mod builder;
mod builtin;
#[cfg(feature = "plugins")]
pub mod plugins;

pub use builder::{Builder, builder, run_ranks};
pub use builtin::builtin;
pub use c10d_core::*;
#[cfg(feature = "nccl")]
pub use c10d_nccl as nccl;
pub use c10d_rendezvous::{FileStore, Joined, TcpStore, TcpStoreServer, init, launch, tcp_store};

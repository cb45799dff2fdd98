#![doc = include_str!("../README.md")]

mod file_store;
#[cfg(test)]
mod fork_tests;
mod init;
pub mod launch;
mod log;
mod provider;
pub mod tcp_store;

pub use file_store::FileStore;
pub use init::{Joined, init, rank_and_size};
pub use provider::PROVIDER;
pub use tcp_store::{Limits, ServerOptions, TcpStore, TcpStoreServer};

#![doc = include_str!("../README.md")]

pub mod tcp_store;

pub use tcp_store::{Limits, ServerOptions, TcpStore, TcpStoreServer};

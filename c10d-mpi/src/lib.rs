#![doc = include_str!("../README.md")]

mod backend;
mod card;
mod exchange;
mod header;
mod health;
mod ledger;
mod memory;
mod messages;
mod mpi;
mod ops;
mod pause;
mod pmi;
mod provider;
mod room;
mod task;
mod world;

pub use provider::{PROVIDER, library};

/// The backend's name.
pub const NAME: &str = "mpi";

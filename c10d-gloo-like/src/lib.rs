#![doc = include_str!("../README.md")]

mod backend;
mod call_log;
mod collectives;
mod exec;
mod exit;
mod layout;
mod link;
mod mesh;
pub mod model;
mod p2p;
mod pause;
mod plan;
mod provider;
mod schedule;
mod shm;
mod tcp;

pub use provider::PROVIDER;
pub use schedule::{Algorithm, Fabric, Rule, TUNED, Table};

/// The backend's name.
pub const NAME: &str = "gloo-like";

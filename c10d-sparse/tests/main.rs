//! Sparse all-reduce: on host and device memory, against a plain reference, with wrong arguments and wrong peers.

mod common;
mod device;
mod forged;
mod reference;
mod refuse;

//! Tests of sparse all-reduce: in host and device memory, in comparison with a naive reference, with wrong arguments,
//! and with a peer that sends impossible data.

mod common;
mod device;
mod forged;
mod reference;
mod refuse;

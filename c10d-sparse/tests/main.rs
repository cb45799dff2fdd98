//! Tests of sparse all-reduce: in host and device memory, compared with a simple reference, with wrong arguments and
//! with wrong peers.

mod common;
mod device;
mod forged;
mod reference;
mod refuse;

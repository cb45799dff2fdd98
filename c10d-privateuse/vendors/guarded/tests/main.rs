//! Tests of the guarded device, and of staged collectives on it.

#[macro_use]
mod common;
mod faults;
mod memory;
mod overlap;
mod staged;

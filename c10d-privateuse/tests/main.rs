//! Tests of the plugin host, with plugins in C and Rust that the tests build as vendors would. The tests in `entry`
//! need a process in which no other backend is registered, so they are a separate program.

mod collectives;
mod common;
mod corpus;
mod layout;
mod lending;
mod minor;
mod rust;

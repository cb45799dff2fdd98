//! Tests of the plugin host, with plugins in C and Rust that the tests build as vendors would. The tests in `entry` are
//! a separate program, in which no other backend is registered.

mod collectives;
mod common;
mod corpus;
mod layout;
mod lending;
mod minor;
mod rust;

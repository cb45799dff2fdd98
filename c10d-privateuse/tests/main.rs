//! Tests of the plugin host, with plugins in C and Rust that the tests build as vendors would. `entry` needs a process
//! without another backend, and is a separate program.

mod collectives;
mod common;
mod corpus;
mod layout;
mod lending;
mod minor;
mod rust;

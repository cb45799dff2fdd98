//! Tests that need no MPI library: a program without one, and libraries that cannot be used.

mod loader;
mod without;

//! What needs no MPI library: a program without one, and a library that cannot be used.

mod loader;
mod without;

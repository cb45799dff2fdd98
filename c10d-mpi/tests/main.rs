//! Tests that need no MPI library, and of programs without one.

mod without;

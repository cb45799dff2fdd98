//! What needs no MPI library, and what becomes of a program without one.

mod without;

//! The C interface, as C would use it.
#![allow(unsafe_code)]

mod interface;

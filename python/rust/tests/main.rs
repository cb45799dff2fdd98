//! Tests the C interface as a C program would use it.
#![allow(unsafe_code)]

mod interface;

//! Tests of core's public API: rejected calls, groups, handles, DLPack. Tests that need their own registry or allocator
//! are separate programs.

mod common;
mod dlpack;
mod join;
mod refuse;
mod stores;
mod work;

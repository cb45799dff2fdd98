//! What a program sees of core: refusals, groups, handles, DLPack. Tests that need a registry or an allocator of their own are
//! programs of their own beside this one.

mod common;
mod dlpack;
mod join;
mod refuse;
mod work;

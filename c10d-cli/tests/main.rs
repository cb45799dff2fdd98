//! Tests of the program `c10d`, as users and scripts use it.

mod common;
mod hints;
mod info;
mod perf;
mod plugins;
mod run;
mod settings;
mod store;
mod survivors;
#[cfg(feature = "gloo-like")]
mod tune;
mod walks;

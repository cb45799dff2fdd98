//! The `c10d` program, as users and scripts see it.

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

//! The `c10d` program.
fn main() {}

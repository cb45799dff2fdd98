//! The compiler's errors for element types that no collective accepts, and for a started call with a borrowed buffer.
#![cfg(feature = "gloo-like")]

use crate::common::outside;

const TYPES: &str = "
struct Point { x: f32, y: f32 }
fn main() -> c10d::Result<()> {
    let pg = c10d::builder().build()?;
    pg.all_reduce(&mut vec![1usize; 4], c10d::ReduceOp::Sum)?;
    pg.broadcast(&mut [1isize; 4], 0)?;
    pg.send(vec![Point { x: 1.0, y: 2.0 }], 0, 0)?;
    Ok(())
}
";

const STARTED: &str = "
fn main() -> c10d::Result<()> {
    let pg = c10d::builder().build()?;
    let mut x = vec![1f32; 4];
    let work = pg.start(c10d::op::all_reduce(&mut x, c10d::ReduceOp::Sum));
    work.wait().map(drop)?;
    Ok(())
}
";

#[test]
fn unsupported_types_get_a_hint() {
    let files = [("src/bin/types.rs", TYPES), ("src/bin/started.rs", STARTED)];
    let found = outside(&files, &["--keep-going"]);
    assert!(!found.built);
    for says in [
        "`usize` is not an element type of collectives",
        "`isize` is not an element type of collectives",
        "`Point` is not an element type of collectives",
        "send `usize` as `u64`, `isize` as `i64`, and structs through `c10d::plain`",
        "`x` does not live long enough",
        "a started call owns its buffers: give it a `Vec`, or start it in `ProcessGroup::scope`",
    ] {
        assert!(found.said.contains(says), "no {says:?} in\n{}", found.said);
    }
}

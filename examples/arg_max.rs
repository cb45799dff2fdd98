//! Finds the largest value and its position: a reduction of pairs, which MPI calls MAXLOC.
//!
//! Start it by `cargo run --release --example arg_max`, or with `c10d run -n 4 --`, torchrun, mpirun or srun.

mod common;

use std::error::Error;

use bytemuck::{Pod, Zeroable};
use c10d::{Plain, Reductions};

/// A value and its index among all values.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Located {
    value: f64,
    index: u64,
}

impl Plain for Located {
    const IDENTITY: &'static str = "arg_max::Located/1";
}

/// Keeps the larger value of each pair, and the first of equal values.
fn arg_max(acc: &mut [Located], x: &[Located]) {
    for (acc, x) in acc.iter_mut().zip(x) {
        if x.value > acc.value {
            *acc = *x;
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let pg = common::group()?;
    let each = 1000;

    // One long list is divided among the ranks.
    let value = |index: u64| (index as f64 * 0.37).sin();
    let first = u64::from(pg.rank()) * each;
    let stretch = first..first + each;
    let mut best = [Located { value: value(first), index: first }];
    stretch.for_each(|index| arg_max(&mut best, &[Located { value: value(index), index }]));

    pg.all_reduce_with(&mut best, "arg_max", arg_max)?;

    let all = 0..u64::from(pg.size()) * each;
    assert!(all.clone().all(|index| value(index) <= best[0].value) && value(best[0].index) == best[0].value);
    println!("rank {}: the largest of {} values is {} at {}", pg.rank(), all.end, best[0].value, best[0].index);
    pg.shutdown()?;
    Ok(())
}

//! Reduces a vector over all ranks in three ways: by a blocking call, by a started call with an owned buffer, and by a
//! started call with a borrowed buffer.
//!
//! Start it by `cargo run --release --example all_reduce`, or with `c10d run -n 4 --`, torchrun, mpirun or srun.

mod common;

use std::error::Error;

use c10d::{ReduceOp, op};

fn main() -> Result<(), Box<dyn Error>> {
    let pg = common::group()?;
    let (rank, size) = (pg.rank() as f32, pg.size() as f32);
    let sum = size * (size - 1.0) / 2.0;

    let mut x = vec![rank; 1024];
    pg.all_reduce(&mut x, ReduceOp::Sum)?;
    assert_eq!(x, [sum; 1024]);

    // The call owns the buffer until `wait` returns it with the result.
    let work = pg.start(op::all_reduce(vec![rank; 1024], ReduceOp::Sum));
    // Do other work here.
    let y = work.wait()?;
    assert_eq!(y, x);

    let mut z = [rank; 4];
    pg.scope(|s| s.start(op::all_reduce(&mut z, ReduceOp::Avg)).wait().map(drop))?;

    println!("rank {rank}: the sum over {size} ranks is {}, the average {}", x[0], z[0]);
    pg.shutdown()?;
    Ok(())
}

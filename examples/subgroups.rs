//! Makes groups of some of the ranks: by color, and by a list of ranks.
//!
//! Start it by `cargo run --release --example subgroups`, or with `c10d run -n 4 --`, torchrun, mpirun or srun.

mod common;

use std::error::Error;

use c10d::ReduceOp;

fn main() -> Result<(), Box<dyn Error>> {
    let pg = common::group()?;
    let rank = pg.rank();

    // A group of the even ranks and one of the odd ranks. Every rank calls `split`, and is in the group of its color.
    if let Some(half) = pg.split(Some(rank % 2), rank)? {
        let mut sum = [rank];
        half.all_reduce(&mut sum, ReduceOp::Sum)?;
        assert_eq!(sum[0], (rank % 2..pg.size()).step_by(2).sum::<u32>());
        println!("rank {rank} is rank {} of {} in {:?}; they sum to {}", half.rank(), half.size(), half.name(), sum[0]);
        half.shutdown()?;
    }

    // A group of the last and the first rank. Every rank calls `new_group`; ranks that are not in the list get `None`.
    let ends = if pg.size() > 1 { vec![pg.size() - 1, 0] } else { vec![0] };
    if let Some(ends) = pg.new_group(&ends)? {
        let mut from_the_last = [rank];
        ends.broadcast(&mut from_the_last, 0)?;
        assert_eq!(from_the_last[0], pg.size() - 1);
        println!("rank {rank} received the number of rank {}", from_the_last[0]);
        ends.shutdown()?;
    }

    pg.shutdown()?;
    Ok(())
}

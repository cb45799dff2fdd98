//! Continues without the ranks that died. In this example the process of the last rank ends by
//! `std::process::abort`.
//!
//! Start it by `cargo run --release --example survivors`, or with `c10d run -n 4 --keep-going --success survivors --`.
//! Without `--keep-going` the launcher ends all ranks.

use std::error::Error;
use std::time::Duration;

use c10d::launch::{Launch, Success};
use c10d::{ProcessGroup, ReduceOp};

const STEPS: u64 = 10;

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::var_os("RANK").is_none() {
        let ranks = Launch::new(std::env::current_exe()?, [""; 0]).ranks(4).success(Success::Survivors);
        std::process::exit(ranks.run()?.exit_code());
    }
    let mut pg = c10d::builder().init("env://").timeout(Duration::from_secs(30)).build()?;
    let (first_rank, first_size) = (pg.rank(), pg.size());
    let mut done = 0;
    while done < STEPS {
        if done == 3 && first_rank == first_size - 1 {
            std::process::abort();
        }
        match step(&pg) {
            Ok(sum) => {
                assert_eq!(sum, pg.size() as f32);
                done += 1;
            }
            Err(error) => {
                println!("rank {first_rank}: {error}");
                // Within this time, the remaining ranks form a new group.
                pg = pg.shrink_to_survivors(Duration::from_secs(10))?;
                // All ranks continue after the last step that every rank has finished.
                let mut last = [done];
                pg.all_reduce(&mut last, ReduceOp::Min)?;
                done = last[0];
            }
        }
    }
    println!("rank {first_rank} did {done} steps, at the end as rank {} of {}", pg.rank(), pg.size());
    pg.shutdown()?;
    Ok(())
}

fn step(pg: &ProcessGroup) -> c10d::Result<f32> {
    let mut x = [1f32; 1024];
    pg.all_reduce(&mut x, ReduceOp::Sum)?;
    Ok(x[0])
}

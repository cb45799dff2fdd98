//! A barrier that names missing ranks. The last rank does not call it, and the errors of the others name this rank.
//!
//! Start it by `cargo run --release --example monitored_barrier`, or with `c10d run -n 4 --`, torchrun, mpirun or srun.

mod common;

use std::error::Error;
use std::time::{Duration, Instant};

use c10d::op;
use c10d::options::Missing;

fn main() -> Result<(), Box<dyn Error>> {
    let pg = common::group()?;
    let (rank, absent) = (pg.rank(), pg.size() - 1);
    pg.monitored_barrier(Missing::First)?;
    if absent == 0 {
        println!("this example needs at least two ranks");
        return Ok(());
    }

    let store = pg.store().clone();
    let deadline = Instant::now() + Duration::from_secs(20);
    if rank == absent {
        // This rank waits in the store until all other ranks have got their error.
        let noticed: Vec<String> = (0..absent).map(|r| format!("noticed/{r}")).collect();
        store.wait(&noticed.iter().map(String::as_str).collect::<Vec<_>>(), deadline)?;
        return Ok(());
    }
    let barrier = op::monitored_barrier(Missing::All).timeout(Duration::from_millis(500));
    let error = pg.run(barrier).err().ok_or("the barrier named no missing rank")?.error;
    println!("rank {rank}: {error}");
    assert_eq!(error.report().guilty, [absent]);
    store.set(&format!("noticed/{rank}"), b"", deadline)?;
    Ok(())
}

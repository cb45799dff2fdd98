//! Shows how a process finds the other ranks under any launcher, and how the ranks use their store.
//!
//! Start it by `cargo run --release --example env_init`, or with `c10d run -n 4 --`, torchrun, mpirun or srun.

mod common;

use std::error::Error;
use std::time::{Duration, Instant};

use c10d::DispatchKey;

fn main() -> Result<(), Box<dyn Error>> {
    let pg = common::group()?;
    println!("rank {} of {}: {} serves the CPU", pg.rank(), pg.size(), pg.backend(DispatchKey::Cpu)?);

    // Small data for all ranks can be put into the store. Every method has a deadline.
    let deadline = Instant::now() + Duration::from_secs(10);
    let store = pg.store();
    store.set(&format!("pid/{}", pg.rank()), std::process::id().to_string().as_bytes(), deadline)?;
    pg.barrier()?;
    if pg.rank() == 0 {
        for rank in 0..pg.size() {
            let pid = store.get(&format!("pid/{rank}"), deadline)?;
            println!("rank {rank} is process {}", String::from_utf8_lossy(&pid));
        }
    }
    pg.shutdown()?;
    Ok(())
}

//! Finds rank, size and store as any c10d program does, exchanges process ids with the other ranks, and prints the
//! result. Start it with `c10d run`, torchrun, mpirun or srun, or with an init method as its argument.

use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "env://".into());
    let me = c10d_rendezvous::init(&url, Duration::from_secs(30))?;
    let deadline = Instant::now() + Duration::from_secs(30);
    me.store.set(&format!("whoami/{}", me.rank), std::process::id().to_string().as_bytes(), deadline)?;
    let keys: Vec<String> = (0..me.size).map(|rank| format!("whoami/{rank}")).collect();
    let pids = me.store.multi_get(&keys.iter().map(String::as_str).collect::<Vec<_>>(), deadline)?;
    let pids: Vec<_> = pids.iter().map(|pid| String::from_utf8_lossy(pid)).collect();
    println!("rank {} of {}, pids {}", me.rank, me.size, pids.join(" "));
    Ok(())
}

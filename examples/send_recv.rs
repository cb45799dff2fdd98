//! Messages between two ranks: a token around the ring, and then a message from the rank that sends first.
//!
//! `cargo run --release --example send_recv`, or under `c10d run -n 4 --`, torchrun, mpirun or srun.

mod common;

use std::error::Error;

const TOKEN: u32 = 1;
const REPORT: u32 = 2;

fn main() -> Result<(), Box<dyn Error>> {
    let pg = common::group()?;
    let (rank, size) = (pg.rank(), pg.size());
    if size < 2 {
        println!("one rank has nobody to talk to");
        return Ok(());
    }
    let (next, previous) = ((rank + 1) % size, (rank + size - 1) % size);

    // Each rank adds its number.
    let mut token = [0u64; 1];
    if rank > 0 {
        pg.recv(&mut token, previous, TOKEN)?;
    }
    token[0] += u64::from(rank);
    pg.send(&token, next, TOKEN)?;

    if rank == 0 {
        pg.recv(&mut token, previous, TOKEN)?;
        println!("the token comes back with {}", token[0]);
        assert_eq!(token[0], u64::from(size * (size - 1) / 2));
        for _ in 1..size {
            let (square, from) = pg.recv_any_source(vec![0u64; 1], REPORT)?;
            println!("rank {from} reports {}", square[0]);
            assert_eq!(square[0], u64::from(from * from));
        }
    } else {
        pg.send(vec![u64::from(rank * rank)], 0, REPORT)?;
    }
    pg.shutdown()?;
    Ok(())
}

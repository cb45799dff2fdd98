//! Messages between two ranks. A token is passed around a ring of all ranks. Then every rank except rank 0 sends a
//! message to rank 0.
//!
//! Start it by `cargo run --release --example send_recv`, or with `c10d run -n 4 --`, torchrun, mpirun or srun.

mod common;

use std::error::Error;

const TOKEN: u32 = 1;
const REPORT: u32 = 2;

fn main() -> Result<(), Box<dyn Error>> {
    let pg = common::group()?;
    let (rank, size) = (pg.rank(), pg.size());
    if size < 2 {
        println!("this example needs at least two ranks");
        return Ok(());
    }
    let (next, previous) = ((rank + 1) % size, (rank + size - 1) % size);

    // Each rank adds its number to the token and passes it on.
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

//! Collectives and messages under tokio: many tasks, `select!`, and a timeout that cancels a receive.
//!
//! Start it by `cargo run --release --example tokio`, or with `c10d run -n 4 --`, torchrun, mpirun or srun.

mod common;

use std::error::Error;
use std::time::Duration;

use c10d::options::BarrierOptions;
use c10d::{Cancel, ProcessGroup, ReduceOp, op};

/// A started op is a future, which any runtime can poll. This runtime has a single thread.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // Calls that block (joining, splitting, leaving) run on a thread that may block.
    let join = || common::group().map_err(|e| e.to_string());
    let pg = tokio::task::spawn_blocking(join).await??;

    many_tasks(&pg).await?;
    select(&pg).await?;
    given_up(&pg).await?;

    tokio::task::spawn_blocking(move || pg.shutdown()).await??;
    Ok(())
}

/// Awaits many ops, each in its own task. All ranks start the ops in the same order, and can await them in any order.
async fn many_tasks(pg: &ProcessGroup) -> Result<(), Box<dyn Error>> {
    let size = pg.size();
    let works = (0..100).map(|i| pg.start(op::all_reduce(vec![i; 64], ReduceOp::Sum)));
    let tasks: Vec<_> = works.map(tokio::spawn).collect();
    for (i, task) in (0u32..100).zip(tasks).rev() {
        assert_eq!(task.await??, vec![i * size; 64]);
    }
    println!("rank {}: 100 tasks have their sums", pg.rank());
    Ok(())
}

/// Waits for an op and a timer at the same time. `select!` gets a reference to the handle.
async fn select(pg: &ProcessGroup) -> Result<(), Box<dyn Error>> {
    let mut work = pg.start(op::all_reduce(vec![1f32; 1 << 20], ReduceOp::Sum));
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    let mut seen = 0;
    let sums = loop {
        tokio::select! {
            result = &mut work => break result?,
            _ = ticks.tick() => seen += 1,
        }
    };
    assert_eq!(sums[0], pg.size() as f32);
    println!("rank {}: summed during {seen} ticks", pg.rank());
    Ok(())
}

/// Cancels a receive whose timeout has passed. The next receive gets the message.
async fn given_up(pg: &ProcessGroup) -> Result<(), Box<dyn Error>> {
    const TAG: u32 = 1;
    let (rank, last) = (pg.rank(), pg.size() - 1);
    if last == 0 {
        return Ok(());
    }
    if rank == 0 {
        let mut work = pg.start(op::recv(vec![0u64; 4], last, TAG));
        // If `timeout` owned the handle, it would drop the handle at the timeout, and the message would be lost.
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut work).await.is_err());
        let buffer = match work.cancel()? {
            Cancel::Back(buffer) => buffer,
            Cancel::TooLate(_) => return Err("the receive got a message that was not sent yet".into()),
        };
        pg.start(op::barrier(BarrierOptions::default())).await?;
        let message = pg.start(op::recv(buffer, last, TAG)).await?;
        assert_eq!(message, [7; 4]);
        println!("rank 0: the second receive got the message of rank {last}");
    } else {
        // The last rank sends after rank 0 has cancelled its receive.
        pg.start(op::barrier(BarrierOptions::default())).await?;
        if rank == last {
            pg.start(op::send(vec![7u64; 4], 0, TAG)).await?;
        }
    }
    Ok(())
}

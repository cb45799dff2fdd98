//! Tests that no call waits for the whole device. The device may be waiting for a peer, and the peer for this rank's
//! next call.

use crate::common;

use c10d_core::{DeviceCoo, ReduceOp, Result, op};
use common::{SECOND, builder, on, with_fake};

#[test]
fn the_first_sparse_call_does_not_wait_for_a_collective() {
    with_fake("the_first_sparse_call_does_not_wait_for_a_collective", "", || {
        let sums = builder().run_ranks(2, |pg| {
            let dense = on(pg.rank(), &[1f32; 1000]);
            let entries = (on(pg.rank(), &[3i64]), on(pg.rank(), &[2f32]));
            let sparse = op::all_reduce(DeviceCoo::new([9], 1, entries.0, entries.1)?, ReduceOp::Sum);
            let dense = op::all_reduce(dense, ReduceOp::Sum);
            // Rank 0's collective waits for rank 1, which makes the sparse call first.
            let (sum, dense) = if pg.rank() == 0 {
                let work = pg.start(dense);
                (pg.run(sparse)?, work.wait()?)
            } else {
                let sum = pg.run(sparse)?;
                (sum, pg.start(dense).wait()?)
            };
            assert_eq!(dense.to_vec::<f32>(SECOND)?, [2.0; 1000]);
            sum.values().to_vec::<f32>(SECOND)
        });
        assert_eq!(sums.unwrap(), [[4.0]; 2]);
    });
}

/// In the dialect `torch-legacy`, gathers use a flat scratch tensor. A gather that needs a larger scratch tensor does
/// not free the smaller one, since freeing would wait for the device.
#[test]
fn gathers_that_need_more_memory_do_not_wait_for_a_message() {
    with_fake("gathers_that_need_more_memory_do_not_wait_for_a_message", "", || {
        let got = builder().hint("nccl.compat", "torch-legacy").run_ranks(2, |pg| {
            let rank = pg.rank();
            let mine = [1, 100, 1].map(|count| on(rank, &vec![rank as f32; count]));
            let alls = [1, 100, 1].map(|count| (0..2).map(|_| on(rank, &vec![9f32; count])).collect::<Vec<_>>());
            let mut message = on(rank, &[rank as f32]);
            // This message connects the pair, so the next receive is put on the stream at once.
            if rank == 0 { pg.recv(&mut message, 1, 0).map(drop) } else { pg.send(&message, 0, 0).map(drop) }?;
            let gather = |(mine, all)| pg.all_gather(mine, all);
            let gathers = mine.into_iter().zip(alls);
            if rank == 0 {
                let work = pg.start(op::recv(message, 1, 0));
                let kept = gathers.map(gather).collect::<Result<Vec<_>>>()?;
                let got = work.wait()?.to_vec::<f32>(SECOND);
                drop(kept);
                return got;
            }
            let kept = gathers.map(gather).collect::<Result<Vec<_>>>()?;
            pg.send(&message, 0, 0)?;
            kept[1].1[1].to_vec::<f32>(SECOND).map(|all| all[..1].to_vec())
        });
        assert_eq!(got.unwrap(), [[1.0]; 2]);
    });
}

//! Collectives on the guarded device, through the CPU backend.

#[macro_use]
mod common;

use std::sync::Arc;

use c10d_core::device::{DeviceBuffer, DeviceRuntime};
use c10d_core::{ReduceOp, op, run_ranks};
use common::CAP;

#[test]
fn all_reduce_sums_what_the_devices_have() {
    let (runtime, builder) = staged!("sums");
    let device: Arc<dyn DeviceRuntime> = runtime;
    run_ranks(3, builder.hint("staged.chunk", "1000"), |pg| {
        let index = pg.rank() as u16;
        let mine: Vec<f32> = (0..5000).map(|i| (i + pg.rank() * 7) as f32).collect();
        let mut x = DeviceBuffer::from_slice(&device, index, &mine, CAP)?;
        for _ in 0..3 {
            x.write(&mine, CAP)?;
            pg.all_reduce(&mut x, ReduceOp::Sum)?;
            let want: Vec<f32> = (0..5000).map(|i| (3 * i + 21) as f32).collect();
            assert_eq!(x.to_vec::<f32>(CAP)?, want);
        }
        pg.shutdown()
    })
    .unwrap();
}

#[test]
fn messages_do_not_wait_for_each_other() {
    let (runtime, builder) = staged!("messages");
    let device: Arc<dyn DeviceRuntime> = runtime;
    run_ranks(2, builder, |pg| {
        let index = pg.rank() as u16;
        let peer = 1 - pg.rank();
        let buffer = |value: i32| DeviceBuffer::from_slice(&device, index, &[value; 300], CAP);
        // What is received first is sent last.
        let late = pg.start(op::recv(buffer(0)?, peer, 7));
        let sends: Vec<_> =
            (0..20).map(|i| Ok(pg.start(op::send(buffer(i)?, peer, 5)))).collect::<c10d_core::Result<_>>()?;
        for i in 0..20 {
            let mut x = buffer(-1)?;
            pg.recv(&mut x, peer, 5)?;
            assert_eq!(x.to_vec::<i32>(CAP)?, [i; 300]);
        }
        for work in sends {
            work.wait()?;
        }
        pg.send(&buffer(77)?, peer, 7)?;
        assert_eq!(late.wait()?.to_vec::<i32>(CAP)?, [77; 300]);
        pg.shutdown()
    })
    .unwrap();
}

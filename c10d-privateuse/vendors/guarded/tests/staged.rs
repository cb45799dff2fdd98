//! Collectives on the guarded device, through the CPU backend.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use c10d_core::device::{DeviceBuffer, DeviceRuntime};
use c10d_core::registry::{DeviceRegistration, Provider};
use c10d_core::{DispatchKey, GroupBuilder, ReduceOp, op, run_ranks};
use c10d_guarded::Guarded;

const CAP: Duration = Duration::from_secs(20);

/// A device of the test's own, and a group of which it is staged.
macro_rules! staged {
    ($name:literal) => {{
        static RUNTIME: LazyLock<Arc<Guarded>> = LazyLock::new(|| Arc::new(Guarded::new($name)));
        static PROVIDER: Provider = Provider {
            source: $name,
            devices: &[DeviceRegistration {
                name: $name,
                key: DispatchKey::PrivateUse1,
                open: &|| Ok(RUNTIME.clone()),
            }],
            ..Provider::EMPTY
        };
        let builder = GroupBuilder::new()
            .providers(&[&PROVIDER, &c10d_gloo_like::PROVIDER])
            .backend(concat!($name, ":gloo-like"))
            .timeout(CAP);
        (RUNTIME.clone(), builder)
    }};
}

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

//! Messages of several threads.

use std::sync::Arc;
use std::time::Duration;

use c10d_core::registry::{Provider, Registration};
use c10d_core::{Backend, DispatchKey, GroupBuilder, GroupInit, Result, run_ranks};
use parking_lot::Mutex;

use super::log::buffer;
use super::mock;
use crate::backend::Tap;

/// The mock's backend, with the test between rank 0 and those who are to see its messages to rank 1.
static PROVIDER: Provider = Provider {
    source: "tapped",
    backends: &[Registration {
        name: "tapped",
        keys: &[DispatchKey::Cuda],
        priority: 100,
        probe: &|| Ok(()),
        create: &create,
    }],
    ..Provider::EMPTY
};

static TAP: Mutex<Option<Tap>> = Mutex::new(None);

fn create(init: &GroupInit) -> Result<Arc<dyn Backend>> {
    let mut nccl = mock::connect(init)?;
    if init.rank == 0 {
        *TAP.lock() = nccl.tap(1);
    }
    Ok(Arc::new(nccl))
}

/// NCCL has no tags: what a message is compared with is what comes in its place. So none is told to be compared as long as
/// one that was told before has yet to be sent.
#[test]
fn messages_are_compared_in_the_order_in_which_they_are_sent() {
    const CAP: Duration = Duration::from_secs(60);
    let providers = [&PROVIDER, &c10d_gloo_like::PROVIDER];
    let builder = GroupBuilder::new().name("turns").providers(&providers).backend("cpu:gloo-like,cuda:tapped");
    let done = run_ranks(2, builder, |pg| {
        if pg.rank() == 1 {
            return Ok(());
        }
        let Tap { compared, given, orders } = TAP.lock().take().unwrap();
        let send = |count: usize| pg.send(buffer(count), 1, 0).map(drop).unwrap();
        std::thread::scope(move |s| {
            s.spawn(move || send(3));
            assert_eq!(compared.recv_timeout(CAP).unwrap().count(), 3);
            s.spawn(move || send(4));
            assert!(compared.recv_timeout(Duration::from_millis(100)).is_err(), "the first was not sent yet");
            orders.send(given.recv_timeout(CAP).unwrap()).unwrap();
            assert_eq!(compared.recv_timeout(CAP).unwrap().count(), 4);
            orders.send(given.recv_timeout(CAP).unwrap()).unwrap();
        });
        Ok(())
    });
    done.unwrap();
}

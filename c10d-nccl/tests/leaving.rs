//! A rank sends the fingerprint of each call to the next rank; the last rank sends it to rank 0. A rank that leaves
//! right after its last call must first send that call's fingerprint, even if sending is slow.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use c10d_core::backend::{Backend, Capabilities, Job, Provider, Registration};
use c10d_core::{Builder, DispatchKey, Error, OpKind, ReduceOp, Result};

use crate::common;
use common::{SECOND, on, with_fake};

/// The number of the last rank, which sends its fingerprints to the first one.
const LATE: u32 = 2;

/// Whether the last call of the rank [`LATE`] has ended. The rank leaves right after it.
static LEAVES: AtomicBool = AtomicBool::new(false);

/// A CPU backend that delays the fingerprints of one rank. The NCCL backend sends its fingerprints and its goodbyes as
/// messages over the group's CPU backend.
struct Late {
    inner: Arc<dyn Backend>,
    is_late: bool,
}

// SAFETY: every call is passed on to another backend.
unsafe impl Backend for Late {
    fn name(&self) -> &'static str {
        "late"
    }
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
    fn submit(&self, job: Job) {
        // A fingerprint has several bytes. The message that says that a rank leaves has one byte.
        let tells = job.request().op == OpKind::Send && job.request().inputs().iter().any(|span| span.count() > 1);
        if self.is_late && tells {
            // The fingerprint is sent 20 ms after the rank's last call has ended. A rank that does not wait for its
            // fingerprint has left by then. If the call does not end, the fingerprint is sent after 320 ms.
            let begun = Instant::now();
            while !LEAVES.load(Ordering::Acquire) && begun.elapsed() < Duration::from_millis(300) {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.inner.submit(job);
    }
    fn abort(&self, cause: &Error) {
        self.inner.abort(cause);
    }
    fn shutdown(&self, deadline: Instant) -> Result {
        self.inner.shutdown(deadline)
    }
}

static PROVIDER: Provider = Provider {
    source: "late",
    backends: &[Registration {
        name: "late",
        keys: &[DispatchKey::Cpu],
        priority: 1,
        probe: &|| Ok(()),
        create: &|init| {
            let inner = init.own_backend(c10d_gloo_like::NAME, "late")?;
            Ok(Arc::new(Late { inner, is_late: init.rank == LATE }))
        },
    }],
    ..Provider::EMPTY
};

#[test]
fn fingerprints_are_sent_before_a_rank_leaves() {
    with_fake("fingerprints_are_sent_before_a_rank_leaves", "", || {
        let providers = [&PROVIDER, &c10d_nccl::PROVIDER, &c10d_gloo_like::PROVIDER];
        let builder = Builder::new().providers(&providers).backend("cpu:late,cuda:nccl").timeout(60 * SECOND);
        let sums = builder.run_ranks(LATE + 1, |pg| {
            let mut x = on(pg.rank(), &[1f32]);
            pg.all_reduce(&mut x, ReduceOp::Sum)?;
            if pg.rank() == LATE {
                LEAVES.store(true, Ordering::Release);
            }
            pg.shutdown()?;
            x.to_vec::<f32>(SECOND)
        });
        assert_eq!(sums.unwrap(), [[3.0]; 3]);
    });
}

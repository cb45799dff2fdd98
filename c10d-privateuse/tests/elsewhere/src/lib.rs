//! gloo-like as the plugin `elsewhere`, with sub-groups, batches, and errors while no call runs. In groups with certain
//! names, it panics, takes messages only in batches, or reports the remaining time in `shutdown`.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use c10d_core::backend::{Backend, Capabilities, GroupInit, Job, Provider, Registration};
use c10d_core::{DispatchKey, Error, ErrorKind, Result};

static PROVIDER: Provider = Provider {
    source: env!("CARGO_PKG_NAME"),
    backends: &[Registration {
        name: "elsewhere",
        keys: &[DispatchKey::Cpu],
        priority: 1,
        probe: &|| Ok(()),
        create: &create,
    }],
    ..Provider::EMPTY
};

c10d_privateuse::export_backend!("elsewhere", PROVIDER);

fn create(init: &GroupInit) -> Result<Arc<dyn Backend>> {
    assert!(&*init.group != "panics in create", "create was told to panic");
    Ok(Arc::new(Elsewhere::new(init, None)?))
}

struct Elsewhere {
    inner: Arc<dyn Backend>,
    group: Arc<str>,
    rank: u32,
    /// For a sub-group: the ranks of its members in the parent group, and how many calls of `split` and `no_split` the
    /// parent group had when the sub-group was made.
    part: Option<(Vec<u32>, u32)>,
    divisions: AtomicU32,
    used: AtomicBool,
}

impl Elsewhere {
    fn new(init: &GroupInit, part: Option<(Vec<u32>, u32)>) -> Result<Elsewhere> {
        let inner = (c10d_gloo_like::PROVIDER.backends[0].create)(init)?;
        let (divisions, used) = (AtomicU32::new(0), AtomicBool::new(false));
        Ok(Elsewhere { inner, group: init.group.clone(), rank: init.rank, part, divisions, used })
    }

    /// Counts a call of `split` or `no_split`. Returns the number of calls.
    fn divided(&self) -> u32 {
        self.divisions.fetch_add(1, Ordering::Relaxed) + 1
    }
}

// SAFETY: every call is passed on to gloo-like, which gives the guarantees.
unsafe impl Backend for Elsewhere {
    fn name(&self) -> &'static str {
        "elsewhere"
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn submit(&self, job: Job) {
        assert!(&*self.group != "panics in submit", "submit was told to panic");
        assert!(&*self.group != "batches only" || !job.request().op.is_p2p(), "messages come in batches");
        self.used.store(true, Ordering::Relaxed);
        self.inner.submit(job);
    }

    fn submit_batch(&self, jobs: Vec<Job>) {
        self.inner.submit_batch(jobs);
    }

    fn split(&self, ranks: &[u32], init: &GroupInit) -> Option<Result<Arc<dyn Backend>>> {
        assert!(&*self.group != "panics in split", "split was told to panic");
        assert_eq!(ranks[init.rank as usize], self.rank, "the list of ranks is in the wrong order");
        let part = Elsewhere::new(init, Some((ranks.to_vec(), self.divided())));
        Some(part.map(|part| Arc::new(part) as Arc<dyn Backend>))
    }

    fn no_split(&self) {
        self.divided();
    }

    /// A sub-group of one rank fails after its first call.
    fn failure(&self) -> Option<Error> {
        let (ranks, division) = self.part.as_ref()?;
        let failed = ranks.len() == 1 && self.used.load(Ordering::Relaxed);
        let what = format!("division {division}: the part of {ranks:?} has failed");
        failed.then(|| Error::new(ErrorKind::Device, what).guilty([0]))
    }

    fn abort(&self, cause: &Error) {
        self.inner.abort(cause);
    }

    fn shutdown(&self, deadline: Instant) -> Result {
        if &*self.group == "tells its time" {
            let left = deadline.saturating_duration_since(Instant::now());
            return Err(Error::new(ErrorKind::Timeout, format!("{} seconds are left", left.as_secs())));
        }
        self.inner.shutdown(deadline)
    }
}

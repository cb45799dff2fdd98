//! Finds out whether two ranks run on the same core. If they do, a rank that spins while it waits for the other rank
//! keeps that rank from running.
//!
//! Each rank that waits records its core in its segment. If a peer last waited on the core on which this rank runs now,
//! the peer is taken to be on this core. The record may be out of date if the operating system has moved the peer to
//! another core. The peer corrects the record when it waits again. Until then, this rank may yield or spin at the wrong
//! time.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Segment;

/// The segments of this rank and of a peer, in which the ranks record their cores.
#[derive(Clone)]
pub(crate) struct CorePair {
    own: Arc<Segment>,
    theirs: Arc<Segment>,
}

impl CorePair {
    pub(super) fn new(own: Arc<Segment>, theirs: Arc<Segment>) -> CorePair {
        CorePair { own, theirs }
    }

    /// Records the core of the calling thread, and returns whether the peer last waited on the same core.
    #[cold]
    pub(crate) fn is_one_core(&self) -> bool {
        // `sched_getcpu` of rustix crashes under valgrind.
        // SAFETY: the function has no requirements.
        let here = unsafe { libc::sched_getcpu() };
        let Ok(here) = u32::try_from(here) else { return false };
        // The record of a rank that has not waited yet is 0.
        let here = here + 1;
        let own = &self.own.header().core;
        // Peers read the cache line, so it is written only if the value changes.
        if own.load(Ordering::Relaxed) != here {
            own.store(here, Ordering::Relaxed);
        }
        self.theirs.header().core.load(Ordering::Relaxed) == here
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::{CpuSet, sched_setaffinity};

    use super::*;
    use crate::shm::Layout;

    fn on_core<R: Send>(core: usize, run: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|s| {
            let bound = s.spawn(|| {
                let mut one = CpuSet::new();
                one.set(core);
                sched_setaffinity(None, &one).unwrap();
                run()
            });
            bound.join().unwrap()
        })
    }

    #[test]
    fn ranks_learn_whether_they_share_a_core() {
        let allowed = rustix::thread::sched_getaffinity(None).unwrap();
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
        let (first, last) = (cores[0], cores[cores.len() - 1]);
        let [a, b] = [(); 2].map(|_| Arc::new(Segment::create(Layout::new(1)).unwrap()));
        let (ab, ba) = (CorePair::new(a.clone(), b.clone()), CorePair::new(b, a));
        assert!(!on_core(first, || ab.is_one_core()), "the peer has not waited yet");
        assert!(on_core(first, || ba.is_one_core()));
        assert_eq!(on_core(last, || ab.is_one_core()), first == last);
        assert_eq!(on_core(first, || ba.is_one_core()), first == last);
    }
}

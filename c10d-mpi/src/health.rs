//! The health of a group: whether it has failed, and why.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use c10d_core::backend::SideChannel;
use c10d_core::panics::caught;
use c10d_core::process::spawn;
use c10d_core::sync::{Condvar, Mutex};
use c10d_core::{ENDED_WITHOUT_LEAVING, Error, ErrorKind, Result};

/// How long operations in flight may still take after a peer's program has ended.
const ENDED: Duration = Duration::from_secs(1);

/// The text of a mismatch in which more than half of the ranks make the same call. The guilty ranks are those that make
/// a different call.
pub(crate) const BY_MOST: &str = "most ranks make the same call, and the named ranks make a different one";

/// Whether any group of this process has failed.
static ANY_FAILED: AtomicBool = AtomicBool::new(false);

/// Returns whether no group of this process has failed. After a failure, this crate does not call `MPI_Finalize`, which
/// could wait forever.
pub(crate) fn all_is_well() -> bool {
    !ANY_FAILED.load(Ordering::Acquire)
}

/// The first failure of a group, and the side channel, through which the ranks watch each other.
#[derive(Default)]
pub(crate) struct Health {
    /// Whether a check must look at the state under the lock.
    marked: AtomicBool,
    state: Mutex<HealthState>,
    failed: Condvar,
    /// Locked while the cause is sent to the peers.
    telling: Mutex<()>,
    /// The side channel; `None` if the group has one rank only.
    side: Option<SideChannel>,
}

#[derive(Default)]
struct HealthState {
    cause: Option<Error>,
    /// Set when a peer's program has ended without leaving the group: the error for later operations, and the time at
    /// which this rank noticed that the program had ended.
    ended: Option<(Error, Instant)>,
    closed: bool,
}

impl Health {
    /// Makes the health of a group. If there is a side channel, starts a thread that watches the peers through it.
    pub(crate) fn watching(side: Option<SideChannel>) -> Result<Arc<Health>> {
        let health = Arc::new(Health { side, ..Health::default() });
        let Some(side) = health.side.clone() else { return Ok(health) };
        let weak = Arc::downgrade(&health);
        spawn("c10d-mpi-side", move || {
            let cause = caught(|| side.watch()).unwrap_or_else(|words| {
                Some(Error::new(ErrorKind::Internal, format!("the thread that watches the peers panicked: {words}")))
            });
            let (Some(health), Some(cause)) = (weak.upgrade(), cause) else { return };
            match cause.kind() {
                ErrorKind::PeerDead { how } if how.starts_with(ENDED_WITHOUT_LEAVING) => health.ended(cause),
                _ => drop(health.fail(by_majority(cause))),
            }
        })?;
        Ok(health)
    }

    /// Returns the first failure if the group has failed. Fails the group if a peer's program has ended more than
    /// [`ENDED`] ago.
    #[inline]
    pub(crate) fn check(&self) -> Result {
        if self.marked.load(Ordering::Acquire) { self.look(ENDED) } else { Ok(()) }
    }

    /// Like [`check`](Health::check), for an operation that begins. Fails the group at once if a peer's program has
    /// ended. Returns an error if this rank has left the group.
    #[inline]
    pub(crate) fn begin(&self) -> Result {
        if self.marked.load(Ordering::Acquire) { self.look(Duration::ZERO) } else { Ok(()) }
    }

    #[cold]
    fn look(&self, patience: Duration) -> Result {
        let state = self.state.lock();
        if let Some(cause) = &state.cause {
            return Err(cause.clone());
        }
        if let Some((cause, since)) = &state.ended
            && since.elapsed() >= patience
        {
            let cause = cause.clone();
            drop(state);
            return Err(self.fail(cause));
        }
        if state.closed && patience.is_zero() {
            return Err(Error::new(ErrorKind::Shutdown, "this rank has left the group"));
        }
        Ok(())
    }

    /// Fails the group, and sends the cause to the peers. Returns the first cause.
    pub(crate) fn fail(&self, cause: Error) -> Error {
        self.fail_and_send(cause.clone(), &cause)
    }

    /// Like [`fail`](Health::fail), but sends a different error to the peers. No thread of this rank gets the cause
    /// before the error has been sent: that thread could end the program before the peers know the error.
    pub(crate) fn fail_and_send(&self, cause: Error, sent: &Error) -> Error {
        let _telling = self.telling.lock();
        if let Some(first) = self.cause() {
            return first;
        }
        ANY_FAILED.store(true, Ordering::Release);
        if let Some(side) = &self.side {
            side.abort(sent);
        }
        self.state.lock().cause = Some(cause.clone());
        self.marked.store(true, Ordering::Release);
        self.failed.notify_all();
        cause
    }

    fn ended(&self, cause: Error) {
        self.state.lock().ended.get_or_insert((cause, Instant::now()));
        self.marked.store(true, Ordering::Release);
    }

    pub(crate) fn cause(&self) -> Option<Error> {
        self.state.lock().cause.clone()
    }

    /// Waits until the group has failed, for at most `patience`. Returns the cause, if there is one.
    pub(crate) fn wait_for_cause(&self, patience: Duration) -> Option<Error> {
        let until = Instant::now() + patience;
        let mut state = self.state.lock();
        while state.cause.is_none() && !self.failed.wait_until(&mut state, until).timed_out() {}
        state.cause.clone()
    }

    /// Returns a function that finds out which ranks do not answer or have left. Returns `None` if there is no side
    /// channel, or if it goes through the store.
    pub(crate) fn waits(&self) -> Option<Box<dyn FnOnce() -> String + Send>> {
        self.side.as_ref()?.messages()?.waits()
    }

    /// Rejects new operations, and sends the peers the cause if the group has failed, or otherwise a goodbye.
    pub(crate) fn leave(&self) {
        let _telling = self.telling.lock();
        let cause = {
            let mut state = self.state.lock();
            if std::mem::replace(&mut state.closed, true) {
                return;
            }
            self.marked.store(true, Ordering::Release);
            state.cause.clone()
        };
        match (&self.side, cause) {
            (Some(side), Some(cause)) => side.abort_and_leave(&cause),
            (Some(side), None) => side.leave(),
            (None, _) => {}
        }
    }
}

/// Converts a peer's error from the side channel. The side channel adds the rank that reports a mismatch to the guilty
/// ranks. If the text is [`BY_MOST`], the reporting rank makes the call of the majority, so this function removes that
/// rank from the guilty ranks.
fn by_majority(mut error: Error) -> Error {
    let report = error.report_mut();
    if matches!(report.kind, ErrorKind::Mismatch { .. }) && report.guilty.len() > 1 && report.what.contains(BY_MOST) {
        let by = report
            .what
            .strip_prefix("reported by rank ")
            .and_then(|words| words.split(|c: char| !c.is_ascii_digit()).next());
        let by = by.and_then(|rank| rank.parse::<u32>().ok());
        report.guilty.retain(|rank| Some(*rank) != by);
    }
    error
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use std::sync::Barrier;

    use c10d_core::backend::{Backend, Capabilities, GroupInit, Job, Provider, Registration};
    use c10d_core::{Builder, DispatchKey};

    use super::*;

    static BEGUN: Barrier = Barrier::new(2);
    static GO: Barrier = Barrier::new(2);
    static ABORTED: AtomicBool = AtomicBool::new(false);

    /// A CPU backend whose first abort lasts until the test lets it end.
    struct Slow;

    // SAFETY: it completes each job at once, without using its spans.
    unsafe impl Backend for Slow {
        fn name(&self) -> &'static str {
            "slow"
        }
        fn capabilities(&self) -> &Capabilities {
            &Capabilities::ALL
        }
        fn submit(&self, job: Job) {
            job.complete(Ok(()));
        }
        fn abort(&self, _: &Error) {
            if !ABORTED.swap(true, Ordering::Relaxed) {
                BEGUN.wait();
                GO.wait();
            }
        }
    }

    /// While one thread sends the cause to the peers, no other thread gets it.
    fn check_order(init: &GroupInit) -> Result<Arc<dyn Backend>> {
        if init.rank == 0 {
            let health = Health { side: SideChannel::connect(init, Some("slow"), "side")?, ..Health::default() };
            let fail = |what: &str| health.fail(Error::new(ErrorKind::Timeout, what)).report().what.clone();
            let early = std::thread::scope(|s| {
                let first = s.spawn(|| fail("first"));
                BEGUN.wait();
                let early = health.check();
                GO.wait();
                assert_eq!((fail("second"), first.join().unwrap()), ("first".to_owned(), "first".to_owned()));
                early
            });
            assert!(early.is_ok(), "{early:?} before the cause was sent to the peers");
            assert!(health.check().is_err());
        }
        Err(Error::unsupported("the test is over"))
    }

    #[test]
    fn no_thread_gets_a_cause_before_the_peers() {
        const fn backend(
            name: &'static str,
            priority: u16,
            create: &'static (dyn Fn(&GroupInit) -> Result<Arc<dyn Backend>> + Sync),
        ) -> Registration {
            Registration { name, keys: &[DispatchKey::Cpu], priority, probe: &|| Ok(()), create }
        }
        static PROVIDER: Provider = Provider {
            source: "tests",
            backends: &[backend("tested", 2, &check_order), backend("slow", 1, &|_| Ok(Arc::new(Slow)))],
            ..Provider::EMPTY
        };
        let e = Builder::new().providers(&[&PROVIDER]).backend("cpu:tested").run_ranks(2, |_| Ok(())).unwrap_err();
        assert!(e.to_string().contains("the test is over"), "{e}");
    }

    #[test]
    fn the_first_cause_stays() {
        let health = Health::default();
        assert!(health.check().is_ok());
        for what in ["first", "second"] {
            assert_eq!(health.fail(Error::new(ErrorKind::Timeout, what)).report().what, "first");
        }
        assert_eq!(health.check().unwrap_err().report().what, "first");
    }

    #[test]
    fn the_end_of_a_peer_fails_operations_that_begin_later() {
        let health = Health::default();
        health.ended(Error::new(ErrorKind::PeerDead { how: ENDED_WITHOUT_LEAVING.to_owned() }, "").guilty([1]));
        assert!(health.check().is_ok(), "operations in flight may continue for a moment");
        assert_eq!(health.begin().unwrap_err().report().guilty, [1]);
        assert!(health.check().is_err(), "the group has failed");
    }

    #[test]
    fn a_rank_that_reports_for_a_majority_is_not_guilty() {
        let kind = || ErrorKind::Mismatch { field: "op", mine: "a".into(), theirs: "b".into() };
        let guilty = |what: String| by_majority(Error::new(kind(), what).guilty([1, 2])).report().guilty.clone();
        assert_eq!(guilty(format!("reported by rank 2: {BY_MOST}")), [1]);
        assert_eq!(guilty(format!("reported by rank 2 (report forwarded by rank 0): {BY_MOST}")), [1]);
        assert_eq!(guilty("reported by rank 2: two ranks disagree".into()), [1, 2]);
    }

    #[test]
    fn operations_that_begin_after_leaving_are_an_error() {
        let health = Health::default();
        health.leave();
        assert!(health.check().is_ok() && *health.begin().unwrap_err().kind() == ErrorKind::Shutdown);
    }
}

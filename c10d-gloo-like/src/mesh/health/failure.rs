//! The failure of a group. The first cause counts, and is sent to all peers before [`Health::failed`] returns `true`.

use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use c10d_core::backend::Fingerprint;
use c10d_core::calls::mismatch;
use c10d_core::{Error, ErrorKind, Status};

use super::call_logs::CallLogs;
use super::{DISPUTED, FAILED, Health};
use crate::mesh::control::Frame;
use crate::mesh::revoke::Revoke;
use crate::mesh::verdict::{self, Adopted};

/// The longest time for which a thread waits until another thread has sent the cause to the peers. Only a defect can
/// make sending take this long, since it never waits for a peer.
const TOLD: Duration = Duration::from_secs(5);

impl Health {
    /// Fails the group: keeps the first cause, reports the failure to all peers, and wakes sleeping threads. Returns
    /// the first cause. Does not wait for peers.
    pub(crate) fn fail(&self, error: Error) -> Error {
        self.fail_with(error, None)
    }

    /// Like [`Health::fail`], for an error between the guilty ranks: every rank names all of them, even itself.
    pub(crate) fn fail_between(&self, error: Error) -> Error {
        let revoke = Revoke { between: true, ..Revoke::of(self.rank, &error, None) };
        self.fail_by(error, revoke)
    }

    /// Like [`Health::fail`], for a disagreement between this rank's call `mine` and the call `theirs` of `rank`.
    pub(crate) fn mismatch(&self, rank: u32, mine: &Fingerprint, theirs: &Fingerprint) -> Error {
        let error = mismatch([rank], mine, theirs).unwrap_or_else(|| {
            Error::new(ErrorKind::Protocol, "two calls were found different, but have equal fingerprints")
                .guilty([rank])
        });
        self.fail_with(error, Some([(self.rank, *mine), (rank, *theirs)]))
    }

    fn fail_with(&self, error: Error, fingerprints: Option<[(u32, Fingerprint); 2]>) -> Error {
        let revoke = Revoke::of(self.rank, &error, fingerprints);
        self.fail_by(error, revoke)
    }

    fn fail_by(&self, error: Error, revoke: Revoke) -> Error {
        let cause = self.keep(error, revoke);
        self.wait_until_told();
        cause
    }

    /// Waits until the first cause has been sent to the peers. Otherwise this thread could end the program because of
    /// the failure before the peers know the cause.
    pub(super) fn wait_until_told(&self) {
        if !self.failed() {
            drop(self.telling.try_lock_for(TOLD));
        }
    }

    /// Keeps the first cause and returns it. The thread that sets the cause sends the report of the rank that found the
    /// cause to all peers, unchanged, before the failure becomes visible on this rank. So the peers know the cause
    /// before they notice that a rank has left because of the cause. If the cause is set already, this function does
    /// not wait until the cause is sent. Otherwise two threads could wait for each other, since a thread that sends a
    /// report to a rank of its own process runs this function for that rank.
    fn keep(&self, error: Error, revoke: Revoke) -> Error {
        // This precedes every return: after it, the caller may change buffers that peers still read.
        self.take_back();
        if let Some(cause) = self.first_cause() {
            return cause;
        }
        // The thread that holds this lock sets the cause before it sends anything. So two ranks that report to each
        // other do not wait for each other.
        let telling = self.telling.lock();
        let (cause, revoke) = {
            let mut state = self.state.lock();
            if let Some(cause) = &state.cause {
                return cause.clone();
            }
            // An earlier report of a disagreement about calls takes precedence over an error of another kind.
            let (mut error, revoke) = match state.dispute.take() {
                Some(dispute) if !matches!(error.kind(), ErrorKind::Mismatch { .. }) => {
                    (verdict::third_party(self.rank, &dispute), *dispute)
                }
                _ => (error, revoke),
            };
            error = state.with_all_dead(error);
            let report = error.report_mut();
            report.status = Status::Failed;
            report.group.get_or_insert_with(|| self.group.clone());
            report.rank.get_or_insert(self.rank);
            state.cause = Some(error.clone());
            (error, revoke)
        };
        self.send_to_all(&Frame::Revoke(Box::new(revoke)));
        self.alarm.fetch_or(FAILED, Ordering::AcqRel);
        self.call_log().give_up();
        drop(telling);
        self.wake();
        cause
    }

    /// Tells the peers that share memory with this rank that lent memory may change from now on.
    fn take_back(&self) {
        if let Some(segment) = self.call_logs.get().and_then(CallLogs::segment) {
            segment.header().revoked.store(1, Ordering::Release);
            fence(Ordering::SeqCst);
        }
    }

    /// Handles a failure that rank `from` reports, as its own or as another rank's.
    pub(super) fn revoked(&self, from: u32, mut revoke: Box<Revoke>) {
        if revoke.by != from {
            revoke.via.get_or_insert(from);
        }
        match self.adopt(&revoke) {
            Adopted::Cause(error) => drop(self.keep(error, *revoke)),
            Adopted::Later => {
                let mut state = self.state.lock();
                if state.cause.is_none() && state.dispute.is_none() {
                    state.dispute = Some(revoke);
                    self.alarm.fetch_or(DISPUTED, Ordering::AcqRel);
                }
            }
        }
        self.wake();
    }

    /// Decides a dispute if this rank has made the disputed call by now.
    pub(super) fn settle(&self) {
        if self.alarm.load(Ordering::Acquire) & DISPUTED == 0 {
            return;
        }
        let Some(revoke) = self.state.lock().dispute.clone() else { return };
        if let Adopted::Cause(error) = self.adopt(&revoke) {
            self.keep(error, *revoke);
        }
    }

    fn adopt(&self, revoke: &Revoke) -> Adopted {
        verdict::adopt(self.rank, revoke, |place| self.called(place), self.call_log().position())
    }
}

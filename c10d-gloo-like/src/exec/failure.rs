//! Decides which rank is at fault when a link breaks or carries unexpected bytes.

use std::thread;
use std::time::{Duration, Instant};

use c10d_core::backend::Fingerprint;
use c10d_core::{Error, ErrorKind};

use super::executor::{Executor, Op};
use crate::mesh::Health;
use c10d_core::calls::CallId;

/// How long this rank waits for the peers to report their calls after it has received a header of another call.
const EXPLAIN: Duration = Duration::from_millis(100);

impl Executor {
    /// Handles a header of another call from `peer`: finds out which call the peer made instead of `op`.
    #[cold]
    pub(super) fn contradiction(&self, op: &Op<'_>, peer: u32, theirs: &Fingerprint) -> Error {
        let age = age(theirs, &op.fingerprint);
        if age < 0
            && let Some(mine) = self.health.called(CallId::of(theirs))
            && mine != *theirs
        {
            return self.health.mismatch(peer, &mine, theirs);
        }
        if age != 0 {
            // One rank is ahead of the other, so it has made another call in place of the earlier of these two calls.
            // This rank asks all peers which call they made there. An answer that shows the difference fails the group
            // with a better error than the one below, so this rank waits briefly for it.
            self.health.stalled(if age < 0 { theirs } else { &op.fingerprint });
            let until = Instant::now() + EXPLAIN;
            while !self.health.failed() && Instant::now() < until {
                thread::sleep(Duration::from_millis(1));
            }
        }
        self.health.mismatch(peer, &op.fingerprint, theirs)
    }
}

/// Handles a link that broke or carried unexpected bytes: fails the group, and returns the error.
#[cold]
pub(super) fn broken(health: &Health, peer: u32, error: Error) -> Error {
    match error.kind() {
        ErrorKind::PeerDead { how } => health.lost(peer, how),
        _ => health.fail(error),
    }
}

/// Compares the order of two calls: negative if `theirs` was called before `mine`, positive if after it.
pub(super) fn age(theirs: &Fingerprint, mine: &Fingerprint) -> i64 {
    let numbers = i64::from(theirs.seq.wrapping_sub(mine.seq) as i32);
    numbers * 256 + i64::from(theirs.step) - i64::from(mine.step)
}

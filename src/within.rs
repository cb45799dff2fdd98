//! A time limit and errors for an operation that consists of several calls.

use std::time::{Duration, Instant};

use c10d_core::{Buffers, Call, Error, ProcessGroup, Result};

/// A group, and the time by which the operation must be done.
pub(crate) struct Within<'a> {
    pub(crate) pg: &'a ProcessGroup,
    end: Instant,
}

impl<'a> Within<'a> {
    /// Starts an operation with this time limit; `None` means the group's timeout.
    pub(crate) fn new(pg: &'a ProcessGroup, timeout: Option<Duration>) -> Within<'a> {
        // The largest limit (68 years). An `Instant` cannot represent much larger ones.
        const FOREVER: Duration = Duration::from_secs(1 << 31);
        Within { pg, end: Instant::now() + timeout.unwrap_or(pg.timeout()).min(FOREVER) }
    }

    /// Runs a call with the remaining time as its timeout.
    pub(crate) fn run<B: Buffers>(&self, call: Call<B>) -> Result<B::Back> {
        Ok(self.pg.run(call.timeout(self.left()))?)
    }

    /// Returns the remaining time, or zero if the time limit has passed.
    pub(crate) fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Marks an error as rejected, and fills in its rank and group. The error ends only this operation.
    pub(crate) fn ended(&self, error: Error) -> Error {
        let mut error = error.rejected();
        error.report_mut().rank = Some(self.pg.rank());
        error.report_mut().group = Some(self.pg.name().into());
        error
    }
}

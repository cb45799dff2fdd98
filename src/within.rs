//! What is made of several calls: one time limit for all of them, and errors that say whose they are.

use std::time::{Duration, Instant};

use c10d_core::{Buffers, Call, Error, ProcessGroup, Result};

/// A group, and when what is under way there must be over.
pub(crate) struct Within<'a> {
    pub(crate) pg: &'a ProcessGroup,
    end: Instant,
}

impl<'a> Within<'a> {
    /// Within this time; `None`: the group's.
    pub(crate) fn new(pg: &'a ProcessGroup, timeout: Option<Duration>) -> Within<'a> {
        // A limit that no clock can show is none.
        const FOREVER: Duration = Duration::from_secs(1 << 31);
        Within { pg, end: Instant::now() + timeout.unwrap_or(pg.timeout()).min(FOREVER) }
    }

    /// Runs a call in what is left of the time.
    pub(crate) fn run<B: Buffers>(&self, call: Call<B>) -> Result<B::Back> {
        Ok(self.pg.run(call.timeout(self.left()))?)
    }

    /// What is left of the time.
    pub(crate) fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// An error of this call alone: all ranks are in step, and the group goes on.
    pub(crate) fn ended(&self, error: Error) -> Error {
        let mut error = error.rejected();
        error.report_mut().rank = Some(self.pg.rank());
        error.report_mut().group = Some(self.pg.name().into());
        error
    }
}

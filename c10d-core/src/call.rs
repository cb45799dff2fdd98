//! Calls as values.

use std::time::Duration;

use crate::Error;
use crate::catalog::OpKind;
use crate::device::Stream;
use crate::options::{Options, Params};

/// A call that has not run yet. [`run`](crate::ProcessGroup::run) runs it and waits;
/// [`start`](crate::ProcessGroup::start) and [`Scope::start`](crate::Scope::start) start it and return at once.
///
/// The compiler warns of a call that is neither run nor started:
///
/// ```compile_fail
/// # #![deny(unused_must_use)]
/// # use c10d_core::{ReduceOp, op};
/// # fn f(mut x: Vec<f32>) {
/// op::all_reduce(&mut x, ReduceOp::Sum);
/// # }
/// ```
#[must_use = "a call does nothing until it is run or started"]
pub struct Call<B> {
    pub(crate) op: OpKind,
    pub(crate) params: Params,
    pub(crate) timeout: Option<Duration>,
    /// An error in the arguments, which is returned when the call is run.
    pub(crate) error: Option<Error>,
    pub(crate) buffers: B,
}

impl<B> Call<B> {
    #[inline]
    pub(crate) fn new(op: OpKind, options: impl Options, buffers: B) -> Call<B> {
        let mut params = Params::default();
        options.apply(&mut params);
        Call { op, params, timeout: None, error: None, buffers }
    }

    /// Sets the timeout of the op. If it is not set, the group's timeout applies.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets a number that must be equal on all ranks, for a call whose sizes may differ between ranks. If the numbers
    /// of two ranks differ, both get a [`Mismatch`](crate::ErrorKind::Mismatch) of `count`. The number has no effect on
    /// calls whose sizes must be equal on all ranks.
    pub fn agreed_count(mut self, count: u64) -> Self {
        if count != 0 {
            self.params.rare().agreed_count = count;
        }
        self
    }

    /// Sets the device stream on which the buffers are ready: the op runs after all work that was enqueued in the
    /// stream before. The stream does not wait for the op. When the call returns, or its [`Work`](crate::Work) is done,
    /// the op is complete on the device. If no stream is set, the op uses the device's default stream.
    ///
    /// CUDA's per-thread default stream (`CU_STREAM_PER_THREAD`, handle 2) is rejected, because the handle means a
    /// different stream on each thread. A stream that is recording a graph is rejected.
    ///
    /// # Safety
    /// The stream belongs to the buffers' device and exists until the op is done.
    #[allow(unsafe_code)]
    pub unsafe fn on_stream(mut self, stream: Stream) -> Self {
        self.params.stream = stream;
        self
    }

    /// Returns the op.
    pub fn op(&self) -> OpKind {
        self.op
    }
}

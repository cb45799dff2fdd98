//! A call as a value.

use std::time::Duration;

use crate::Error;
use crate::catalog::OpKind;
use crate::device::Stream;
use crate::options::{Options, Params};

/// A collective that was described but not run: [`run`](crate::ProcessGroup::run) waits for it,
/// [`start`](crate::ProcessGroup::start) and [`Scope::start`](crate::Scope::start) go on meanwhile.
///
/// One that is neither run nor started is a mistake, and the compiler says so:
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
    /// What was wrong with the arguments, told when the call is run.
    pub(crate) error: Option<Error>,
    pub(crate) buffers: B,
}

impl<B> Call<B> {
    pub(crate) fn new(op: OpKind, options: impl Options, buffers: B) -> Call<B> {
        let mut params = Params::default();
        options.apply(&mut params);
        Call { op, params, timeout: None, error: None, buffers }
    }

    /// How long the op may take, instead of the group's timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Of a call whose sizes may rightly differ between ranks: a number that may not. A rank that gives another is told so,
    /// as a [`Mismatch`](crate::ErrorKind::Mismatch) of `count`. The sizes of other calls are compared anyway.
    pub fn agreed_count(mut self, count: u64) -> Self {
        if count != 0 {
            self.params.rare().agreed_count = count;
        }
        self
    }

    /// The device stream that the buffers are ready on: the op runs after what the stream was given so far. The stream
    /// itself waits for nothing: the op is over on the device when the call returns, or the work is done, and what any
    /// stream is given from then on comes after. Unless set: the device's default stream.
    ///
    /// CUDA's per-thread default stream (`CU_STREAM_PER_THREAD`, handle 2) is refused, since another thread is to wait for
    /// it, where it is another stream; so is a stream that records a graph.
    ///
    /// # Safety
    /// The stream is one of the buffers' device, and stays until the op is over.
    #[allow(unsafe_code)]
    pub unsafe fn on_stream(mut self, stream: Stream) -> Self {
        self.params.stream = stream;
        self
    }

    /// Which op it is.
    pub fn op(&self) -> OpKind {
        self.op
    }
}

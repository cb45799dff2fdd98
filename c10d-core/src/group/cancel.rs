//! How a started message is cancelled.

use std::fmt;

use super::work::{Handle, ScopedWork, Work};
use crate::backend::JobId;
use crate::{Error, ErrorKind, OpError, Result};

/// The result of [`Work::cancel`].
#[must_use = "if it is too late, the handle returns the message"]
pub enum Cancel<R, W = Work<R>> {
    /// The op is cancelled: it took no message and will not take one (for a send: it sent nothing and will send
    /// nothing). The variant contains the op's result with the unchanged buffers; the source of a
    /// [`recv_any_source`](crate::op::recv_any_source) is `u32::MAX`.
    Back(R),
    /// It is too late: the op is done, or its message is in transfer. The op continues. The variant contains the op's
    /// handle, which returns the result. If a device still uses the buffer, the op may end as cancelled later, when the
    /// device has finished. The handle then returns [`ErrorKind::Aborted`], and the op has taken no message.
    TooLate(W),
}

/// The error of an op that cannot be cancelled. The op continues.
#[must_use = "the op continues, and the handle returns its result"]
pub struct CancelError<W> {
    /// The reason; see [`Work::cancel`].
    pub error: Error,
    /// The op's handle.
    pub work: W,
}

impl<R> Work<R> {
    /// Cancels a started message: a receive whose message has not arrived, or a send that has not begun. The result
    /// says for certain whether the op took (or sent) a message. `cancel` does not wait for the message or for a peer.
    ///
    /// A receive has taken a message as soon as the message was matched with it, even if only a part has arrived. Then
    /// the result is [`Cancel::TooLate`], and the op receives the rest. If no message was matched, the receive ends,
    /// and a message that arrives later goes to the next matching receive. Cancelling ends the op on this rank only:
    /// the peer gets no notification, and its own op stays pending.
    ///
    /// Use `cancel` to stop waiting for a message, for example after a timeout of an async runtime. Dropping the future
    /// is not enough: the op would continue and take a message.
    ///
    /// ```
    /// use std::{pin::pin, task::{Context, Waker}, time::Duration};
    /// use c10d_core::{Cancel, ProcessGroup, op};
    /// # use std::{future::Future, task::Poll};
    /// # /// As `tokio::time::timeout`: `None` when the time is over.
    /// # async fn timeout<F: Future>(patience: Duration, future: F) -> Option<F::Output> {
    /// #     let (mut future, end) = (pin!(future), std::time::Instant::now() + patience);
    /// #     std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
    /// #         Poll::Ready(value) => Poll::Ready(Some(value)),
    /// #         Poll::Pending if std::time::Instant::now() >= end => Poll::Ready(None),
    /// #         Poll::Pending => Poll::Pending,
    /// #     }).await
    /// # }
    ///
    /// /// Returns a message from rank 0, or the buffer if no message arrived.
    /// async fn receive(pg: &ProcessGroup, buffer: Vec<u8>) -> c10d_core::Result<Result<Vec<u8>, Vec<u8>>> {
    ///     let mut work = pg.start(op::recv(buffer, 0, 5));
    ///     // The handle is passed by reference, so that it still exists after the timeout.
    ///     if let Some(result) = timeout(Duration::from_millis(50), &mut work).await {
    ///         return Ok(Ok(result?));
    ///     }
    ///     match work.cancel()? {
    ///         Cancel::Back(buffer) => Ok(Err(buffer)),
    ///         Cancel::TooLate(work) => Ok(Ok(work.await?)),
    ///     }
    /// }
    /// # let _ = receive;
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for collectives, since the other ranks wait for this rank, and from backends that
    /// cannot cancel (NCCL, plugins). [`ErrorKind::Shutdown`] if the group was dropped. In these cases the op
    /// continues, and the error contains the handle.
    pub fn cancel(self) -> Result<Cancel<R>, CancelError<Self>> {
        self.0.cancel(Work)
    }
}

impl<'scope, R> ScopedWork<'scope, R> {
    /// Cancels a started message; see [`Work::cancel`].
    ///
    /// # Errors
    /// The same as for [`Work::cancel`].
    pub fn cancel(self) -> Result<Cancel<R, Self>, CancelError<Self>> {
        self.0.cancel(ScopedWork)
    }
}

impl<'a, R> Handle<'a, R> {
    fn cancel<W>(self, wrap: impl FnOnce(Handle<'a, R>) -> W) -> Result<Cancel<R, W>, CancelError<W>> {
        match self.take_back() {
            Ok(true) => {}
            Ok(false) => return Ok(Cancel::TooLate(wrap(self))),
            Err(error) => return Err(CancelError { error, work: wrap(self) }),
        }
        match self.state.finish(true) {
            Err(OpError { buffer: Some(back), .. }) => Ok(Cancel::Back(back)),
            _ => {
                let error = Error::new(ErrorKind::Internal, "the buffers of a cancelled op are gone");
                Err(CancelError { error, work: wrap(Handle { taken: true, ..self }) })
            }
        }
    }

    /// Takes the job back from the backend and ends it. Returns `false` if the op is done or its message is in
    /// transfer.
    fn take_back(&self) -> Result<bool> {
        self.has_result()?;
        let frame = self.state.frame();
        if frame.is_done() {
            return Ok(false);
        }
        let refused = |error: Error| frame.described(error.rejected());
        let op = frame.request.op;
        if !op.is_p2p() {
            let what = format!(
                "{op} cannot be cancelled by one rank, since the other ranks wait for it; `abort` ends \
                it on all ranks, with the group"
            );
            return Err(refused(Error::unsupported(what)));
        }
        let Some(group) = self.state.group().upgrade() else {
            let what = "the group was dropped; the op ends at its deadline at the latest";
            return Err(refused(Error::new(ErrorKind::Shutdown, what)));
        };
        if !group.is_home() {
            return Err(refused(group.foreign().clone()));
        }
        let backend = group.backend_of(frame).ok_or_else(|| refused(Error::unsupported("the op has no backend")))?;
        let id = JobId::of(frame);
        // If the backend returns any other job, that job is dropped and so ends as `Abandoned`.
        let Some(job) = backend.cancel(&[id]).map_err(refused)?.into_iter().find(|job| job.id() == id) else {
            return Ok(false);
        };
        job.complete_cancelled();
        Ok(true)
    }
}

impl<W> From<CancelError<W>> for Error {
    fn from(e: CancelError<W>) -> Error {
        e.error
    }
}

impl<W> fmt::Debug for CancelError<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<W> fmt::Display for CancelError<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<W> std::error::Error for CancelError<W> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}

impl<R: fmt::Debug, W> fmt::Debug for Cancel<R, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cancel::Back(back) => f.debug_tuple("Back").field(back).finish(),
            Cancel::TooLate(_) => f.write_str("TooLate"),
        }
    }
}

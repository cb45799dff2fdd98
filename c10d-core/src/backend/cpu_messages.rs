//! Small messages between ranks, besides the ops of their group.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::smallvec;

use super::nested::nested;
use super::{Backend, Caller, Request, fingerprint};
use crate::buffer::{Sink, Span};
use crate::catalog::OpKind;
use crate::options::Params;
use crate::types::DispatchKey;
use crate::{Error, Result};

/// Small messages between ranks through a CPU backend. Device backends use them to find out what the device's own
/// library (such as NCCL) does not report: which peer is gone, and which rank aborts for which cause.
///
/// No other code may use this object of the CPU backend, so make it with
/// [`GroupInit::own_backend`](crate::backend::GroupInit::own_backend).
#[derive(Clone)]
pub struct CpuMessages(Arc<dyn Backend>);

impl CpuMessages {
    /// Makes the value that sends and receives messages through this backend.
    pub fn new(backend: Arc<dyn Backend>) -> CpuMessages {
        CpuMessages(backend)
    }

    /// Sends bytes to a rank. `send` returns when `bytes` may be used again, perhaps before the rank has received them.
    ///
    /// # Errors
    /// The same as for [`op::send`](crate::op::send).
    pub fn send(&self, bytes: &[u8], to: u32, tag: u32, timeout: Duration) -> Result {
        let span = Span::host(bytes.as_ptr().cast_mut(), bytes.len());
        self.message(OpKind::Send, Sink { inputs: smallvec![span], ..Sink::default() }, to, tag, timeout)
    }

    /// Waits for a message of `bytes.len()` bytes from a rank. `recv` returns early with an error if a rank is gone or
    /// the messages are aborted; the error names the rank.
    ///
    /// # Errors
    /// The same as for [`op::recv`](crate::op::recv).
    pub fn recv(&self, bytes: &mut [u8], from: u32, tag: u32, timeout: Duration) -> Result {
        let span = Span::host(bytes.as_mut_ptr(), bytes.len());
        self.message(OpKind::Recv, Sink { outputs: smallvec![span], ..Sink::default() }, from, tag, timeout)
    }

    fn message(&self, op: OpKind, spans: Sink, peer: u32, tag: u32, timeout: Duration) -> Result {
        let params = Params { peer, tag, ..Params::default() };
        let mut request = Request::new(op, Caller::Waits, params, timeout);
        request.key = DispatchKey::Cpu;
        request.spans = spans;
        request.fingerprint = fingerprint(&request);
        // The spans point to bytes that are borrowed during this call. `nested` does not return before the backend has
        // stopped using them.
        nested(&*self.0, None, request).map(drop)
    }

    /// Ends all messages of this rank and of its peers with this error.
    pub fn abort(&self, cause: &Error) {
        self.0.abort(cause);
    }

    /// The same as [`Backend::waits`], for the backend that carries these messages.
    pub fn waits(&self) -> Option<Box<dyn FnOnce() -> String + Send>> {
        self.0.waits()
    }

    /// Tells the peers that this rank leaves, so that they do not consider it dead. `leave` does not wait.
    pub fn leave(&self) {
        // The deadline is now, so `shutdown` does not wait for pending messages.
        let _ = self.0.shutdown(Instant::now());
    }
}

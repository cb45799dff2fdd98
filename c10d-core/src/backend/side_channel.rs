//! Small messages between ranks, beside the ops of their group.
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

/// Small messages between the ranks through a CPU backend. With them, a device backend tells and learns what its own
/// library does not report: that a peer is gone, or that a rank gives up and why.
///
/// No one else uses the backend; see [`GroupInit::own_backend`](crate::backend::GroupInit::own_backend).
#[derive(Clone)]
pub struct CpuMessages(Arc<dyn Backend>);

impl CpuMessages {
    /// Messages through this backend.
    pub fn new(backend: Arc<dyn Backend>) -> CpuMessages {
        CpuMessages(backend)
    }

    /// Sends bytes to a rank, and waits until `bytes` may be used again.
    ///
    /// # Errors
    /// The same as for [`op::send`](crate::op::send).
    pub fn send(&self, bytes: &[u8], to: u32, tag: u32, timeout: Duration) -> Result {
        let span = Span::host(bytes.as_ptr().cast_mut(), bytes.len());
        self.message(OpKind::Send, Sink { inputs: smallvec![span], ..Sink::default() }, to, tag, timeout)
    }

    /// Waits for a message of `bytes.len()` bytes from a rank. If the group ends, this ends, too, with an error that
    /// names the rank that is gone.
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
        // The bytes are borrowed during this call, and the backend stops using them before it ends.
        nested(&*self.0, None, request).map(drop)
    }

    /// Ends all messages here and on the peers, with this cause.
    pub fn abort(&self, cause: &Error) {
        self.0.abort(cause);
    }

    /// As [`Backend::waits`] of the backend.
    pub fn waits(&self) -> Option<Box<dyn FnOnce() -> String + Send>> {
        self.0.waits()
    }

    /// Says goodbye, so that no peer takes this rank for dead. It does not wait.
    pub fn leave(&self) {
        // Pending messages do not delay the goodbye.
        let _ = self.0.shutdown(Instant::now());
    }
}

//! Messages that go, or are here, at once: for a caller that waits, a small message needs neither a job nor a place in a line.
#![allow(unsafe_code)]

use std::ptr;

use c10d_core::backend::Request;
use c10d_core::{OpKind, Result, Span};

use super::Messages;
use super::message::{HEADER, Header};
use super::state::MessageState;
use crate::link::Item;
use crate::pause::Looks;

/// What a look found.
enum Found {
    /// The message went, or has come.
    Done,
    /// Nothing yet.
    Nothing,
    /// Something that is not for here: other calls are in flight, or another message came.
    Other,
}

impl Messages {
    /// Does the call if it takes no longer than a few looks. `None`: nothing was done.
    #[inline]
    pub(crate) fn run_at_once(&self, request: &Request) -> Option<Result> {
        let mut looks = Looks::new(self.oversubscribed);
        loop {
            if let Err(cause) = self.health.check() {
                return Some(Err(cause));
            }
            // Others who use the links move what is in flight, which may be what this call waits for.
            match self.state.try_lock()?.at_once(request) {
                Found::Done => return Some(Ok(())),
                Found::Nothing if looks.another() => {}
                Found::Nothing | Found::Other => return None,
            }
        }
    }
}

impl MessageState {
    #[inline]
    fn at_once(&mut self, request: &Request) -> Found {
        let found = match (request.op, request.inputs(), request.outputs()) {
            (OpKind::Send, [span], []) => self.send_at_once(request, span),
            (OpKind::Recv, [], [span]) => self.receive_at_once(request, span),
            _ => None,
        };
        found.unwrap_or(Found::Other)
    }

    /// A broken link is found again by whoever the call is left to.
    #[inline]
    fn send_at_once(&mut self, request: &Request, span: &Span) -> Option<Found> {
        let peer = self.peers.get_mut(request.params.peer as usize)?.as_mut()?;
        let (at, len) = (span.host_ptr()?, span.bytes());
        if !peer.outgoing.is_empty() {
            return None;
        }
        let head = Header { fingerprint: request.fingerprint, len: len as u64 }.to_bytes();
        // SAFETY: a tensor of a call that this backend holds.
        unsafe { peer.link.write_item(&head, at, len) }.ok()?.then(|| {
            self.patience = self.patience.max(request.timeout);
            Found::Done
        })
    }

    #[inline]
    fn receive_at_once(&mut self, request: &Request, span: &Span) -> Option<Found> {
        let (from, len) = (request.params.peer, span.bytes());
        let at = span.host_ptr()?;
        let asked = self.posted.iter().any(|posted| posted.from.is_none_or(|rank| rank == from));
        let peer = self.peers.get_mut(from as usize)?.as_mut()?;
        if asked || !peer.is_between_messages() {
            return None;
        }
        let (item, there) = match peer.link.peek_item().ok()? {
            Item::Here(item, there) => (item, there),
            Item::NotYet => return Some(Found::Nothing),
            Item::Elsewhere => return None,
        };
        let head = Header { fingerprint: request.fingerprint, len: len as u64 }.to_bytes();
        // SAFETY: so many bytes are shown, if there are as many; they may begin anywhere.
        if there != HEADER + len || unsafe { item.cast::<[u8; HEADER]>().read_unaligned() } != head {
            return None;
        }
        // SAFETY: the item shows `len` bytes more; the tensor is one of a call that this backend holds.
        unsafe { ptr::copy_nonoverlapping(item.add(HEADER), at, len) };
        // Small items are never lent.
        let _ = peer.link.consume(HEADER + len);
        Some(Found::Done)
    }
}

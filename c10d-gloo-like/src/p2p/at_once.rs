//! Messages that can be sent or received at once: the link can take the message now, or the message has arrived. The
//! call of a waiting caller then needs neither a job nor a queue.
#![allow(unsafe_code)]

use std::ptr;

use c10d_core::backend::Request;
use c10d_core::{OpKind, Result, Span};

use super::Messages;
use super::message::{AT_ONCE, HEADER, Header};
use super::peer::Peer;
use super::state::MessageState;
use crate::link::{Item, Link};
use crate::pause::Looks;

/// The result of one attempt.
enum Attempt {
    Done,
    /// The message to receive has not arrived yet.
    Nothing,
    /// The call must become a job: it is no plain send or receive, other messages are in flight, the link is broken or
    /// cannot take the message at once, or the arrived message does not have the expected header.
    Other,
}

impl Messages {
    /// Runs the call if that is possible within a short time: up to 200 checks for the message (or for more of it, if
    /// it is arriving), or 4 if the ranks have to share cores. Returns `None` if the call was not run; then nothing was
    /// sent or received.
    #[inline]
    pub(crate) fn run_at_once(&self, request: &Request) -> Option<Result> {
        let mut looks = Looks::new(self.oversubscribed);
        loop {
            if let Err(cause) = self.health.check() {
                return Some(Err(cause));
            }
            // If another thread holds the lock, that thread moves messages, and this call may depend on one of them. So
            // this call becomes a job.
            let found = self.state.try_lock()?.at_once(request, self.oversubscribed);
            match found {
                Attempt::Done => return Some(Ok(())),
                Attempt::Nothing if looks.another(|| self.is_on_core_of(request.params.peer)) => {}
                Attempt::Nothing | Attempt::Other => return None,
            }
        }
    }
}

impl MessageState {
    #[inline]
    fn at_once(&mut self, request: &Request, oversubscribed: bool) -> Attempt {
        let found = match (request.op, request.inputs(), request.outputs()) {
            (OpKind::Send, [span], []) => self.send_at_once(request, span),
            (OpKind::Recv, [], [span]) => self.receive_at_once(request, span, oversubscribed),
            _ => None,
        };
        let found = found.unwrap_or(Attempt::Other);
        self.next += u64::from(matches!(found, Attempt::Done));
        found
    }

    /// Sends the message if the link takes it at once. If the link is broken, the call becomes a job, which returns the
    /// error.
    #[inline]
    fn send_at_once(&mut self, request: &Request, span: &Span) -> Option<Attempt> {
        let peer = self.peers.get_mut(request.params.peer as usize)?.as_mut()?;
        let (at, len) = (span.host_ptr()?, span.bytes());
        if !peer.outgoing.is_empty() {
            return None;
        }
        let head = Header { fingerprint: request.fingerprint, len: len as u64 }.to_bytes();
        // SAFETY: the span belongs to a request that this backend is running, so its `len` bytes are readable.
        let sent = unsafe { peer.link.write_item(&head, at, len) }.ok()?
            // SAFETY: as above.
            || len <= AT_ONCE && unsafe { peer.link.write_whole(&head, at, len) }.ok()?;
        sent.then(|| {
            self.patience = self.patience.max(request.timeout);
            Attempt::Done
        })
    }

    #[inline]
    fn receive_at_once(&mut self, request: &Request, span: &Span, oversubscribed: bool) -> Option<Attempt> {
        let (from, len) = (request.params.peer, span.bytes());
        let at = span.host_ptr()?;
        let asked = self.posted.iter().any(|posted| posted.from.is_none_or(|rank| rank == from));
        let peer = self.peers.get_mut(from as usize)?.as_mut()?;
        if asked || !peer.is_between_messages() {
            return None;
        }
        let head = Header { fingerprint: request.fingerprint, len: len as u64 }.to_bytes();
        let (item, there) = match peer.link.peek_exact(HEADER + len) {
            Some(item) => (item, HEADER + len),
            None => match peer.link.peek_item().ok()? {
                Item::Here(item, there) => (item, there),
                Item::NotYet => return Some(Attempt::Nothing),
                Item::Elsewhere if len <= AT_ONCE => return peer.receive_whole(&head, at, len, oversubscribed),
                Item::Elsewhere => return None,
            },
        };
        // SAFETY: the item has `there` bytes, which is enough by the first condition; the read is unaligned.
        if there != HEADER + len || unsafe { item.cast::<[u8; HEADER]>().read_unaligned() } != head {
            return None;
        }
        // SAFETY: `len` bytes of the item follow the header. `at` points to the `len` bytes of the output of a request
        // that this backend is running.
        unsafe { ptr::copy_nonoverlapping(item.add(HEADER), at, len) };
        peer.link.consume_item(HEADER + len);
        Some(Attempt::Done)
    }
}

impl Peer {
    /// Receives the next message from the link's ring or connection, if all of it has arrived and it has this header.
    /// If the message is arriving in a ring, copies its bytes as they arrive, except if there are more ranks than
    /// cores: then the sender may not be running.
    #[inline]
    fn receive_whole(&mut self, head: &[u8; HEADER], at: *mut u8, len: usize, oversubscribed: bool) -> Option<Attempt> {
        let Some((item, there)) = self.link.peek_whole(HEADER + len).ok()? else {
            let arrives_in_ring = matches!(self.link, Link::Shm(_));
            return if arrives_in_ring && !oversubscribed {
                self.receive_arriving(head, at, len)
            } else {
                Some(Attempt::Nothing)
            };
        };
        // A header is contiguous. In a ring it begins at a cache line and is shorter than one. The buffer of a
        // connection is contiguous.
        debug_assert!(there >= HEADER);
        // SAFETY: the link shows `HEADER` bytes; the read is unaligned.
        if unsafe { item.cast::<[u8; HEADER]>().read_unaligned() } != *head {
            return None;
        }
        // `consume` and `read` fail only for bytes that have not arrived or are in a window. Here all bytes have
        // arrived outside a window.
        let _ = self.link.consume(HEADER);
        // SAFETY: `at` points to the `len` bytes of the output of a request that this backend is running.
        let read = unsafe { self.link.read(at, len, false) };
        debug_assert_eq!(read.ok(), Some(len));
        self.link.end_read();
        Some(Attempt::Done)
    }

    /// Receives the next message while it arrives in a ring. If its bytes stop arriving, nothing is consumed, and the
    /// call becomes a job, which copies all bytes again.
    fn receive_arriving(&mut self, head: &[u8; HEADER], at: *mut u8, len: usize) -> Option<Attempt> {
        let Some((item, _)) = self.link.peek_whole(HEADER).ok()? else { return Some(Attempt::Nothing) };
        // SAFETY: the link shows `HEADER` contiguous bytes; the read is unaligned.
        if unsafe { item.cast::<[u8; HEADER]>().read_unaligned() } != *head {
            return None;
        }
        let (mut copied, mut looks) = (0, Looks::new(false));
        loop {
            // SAFETY: `at` points to the `len` bytes of the output of a request that this backend is running.
            let more = unsafe { self.link.copy_ahead(HEADER + copied, at.add(copied), len - copied) }.ok()?;
            copied += more;
            if copied == len {
                self.link.consume_item(HEADER + len);
                return Some(Attempt::Done);
            }
            if more > 0 {
                looks = Looks::new(false);
            } else if !looks.another(|| false) {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::shm::{Layout, Lend, RingKind, Segment, ShmLink};

    /// Returns the sending end of a link, and the peer as the receiver sees it.
    fn pair() -> (Link, Peer) {
        let [a, b] = [(); 2].map(|_| Arc::new(Segment::create(Layout::new(1)).unwrap()));
        let link = |peer, own: &Arc<Segment>, theirs: &Arc<Segment>| {
            Link::Shm(ShmLink::new(peer, RingKind::PointToPoint, (own.clone(), 0), (theirs.clone(), 0)))
        };
        (link(1, &a, &b), Peer::new(link(0, &b, &a)))
    }

    fn write(link: &mut Link, head: &[u8], body: &[u8]) {
        // SAFETY: the pointer and the length are those of a slice.
        let sent = unsafe { link.write(head, body.as_ptr(), body.len(), Lend::Windows) }.unwrap();
        assert_eq!(sent, head.len() + body.len());
    }

    fn receive(peer: &mut Peer, head: &[u8; HEADER], to: &mut [u8]) -> Option<Attempt> {
        peer.receive_whole(head, to.as_mut_ptr(), to.len(), false)
    }

    #[test]
    fn a_message_that_stops_arriving_is_not_consumed() {
        let (mut link, mut peer) = pair();
        let (head, body): ([u8; HEADER], Vec<u8>) = ([7; HEADER], (0..9000).map(|i| (i / 9) as u8).collect());
        // Several rounds, so that a message also continues at the beginning of the ring.
        for round in 0..40 {
            let mut to = vec![0; body.len()];
            assert!(matches!(receive(&mut peer, &head, &mut to), Some(Attempt::Nothing)));
            write(&mut link, &head, &body[..100 * round]);
            assert!(receive(&mut peer, &head, &mut to).is_none(), "the message is not complete");
            assert!(receive(&mut peer, &[8; HEADER], &mut to).is_none(), "another header");
            write(&mut link, &[], &body[100 * round..]);
            link.end_write();
            assert!(matches!(receive(&mut peer, &head, &mut to), Some(Attempt::Done)));
            assert_eq!(to, body);
        }
    }

    #[test]
    fn a_message_is_copied_while_it_arrives() {
        let (mut link, mut peer) = pair();
        let head = [3; HEADER];
        let body = |round: usize| (0..16_000).map(|i| (i * round / 7) as u8).collect::<Vec<_>>();
        thread::scope(|scope| {
            scope.spawn(move || {
                for round in 0..200 {
                    let bytes = body(round);
                    let mut sent = 0;
                    while sent < bytes.len() {
                        let n = (bytes.len() - sent).min(1 + 97 * round);
                        let head = if sent == 0 { &head[..] } else { &[] };
                        // SAFETY: the pointer and the length are those of a slice.
                        let taken = unsafe { link.write(head, bytes[sent..].as_ptr(), n, Lend::Windows) }.unwrap();
                        sent += taken.saturating_sub(head.len());
                    }
                    link.end_write();
                }
            });
            for round in 0..200 {
                let mut to = vec![0; 16_000];
                while !matches!(receive(&mut peer, &head, &mut to), Some(Attempt::Done)) {
                    thread::yield_now();
                }
                assert_eq!(to, body(round));
            }
        });
    }
}

//! Messages in transfer: a message that is written to a link, and a message that is read from a link.
#![allow(unsafe_code)]

use c10d_core::backend::{Fingerprint, Job};
use c10d_core::{Result, Span};

use crate::link::Link;
use crate::shm::{BRIEF, Lend};

/// The header's length on the wire.
pub(super) const HEADER: usize = Fingerprint::SIZE + 8;

/// The largest number of bytes of a message that is sent and received at once. Of a larger message, the receiver copies
/// the first pieces while the sender writes the next ones.
pub(super) const AT_ONCE: usize = BRIEF;

/// The header before a message's bytes.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) fingerprint: Fingerprint,
    /// The number of bytes that follow.
    pub(super) len: u64,
}

impl Header {
    pub(super) fn tag(&self) -> u32 {
        self.fingerprint.root
    }

    #[inline]
    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..Fingerprint::SIZE].copy_from_slice(&self.fingerprint.to_bytes());
        out[Fingerprint::SIZE..].copy_from_slice(&self.len.to_le_bytes());
        out
    }

    fn from_bytes(bytes: &[u8; HEADER]) -> Header {
        let (mut fingerprint, mut len) = ([0; Fingerprint::SIZE], [0; 8]);
        fingerprint.copy_from_slice(&bytes[..Fingerprint::SIZE]);
        len.copy_from_slice(&bytes[Fingerprint::SIZE..]);
        Header { fingerprint: Fingerprint::from_bytes(&fingerprint), len: u64::from_le_bytes(len) }
    }
}

/// A message that is being sent.
pub(super) struct Outgoing {
    pub(super) job: Job,
    head: [u8; HEADER],
    /// The number of bytes that the link has taken, including the header.
    done: usize,
}

/// Returns the only span of a message's job.
fn span(job: &Job) -> &Span {
    let request = job.request();
    request.inputs().first().unwrap_or_else(|| &request.outputs()[0])
}

impl Outgoing {
    pub(super) fn new(job: Job) -> Outgoing {
        let head = Header { fingerprint: job.request().fingerprint, len: span(&job).bytes() as u64 }.to_bytes();
        Outgoing { job, head, done: 0 }
    }

    /// Whether the link has taken no byte of the message.
    pub(super) fn is_unsent(&self) -> bool {
        self.done == 0
    }

    /// Writes as many bytes as the link takes. Returns whether anything moved, and whether the message is complete.
    pub(super) fn write(&mut self, link: &mut Link) -> Result<(bool, bool)> {
        let span = span(&self.job);
        let total = HEADER + span.bytes();
        let Some(body) = span.host_ptr() else { return Ok((false, true)) };
        // SAFETY: the job is held here, so its input stays readable.
        if self.done == 0 && unsafe { link.write_item(&self.head, body, span.bytes()) }? {
            self.done = total;
            return Ok((true, true));
        }
        let mut moved = false;
        while self.done < total {
            let head = &self.head[self.done.min(HEADER)..];
            let from = self.done.saturating_sub(HEADER);
            // The header of a large message is sent first, so that the receiver prepares while this rank copies the
            // bytes.
            let alone = matches!(link, Link::Shm(_)) && !head.is_empty() && span.bytes() > AT_ONCE;
            // SAFETY: the job is held here, so the bytes of its input from `from` on stay readable.
            let n = unsafe {
                link.write(head, body.add(from), if alone { 0 } else { span.bytes() - from }, Lend::Windows)
            }?;
            if n == 0 {
                return Ok((moved, false));
            }
            moved = true;
            self.done += n;
        }
        link.end_write();
        Ok((true, true))
    }
}

/// A header that is being read.
#[derive(Default)]
pub(super) struct PartialHeader {
    bytes: [u8; HEADER],
    done: usize,
}

impl PartialHeader {
    pub(super) fn is_empty(&self) -> bool {
        self.done == 0
    }

    /// Reads available bytes. Returns whether anything moved, and the header once it is complete.
    pub(super) fn read(&mut self, link: &mut Link) -> Result<(bool, Option<Header>)> {
        let rest = &mut self.bytes[self.done..];
        // SAFETY: the pointer and the length are those of a slice of `self`.
        let n = unsafe { link.read(rest.as_mut_ptr(), rest.len(), false) }?;
        self.done += n;
        if self.done < HEADER {
            return Ok((n > 0, None));
        }
        self.done = 0;
        Ok((true, Some(Header::from_bytes(&self.bytes))))
    }
}

/// The target of a message's bytes.
pub(super) enum Target {
    /// The buffer of a receive.
    Job(Job),
    /// Memory of the backend, for a message that no receive has asked for.
    Kept(Vec<u8>),
}

/// A message that is being received.
pub(super) struct Incoming {
    pub(super) header: Header,
    pub(super) target: Target,
    done: usize,
}

impl Incoming {
    /// Starts to receive a message. `target` has room for all of it.
    pub(super) fn new(header: Header, target: Target) -> Incoming {
        Incoming { header, target, done: 0 }
    }

    /// Reads available bytes. Returns whether anything moved, and whether the message is complete.
    pub(super) fn read(&mut self, link: &mut Link) -> Result<(bool, bool)> {
        let (at, len) = match &mut self.target {
            Target::Job(job) => {
                let span = span(job);
                let Some(at) = span.host_ptr() else { return Ok((false, true)) };
                (at, span.bytes())
            }
            Target::Kept(bytes) => (bytes.as_mut_ptr(), bytes.len()),
        };
        let mut moved = false;
        while self.done < len {
            // SAFETY: these are the remaining bytes of the vector, or of the receive's buffer, which stays writable
            // while the job is held here.
            let n = unsafe { link.read(at.add(self.done), len - self.done, false) }?;
            if n == 0 {
                return Ok((moved, false));
            }
            moved = true;
            self.done += n;
        }
        link.end_read();
        Ok((true, true))
    }
}

/// Copies a kept message into a receive's buffer of the same length.
pub(super) fn deliver(kept: &[u8], job: &Job) {
    let span = span(job);
    if let Some(at) = span.host_ptr() {
        let len = kept.len().min(span.bytes());
        // SAFETY: the job is held here, so its buffer is writable, and both have at least `len` bytes.
        unsafe { std::ptr::copy_nonoverlapping(kept.as_ptr(), at, len) };
    }
}

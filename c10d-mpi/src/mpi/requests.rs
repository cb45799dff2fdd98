//! Messages in transfer, and their memory. MPI gets only this memory, never the memory of a caller.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::sync::atomic::{AtomicUsize, Ordering};

use c10d_core::Result;

use super::api::{Comm, Mpi};
use super::types::{ANY_SOURCE, Datatype, Message, Request, Status};

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct CacheLine([u8; 64]);

/// Memory for messages and intermediate results, aligned for every element type.
pub(crate) struct Staging {
    lines: Vec<CacheLine>,
    len: usize,
}

impl Staging {
    /// Makes memory of `len` bytes; callers must not rely on their values.
    pub(crate) fn new(len: usize) -> Staging {
        Staging { lines: vec![CacheLine([0; 64]); len.div_ceil(64)], len }
    }

    /// Changes the length. If it exceeds the capacity, the memory is replaced by new memory.
    pub(crate) fn resized(mut self, len: usize) -> Staging {
        if len.div_ceil(64) > self.lines.len() {
            return Staging::new(len);
        }
        self.len = len;
        self
    }

    /// Returns the capacity in bytes.
    pub(crate) fn room(&self) -> usize {
        self.lines.len() * 64
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the lines have at least `len` bytes: all functions that set `len` ensure this.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the lines have at least `len` bytes: all functions that set `len` ensure this.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// The number of bytes that were leaked because an MPI request on them did not end.
static LEFT: AtomicUsize = AtomicUsize::new(0);

/// The sender and the length of a finished message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Over {
    /// The rank that sent a received message; 0 if this rank sent the message.
    pub(crate) source: u32,
    /// The number of received bytes; 0 if this rank sent the message.
    pub(crate) bytes: usize,
}

/// A message in transfer. If it is dropped before it is done, its memory is leaked, since MPI may still use it.
pub(crate) struct Flight {
    mpi: Mpi,
    request: Request,
    memory: Option<Staging>,
    is_receive: bool,
    over: Option<Over>,
}

impl Flight {
    /// Begins to send all bytes of the memory.
    pub(crate) fn send(mpi: Mpi, comm: Comm, memory: Staging, to: u32, tag: u16) -> Result<Flight> {
        let mut request = Request::NULL;
        let (at, len) = (memory.lines.as_ptr().cast(), memory.len as i64);
        let (to, tag) = (to as c_int, c_int::from(tag));
        // SAFETY: the flight keeps the memory as long as the request exists.
        let send = |f: &super::library::Functions| unsafe {
            (f.isend)(at, len, Datatype::BYTE, to, tag, comm.0, &mut request)
        };
        let sent = mpi.call("MPI_Isend_c", send);
        Self::begun(mpi, sent.map(|()| request), memory, false)
    }

    /// Begins to receive into the memory, from one rank.
    pub(crate) fn recv(mpi: Mpi, comm: Comm, mut memory: Staging, from: u32, tag: u16) -> Result<Flight> {
        let mut request = Request::NULL;
        let (at, len) = (memory.lines.as_mut_ptr().cast(), memory.len as i64);
        let (from, tag) = (from as c_int, c_int::from(tag));
        // SAFETY: the flight keeps the memory as long as the request exists, and nobody else uses it.
        let recv = |f: &super::library::Functions| unsafe {
            (f.irecv)(at, len, Datatype::BYTE, from, tag, comm.0, &mut request)
        };
        let posted = mpi.call("MPI_Irecv_c", recv);
        Self::begun(mpi, posted.map(|()| request), memory, true)
    }

    /// Begins to receive a message that has arrived from any rank. Returns `None` if there is none. The memory has room
    /// for `limit` bytes at most. This function posts no receive from any rank: with such receives, MPICH 5.0.2 loses
    /// messages from other hosts if other ranks share memory with this rank.
    pub(crate) fn arrived(mpi: Mpi, comm: Comm, tag: u16, limit: usize) -> Result<Option<Flight>> {
        let (mut found, mut message, mut status) = (0, Message(0), Status::default());
        let tag = c_int::from(tag);
        // SAFETY: the call writes an integer, a handle and a status.
        let probe = |f: &super::library::Functions| unsafe {
            (f.improbe)(ANY_SOURCE, tag, comm.0, &mut found, &mut message, &mut status)
        };
        mpi.call("MPI_Improbe", probe)?;
        if found == 0 {
            return Ok(None);
        }
        let mut memory = Staging::new(count(mpi, &status)?.min(limit));
        let mut request = Request::NULL;
        let (at, len) = (memory.lines.as_mut_ptr().cast(), memory.len as i64);
        // SAFETY: the flight keeps the memory as long as the request exists, and nobody else uses it. The message is
        // from MPI_Improbe, and is not used afterwards.
        let recv =
            |f: &super::library::Functions| unsafe { (f.imrecv)(at, len, Datatype::BYTE, &mut message, &mut request) };
        let posted = mpi.call("MPI_Imrecv_c", recv);
        Self::begun(mpi, posted.map(|()| request), memory, true).map(Some)
    }

    fn begun(mpi: Mpi, request: Result<Request>, memory: Staging, is_receive: bool) -> Result<Flight> {
        match request {
            Ok(request) => Ok(Flight { mpi, request, memory: Some(memory), is_receive, over: None }),
            Err(e) => {
                // MPI may have begun to use the memory.
                leave(memory);
                Err(e)
            }
        }
    }

    /// Checks the message. Returns its sender and length if it is done. During this call, MPI also moves all other
    /// messages that can move.
    pub(crate) fn test(&mut self) -> Result<Option<Over>> {
        if self.over.is_some() {
            return Ok(self.over);
        }
        let (mut done, mut status) = (0, Status::default());
        let request = &mut self.request;
        // SAFETY: the request is from this library, and is unfinished. The call writes an integer and a status.
        self.mpi.call("MPI_Test", |f| unsafe { (f.test)(request, &mut done, &mut status) })?;
        if done == 0 {
            return Ok(None);
        }
        if !self.is_receive {
            self.over = Some(Over { source: 0, bytes: 0 });
            return Ok(self.over);
        }
        let source = u32::try_from(status.source).unwrap_or(0);
        self.over = Some(Over { source, bytes: count(self.mpi, &status)? });
        Ok(self.over)
    }

    /// Returns the memory of a finished message, or `None` if the message is not finished.
    pub(crate) fn into_memory(mut self) -> Option<Staging> {
        if self.over.is_some() { self.memory.take() } else { None }
    }

    /// Cancels a receive. If its message arrives before MPI has cancelled the receive, the message is lost.
    pub(crate) fn cancel(mut self) {
        let request = &mut self.request;
        // SAFETY: the request is from this library, and is unfinished.
        let cancel = |f: &super::library::Functions| unsafe { (f.cancel)(request) };
        if self.over.is_none() && self.mpi.call("MPI_Cancel", cancel).is_ok() {
            for _ in 0..100 {
                if !matches!(self.test(), Ok(None)) {
                    return;
                }
                std::thread::yield_now();
            }
        }
    }
}

/// Returns the number of bytes of a message, from the status that MPI has filled.
fn count(mpi: Mpi, status: &Status) -> Result<usize> {
    let mut bytes = 0;
    // SAFETY: the status is from MPI. The call writes an integer.
    mpi.call("MPI_Get_count_c", |f| unsafe { (f.get_count)(status, Datatype::BYTE, &mut bytes) })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let (None, Some(memory)) = (self.over, self.memory.take()) {
            leave(memory);
        }
    }
}

/// Leaks memory that MPI may still use.
fn leave(memory: Staging) {
    let left = LEFT.fetch_add(memory.room(), Ordering::Relaxed) + memory.room();
    tracing::debug!(target: "c10d", "{left} bytes are leaked, since MPI has not ended its requests on them");
    std::mem::forget(memory);
}

//! One client of the server: its socket, its unfinished request, its unsent answers.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use c10d_core::process::Private;
use mio::net::TcpStream;

use super::Limits;
use super::keyspace::Task;
use super::protocol::{Parser, Refusal, Request};

/// If more bytes than this are unsent, no further request of the connection is executed.
const ENOUGH_UNSENT: usize = 1 << 20;
/// The number of bytes that the server sends over one connection before other connections get their turn.
const SENT_PER_TURN: usize = 256 << 10;

pub(super) struct Connection {
    /// Declared first, so that it is dropped before the stream's descriptor is closed.
    _private: Private,
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) out: Vec<u8>,
    parser: Parser,
    /// Bytes that were received but not parsed yet.
    backlog: Vec<u8>,
    sent: usize,
    /// Whether, since the last call of `take_progress`, a request was completed or bytes were sent.
    progress: bool,
    /// The time by which the client must have completed the handshake (TCPStore's VALIDATE), completed its request, or
    /// read its answers.
    pub(super) due: Option<Instant>,
    /// The number of this connection's bytes that the server's sum of all buffers includes.
    pub(super) accounted: usize,
    pub(super) task: Option<Task>,
    /// The time at which the server last worked on a request of the client.
    pub(super) active: Instant,
    pub(super) since: Instant,
    /// Whether the client has changed a key, or waited for one.
    pub(super) member: bool,
    /// Whether the client had more work than fits into a turn, and waits for its next turn.
    pub(super) busy: bool,
    /// The work that the server has done for the client beyond its turns, in the units of `WORK_PER_TURN`. When the
    /// client is next, the server first reduces the debt by `WORK_PER_TURN`. The client gets a turn only if no debt
    /// remains.
    pub(super) debt: usize,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, limits: Limits) -> Connection {
        Connection {
            _private: Private::new(&stream),
            stream,
            peer,
            out: Vec::new(),
            parser: Parser::new(limits),
            backlog: Vec::new(),
            sent: 0,
            progress: false,
            due: None,
            accounted: 0,
            task: None,
            active: Instant::now(),
            since: Instant::now(),
            member: false,
            busy: false,
            debt: 0,
        }
    }

    pub(super) fn validated(&self) -> bool {
        self.parser.validated()
    }

    pub(super) fn footprint(&self) -> usize {
        let task = self.task.as_ref().map_or(0, Task::held);
        self.parser.held() + self.backlog.len() + self.out.len() + task
    }

    /// Whether the server waits for the client: for the rest of a request, or until the client reads answers.
    pub(super) fn owes(&self) -> bool {
        self.parser.mid_request() || self.unsent() > 0
    }

    pub(super) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    pub(super) fn congested(&self) -> bool {
        self.unsent() > ENOUGH_UNSENT
    }

    fn unsent(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Reads available bytes into `buffer`. Returns `None` if there are none now, and 0 at the end of the stream.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.stream.read(buffer) {
                Ok(n) => return Ok(Some(n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Passes complete requests to `execute`: those of the backlog or, if that is empty, of `input`. Stops when answers
    /// do not fit any more, or when `execute` returns `false` (there is no time for another request). Returns whether
    /// there is time left.
    pub(super) fn parse(
        &mut self,
        input: &[u8],
        mut execute: impl FnMut(Request, &mut Vec<u8>) -> Result<bool, Refusal>,
    ) -> Result<bool, Refusal> {
        let backlog = std::mem::take(&mut self.backlog);
        let mut rest = if backlog.is_empty() { input } else { &backlog };
        let mut on = true;
        while on && !self.congested() {
            let Some(request) = self.parser.next(&mut rest)? else { return Ok(true) };
            self.compact();
            self.progress = true;
            on = execute(request, &mut self.out)?;
        }
        self.backlog = rest.to_vec();
        Ok(on)
    }

    /// Removes the sent bytes if they are at least half of `out`.
    fn compact(&mut self) {
        if self.sent > 0 && self.sent >= self.out.len() / 2 {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Sends as much as the socket accepts, up to the limit of a turn. Returns whether it would accept more.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        let until = self.sent + SENT_PER_TURN;
        while self.unsent() > 0 {
            if self.sent >= until {
                return Ok(true);
            }
            match self.stream.write(&self.out[self.sent..self.out.len().min(until)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.sent += n;
                    self.progress = true;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        // An idle client keeps no large buffer.
        self.out = if self.out.capacity() > 4096 { Vec::new() } else { std::mem::take(&mut self.out) };
        self.out.clear();
        self.sent = 0;
        Ok(false)
    }
}

//! A message from another rank: its header, and the receive that it was matched with.

use std::collections::VecDeque;

use c10d_core::{Error, ErrorKind, OpKind, Phase, Result};

use super::endpoint::{AHEAD, Endpoint, PIECE, body_tag};
use super::posted::Posted;
use crate::header::Header;
use crate::memory::{Space, target};
use crate::mpi::{Flight, Over, Staging};
use crate::task::Task;

/// A message whose header has arrived.
pub(super) struct Arrived {
    pub(super) from: u32,
    header: Header,
    memory: Staging,
}

impl Arrived {
    /// Reads the header of a received message.
    pub(super) fn read(memory: Staging, over: &Over) -> Result<Arrived> {
        let from = over.source;
        let memory = memory.resized(over.bytes);
        let is_whole = |h: &Header| over.bytes == Header::SIZE + usize::try_from(h.len).unwrap_or(usize::MAX >> 1);
        let Some(header) = Header::read(memory.bytes()).filter(is_whole) else {
            let what = format!("rank {from} sent a message without a header");
            return Err(Error::new(ErrorKind::Protocol, what).guilty([from]).phase(Phase::Transfer));
        };
        Ok(Arrived { from, header, memory })
    }

    /// Returns whether the message matches this receive.
    pub(super) fn is_for(&self, task: &Task) -> bool {
        (task.op == OpKind::RecvAnySource || self.from == task.params.peer)
            && self.header.fingerprint.root == task.params.tag
    }

    /// Fails the group and returns an error if the message does not fit its receive.
    fn fits(&self, task: &Task, endpoint: &Endpoint) -> Result {
        let (from, header) = (self.from, &self.header);
        let bytes = task.outputs.first().map_or(0, |span| span.bytes() as u64);
        let differs = task.fingerprint.disagreement(&header.fingerprint);
        let differs = differs.or_else(|| {
            (header.total != bytes).then(|| ("count", format!("{bytes} bytes"), format!("{} bytes", header.total)))
        });
        let Some((field, mine, theirs)) = differs else { return Ok(()) };
        let what = format!("a message from rank {from} to rank {} with tag {}", endpoint.rank, task.params.tag);
        let error = Error::new(ErrorKind::Mismatch { field, mine, theirs }, what).phase(Phase::Announce);
        // The other ranks cannot know which of these two ranks is wrong, so their error names both.
        let sent = error.clone().guilty([from, endpoint.rank]);
        Err(endpoint.health.fail_and_send(error.guilty([from]), &sent))
    }
}

/// A receive that a message was matched with.
pub(super) struct Incoming {
    pub(super) posted: Posted,
    pub(super) from: u32,
    space: Space,
    tag: u16,
    /// The number of bytes that came with the header or that MPI was asked to receive.
    asked: usize,
    /// The number of bytes that have been received.
    received: usize,
    flights: VecDeque<Flight>,
}

impl Incoming {
    /// Begins to receive a message. If the message does not fit the receive, the group fails, which ends the receive.
    pub(super) fn begin(posted: Posted, arrived: &Arrived, endpoint: &Endpoint) -> (Incoming, Result) {
        let fits = arrived.fits(&posted.task, endpoint);
        let len = arrived.header.len as usize;
        let space = target(&posted.task);
        let (tag, flights) = (body_tag(arrived.header.step), VecDeque::new());
        if fits.is_ok() {
            space.write(0..len, &arrived.memory.bytes()[Header::SIZE..]);
        }
        (Incoming { posted, from: arrived.from, space, tag, asked: len, received: len, flights }, fits)
    }

    /// Receives the pieces that have arrived. Returns whether there were any.
    pub(super) fn advance(&mut self, endpoint: &Endpoint) -> Result<bool> {
        let (mut moved, len) = (false, self.space.len());
        while let Some(first) = self.flights.front_mut()
            && let Some(over) = first.test()?
        {
            let end = (self.received + PIECE).min(len);
            let memory = self.flights.pop_front().and_then(Flight::into_memory);
            let Some(memory) = memory.filter(|_| over.bytes == end - self.received) else {
                let what = format!("rank {} sent a piece of the wrong length", self.from);
                return Err(Error::new(ErrorKind::Protocol, what).guilty([self.from]));
            };
            self.space.write(self.received..end, memory.bytes());
            self.received = end;
            moved = true;
        }
        while self.asked < len && self.flights.len() < AHEAD {
            let end = (self.asked + PIECE).min(len);
            let piece = Staging::new(end - self.asked);
            self.asked = end;
            self.flights.push_back(Flight::recv(endpoint.mpi, endpoint.comm, piece, self.from, self.tag)?);
        }
        Ok(moved)
    }

    pub(super) fn is_done(&self) -> bool {
        self.received == self.space.len()
    }
}

//! A message to another rank: the header with the bytes of a short message, or the pieces of a long one after it.

use std::collections::VecDeque;

use c10d_core::Result;

use super::endpoint::{AHEAD, Endpoint, HEAD, PIECE, body_tag};
use super::posted::Posted;
use crate::exchange::SHORT;
use crate::header::Header;
use crate::memory::{Space, source};
use crate::mpi::{Flight, Staging};

/// An outgoing message.
pub(super) struct Outgoing {
    pub(super) posted: Posted,
    space: Space,
    /// Its number among the messages to that rank.
    number: u32,
    /// The bytes given to the library.
    given: usize,
    flights: VecDeque<Flight>,
}

impl Outgoing {
    pub(super) fn new(posted: Posted, number: u32) -> Outgoing {
        let space = source(&posted.task);
        Outgoing { posted, space, number, given: 0, flights: VecDeque::new() }
    }

    /// Sends the header.
    pub(super) fn begin(&mut self, endpoint: &Endpoint) -> Result {
        let total = self.space.len();
        let len = if total <= SHORT { total } else { 0 };
        let header = Header {
            fingerprint: self.posted.task.fingerprint,
            total: total as u64,
            len: len as u64,
            step: self.number,
            last: false,
        };
        let mut head = Staging::new(Header::SIZE + len);
        header.put(head.bytes_mut());
        self.space.read(0..len, &mut head.bytes_mut()[Header::SIZE..]);
        // Memory is given up only when the group has failed, and then nothing was read.
        endpoint.health.check()?;
        self.given = len;
        self.flights.push_back(Flight::send(endpoint.mpi, endpoint.comm, head, self.peer(), HEAD)?);
        Ok(())
    }

    /// Sends what can be sent. Returns whether anything was sent to its end.
    pub(super) fn advance(&mut self, endpoint: &Endpoint) -> Result<bool> {
        let mut moved = false;
        while let Some(first) = self.flights.front_mut()
            && first.test()?.is_some()
        {
            self.flights.pop_front();
            moved = true;
        }
        while self.given < self.space.len() && self.flights.len() < AHEAD {
            let end = (self.given + PIECE).min(self.space.len());
            let mut piece = Staging::new(end - self.given);
            self.space.read(self.given..end, piece.bytes_mut());
            endpoint.health.check()?;
            self.given = end;
            let tag = body_tag(self.number);
            self.flights.push_back(Flight::send(endpoint.mpi, endpoint.comm, piece, self.peer(), tag)?);
        }
        Ok(moved)
    }

    pub(super) fn is_done(&self) -> bool {
        self.flights.is_empty()
    }

    fn peer(&self) -> u32 {
        self.posted.task.params.peer
    }
}

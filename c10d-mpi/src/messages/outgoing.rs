//! A message to another rank. The data of a short message are sent together with the header. The data of a long message
//! follow the header in pieces.

use std::collections::VecDeque;

use c10d_core::Result;

use super::endpoint::{AHEAD, Endpoint, HEAD, PIECE, body_tag};
use super::posted::Posted;
use crate::exchange::SHORT;
use crate::header::Header;
use crate::memory::{Space, source};
use crate::mpi::{Flight, Staging};

pub(super) struct Outgoing {
    pub(super) posted: Posted,
    space: Space,
    /// The number of the message, among those to the same rank.
    number: u32,
    /// The number of bytes given to MPI.
    given: usize,
    flights: VecDeque<Flight>,
}

impl Outgoing {
    pub(super) fn new(posted: Posted, number: u32) -> Outgoing {
        let space = source(&posted.task);
        Outgoing { posted, space, number, given: 0, flights: VecDeque::new() }
    }

    /// Begins to send the header, with the data of a short message.
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
        // If the gate of the memory is closed, nothing was read, and the group has failed.
        endpoint.health.check()?;
        self.given = len;
        self.flights.push_back(Flight::send(endpoint.mpi, endpoint.comm, head, self.peer(), HEAD)?);
        Ok(())
    }

    /// Sends the next pieces. Returns whether MPI has finished any send.
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

//! All messages of a rank that are in transfer. This module matches headers with receives.

use std::collections::{BTreeMap, VecDeque};

use c10d_core::{Error, OpKind, Outcome, Result};

use super::endpoint::{Endpoint, HEAD};
use super::incoming::{Arrived, Incoming};
use super::outgoing::Outgoing;
use super::posted::{Ended, Posted};
use crate::exchange::SHORT;
use crate::header::Header;
use crate::mpi::Flight;

#[derive(Default)]
pub(super) struct Transfers {
    sends: Vec<Outgoing>,
    /// Receives that no message was matched with, in the order of the calls.
    waiting: Vec<Posted>,
    receives: Vec<Incoming>,
    /// Messages that no receive was matched with, in the order in which their headers arrived.
    arrived: VecDeque<Arrived>,
    /// The receive of a header that has begun to arrive.
    next: Option<Flight>,
    /// The number of messages sent to each rank.
    numbers: BTreeMap<u32, u32>,
}

impl Transfers {
    pub(super) fn begin(&mut self, jobs: Vec<Posted>, endpoint: &Endpoint) -> Result {
        let mut begun = Ok(());
        for posted in jobs {
            if posted.task.op != OpKind::Send {
                self.waiting.push(posted);
                continue;
            }
            let number = self.numbers.entry(posted.task.params.peer).or_default();
            *number = number.wrapping_add(1);
            let mut send = Outgoing::new(posted, *number);
            begun = begun.and_then(|()| send.begin(endpoint));
            // The message is recorded even if MPI fails, so that its job is completed when the group fails.
            self.sends.push(send);
        }
        begun
    }

    /// Moves all data that can move. Adds finished jobs to `over`. Returns whether anything moved.
    pub(super) fn advance(&mut self, endpoint: &Endpoint, over: &mut Vec<Ended>) -> Result<bool> {
        let mut moved = self.receive_headers(endpoint)?;
        moved |= self.match_arrived(endpoint)?;
        let mut i = 0;
        while i < self.sends.len() {
            moved |= self.sends[i].advance(endpoint)?;
            if self.sends[i].is_done() {
                over.push(self.sends.swap_remove(i).posted.ended(Ok(Outcome::default())));
            } else {
                i += 1;
            }
        }
        let mut i = 0;
        while i < self.receives.len() {
            moved |= self.receives[i].advance(endpoint)?;
            if self.receives[i].is_done() {
                let Incoming { posted, from, .. } = self.receives.swap_remove(i);
                over.push(posted.ended(Ok(Outcome { source: from, ..Outcome::default() })));
            } else {
                i += 1;
            }
        }
        Ok(moved)
    }

    /// Receives headers, as long as there are receives without a message. Returns whether any header arrived.
    fn receive_headers(&mut self, endpoint: &Endpoint) -> Result<bool> {
        let mut moved = false;
        while !self.waiting.is_empty() {
            let flight = match &mut self.next {
                Some(flight) => flight,
                next => match Flight::arrived(endpoint.mpi, endpoint.comm, HEAD, Header::SIZE + SHORT)? {
                    Some(flight) => next.insert(flight),
                    None => break,
                },
            };
            let Some(over) = flight.test()? else { break };
            let Some(memory) = self.next.take().and_then(Flight::into_memory) else { break };
            self.arrived.push_back(Arrived::read(memory, &over)?);
            moved = true;
            if self.arrived.len() > 64 && self.arrived.len() > 4 * self.waiting.len() {
                // Many messages wait for their receives already. MPI keeps the further headers until this function runs
                // again.
                break;
            }
        }
        Ok(moved)
    }

    /// Matches messages with receives. Returns whether there were any matches.
    fn match_arrived(&mut self, endpoint: &Endpoint) -> Result<bool> {
        let mut moved = false;
        let mut i = 0;
        while i < self.waiting.len() {
            let task = &self.waiting[i].task;
            let found = self.arrived.iter().position(|arrived| arrived.is_for(task));
            let Some(arrived) = found.and_then(|at| self.arrived.remove(at)) else {
                i += 1;
                continue;
            };
            let (receive, begun) = Incoming::begin(self.waiting.remove(i), &arrived, endpoint);
            self.receives.push(receive);
            begun?;
            moved = true;
        }
        Ok(moved)
    }

    /// Returns the unfinished sends and receives.
    pub(super) fn open(&self) -> impl Iterator<Item = &Posted> {
        let moving = self.sends.iter().map(|s| &s.posted).chain(self.receives.iter().map(|r| &r.posted));
        moving.chain(&self.waiting)
    }

    /// Ends all unfinished sends and receives with this error, and adds them to `over`.
    pub(super) fn end_all(&mut self, cause: &Error, over: &mut Vec<Ended>) {
        let sends = std::mem::take(&mut self.sends).into_iter().map(|s| s.posted);
        let receives = std::mem::take(&mut self.receives).into_iter().map(|r| r.posted);
        let open = sends.chain(receives).chain(std::mem::take(&mut self.waiting));
        over.extend(open.map(|posted| posted.ended(Err(cause.clone()))));
    }

    /// Removes the jobs with these numbers if every one of them is a receive that no message was matched with.
    /// Otherwise removes none. Returns the removed jobs.
    pub(super) fn take_waiting(&mut self, ids: &[u64]) -> Vec<Posted> {
        if !ids.iter().all(|id| self.waiting.iter().any(|posted| posted.id == *id)) {
            return Vec::new();
        }
        let (taken, rest) = std::mem::take(&mut self.waiting).into_iter().partition(|posted| ids.contains(&posted.id));
        self.waiting = rest;
        taken
    }
}

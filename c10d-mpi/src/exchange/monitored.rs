//! Monitored barriers: every other rank sends a header to rank 0. Rank 0 waits for these headers, at most until its
//! deadline, and then sends the list of missing ranks to the ranks that have arrived.

use std::time::Instant;

use c10d_core::Result;
use c10d_core::backend::let_go;

use super::verdict::late;
use super::{Exchange, Few, PeerCalls, Receiving, SHORT, Step, Transfer};
use crate::header::Header;
use crate::memory::Space;
use crate::mpi::Flight;

/// The tag of rank 0's answer.
const ANSWER: u16 = 3;

/// The messages of a monitored barrier, which consist only of headers.
struct Heads {
    transfers: Vec<Transfer>,
    receiving: Vec<Receiving>,
    sending: Few<(u32, Flight)>,
    heard: PeerCalls,
}

impl Heads {
    fn are_complete(&self) -> bool {
        self.heard.calls.len() == self.transfers.len()
    }

    /// Returns the ranks whose headers have not arrived.
    fn missing(&self) -> Vec<u32> {
        let heard = |peer: &u32| self.heard.calls.iter().any(|(rank, _)| rank == peer);
        self.transfers.iter().map(|t| t.peer).filter(|peer| !heard(peer)).collect()
    }

    /// Cancels the receives of the missing headers. Returns the missing ranks.
    fn cancel(self) -> Vec<u32> {
        let missing = self.missing();
        for receiving in self.receiving {
            if let Receiving::Head(flight, _) = receiving {
                flight.cancel();
            }
        }
        missing
    }
}

impl Exchange {
    /// Runs the part of rank 0: sends a header to each peer, receives one from each, and returns the ranks that are
    /// missing at the deadline.
    pub(crate) fn collect(&mut self, step: &Step<'_>, peers: &[u32]) -> Result<Vec<u32>> {
        let mut heads = self.heads(step, peers, peers)?;
        loop {
            let moved = self.advance(step, &mut heads)?;
            if heads.are_complete() {
                return Ok(Vec::new());
            }
            if self.is_late(step, moved)? {
                return Ok(heads.cancel());
            }
        }
    }

    /// Runs the part of a rank other than 0: sends a header to rank 0, and returns the missing ranks from rank 0's
    /// answer. This rank also sends headers to the ranks in `next`, and receives headers from the ranks in `before`, so
    /// that it notices ranks that make a different call.
    pub(crate) fn report(&mut self, step: &Step<'_>, next: &[u32], before: &[u32]) -> Result<Vec<u32>> {
        let to: Vec<u32> = [0].iter().chain(next).copied().collect();
        let from: Vec<u32> = [0].iter().chain(before).copied().collect();
        let mut heads = self.heads(step, &to, &from)?;
        let memory = self.memory(Header::SIZE + SHORT);
        let mut answer = Flight::recv(self.mpi, self.comm, memory, 0, ANSWER)?;
        loop {
            let moved = self.advance(step, &mut heads)?;
            if answer.test()?.is_some() {
                break;
            }
            if self.is_late(step, moved)? {
                return Err(self.health.fail(late(step, &[0])));
            }
        }
        let bytes = answer.test()?.map_or(0, |over| over.bytes);
        let Some(memory) = answer.into_memory() else { return Ok(Vec::new()) };
        let memory = memory.resized(bytes);
        let list = memory.bytes().chunks_exact(4);
        let missing: Vec<u32> = list.map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        self.keep(Some(memory));
        if missing.is_empty() {
            // All ranks have reached the barrier, so all headers have been sent, and will arrive.
            self.finish(step, &mut heads)?;
        }
        Ok(missing)
    }

    /// Begins to send and receive messages that consist only of headers.
    fn heads(&mut self, step: &Step<'_>, to: &[u32], from: &[u32]) -> Result<Heads> {
        let transfer = |peer: &u32| Transfer { peer: *peer, range: 0..0, total: 0 };
        let mut heads = Heads {
            transfers: from.iter().map(transfer).collect(),
            receiving: Vec::new(),
            sending: Few::new(),
            heard: PeerCalls::default(),
        };
        for peer in from {
            heads.receiving.push(self.expect(&transfer(peer))?);
        }
        for peer in to {
            self.send(step, &Space::empty(), &transfer(peer), &mut heads.sending)?;
        }
        self.pause.reset();
        Ok(heads)
    }

    fn advance(&mut self, step: &Step<'_>, heads: &mut Heads) -> Result<bool> {
        let mut moved = false;
        for (transfer, receiving) in heads.transfers.iter().zip(&mut heads.receiving) {
            moved |= self.receive(step, transfer, receiving, &mut heads.heard)?;
        }
        moved |= self.finish_sends(&mut heads.sending)?;
        if heads.heard.differ.is_some()
            && let Some(verdict) = self.disagreement(step, &heads.heard.calls, heads.are_complete())
        {
            return Err(verdict);
        }
        Ok(moved)
    }

    fn finish(&mut self, step: &Step<'_>, heads: &mut Heads) -> Result {
        while !heads.are_complete() {
            let moved = self.advance(step, heads)?;
            if self.is_late(step, moved)? {
                return Err(self.health.fail(late(step, &heads.missing())));
            }
        }
        Ok(())
    }

    /// Sends rank 0's answer, the list of missing ranks, cut to [`SHORT`] bytes.
    pub(crate) fn answer(&mut self, step: &Step<'_>, peers: &[u32], missing: &[u32]) -> Result {
        let list: Vec<u8> = missing.iter().take(SHORT / 4).flat_map(|rank| rank.to_le_bytes()).collect();
        let mut flights = Vec::new();
        for peer in peers {
            let mut memory = self.memory(list.len());
            memory.bytes_mut().copy_from_slice(&list);
            flights.push(Flight::send(self.mpi, self.comm, memory, *peer, ANSWER)?);
        }
        // MPI sends a short message even if its receiver has not posted the receive yet. The time limit is needed only
        // if the buffers of the transport are full.
        let until = Instant::now() + let_go(step.timeout) / 4;
        while !flights.is_empty() && Instant::now() < until {
            let mut open = Vec::new();
            for mut flight in flights {
                if flight.test()?.is_some() { self.keep(flight.into_memory()) } else { open.push(flight) }
            }
            flights = open;
            std::thread::yield_now();
        }
        Ok(())
    }
}

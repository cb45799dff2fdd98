//! One step of a collective: a rank sends messages to some ranks and receives messages from some at the same time. Each
//! message begins with a header that identifies its call. Long data follow the header in an MPI message of their own.

mod monitored;
mod verdict;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::backend::{Fingerprint, let_go};
use c10d_core::{Error, ErrorKind, Phase, Result};
use smallvec::SmallVec;

use crate::header::Header;
use crate::health::Health;
use crate::memory::Space;
use crate::mpi::{Comm, Flight, Mpi, Staging};
use crate::pause::Pause;
use verdict::{TIE, garbled, late};

/// The tags of collectives: [`HEAD`] for headers with short data, [`BODY`] for long data.
const HEAD: u16 = 0;
const BODY: u16 = 1;
/// The largest number of data bytes that a rank sends in the same MPI message as the header.
pub(crate) const SHORT: usize = 16 << 10;
/// How long a rank waits for the cause from the side channel, after a function of MPI has failed or a peer has left
/// during a call. After a function has failed, the wait ends at the call's deadline if that is earlier, but lasts at
/// least half of [`let_go`].
const CAUSE_WAIT: Duration = Duration::from_secs(2);
/// How many staging buffers are kept for later steps.
const KEPT: usize = 64;

/// A list with one item per peer.
pub(crate) type Few<T> = SmallVec<[T; 2]>;

/// The data that a rank sends to a peer, or receives from it, in one step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Transfer {
    pub(crate) peer: u32,
    /// The range of the data in the bytes of the call.
    pub(crate) range: Range<usize>,
    /// A number of bytes on which both ranks must agree:
    /// - in the reduction step of an all-reduce, the size of the tensors;
    /// - in a reduce, and in the step of an all-reduce that sends the results, the length of `range`, so that ranks
    ///   compare the bytes of this step only;
    /// - in all other calls, the number of bytes that the sender sends to the receiver in the whole call.
    pub(crate) total: usize,
}

/// A step, and the data that all steps of its call share.
pub(crate) struct Step<'a> {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) timeout: Duration,
    pub(crate) deadline: &'a dyn Fn() -> Instant,
    pub(crate) number: u32,
}

/// Received data. They begin `skip` bytes after the start of the memory, behind the header if there is one.
pub(crate) struct Received {
    memory: Staging,
    skip: usize,
}

impl Received {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory.bytes()[self.skip..]
    }
}

enum Receiving {
    /// The header, with the data if they are short, has not arrived. The second flight receives long data.
    Head(Flight, Option<Flight>),
    /// The header has arrived and matches this call; the long data have not arrived.
    Body(Flight),
    /// The header has arrived and belongs to another call.
    Differs,
    /// All data have arrived.
    Here(Received),
}

/// The calls of the peers whose headers have arrived.
#[derive(Default)]
struct PeerCalls {
    calls: Few<(u32, Fingerprint)>,
    /// When this rank first noticed a call that differs from its own; `None` if no such call is known.
    differ: Option<Instant>,
}

pub(crate) struct Exchange {
    mpi: Mpi,
    comm: Comm,
    rank: u32,
    health: Arc<Health>,
    pause: Pause,
    pool: Vec<Staging>,
    /// Bytes of payload sent so far.
    pub(crate) sent: u64,
}

impl Exchange {
    pub(crate) fn new(mpi: Mpi, comm: Comm, rank: u32, health: Arc<Health>, crowded: bool) -> Exchange {
        Exchange { mpi, comm, rank, health, pause: Pause::new(crowded), pool: Vec::new(), sent: 0 }
    }

    fn memory(&mut self, len: usize) -> Staging {
        let fit = self.pool.iter().position(|m| (len..=4 * len.max(SHORT)).contains(&m.room()));
        match fit {
            Some(i) => self.pool.swap_remove(i).resized(len),
            None => Staging::new(len),
        }
    }

    fn keep(&mut self, memory: Option<Staging>) {
        if self.pool.len() < KEPT {
            self.pool.extend(memory);
        }
    }

    /// Keeps the memory of received data for later steps.
    pub(crate) fn recycle(&mut self, received: impl IntoIterator<Item = Received>) {
        received.into_iter().for_each(|one| self.keep(Some(one.memory)));
    }

    /// Sends and receives. Returns the received data in the order of `recvs`. The memory `from` is only read, and not
    /// used after this function returns.
    pub(crate) fn run(
        &mut self,
        step: &Step<'_>,
        from: &Space,
        sends: &[Transfer],
        recvs: &[Transfer],
    ) -> Result<Few<Received>> {
        match self.messages(step, from, sends, recvs) {
            // MPI's error after a peer's death does not name the peer, but the side channel will report the death.
            Err(e) if *e.kind() == ErrorKind::Internal && self.health.cause().is_none() => {
                let left = (step.deadline)().saturating_duration_since(Instant::now());
                let cause = self.health.wait_for_cause(CAUSE_WAIT.min(left).max(let_go(step.timeout) / 2));
                Err(cause.unwrap_or_else(|| self.health.fail(e.phase(Phase::Transfer))))
            }
            result => result,
        }
    }

    fn messages(
        &mut self,
        step: &Step<'_>,
        from: &Space,
        sends: &[Transfer],
        recvs: &[Transfer],
    ) -> Result<Few<Received>> {
        let mut receiving = Few::new();
        for recv in recvs {
            receiving.push(self.expect(recv)?);
        }
        let mut sending = Few::new();
        for send in sends {
            self.send(step, from, send, &mut sending)?;
        }
        let mut heard = PeerCalls::default();
        self.pause.reset();
        loop {
            let mut moved = false;
            for (recv, receiving) in recvs.iter().zip(&mut receiving) {
                moved |= self.receive(step, recv, receiving, &mut heard)?;
            }
            moved |= self.finish_sends(&mut sending)?;
            if let Some(since) = heard.differ {
                let all =
                    heard.calls.len() == recvs.len() || since.elapsed() > TIE || Instant::now() >= (step.deadline)();
                if let Some(verdict) = self.disagreement(step, &heard.calls, all) {
                    return Err(verdict);
                }
            }
            if sending.is_empty() && receiving.iter().all(|r| matches!(r, Receiving::Here(_))) {
                break;
            }
            if self.is_late(step, moved)? {
                let waits = waits(recvs, &receiving, &sending);
                return Err(self.health.fail(late(step, &waits)));
            }
        }
        let here = |receiving| match receiving {
            Receiving::Here(received) => Some(received),
            _ => None,
        };
        Ok(receiving.into_iter().filter_map(here).collect())
    }

    /// Pauses if nothing moved. Returns whether the deadline of the call has passed.
    fn is_late(&mut self, step: &Step<'_>, moved: bool) -> Result<bool> {
        if moved {
            self.pause.reset();
            return Ok(false);
        }
        let now = self.pause.wait();
        self.health.check()?;
        Ok(now.is_some_and(|now| now >= (step.deadline)()))
    }

    /// Removes finished sends. Returns whether there were any.
    fn finish_sends(&mut self, sending: &mut Few<(u32, Flight)>) -> Result<bool> {
        let before = sending.len();
        let mut i = 0;
        while i < sending.len() {
            if sending[i].1.test()?.is_some() {
                let (_, flight) = sending.swap_remove(i);
                self.keep(flight.into_memory());
            } else {
                i += 1;
            }
        }
        Ok(sending.len() < before)
    }

    /// Begins to receive a transfer. MPI gets the memory for long data before the header arrives.
    fn expect(&mut self, recv: &Transfer) -> Result<Receiving> {
        let (len, peer) = (recv.range.len(), recv.peer);
        let memory = self.memory(Header::SIZE + SHORT);
        let head = Flight::recv(self.mpi, self.comm, memory, peer, HEAD)?;
        if len <= SHORT {
            return Ok(Receiving::Head(head, None));
        }
        let memory = self.memory(len);
        Ok(Receiving::Head(head, Some(Flight::recv(self.mpi, self.comm, memory, peer, BODY)?)))
    }

    fn send(&mut self, step: &Step<'_>, from: &Space, send: &Transfer, sending: &mut Few<(u32, Flight)>) -> Result {
        let len = send.range.len();
        let header = Header {
            fingerprint: step.fingerprint,
            total: send.total as u64,
            len: len as u64,
            step: step.number,
            last: false,
        };
        let short = len <= SHORT;
        let mut head = self.memory(Header::SIZE + if short { len } else { 0 });
        let bytes = head.bytes_mut();
        header.put(bytes);
        if short {
            from.read(send.range.clone(), &mut bytes[Header::SIZE..]);
            // If the gate of the memory (`task::Gate`) is closed, nothing was read, and the group has failed.
            self.health.check()?;
        }
        sending.push((send.peer, Flight::send(self.mpi, self.comm, head, send.peer, HEAD)?));
        if !short {
            let mut body = self.memory(len);
            from.read(send.range.clone(), body.bytes_mut());
            self.health.check()?;
            sending.push((send.peer, Flight::send(self.mpi, self.comm, body, send.peer, BODY)?));
        }
        self.sent += len as u64;
        Ok(())
    }

    /// Advances one transfer as far as possible. Returns whether anything has arrived.
    fn receive(
        &mut self,
        step: &Step<'_>,
        recv: &Transfer,
        receiving: &mut Receiving,
        heard: &mut PeerCalls,
    ) -> Result<bool> {
        let flight = match receiving {
            Receiving::Head(flight, _) | Receiving::Body(flight) => flight,
            Receiving::Differs | Receiving::Here(_) => return Ok(false),
        };
        let Some(over) = flight.test()? else { return Ok(false) };
        let (flight, body) = match std::mem::replace(receiving, Receiving::Differs) {
            Receiving::Head(head, body) => (head, Some(body)),
            Receiving::Body(flight) => (flight, None),
            Receiving::Differs | Receiving::Here(_) => return Ok(false),
        };
        let Some(memory) = flight.into_memory() else { return Ok(false) };
        let memory = memory.resized(over.bytes);
        let Some(body) = body else {
            if over.bytes != recv.range.len() {
                return Err(self.health.fail(garbled(recv.peer, "did not send the number of bytes that it announced")));
            }
            *receiving = Receiving::Here(Received { memory, skip: 0 });
            return Ok(true);
        };
        let Some(header) = Header::read(memory.bytes()) else {
            return Err(self.health.fail(garbled(recv.peer, "sent a message without a header")));
        };
        if header.last {
            return Err(self.left(step, recv.peer));
        }
        heard.calls.push((recv.peer, header.fingerprint));
        if step.fingerprint.disagreement(&header.fingerprint).is_some() {
            // The caller of this function decides which rank is wrong, since the caller knows the calls of all peers.
            heard.differ.get_or_insert_with(Instant::now);
            return Ok(true);
        }
        if header.total != recv.total as u64 {
            return Err(self.uneven(step, recv, header.total));
        }
        let len = recv.range.len();
        let expected = Header::SIZE + if body.is_none() { len } else { 0 };
        if (header.len, header.step, over.bytes) != (len as u64, step.number, expected) {
            return Err(self.health.fail(garbled(recv.peer, "is in another step of this call")));
        }
        *receiving = match body {
            Some(body) => {
                self.keep(Some(memory));
                Receiving::Body(body)
            }
            None => Receiving::Here(Received { memory, skip: Header::SIZE }),
        };
        Ok(true)
    }

    /// Sends a goodbye to all other ranks, and receives theirs, until `until` at most. If this succeeds, everything
    /// that this rank sent before has arrived.
    pub(crate) fn farewell(&mut self, size: u32, until: Instant) -> Result {
        let peers: Vec<u32> = (0..size).filter(|r| *r != self.rank).collect();
        let mut flights = Vec::new();
        for peer in &peers {
            let mut head = self.memory(Header::SIZE);
            Header { last: true, ..Header::default() }.put(head.bytes_mut());
            flights.push(Flight::send(self.mpi, self.comm, head, *peer, HEAD)?);
            let memory = self.memory(Header::SIZE + SHORT);
            flights.push(Flight::recv(self.mpi, self.comm, memory, *peer, HEAD)?);
        }
        self.pause.reset();
        loop {
            let mut open = false;
            for flight in &mut flights {
                open |= flight.test()?.is_none();
            }
            if !open {
                return Ok(());
            }
            let now = self.pause.wait();
            self.health.check()?;
            if now.is_some_and(|now| now >= until) {
                return Err(Error::new(ErrorKind::Timeout, "not all ranks have left the group"));
            }
        }
    }
}

/// Returns the ranks for which a step waits: the ranks whose headers have not arrived; if there are none, the ranks
/// with unfinished transfers.
fn waits(recvs: &[Transfer], receiving: &[Receiving], sending: &[(u32, Flight)]) -> Vec<u32> {
    let of = |which: fn(&Receiving) -> bool| {
        recvs.iter().zip(receiving).filter(move |(_, r)| which(r)).map(|(recv, _)| recv.peer)
    };
    let mut waits: Vec<u32> = of(|r| matches!(r, Receiving::Head(..))).collect();
    if waits.is_empty() {
        waits.extend(of(|r| matches!(r, Receiving::Body(_))));
        waits.extend(sending.iter().map(|(peer, _)| *peer));
    }
    waits
}

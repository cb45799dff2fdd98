//! One step of a collective: messages to some ranks and from some, at once, each behind a header that says of which call it
//! is.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::backend::{Fingerprint, let_go};
use c10d_core::{Error, ErrorKind, OpKind, Phase, Result};

use crate::header::Header;
use crate::health::{BY_MOST, Health};
use crate::memory::Space;
use crate::mpi::{Comm, Flight, Mpi, Staging};
use crate::pause::Pause;

/// Tags of collectives: headers with what is short, and the rest.
const HEAD: u16 = 0;
const BODY: u16 = 1;
/// The tag of rank 0's answer in a monitored barrier.
const ANSWER: u16 = 3;
/// The longest bytes that go with their header.
pub(crate) const SHORT: usize = 16 << 10;
/// How long a rank that sees itself alone against another waits for a third one's word.
const TIE: Duration = Duration::from_millis(400);
/// How long a peer's death may take to be told, when the library's own call fails first.
const TOLD: Duration = Duration::from_secs(2);
/// How many staging buffers are kept for later steps.
const KEPT: usize = 64;

/// What goes to a rank, or comes from one, in a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Transfer {
    pub(crate) peer: u32,
    /// Where it is in the call's bytes.
    pub(crate) range: Range<usize>,
    /// All that goes between the two in this direction in the call.
    pub(crate) total: usize,
}

/// What all steps of a call know.
pub(crate) struct Step<'a> {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) timeout: Duration,
    /// When the call must be over.
    pub(crate) deadline: &'a dyn Fn() -> Instant,
    /// Its number in the call.
    pub(crate) number: u32,
}

/// Bytes that came, behind `skip` others.
pub(crate) struct Came {
    memory: Staging,
    skip: usize,
}

impl Came {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory.bytes()[self.skip..]
    }
}

enum Receiving {
    Head(Flight),
    Body(Flight),
    Over,
}

/// Messages of a monitored barrier that are nothing but their headers.
struct Heads {
    transfers: Vec<Transfer>,
    receiving: Vec<Receiving>,
    sending: Vec<(u32, Flight)>,
    heard: Vec<(u32, Fingerprint)>,
}

impl Heads {
    fn are_heard(&self) -> bool {
        self.heard.len() == self.transfers.len()
    }

    /// The ranks of which nothing was heard.
    fn missing(&self) -> Vec<u32> {
        let heard = |peer: &u32| self.heard.iter().any(|(rank, _)| rank == peer);
        self.transfers.iter().map(|t| t.peer).filter(|peer| !heard(peer)).collect()
    }

    /// Gives up waiting for them.
    fn cancel(self) -> Vec<u32> {
        let missing = self.missing();
        for receiving in self.receiving {
            if let Receiving::Head(flight) = receiving {
                flight.cancel();
            }
        }
        missing
    }
}

/// The exchanges of one rank of a group.
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

    /// Gives the memory of what came back for later steps.
    pub(crate) fn recycle(&mut self, came: impl IntoIterator<Item = Came>) {
        came.into_iter().for_each(|c| self.keep(Some(c.memory)));
    }

    /// Sends and receives; gives what came, in the order of `recvs`. The call's memory is only read, here and now.
    pub(crate) fn run(
        &mut self,
        step: &Step<'_>,
        from: &Space,
        sends: &[Transfer],
        recvs: &[Transfer],
    ) -> Result<Vec<Came>> {
        match self.messages(step, from, sends, recvs) {
            // What the library says of a peer that is gone names nobody.
            Err(e) if *e.kind() == ErrorKind::Internal && self.health.cause().is_none() => {
                let left = (step.deadline)().saturating_duration_since(Instant::now());
                let told = self.health.wait_for_cause(TOLD.min(left).max(let_go(step.timeout) / 2));
                Err(told.unwrap_or_else(|| self.health.fail(e.phase(Phase::Transfer))))
            }
            result => result,
        }
    }

    fn messages(&mut self, step: &Step<'_>, from: &Space, sends: &[Transfer], recvs: &[Transfer]) -> Result<Vec<Came>> {
        let mut receiving = Vec::with_capacity(recvs.len());
        for recv in recvs {
            let memory = self.memory(Header::SIZE + SHORT);
            receiving.push(Receiving::Head(Flight::recv(self.mpi, self.comm, memory, Some(recv.peer), HEAD)?));
        }
        let mut sending = Vec::with_capacity(sends.len());
        for send in sends {
            self.send(step, from, send, &mut sending)?;
        }
        let mut came: Vec<Option<Came>> = recvs.iter().map(|_| None).collect();
        let mut heard: Vec<(u32, Fingerprint)> = Vec::new();
        let mut disagreed: Option<Instant> = None;
        self.pause.reset();
        loop {
            let mut moved = false;
            for ((recv, receiving), came) in recvs.iter().zip(&mut receiving).zip(&mut came) {
                moved |= self.receive(step, recv, receiving, came, &mut heard)?;
            }
            moved |= self.finish_sends(&mut sending)?;
            if heard.iter().any(|(_, theirs)| step.fingerprint.disagreement(theirs).is_some()) {
                let since = *disagreed.get_or_insert_with(Instant::now);
                let all = heard.len() == recvs.len() || since.elapsed() > TIE || Instant::now() >= (step.deadline)();
                if let Some(verdict) = self.disagreement(step, &heard, all) {
                    return Err(verdict);
                }
            }
            if sending.is_empty() && came.iter().all(Option::is_some) {
                break;
            }
            if self.is_late(step, moved)? {
                let waits = self.waits(recvs, &receiving, &sending);
                return Err(self.health.fail(late(step, &waits)));
            }
        }
        Ok(came.into_iter().flatten().collect())
    }

    /// Pauses unless something moved; whether the call's time is over.
    fn is_late(&mut self, step: &Step<'_>, moved: bool) -> Result<bool> {
        if moved {
            self.pause.reset();
            return Ok(false);
        }
        let now = self.pause.wait();
        self.health.check()?;
        Ok(now.is_some_and(|now| now >= (step.deadline)()))
    }

    /// Forgets the sends that are over; whether there were any.
    fn finish_sends(&mut self, sending: &mut Vec<(u32, Flight)>) -> Result<bool> {
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

    fn send(&mut self, step: &Step<'_>, from: &Space, send: &Transfer, sending: &mut Vec<(u32, Flight)>) -> Result {
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
            // Memory is given up only when the group has failed, and then nothing was read.
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

    /// Goes on with one receive, as far as it comes.
    fn receive(
        &mut self,
        step: &Step<'_>,
        recv: &Transfer,
        receiving: &mut Receiving,
        came: &mut Option<Came>,
        heard: &mut Vec<(u32, Fingerprint)>,
    ) -> Result<bool> {
        let flight = match receiving {
            Receiving::Over => return Ok(false),
            Receiving::Head(flight) | Receiving::Body(flight) => flight,
        };
        let Some(over) = flight.test()? else { return Ok(false) };
        let (memory, was_head) = match std::mem::replace(receiving, Receiving::Over) {
            Receiving::Head(flight) => (flight.into_memory(), true),
            Receiving::Body(flight) => (flight.into_memory(), false),
            Receiving::Over => return Ok(false),
        };
        let Some(memory) = memory else { return Ok(false) };
        let memory = memory.resized(over.bytes);
        if !was_head {
            if over.bytes != recv.range.len() {
                return Err(self.health.fail(garbled(recv.peer, "sent another number of bytes than it announced")));
            }
            *came = Some(Came { memory, skip: 0 });
            return Ok(true);
        }
        let Some(header) = Header::read(memory.bytes()) else {
            return Err(self.health.fail(garbled(recv.peer, "sent a message without a header")));
        };
        if header.last {
            let kind = ErrorKind::PeerDead { how: "left the group".to_owned() };
            return Err(self.health.fail(Error::new(kind, "").guilty([recv.peer]).phase(Phase::Announce)));
        }
        heard.push((recv.peer, header.fingerprint));
        if step.fingerprint.disagreement(&header.fingerprint).is_some() {
            // The verdict is the caller's, who sees what the others say.
            return Ok(true);
        }
        if header.total != recv.total as u64 {
            return Err(self.uneven(step, recv, header.total));
        }
        let (len, short) = (recv.range.len(), recv.range.len() <= SHORT);
        let expected = Header::SIZE + if short { len } else { 0 };
        if (header.len, header.step, over.bytes) != (len as u64, step.number, expected) {
            return Err(self.health.fail(garbled(recv.peer, "is in another step of this call")));
        }
        if short {
            *came = Some(Came { memory, skip: Header::SIZE });
        } else {
            self.keep(Some(memory));
            let body = self.memory(len);
            *receiving = Receiving::Body(Flight::recv(self.mpi, self.comm, body, Some(recv.peer), BODY)?);
        }
        Ok(true)
    }

    /// What one rank sends and the other expects differs.
    fn uneven(&self, step: &Step<'_>, recv: &Transfer, theirs: u64) -> Error {
        let field = match OpKind::from_code(step.fingerprint.op) {
            Some(OpKind::AllToAll | OpKind::AllToAllSingle) => "splits",
            _ => "count",
        };
        let bytes = |n: u64| format!("{n} bytes");
        let kind = ErrorKind::Mismatch { field, mine: bytes(recv.total as u64), theirs: bytes(theirs) };
        let what = format!("what rank {} sends to rank {} in this collective", recv.peer, self.rank);
        let error = called(step, Error::new(kind, what).phase(Phase::Announce));
        // A third rank cannot know which of the two is wrong.
        let told = error.clone().guilty([recv.peer, self.rank]);
        self.health.fail_telling(error.guilty([recv.peer]), &told)
    }

    /// Ranks disagree about the call: who is wrong is what most of those heard, with this rank, say. `None`: more is to be
    /// heard first.
    fn disagreement(&self, step: &Step<'_>, heard: &[(u32, Fingerprint)], all: bool) -> Option<Error> {
        let mut votes = vec![(self.rank, step.fingerprint)];
        votes.extend(heard.iter().copied());
        let agree = |a: &Fingerprint, b: &Fingerprint| a.disagreement(b).is_none();
        let count = |of: &Fingerprint| votes.iter().filter(|(_, f)| agree(of, f)).count();
        let right = votes.iter().map(|(_, f)| *f).find(|f| 2 * count(f) > votes.len());
        let most = right.filter(|_| votes.len() > 2);
        if most.is_none() {
            if !all {
                return None;
            }
            // Two ranks of which one is wrong. A third may know.
            let left = (step.deadline)().saturating_duration_since(Instant::now());
            if let Some(cause) = self.health.wait_for_cause(TIE.min(left / 2)) {
                return Some(cause);
            }
        }
        let other = |of: &Fingerprint| votes.iter().find(|(_, f)| !agree(of, f)).copied();
        let (_, theirs) = other(&step.fingerprint)?;
        let guilty: Vec<u32> = match most {
            Some(right) => votes.iter().filter(|(_, f)| !agree(&right, f)).map(|(rank, _)| *rank).collect(),
            None => votes.iter().filter(|(_, f)| !agree(&step.fingerprint, f)).map(|(rank, _)| *rank).collect(),
        };
        let (field, mine, theirs) = step.fingerprint.disagreement(&theirs)?;
        let kind = ErrorKind::Mismatch { field, mine, theirs };
        let what = if most.is_some() { BY_MOST } else { "two ranks disagree about this collective" };
        let error = Error::new(kind, what).guilty(guilty).phase(Phase::Announce);
        Some(self.health.fail(called(step, error)))
    }

    /// The ranks that a step waits for: those of which nothing has come, else those with whom something is on its way.
    fn waits(&self, recvs: &[Transfer], receiving: &[Receiving], sending: &[(u32, Flight)]) -> Vec<u32> {
        let of = |which: fn(&Receiving) -> bool| {
            recvs.iter().zip(receiving).filter(move |(_, r)| which(r)).map(|(recv, _)| recv.peer)
        };
        let mut waits: Vec<u32> = of(|r| matches!(r, Receiving::Head(_))).collect();
        if waits.is_empty() {
            waits.extend(of(|r| matches!(r, Receiving::Body(_))));
            waits.extend(sending.iter().map(|(peer, _)| *peer));
        }
        waits
    }

    /// For rank 0 of a monitored barrier: tells the peers that it is there, hears of them, and gives those that did not come.
    pub(crate) fn collect(&mut self, step: &Step<'_>, peers: &[u32]) -> Result<Vec<u32>> {
        let mut heads = self.heads(step, peers, peers)?;
        loop {
            let moved = self.advance(step, &mut heads)?;
            if heads.are_heard() {
                return Ok(Vec::new());
            }
            if self.is_late(step, moved)? {
                return Ok(heads.cancel());
            }
        }
    }

    /// For the other ranks of a monitored barrier: reports to rank 0, and gives whom it misses. The ranks `next` hear of this
    /// one too, and this one of those `before`.
    pub(crate) fn report(&mut self, step: &Step<'_>, next: &[u32], before: &[u32]) -> Result<Vec<u32>> {
        let to: Vec<u32> = [0].iter().chain(next).copied().collect();
        let from: Vec<u32> = [0].iter().chain(before).copied().collect();
        let mut heads = self.heads(step, &to, &from)?;
        let memory = self.memory(Header::SIZE + SHORT);
        let mut answer = Flight::recv(self.mpi, self.comm, memory, Some(0), ANSWER)?;
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
            // All have come, so what they sent is on its way.
            self.finish(step, &mut heads)?;
        }
        Ok(missing)
    }

    /// Begins to send and receive messages that are nothing but their headers.
    fn heads(&mut self, step: &Step<'_>, to: &[u32], from: &[u32]) -> Result<Heads> {
        let transfer = |peer: &u32| Transfer { peer: *peer, range: 0..0, total: 0 };
        let mut heads = Heads {
            transfers: from.iter().map(transfer).collect(),
            receiving: Vec::new(),
            sending: Vec::new(),
            heard: Vec::new(),
        };
        for peer in from {
            let memory = self.memory(Header::SIZE + SHORT);
            heads.receiving.push(Receiving::Head(Flight::recv(self.mpi, self.comm, memory, Some(*peer), HEAD)?));
        }
        for peer in to {
            self.send(step, &Space::default(), &transfer(peer), &mut heads.sending)?;
        }
        self.pause.reset();
        Ok(heads)
    }

    fn advance(&mut self, step: &Step<'_>, heads: &mut Heads) -> Result<bool> {
        let (mut moved, mut came) = (false, None);
        for (transfer, receiving) in heads.transfers.iter().zip(&mut heads.receiving) {
            moved |= self.receive(step, transfer, receiving, &mut came, &mut heads.heard)?;
            self.recycle(came.take());
        }
        moved |= self.finish_sends(&mut heads.sending)?;
        if heads.heard.iter().any(|(_, theirs)| step.fingerprint.disagreement(theirs).is_some())
            && let Some(verdict) = self.disagreement(step, &heads.heard, heads.are_heard())
        {
            return Err(verdict);
        }
        Ok(moved)
    }

    fn finish(&mut self, step: &Step<'_>, heads: &mut Heads) -> Result {
        while !heads.are_heard() {
            let moved = self.advance(step, heads)?;
            if self.is_late(step, moved)? {
                return Err(self.health.fail(late(step, &heads.missing())));
            }
        }
        Ok(())
    }

    /// Rank 0's answer: whom it misses.
    pub(crate) fn answer(&mut self, step: &Step<'_>, peers: &[u32], missing: &[u32]) -> Result {
        let list: Vec<u8> = missing.iter().take(SHORT / 4).flat_map(|rank| rank.to_le_bytes()).collect();
        let mut flights = Vec::new();
        for peer in peers {
            let mut memory = self.memory(list.len());
            memory.bytes_mut().copy_from_slice(&list);
            flights.push(Flight::send(self.mpi, self.comm, memory, *peer, ANSWER)?);
        }
        // What is short needs no receiver to be sent; the time is for a transport that is full.
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

    /// Says goodbye to all others, and hears theirs, within this time: so what was sent before has arrived.
    pub(crate) fn farewell(&mut self, size: u32, until: Instant) -> Result {
        let peers: Vec<u32> = (0..size).filter(|r| *r != self.rank).collect();
        let mut flights = Vec::new();
        for peer in &peers {
            let mut head = self.memory(Header::SIZE);
            Header { last: true, ..Header::default() }.put(head.bytes_mut());
            flights.push(Flight::send(self.mpi, self.comm, head, *peer, HEAD)?);
            let memory = self.memory(Header::SIZE + SHORT);
            flights.push(Flight::recv(self.mpi, self.comm, memory, Some(*peer), HEAD)?);
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

fn late(step: &Step<'_>, waits: &[u32]) -> Error {
    let phase = if step.number == 0 { Phase::Announce } else { Phase::Transfer };
    let what = format!("the ranks did not come to this collective, or not on with it, within {:?}", step.timeout);
    called(step, Error::new(ErrorKind::Timeout, what).guilty(waits.iter().copied()).phase(phase))
}

fn garbled(peer: u32, what: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("rank {peer} {what}")).guilty([peer]).phase(Phase::Transfer)
}

/// Says of which call an error is: calls after it end with the same error.
fn called(step: &Step<'_>, mut error: Error) -> Error {
    let report = error.report_mut();
    (report.op, report.seq) = (OpKind::from_code(step.fingerprint.op), Some(step.fingerprint.seq.into()));
    error
}

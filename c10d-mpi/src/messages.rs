//! Messages between two ranks: headers come in the order in which they were sent, and are matched here by tag and
//! sender. The bytes of a long message come after its header, piece by piece.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::backend::{Caller, Job, JobId};
use c10d_core::panics::caught;
use c10d_core::process::spawn;
use c10d_core::sync::{Condvar, Mutex};
use c10d_core::{Error, ErrorKind, OpKind, Outcome, Phase, Result};

use crate::exchange::SHORT;
use crate::header::Header;
use crate::health::Health;
use crate::ledger::{Entered, Ledger};
use crate::memory::{Space, source, target};
use crate::mpi::{Comm, Flight, Mpi, Staging};
use crate::pause::Pause;
use crate::task::Task;

/// The tag of headers with short data.
const HEAD: u16 = 2;
/// The first of the tags of long data, and their number, which every library supports.
const BODY: u16 = 1 << 14;
const BODIES: u32 = 1 << 14;
/// The bytes of a piece of a long message, and how many pieces are in transfer at once.
const PIECE: usize = 1 << 20;
const AHEAD: usize = 2;
/// How long to wait for the lock of the messages, which a call of MPI may hold.
const SOON: Duration = Duration::from_millis(50);

/// The messages of one rank of a group.
pub(crate) struct Messages {
    mpi: Mpi,
    comm: Comm,
    rank: u32,
    size: u32,
    /// Whether callers never call MPI themselves.
    own_thread: bool,
    crowded: bool,
    health: Arc<Health>,
    ledger: Arc<Ledger>,
    inbox: Mutex<Inbox>,
    /// Signalled when a job comes that no caller waits for, or at the end.
    news: Condvar,
    /// The state, which is locked during calls of MPI.
    state: Mutex<MessageState>,
}

/// Jobs that have come and are not begun.
#[derive(Default)]
struct Inbox {
    posted: Vec<Posted>,
    /// The number of jobs that no caller's thread moves.
    unwatched: usize,
    has_thread: bool,
    closed: bool,
}

struct Posted {
    id: u64,
    deadline: Instant,
    task: Task,
    /// Whether a caller's thread moves it.
    watched: bool,
}

/// A finished job.
struct Ended {
    id: u64,
    watched: bool,
    result: Result<Outcome>,
}

#[derive(Default)]
struct MessageState {
    sends: Vec<Sending>,
    /// Receives without a message yet, in the order of their calls.
    waiting: Vec<Posted>,
    receives: Vec<Receiving>,
    /// Headers without a receive yet, in the order in which they came.
    arrived: VecDeque<Arrived>,
    /// The receive of the next header.
    next: Option<Flight>,
    /// The number of messages sent to each rank.
    numbers: BTreeMap<u32, u32>,
}

struct Arrived {
    from: u32,
    header: Header,
    memory: Staging,
}

/// An outgoing message.
struct Sending {
    of: Posted,
    space: Space,
    tag: u16,
    /// The bytes given to the library.
    at: usize,
    flights: VecDeque<Flight>,
}

/// A long incoming message.
struct Receiving {
    of: Posted,
    from: u32,
    space: Space,
    tag: u16,
    /// The bytes requested from the library, and the bytes received.
    asked: usize,
    there: usize,
    flights: VecDeque<Flight>,
}

impl Messages {
    pub(crate) fn new(
        (mpi, comm): (Mpi, Comm),
        (rank, size): (u32, u32),
        health: Arc<Health>,
        (own_thread, crowded): (bool, bool),
    ) -> Messages {
        let (ledger, inbox, news, state) = (Arc::default(), Mutex::default(), Condvar::default(), Mutex::default());
        Messages { mpi, comm, rank, size, own_thread, crowded, health, ledger, inbox, news, state }
    }

    /// Takes jobs that may depend on each other. If their caller waits, they run to their end here.
    pub(crate) fn submit(self: &Arc<Self>, jobs: Vec<Job>) {
        if let Err(cause) = self.health.begin() {
            return jobs.into_iter().for_each(|job| job.complete(Err(cause.clone())));
        }
        let watched = !self.own_thread && jobs.iter().all(|job| job.request().caller == Caller::Waits);
        let mut ids = Vec::with_capacity(jobs.len());
        {
            let mut inbox = self.inbox.lock();
            for job in jobs {
                let Entered { id, deadline, task } = self.ledger.enter(job, &self.health);
                ids.push(id);
                inbox.posted.push(Posted { id, deadline, task, watched });
                inbox.unwatched += usize::from(!watched);
            }
            if !watched && !inbox.has_thread {
                let this = self.clone();
                match spawn("c10d-mpi-messages", move || this.serve()) {
                    Ok(()) => inbox.has_thread = true,
                    // The keeper ends the jobs.
                    Err(e) => drop(self.health.fail(e)),
                }
            }
        }
        self.news.notify_one();
        if watched {
            self.look_after(&ids);
        }
    }

    /// Begins new jobs.
    fn begin(&self, state: &mut MessageState) -> Result {
        for of in std::mem::take(&mut self.inbox.lock().posted) {
            if of.task.op == OpKind::Send { self.send(state, of)? } else { state.waiting.push(of) }
        }
        Ok(())
    }

    fn send(&self, state: &mut MessageState, of: Posted) -> Result {
        let task = &of.task;
        let to = task.params.peer;
        let number = state.numbers.entry(to).or_default();
        *number = number.wrapping_add(1);
        let number = *number;
        let space = source(task);
        let len = space.len();
        let short = len <= SHORT;
        let header = Header {
            fingerprint: task.fingerprint,
            total: len as u64,
            len: if short { len as u64 } else { 0 },
            step: number,
            last: false,
        };
        let mut head = Staging::new(Header::SIZE + if short { len } else { 0 });
        header.put(head.bytes_mut());
        let at = if short { len } else { 0 };
        space.read(0..at, &mut head.bytes_mut()[Header::SIZE..]);
        // Memory is given up only when the group has failed, and then nothing was read.
        let read = self.health.check();
        let tag = body_tag(number);
        // It is recorded first, so that the job ends with the group if the library fails.
        state.sends.push(Sending { of, space, tag, at, flights: VecDeque::new() });
        read?;
        let flight = Flight::send(self.mpi, self.comm, head, to, HEAD)?;
        if let Some(sending) = state.sends.last_mut() {
            sending.flights.push_back(flight);
        }
        Ok(())
    }

    /// Moves all data that can move. Returns the finished jobs in `over`, and whether anything moved.
    fn poll(&self, state: &mut MessageState, over: &mut Vec<Ended>) -> bool {
        let begun = self.begin(state);
        let moved = begun.and_then(|()| self.health.check()).and_then(|()| self.advance(state, over));
        match moved {
            Ok(moved) => moved,
            Err(e) => {
                // An error of the library about a peer that is gone does not name the peer; the watch over the peers
                // does, a moment later.
                if *e.kind() == ErrorKind::Internal && self.health.cause().is_none() {
                    self.health.wait_for_cause(Duration::from_secs(1));
                }
                let _ = self.health.fail(e);
                self.end_all(state, over);
                true
            }
        }
    }

    fn advance(&self, state: &mut MessageState, over: &mut Vec<Ended>) -> Result<bool> {
        let mut moved = self.hear(state)?;
        moved |= self.matched(state, over)?;
        let mut i = 0;
        while i < state.sends.len() {
            let sending = &mut state.sends[i];
            while let Some(first) = sending.flights.front_mut()
                && first.test()?.is_some()
            {
                sending.flights.pop_front();
                moved = true;
            }
            while sending.at < sending.space.len() && sending.flights.len() < AHEAD {
                let end = (sending.at + PIECE).min(sending.space.len());
                let mut piece = Staging::new(end - sending.at);
                sending.space.read(sending.at..end, piece.bytes_mut());
                self.health.check()?;
                let to = sending.of.task.params.peer;
                sending.at = end;
                sending.flights.push_back(Flight::send(self.mpi, self.comm, piece, to, sending.tag)?);
            }
            if sending.flights.is_empty() {
                over.push(state.sends.swap_remove(i).of.ended(Ok(Outcome::default())));
            } else {
                i += 1;
            }
        }
        let mut i = 0;
        while i < state.receives.len() {
            let receiving = &mut state.receives[i];
            moved |= self.receive(receiving)?;
            if receiving.there == receiving.space.len() {
                let Receiving { of, from, .. } = state.receives.swap_remove(i);
                over.push(of.ended(Ok(Outcome { source: from, ..Outcome::default() })));
            } else {
                i += 1;
            }
        }
        Ok(moved)
    }

    /// Receives headers while a receive waits for one.
    fn hear(&self, state: &mut MessageState) -> Result<bool> {
        let mut moved = false;
        while !state.waiting.is_empty() {
            let flight = match &mut state.next {
                Some(flight) => flight,
                next => {
                    let memory = Staging::new(Header::SIZE + SHORT);
                    next.insert(Flight::recv(self.mpi, self.comm, memory, None, HEAD)?)
                }
            };
            let Some(over) = flight.test()? else { break };
            let Some(memory) = state.next.take().and_then(Flight::into_memory) else { break };
            let memory = memory.resized(over.bytes);
            let header = Header::read(memory.bytes());
            let header =
                header.filter(|h| over.bytes == Header::SIZE + usize::try_from(h.len).unwrap_or(usize::MAX >> 1));
            let Some(header) = header else {
                let what = format!("rank {} sent a message without a header", over.source);
                return Err(Error::new(ErrorKind::Protocol, what).guilty([over.source]).phase(Phase::Transfer));
            };
            state.arrived.push_back(Arrived { from: over.source, header, memory });
            moved = true;
            if state.arrived.len() > 64 && state.arrived.len() > 4 * state.waiting.len() {
                // The rest stays with the library.
                break;
            }
        }
        Ok(moved)
    }

    /// Matches arrived messages with receives.
    fn matched(&self, state: &mut MessageState, over: &mut Vec<Ended>) -> Result<bool> {
        let mut moved = false;
        let mut i = 0;
        while i < state.waiting.len() {
            let task = &state.waiting[i].task;
            let (any, peer) = (task.op == OpKind::RecvAnySource, task.params.peer);
            let wanted = |a: &Arrived| (any || a.from == peer) && a.header.fingerprint.root == task.params.tag;
            let Some(at) = state.arrived.iter().position(wanted) else {
                i += 1;
                continue;
            };
            let Some(Arrived { from, header, memory }) = state.arrived.remove(at) else { break };
            let fits = self.fits(task, from, &header);
            let of = state.waiting.remove(i);
            let space = target(&of.task);
            let receiving = Receiving {
                of,
                from,
                tag: body_tag(header.step),
                asked: header.len as usize,
                there: header.len as usize,
                space,
                flights: VecDeque::new(),
            };
            if let Err(e) = fits {
                // Ends with the group, like all others.
                state.receives.push(receiving);
                self.end_all(state, over);
                return Err(e);
            }
            receiving.space.write(0..receiving.there, &memory.bytes()[Header::SIZE..]);
            state.receives.push(receiving);
            moved = true;
        }
        Ok(moved)
    }

    /// Checks that a message fits its receive.
    fn fits(&self, task: &Task, from: u32, header: &Header) -> Result {
        let bytes = task.outputs.first().map_or(0, |span| span.bytes() as u64);
        let differs = task.fingerprint.disagreement(&header.fingerprint);
        let differs = differs.or_else(|| {
            (header.total != bytes).then(|| ("count", format!("{bytes} bytes"), format!("{} bytes", header.total)))
        });
        let Some((field, mine, theirs)) = differs else { return Ok(()) };
        let what = format!("a message from rank {from} to rank {} with tag {}", self.rank, task.params.tag);
        let error = Error::new(ErrorKind::Mismatch { field, mine, theirs }, what).phase(Phase::Announce);
        // A third rank cannot know which of the two is wrong.
        let told = error.clone().guilty([from, self.rank]);
        Err(self.health.fail_telling(error.guilty([from]), &told))
    }

    fn receive(&self, receiving: &mut Receiving) -> Result<bool> {
        let (mut moved, len) = (false, receiving.space.len());
        while let Some(first) = receiving.flights.front_mut()
            && let Some(over) = first.test()?
        {
            let end = (receiving.there + PIECE).min(len);
            let memory = receiving.flights.pop_front().and_then(Flight::into_memory);
            let Some(memory) = memory.filter(|_| over.bytes == end - receiving.there) else {
                let what = format!("rank {} sent a piece of another length", receiving.from);
                return Err(Error::new(ErrorKind::Protocol, what).guilty([receiving.from]));
            };
            receiving.space.write(receiving.there..end, memory.bytes());
            receiving.there = end;
            moved = true;
        }
        while receiving.asked < len && receiving.flights.len() < AHEAD {
            let end = (receiving.asked + PIECE).min(len);
            let piece = Staging::new(end - receiving.asked);
            receiving.asked = end;
            let from = Some(receiving.from);
            receiving.flights.push_back(Flight::recv(self.mpi, self.comm, piece, from, receiving.tag)?);
        }
        Ok(moved)
    }

    /// Ends all jobs with the group's cause.
    fn end_all(&self, state: &mut MessageState, over: &mut Vec<Ended>) {
        let cause = || self.health.cause().unwrap_or_else(|| Error::new(ErrorKind::Internal, "messages failed"));
        over.extend(state.take().into_iter().map(|of| of.ended(Err(cause()))));
    }

    /// Fails the group if a job's time is over.
    fn expire(&self, state: &mut MessageState, now: Instant, over: &mut Vec<Ended>) {
        let late = state.posted().filter(|of| of.deadline <= now).min_by_key(|of| of.deadline);
        let Some(Posted { task, .. }) = late else { return };
        let guilty: Vec<u32> = match task.op {
            OpKind::RecvAnySource => (0..self.size).filter(|r| *r != self.rank).collect(),
            _ => vec![task.params.peer],
        };
        let what = match task.op {
            OpKind::Send => "the rank did not take the message",
            _ => "the message did not come, or not all of it",
        };
        let what = format!("{what} within {:?} (tag {})", task.timeout, task.params.tag);
        let error = Error::new(ErrorKind::Timeout, what).guilty(guilty).phase(Phase::Transfer);
        let _ = self.health.fail(error);
        self.end_all(state, over);
    }

    /// Moves all data that can move, and waits briefly if there was none.
    fn look(&self, pause: &mut Pause) {
        let mut over = Vec::new();
        let moved = self.poll(&mut self.state.lock(), &mut over);
        if moved || !over.is_empty() {
            pause.reset();
            return self.complete(over);
        }
        if let Some(now) = pause.wait() {
            self.expire(&mut self.state.lock(), now, &mut over);
            self.complete(over);
        }
    }

    fn complete(&self, over: Vec<Ended>) {
        for Ended { id, watched, result } in over {
            if !watched {
                self.inbox.lock().unwatched -= 1;
            }
            self.ledger.finish(id, result);
        }
    }

    /// Moves all messages until these jobs are done.
    fn look_after(&self, ids: &[u64]) {
        let mut pause = Pause::new(self.crowded);
        while self.ledger.has(ids) {
            self.look(&mut pause);
        }
    }

    /// The thread for jobs that no caller waits for.
    fn serve(self: Arc<Self>) {
        let served = caught(|| {
            let mut pause = Pause::new(self.crowded);
            loop {
                {
                    let mut inbox = self.inbox.lock();
                    while inbox.unwatched == 0 {
                        if inbox.closed {
                            return;
                        }
                        self.news.wait(&mut inbox);
                        pause.reset();
                    }
                }
                self.look(&mut pause);
            }
        });
        if let Err(words) = served {
            // The keeper ends the jobs.
            let what = format!("the thread of messages panicked: {words}");
            let _ = self.health.fail(Error::new(ErrorKind::Internal, what));
        }
    }

    /// Returns receives without a message: all of these, or none.
    pub(crate) fn take_back(&self, jobs: &[JobId]) -> Vec<Job> {
        let ids: Option<Vec<u64>> = jobs.iter().map(|job| self.ledger.id_of(*job)).collect();
        // Only a call of MPI that does not return holds it for longer.
        let (Some(ids), Some(mut state)) = (ids, self.state.try_lock_for(SOON)) else { return Vec::new() };
        if self.begin(&mut state).is_err() {
            return Vec::new();
        }
        if !ids.iter().all(|id| state.waiting.iter().any(|of| of.id == *id)) {
            return Vec::new();
        }
        let (taken, rest): (Vec<Posted>, Vec<Posted>) =
            std::mem::take(&mut state.waiting).into_iter().partition(|of| ids.contains(&of.id));
        state.waiting = rest;
        drop(state);
        self.inbox.lock().unwatched -= taken.iter().filter(|of| !of.watched).count();
        taken.iter().filter_map(|of| self.ledger.take(of.id)).collect()
    }

    /// Waits until no message is in transfer. If one still is at the deadline, returns the ranks with which it is.
    pub(crate) fn settle(&self, deadline: Instant) -> std::result::Result<(), Vec<u32>> {
        let mut pause = Pause::new(true);
        while !self.ledger.is_empty() {
            if self.own_thread {
                std::thread::sleep(Duration::from_micros(200));
            } else {
                self.look(&mut pause);
            }
            if Instant::now() >= deadline {
                let peers = self.ledger.peers(self.rank, self.size);
                return if peers.is_empty() { Ok(()) } else { Err(peers) };
            }
        }
        Ok(())
    }

    /// Closes the queue: no more jobs come.
    pub(crate) fn close(&self) {
        self.inbox.lock().closed = true;
        self.ledger.close();
        self.news.notify_one();
        if let Some(mut state) = self.state.try_lock_for(SOON)
            && state.posted().next().is_none()
            && self.health.cause().is_none()
            && let Some(flight) = state.next.take()
        {
            flight.cancel();
        }
    }
}

impl Posted {
    fn ended(self, result: Result<Outcome>) -> Ended {
        Ended { id: self.id, watched: self.watched, result }
    }
}

impl MessageState {
    fn posted(&self) -> impl Iterator<Item = &Posted> {
        let moving = self.sends.iter().map(|s| &s.of).chain(self.receives.iter().map(|r| &r.of));
        moving.chain(&self.waiting)
    }

    /// Takes everything that is not done.
    fn take(&mut self) -> Vec<Posted> {
        let mut all: Vec<Posted> = std::mem::take(&mut self.sends).into_iter().map(|s| s.of).collect();
        all.extend(std::mem::take(&mut self.receives).into_iter().map(|r| r.of));
        all.append(&mut self.waiting);
        all
    }
}

fn body_tag(number: u32) -> u16 {
    BODY + (number % BODIES) as u16
}

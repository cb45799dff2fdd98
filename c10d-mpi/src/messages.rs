//! Messages between two ranks: headers in the order in which they were sent, matched here by tag and sender, and behind a
//! long message's header its bytes, piece by piece.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use c10d_core::backend::{Caller, Job, JobId, Request};
use c10d_core::panics::caught;
use c10d_core::sync::{Condvar, Mutex};
use c10d_core::{Error, ErrorKind, OpKind, Outcome, Phase, Result};

use crate::exchange::SHORT;
use crate::header::Header;
use crate::health::Health;
use crate::memory::{Space, source, target};
use crate::mpi::{Comm, Flight, Mpi, Staging};
use crate::pause::Pause;
use crate::thread::spawn;

/// The tag of headers with what is short.
const HEAD: u16 = 2;
/// The first of the tags of the rest, and how many there are: every library has them.
const BODY: u16 = 1 << 14;
const BODIES: u32 = 1 << 14;
/// The bytes of a piece of a long message, and how many are on their way at once.
const PIECE: usize = 1 << 20;
const AHEAD: usize = 2;

/// The messages of one rank of a group.
pub(crate) struct Messages {
    mpi: Mpi,
    comm: Comm,
    rank: u32,
    size: u32,
    crowded: bool,
    health: Arc<Health>,
    state: Mutex<MessageState>,
    /// A job came that nobody waits for, or the end.
    news: Condvar,
    closed: AtomicBool,
}

#[derive(Default)]
struct MessageState {
    sends: Vec<Sending>,
    /// Receives for which nothing has come yet, in the order in which they were called.
    waiting: Vec<Waiting>,
    receives: Vec<Receiving>,
    /// Headers for which no receive was called yet, in the order in which they came.
    arrived: VecDeque<Arrived>,
    /// The receive of the next header.
    next: Option<Flight>,
    /// How many messages went to each rank.
    numbers: BTreeMap<u32, u32>,
    /// Jobs that no thread of the caller's looks after.
    unwatched: usize,
    has_thread: bool,
}

struct Waiting {
    job: Job,
    watched: bool,
}

struct Arrived {
    from: u32,
    header: Header,
    memory: Staging,
}

/// A message that goes out.
struct Sending {
    job: Job,
    watched: bool,
    space: Space,
    tag: u16,
    /// How much was given to the library.
    at: usize,
    flights: VecDeque<Flight>,
}

/// A long message that comes in.
struct Receiving {
    job: Job,
    watched: bool,
    from: u32,
    space: Space,
    tag: u16,
    /// How much is asked of the library, and how much is there.
    asked: usize,
    there: usize,
    flights: VecDeque<Flight>,
}

impl Messages {
    pub(crate) fn new(mpi: Mpi, comm: Comm, (rank, size): (u32, u32), health: Arc<Health>, crowded: bool) -> Messages {
        let (state, news, closed) = (Mutex::default(), Condvar::default(), AtomicBool::new(false));
        Messages { mpi, comm, rank, size, crowded, health, state, news, closed }
    }

    /// Takes jobs, which may need each other. Where their caller waits, they are looked after here until they are over.
    pub(crate) fn submit(self: &Arc<Self>, jobs: Vec<Job>) {
        let watched = jobs.iter().all(|job| job.request().caller == Caller::Waits);
        let ids: Vec<JobId> = jobs.iter().map(Job::id).collect();
        let mut over = Vec::new();
        {
            let mut state = self.state.lock();
            for job in jobs {
                // Its time runs from here.
                job.request().deadline();
                match self.health.begin() {
                    Ok(()) => self.enter(&mut state, job, watched, &mut over),
                    Err(cause) => over.push((job, Err(cause))),
                }
            }
            if !watched {
                self.start_thread(&mut state, &mut over);
            }
        }
        complete(over);
        if watched {
            self.look_after(&ids);
        }
    }

    fn start_thread(self: &Arc<Self>, state: &mut MessageState, over: &mut Vec<(Job, Result<Outcome>)>) {
        if !state.has_thread {
            let this = self.clone();
            match spawn("c10d-mpi-messages", move || this.serve()) {
                Ok(()) => state.has_thread = true,
                Err(e) => {
                    drop(self.health.fail(e));
                    self.end_all(state, over);
                }
            }
        }
        self.news.notify_one();
    }

    fn enter(&self, state: &mut MessageState, job: Job, watched: bool, over: &mut Vec<(Job, Result<Outcome>)>) {
        if !watched {
            state.unwatched += 1;
        }
        if job.request().op == OpKind::Send {
            if let Err(e) = self.send(state, job, watched) {
                let _ = self.health.fail(e.phase(Phase::Transfer));
                self.end_all(state, over);
            }
        } else {
            state.waiting.push(Waiting { job, watched });
        }
    }

    fn send(&self, state: &mut MessageState, job: Job, watched: bool) -> Result {
        let request = job.request();
        let to = request.params.peer;
        let number = state.numbers.entry(to).or_default();
        *number = number.wrapping_add(1);
        let number = *number;
        let space = source(&job);
        let len = space.len();
        let short = len <= SHORT;
        let header = Header {
            fingerprint: request.fingerprint,
            total: len as u64,
            len: if short { len as u64 } else { 0 },
            step: number,
            last: false,
        };
        let mut head = Staging::new(Header::SIZE + if short { len } else { 0 });
        header.put(head.bytes_mut());
        let at = if short { len } else { 0 };
        space.read(0..at, &mut head.bytes_mut()[Header::SIZE..]);
        let tag = body_tag(number);
        // Entered first, so that the job ends with the group if the library fails.
        state.sends.push(Sending { job, watched, space, tag, at, flights: VecDeque::new() });
        let flight = Flight::send(self.mpi, self.comm, head, to, HEAD)?;
        if let Some(sending) = state.sends.last_mut() {
            sending.flights.push_back(flight);
        }
        Ok(())
    }

    /// Moves what can be moved; gives the jobs that are over, and whether anything moved.
    fn poll(&self, state: &mut MessageState, over: &mut Vec<(Job, Result<Outcome>)>) -> bool {
        let moved = self.health.check().and_then(|()| self.advance(state, over));
        match moved {
            Ok(moved) => moved,
            Err(e) => {
                // What the library says of a peer that is gone names nobody; the watch over the peers does, if in a moment.
                if *e.kind() == ErrorKind::Internal && self.health.cause().is_none() {
                    self.health.wait_for_cause(Duration::from_secs(1));
                }
                let _ = self.health.fail(e);
                self.end_all(state, over);
                true
            }
        }
    }

    fn advance(&self, state: &mut MessageState, over: &mut Vec<(Job, Result<Outcome>)>) -> Result<bool> {
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
                let to = sending.job.request().params.peer;
                sending.at = end;
                sending.flights.push_back(Flight::send(self.mpi, self.comm, piece, to, sending.tag)?);
            }
            if sending.flights.is_empty() {
                let Sending { job, watched, .. } = state.sends.swap_remove(i);
                state.unwatched -= usize::from(!watched);
                over.push((job, Ok(Outcome::default())));
            } else {
                i += 1;
            }
        }
        let mut i = 0;
        while i < state.receives.len() {
            let receiving = &mut state.receives[i];
            moved |= self.receive(receiving)?;
            if receiving.there == receiving.space.len() {
                let Receiving { job, watched, from, .. } = state.receives.swap_remove(i);
                state.unwatched -= usize::from(!watched);
                over.push((job, Ok(Outcome { source: from, ..Outcome::default() })));
            } else {
                i += 1;
            }
        }
        Ok(moved)
    }

    /// Takes the headers that have come, as long as a receive waits for one.
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

    /// Gives what has arrived to the receives that want it.
    fn matched(&self, state: &mut MessageState, over: &mut Vec<(Job, Result<Outcome>)>) -> Result<bool> {
        let mut moved = false;
        let mut i = 0;
        while i < state.waiting.len() {
            let request = state.waiting[i].job.request();
            let (any, peer) = (request.op == OpKind::RecvAnySource, request.params.peer);
            let wanted = |a: &Arrived| (any || a.from == peer) && a.header.fingerprint.root == request.params.tag;
            let Some(at) = state.arrived.iter().position(wanted) else {
                i += 1;
                continue;
            };
            let Some(Arrived { from, header, memory }) = state.arrived.remove(at) else { break };
            let fits = self.fits(request, from, &header);
            let Waiting { job, watched } = state.waiting.remove(i);
            let space = target(&job);
            let receiving = Receiving {
                job,
                watched,
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

    /// Whether a message is what the receive is for.
    fn fits(&self, request: &Request, from: u32, header: &Header) -> Result {
        let bytes = request.outputs().first().map_or(0, |span| span.bytes() as u64);
        let differs = request.fingerprint.disagreement(&header.fingerprint);
        let differs = differs.or_else(|| {
            (header.total != bytes).then(|| ("count", format!("{bytes} bytes"), format!("{} bytes", header.total)))
        });
        let Some((field, mine, theirs)) = differs else { return Ok(()) };
        let what = format!("a message from rank {from} to rank {} with tag {}", self.rank, request.params.tag);
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

    /// Ends everything for the group's cause.
    fn end_all(&self, state: &mut MessageState, over: &mut Vec<(Job, Result<Outcome>)>) {
        let cause = || self.health.cause().unwrap_or_else(|| Error::new(ErrorKind::Internal, "messages failed"));
        let (sends, receives) = (std::mem::take(&mut state.sends), std::mem::take(&mut state.receives));
        over.extend(sends.into_iter().map(|s| (s.job, Err(cause()))));
        over.extend(receives.into_iter().map(|r| (r.job, Err(cause()))));
        over.extend(std::mem::take(&mut state.waiting).into_iter().map(|w| (w.job, Err(cause()))));
        state.unwatched = 0;
    }

    /// Fails the group where a job's time is over.
    fn expire(&self, state: &mut MessageState, now: Instant, over: &mut Vec<(Job, Result<Outcome>)>) {
        let jobs = state.sends.iter().map(|s| &s.job).chain(state.receives.iter().map(|r| &r.job));
        let jobs = jobs.chain(state.waiting.iter().map(|w| &w.job));
        let late = jobs.map(Job::request).filter(|request| request.deadline() <= now).min_by_key(|r| r.deadline());
        let Some(request) = late else { return };
        let guilty: Vec<u32> = match request.op {
            OpKind::RecvAnySource => (0..self.size).filter(|r| *r != self.rank).collect(),
            _ => vec![request.params.peer],
        };
        let what = match request.op {
            OpKind::Send => "the rank did not take the message",
            _ => "the message did not come, or not all of it",
        };
        let what = format!("{what} within {:?} (tag {})", request.timeout, request.params.tag);
        let error = Error::new(ErrorKind::Timeout, what).guilty(guilty).phase(Phase::Transfer);
        let _ = self.health.fail(error);
        self.end_all(state, over);
    }

    /// Looks after everything until these jobs are over.
    fn look_after(&self, ids: &[JobId]) {
        let mut pause = Pause::new(self.crowded);
        loop {
            let mut over = Vec::new();
            let moved = {
                let mut state = self.state.lock();
                if !state.has(ids) {
                    return;
                }
                self.poll(&mut state, &mut over)
            };
            if moved {
                pause.reset();
            }
            let moved = !over.is_empty() || moved;
            complete(over);
            if !moved && let Some(now) = pause.wait() {
                let mut over = Vec::new();
                self.expire(&mut self.state.lock(), now, &mut over);
                complete(over);
            }
        }
    }

    /// The thread of the jobs that nobody waits for.
    fn serve(self: Arc<Self>) {
        let served = caught(|| self.serve_jobs());
        if let Err(words) = served {
            let _ =
                self.health.fail(Error::new(ErrorKind::Internal, format!("the thread of messages panicked: {words}")));
            let mut over = Vec::new();
            self.end_all(&mut self.state.lock(), &mut over);
            complete(over);
        }
    }

    fn serve_jobs(&self) {
        let mut pause = Pause::new(self.crowded);
        loop {
            let mut over = Vec::new();
            let moved = {
                let mut state = self.state.lock();
                while state.unwatched == 0 {
                    if self.closed.load(Ordering::Acquire) {
                        return;
                    }
                    self.news.wait(&mut state);
                    pause.reset();
                }
                self.poll(&mut state, &mut over)
            };
            if moved {
                pause.reset();
            }
            let moved = !over.is_empty() || moved;
            complete(over);
            if !moved && let Some(now) = pause.wait() {
                let mut over = Vec::new();
                self.expire(&mut self.state.lock(), now, &mut over);
                complete(over);
            }
        }
    }

    /// Gives receives back for which nothing has come: all of these, or none.
    pub(crate) fn take_back(&self, ids: &[JobId]) -> Vec<Job> {
        let mut state = self.state.lock();
        if !ids.iter().all(|id| state.waiting.iter().any(|w| w.job.id() == *id)) {
            return Vec::new();
        }
        let mut taken = Vec::new();
        let mut i = 0;
        while i < state.waiting.len() {
            if ids.contains(&state.waiting[i].job.id()) {
                let Waiting { job, watched } = state.waiting.remove(i);
                state.unwatched -= usize::from(!watched);
                taken.push(job);
            } else {
                i += 1;
            }
        }
        taken
    }

    /// Waits until no message is on its way; those with whom one is, if one still is by the deadline.
    pub(crate) fn settle(&self, deadline: Instant) -> std::result::Result<(), Vec<u32>> {
        let mut pause = Pause::new(true);
        loop {
            let mut over = Vec::new();
            {
                let mut state = self.state.lock();
                if state.is_idle() {
                    return Ok(());
                }
                self.poll(&mut state, &mut over);
            }
            complete(over);
            if let Some(now) = pause.wait() {
                let mut over = Vec::new();
                let mut state = self.state.lock();
                self.expire(&mut state, now, &mut over);
                let open = state.peers(self.rank, self.size);
                drop(state);
                complete(over);
                if now >= deadline {
                    return if open.is_empty() { Ok(()) } else { Err(open) };
                }
            }
        }
    }

    /// Nothing more comes.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.news.notify_one();
        let mut state = self.state.lock();
        if state.is_idle()
            && let Some(flight) = state.next.take()
        {
            flight.cancel();
        }
    }
}

impl MessageState {
    fn has(&self, ids: &[JobId]) -> bool {
        let jobs = self.sends.iter().map(|s| &s.job).chain(self.receives.iter().map(|r| &r.job));
        jobs.chain(self.waiting.iter().map(|w| &w.job)).any(|job| ids.contains(&job.id()))
    }

    fn is_idle(&self) -> bool {
        self.sends.is_empty() && self.receives.is_empty() && self.waiting.is_empty()
    }

    /// With whom a message is on its way.
    fn peers(&self, rank: u32, size: u32) -> Vec<u32> {
        let mut peers: Vec<u32> = self.sends.iter().map(|s| s.job.request().params.peer).collect();
        peers.extend(self.receives.iter().map(|r| r.from));
        for request in self.waiting.iter().map(|w| w.job.request()) {
            match request.op {
                OpKind::RecvAnySource => peers.extend((0..size).filter(|r| *r != rank)),
                _ => peers.push(request.params.peer),
            }
        }
        peers.sort_unstable();
        peers.dedup();
        peers
    }
}

fn body_tag(number: u32) -> u16 {
    BODY + (number % BODIES) as u16
}

fn complete(over: Vec<(Job, Result<Outcome>)>) {
    over.into_iter().for_each(|(job, result)| job.complete_with(result));
}

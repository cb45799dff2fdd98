//! All messages of one rank, under one lock.

use std::time::Duration;

use c10d_core::backend::{Job, JobId};
use c10d_core::{Error, ErrorKind, OpKind, Outcome, Phase, Result};

use smallvec::SmallVec;

use super::live::{ENDLESS, Live, Posted};
use super::message::{Header, Incoming, Outgoing, Target, deliver};
use super::peer::Peer;
use super::ticket::{Finished, Ticket};
use crate::link::Link;
use crate::mesh::Health;

/// The limit on the bytes of unexpected messages (that no receive has asked for) kept for one peer. A message beyond it
/// is read only when there is room, or a receive asks for it.
const KEPT: usize = 64 << 20;
/// The largest number of unexpected messages that are kept for one peer. This number limits the memory for the records
/// of short messages.
const MESSAGES: usize = 64 << 10;

/// The events to wait for at one peer's link.
pub(super) struct Wants {
    pub(super) rank: u32,
    /// Whether to wait for bytes from the peer.
    pub(super) read: bool,
    /// Whether to wait for room for bytes to the peer.
    pub(super) write: bool,
}

pub(super) struct MessageState {
    /// The peers, by rank; `None` for this rank.
    pub(super) peers: Vec<Option<Peer>>,
    /// The receives whose message has not arrived, in the order in which they were posted.
    pub(super) posted: Vec<Posted>,
    pub(super) live: Vec<Live>,
    /// The number of calls, and the ticket of the next job.
    pub(super) next: u64,
    /// The number of jobs that have left `live` and are not completed.
    uncompleted: usize,
    /// The longest timeout of a send.
    pub(super) patience: Duration,
    /// The number of started messages in a row that `ends_soon` did not find complete.
    pub(super) misses: u32,
    pub(super) has_thread: bool,
    pub(super) closed: bool,
    /// The number of started messages that were left to the thread for started ops.
    pub(super) left_to_thread: u64,
    /// Whether the thread for started ops must begin without a sleep.
    pub(super) urgent: bool,
    /// Whether the thread for started ops sleeps for long, so that it needs a notification of each message.
    pub(super) asleep: bool,
    /// The number of threads that move messages while they wait for a started message.
    pub(super) helpers: usize,
}

impl MessageState {
    pub(super) fn new(links: Vec<Option<Link>>) -> MessageState {
        let peers = links.into_iter().map(|link| link.map(Peer::new)).collect();
        MessageState {
            peers,
            posted: Vec::new(),
            live: Vec::new(),
            next: 0,
            uncompleted: 0,
            patience: Duration::ZERO,
            misses: 0,
            has_thread: false,
            closed: false,
            left_to_thread: 0,
            urgent: false,
            asleep: false,
            helpers: 0,
        }
    }

    pub(super) fn is_live(&self, ticket: Ticket) -> bool {
        self.live.iter().any(|l| l.ticket == ticket)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.live.is_empty() && self.uncompleted == 0
    }

    /// Records that this many jobs have been completed.
    pub(super) fn completed(&mut self, jobs: usize) {
        self.uncompleted -= jobs;
    }

    /// Whether a job is in flight for which no thread waits inside a call.
    pub(super) fn has_started(&self) -> bool {
        self.live.iter().any(|l| l.started)
    }

    /// Whether a started message is likely to be complete soon: one of the last 4 was. Otherwise every 16th message
    /// counts as likely, to notice a change.
    pub(super) fn expects_soon(&self) -> bool {
        self.misses < 4 || self.misses.is_multiple_of(16)
    }

    pub(super) fn need_thread(&self) -> bool {
        !self.has_thread && self.has_started()
    }

    /// Takes a job. A send is queued for its peer; a receive gets a kept message, or is posted.
    pub(super) fn post(&mut self, job: Job, health: &Health, finished: &mut Finished) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        let request = job.request();
        let any = request.op == OpKind::RecvAnySource;
        let peer = (!any).then_some(request.params.peer);
        let started = request.caller == c10d_core::backend::Caller::Continues;
        self.live.push(Live {
            ticket,
            started,
            op: request.op,
            fingerprint: request.fingerprint,
            peer,
            deadline: started.then(|| request.deadline()),
            since: None,
            reported: false,
            endless: request.timeout >= ENDLESS,
        });
        if request.op == OpKind::Send {
            self.patience = self.patience.max(request.timeout);
            match peer.and_then(|p| self.peers.get_mut(p as usize)?.as_mut()) {
                Some(peer) => peer.outgoing.push_back((ticket, Outgoing::new(job))),
                None => {
                    let error = Error::new(ErrorKind::Internal, "there is no link to this peer");
                    self.finish(ticket, job, Err(error), finished);
                }
            }
            return ticket;
        }
        let tag = request.params.tag;
        for rank in 0..self.peers.len() as u32 {
            if peer.is_some_and(|p| p != rank) {
                continue;
            }
            let Some(from) = self.peers[rank as usize].as_mut() else { continue };
            if let Some((header, bytes)) = from.take_kept(tag) {
                let result = agree(&job, rank, &header, health);
                if result.is_ok() {
                    deliver(&bytes, &job);
                }
                let outcome = result.map(|()| Outcome { source: rank, payload: None });
                self.finish(ticket, job, outcome, finished);
                return ticket;
            }
        }
        self.posted.push(Posted { ticket, from: peer, job });
        ticket
    }

    fn finish(&mut self, ticket: Ticket, job: Job, result: Result<Outcome>, finished: &mut Finished) {
        self.live.retain(|l| l.ticket != ticket);
        self.uncompleted += 1;
        finished.push((job, result));
    }

    /// Moves all data that can move. With `all`, also receives unexpected messages. Returns whether anything moved.
    pub(super) fn pump(&mut self, health: &Health, all: bool, finished: &mut Finished) -> bool {
        let mut moved = false;
        for rank in 0..self.peers.len() as u32 {
            moved |= self.write(rank, health, finished);
            moved |= self.read(rank, health, all, finished);
        }
        moved
    }

    /// Puts into `list` the links on which a thread without progress must wait for events. For `all`, see
    /// [`MessageState::pump`].
    pub(super) fn wants(&self, all: bool, list: &mut SmallVec<[Wants; 4]>) {
        list.clear();
        for (rank, peer) in (0..).zip(&self.peers) {
            let Some(peer) = peer else { continue };
            let asked = all || self.posted.iter().any(|p| p.from.is_none_or(|from| from == rank));
            let read = peer.incoming.is_some() || (asked && peer.held.is_none() && !peer.ended);
            let write = !peer.outgoing.is_empty();
            if read || write {
                list.push(Wants { rank, read, write });
            }
        }
    }

    fn write(&mut self, rank: u32, health: &Health, finished: &mut Finished) -> bool {
        let mut moved = false;
        loop {
            let Some(peer) = self.peers[rank as usize].as_mut() else { return false };
            let Some((ticket, message)) = peer.outgoing.front_mut() else { return moved };
            let ticket = *ticket;
            match message.write(&mut peer.link) {
                Ok((some, false)) => return moved | some,
                Ok((_, true)) => {
                    moved = true;
                    if let Some((_, message)) = peer.outgoing.pop_front() {
                        self.finish(ticket, message.job, Ok(Outcome::default()), finished);
                    }
                }
                Err(e) => {
                    broken(rank, &e, health);
                    return moved;
                }
            }
        }
    }

    fn read(&mut self, rank: u32, health: &Health, all: bool, finished: &mut Finished) -> bool {
        let mut moved = false;
        loop {
            let wanted = all || self.posted.iter().any(|p| p.from.is_none_or(|from| from == rank));
            let named = self.posted.iter().any(|p| p.from == Some(rank));
            let Some(peer) = self.peers[rank as usize].as_mut() else { return false };
            if let Some((ticket, message)) = &mut peer.incoming {
                let ticket = *ticket;
                match message.read(&mut peer.link) {
                    Ok((some, false)) => return moved | some,
                    Ok((_, true)) => {
                        moved = true;
                        let Some((_, message)) = peer.incoming.take() else { return moved };
                        match message.target {
                            Target::Job(job) => {
                                self.finish(ticket, job, Ok(Outcome { source: rank, payload: None }), finished);
                            }
                            Target::Kept(bytes) => self.arrived(rank, message.header, bytes, health, finished),
                        }
                    }
                    Err(e) => {
                        broken(rank, &e, health);
                        return moved;
                    }
                }
                continue;
            }
            if !wanted || (peer.ended && !named) {
                return moved;
            }
            let header = match peer.held.take() {
                Some(header) => header,
                None => match peer.partial.read(&mut peer.link) {
                    Ok((some, None)) => return moved | some,
                    Ok((_, Some(header))) => {
                        moved = true;
                        header
                    }
                    // The peer left after its last message. A receive from any rank now waits only for ranks that have
                    // not left.
                    Err(_) if !named && peer.partial.is_empty() => {
                        peer.ended = true;
                        return moved;
                    }
                    Err(e) => {
                        broken(rank, &e, health);
                        return moved;
                    }
                },
            };
            if !self.begin(rank, header, health, finished) {
                return moved;
            }
        }
    }

    /// Starts to receive a message, into the buffer of its receive or into memory of the backend. Returns `false` if
    /// there is no room for the message, or if the message contradicts its receive. In the latter case, the receive has
    /// ended with an error.
    fn begin(&mut self, rank: u32, header: Header, health: &Health, finished: &mut Finished) -> bool {
        let wants = |p: &Posted| p.from.is_none_or(|from| from == rank) && p.job.request().params.tag == header.tag();
        if let Some(at) = self.posted.iter().position(wants) {
            let posted = self.posted.remove(at);
            if let Err(e) = agree(&posted.job, rank, &header, health) {
                self.finish(posted.ticket, posted.job, Err(e), finished);
                return false;
            }
            if let Some(peer) = self.peers[rank as usize].as_mut() {
                peer.incoming = Some((posted.ticket, Incoming::new(header, Target::Job(posted.job))));
            }
            return true;
        }
        let Some(peer) = self.peers[rank as usize].as_mut() else { return false };
        let mut bytes = Vec::new();
        let fits = header.len.saturating_add(peer.kept_bytes as u64) <= KEPT as u64 && peer.kept.len() < MESSAGES;
        if !fits || bytes.try_reserve_exact(header.len as usize).is_err() {
            peer.held = Some(header);
            return false;
        }
        bytes.resize(header.len as usize, 0);
        peer.kept_bytes += bytes.len();
        peer.incoming = Some((Ticket::NONE, Incoming::new(header, Target::Kept(bytes))));
        true
    }

    /// Handles a complete message for which no receive was posted when its header arrived (but perhaps since).
    fn arrived(&mut self, rank: u32, header: Header, bytes: Vec<u8>, health: &Health, finished: &mut Finished) {
        let wants = |p: &Posted| p.from.is_none_or(|from| from == rank) && p.job.request().params.tag == header.tag();
        let Some(at) = self.posted.iter().position(wants) else {
            if let Some(peer) = self.peers[rank as usize].as_mut() {
                peer.kept.push_back((header, bytes));
            }
            return;
        };
        if let Some(peer) = self.peers[rank as usize].as_mut() {
            peer.kept_bytes -= bytes.len();
        }
        let posted = self.posted.remove(at);
        let result = agree(&posted.job, rank, &header, health);
        if result.is_ok() {
            deliver(&bytes, &posted.job);
        }
        let outcome = result.map(|()| Outcome { source: rank, payload: None });
        self.finish(posted.ticket, posted.job, outcome, finished);
    }

    /// Returns these jobs, or none, as in [`Messages::take_back`](super::Messages::take_back).
    pub(super) fn take_back(&mut self, jobs: &[JobId]) -> Vec<Job> {
        let is_free = |id: JobId| {
            let mut unsent = self.peers.iter().flatten().flat_map(|peer| &peer.outgoing);
            self.posted.iter().any(|p| p.job.id() == id)
                || unsent.any(|(_, message)| message.is_unsent() && message.job.id() == id)
        };
        if !jobs.iter().all(|id| is_free(*id)) {
            return Vec::new();
        }
        let (mut tickets, mut taken) = (Vec::new(), Vec::new());
        for Posted { ticket, job, .. } in self.posted.extract_if(.., |p| jobs.contains(&p.job.id())) {
            tickets.push(ticket);
            taken.push(job);
        }
        for peer in self.peers.iter_mut().flatten() {
            while let Some(at) = peer.outgoing.iter().position(|(_, message)| jobs.contains(&message.job.id())) {
                let Some((ticket, message)) = peer.outgoing.remove(at) else { break };
                tickets.push(ticket);
                taken.push(message.job);
            }
        }
        self.live.retain(|l| !tickets.contains(&l.ticket));
        taken
    }

    /// Ends all jobs in flight with this error.
    pub(super) fn fail_all(&mut self, cause: &Error, finished: &mut Finished) {
        let before = finished.len();
        let mut end = |job: Job| finished.push((job, Err(cause.clone())));
        self.posted.drain(..).for_each(|p| end(p.job));
        for peer in self.peers.iter_mut().flatten() {
            peer.outgoing.drain(..).for_each(|(_, message)| end(message.job));
            if let Some((_, Incoming { target: Target::Job(job), .. })) = peer.incoming.take() {
                end(job);
            }
        }
        self.live.clear();
        self.uncompleted += finished.len() - before;
    }
}

/// Checks that a message has the fingerprint and the length that its receive expects. Otherwise fails the group.
fn agree(job: &Job, rank: u32, header: &Header, health: &Health) -> Result {
    let mine = &job.request().fingerprint;
    if mine.disagreement(&header.fingerprint).is_some() {
        return Err(health.mismatch(rank, mine, &header.fingerprint));
    }
    let expected: u64 = job.request().outputs().iter().map(|s| s.bytes() as u64).sum();
    if header.len != expected {
        let sent = header.len;
        let what = format!("rank {rank} sent {sent} bytes, but the buffer of this rank's receive has {expected} bytes");
        return Err(health.fail(Error::new(ErrorKind::Protocol, what).guilty([rank]).phase(Phase::Announce)));
    }
    Ok(())
}

/// Handles a broken link: finds out why the peer's connection has ended, if it has, and fails the group.
fn broken(rank: u32, error: &Error, health: &Health) {
    match error.kind() {
        ErrorKind::PeerDead { how } => drop(health.lost(rank, how)),
        _ => drop(health.fail(error.clone())),
    }
}

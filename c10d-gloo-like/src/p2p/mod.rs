//! Messages between two ranks, matched by peer and tag.
//!
//! A thread that waits for a message moves all messages of this rank. Messages that no receive has asked for are kept
//! up to a limit, beyond which their sender waits.

mod at_once;
mod live;
mod message;
mod peer;
mod settle;
mod state;
#[cfg(test)]
mod tests;
mod ticket;
mod waits;

use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::backend::{Caller, Job, JobId};
use c10d_core::panics::caught;
use c10d_core::process::spawn;
use c10d_core::sync::{Condvar, Mutex};
use c10d_core::{Error, ErrorKind};
use smallvec::SmallVec;

use crate::link::Link;
use crate::mesh::{Health, Wait};
use crate::pause::{Interest, Looks, Pause};
use crate::shm::{CorePair, Doorbell, Segment};
use state::{MessageState, Wants};
use ticket::{Finished, Ticket};
use waits::Long;

/// The time without progress after which a thread also receives messages that no receive asked for: two ranks may be
/// sending to each other, each waiting for the other to receive.
const STALL: Duration = Duration::from_millis(1);

/// The time without progress after which a thread asks the peers about their calls.
const LOOK: Duration = Duration::from_millis(20);

/// The largest number of bytes of a started message for which `submit` checks a few times whether it is complete.
const BRIEF: usize = 128 << 10;

/// How long [`Messages::waits`] waits for threads that use the links.
const GLANCE: Duration = Duration::from_millis(1);

/// How long a cancellation waits for threads that use the links.
const TAKE_BACK: Duration = Duration::from_secs(1);

/// The shortest sleep of the thread for started ops. After each sleep, the thread looks for messages that were left to
/// it without a notification. The next sleep may be twice as long, up to the limits below.
const NAP: Duration = Duration::from_micros(100);
/// The longest sleep that follows a sleep in which messages were left to the thread.
const LONGEST_NAP: Duration = Duration::from_micros(400);
/// The longest sleep that follows a sleep in which no message was left to the thread, while other threads move all
/// messages. A message that is left to the thread ends a sleep of more than [`LONGEST_NAP`].
const REST: Duration = Duration::from_millis(10);

/// A thread that moves messages while it waits for a started message.
struct Helping<'a>(&'a Messages);

impl Drop for Helping<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.helpers -= 1;
        let leaves_work = state.helpers == 0 && state.has_started();
        drop(state);
        if leaves_work {
            self.0.news.notify_one();
        }
    }
}

/// The point-to-point ops of one rank.
pub(crate) struct Messages {
    state: Mutex<MessageState>,
    health: Arc<Health>,
    segment: Option<Arc<Segment>>,
    oversubscribed: bool,
    /// The sockets of the links, by rank; `None` for a peer in shared memory. A waiting thread polls them without the
    /// lock, so that other threads can use the links.
    sockets: Vec<Option<Arc<TcpStream>>>,
    /// The cores of this rank and of each peer in shared memory, by rank.
    cores: Vec<Option<CorePair>>,
    /// Signalled when there is a job for the thread of started ops, or when that thread may end.
    news: Condvar,
}

impl Messages {
    pub(crate) fn new(
        links: Vec<Option<Link>>,
        health: Arc<Health>,
        segment: Option<Arc<Segment>>,
        oversubscribed: bool,
    ) -> Messages {
        let sockets = links.iter().map(|link| link.as_ref().and_then(Link::socket)).collect();
        let cores = links.iter().map(|link| link.as_ref().and_then(Link::cores).cloned()).collect();
        let state = Mutex::new(MessageState::new(links));
        Messages { state, health, segment, oversubscribed, sockets, cores, news: Condvar::new() }
    }

    /// Returns [`MessageState::waits`], or `None` if other threads use the links for more than 1 ms.
    pub(crate) fn waits(&self) -> Option<(Vec<Wait>, u64)> {
        self.state.try_lock_for(GLANCE).map(|state| state.waits())
    }

    /// Takes a job. If its caller waits, returns when the job has ended.
    pub(crate) fn submit(self: &Arc<Self>, job: Job) {
        if let Err(cause) = self.health.check() {
            return job.complete(Err(cause));
        }
        let request = job.request();
        let waits = request.caller == Caller::Waits;
        let brief = request.inputs().iter().chain(request.outputs()).map(|span| span.bytes()).sum::<usize>() <= BRIEF;
        let mut finished = Finished::new();
        let ticket = {
            let mut state = self.state.lock();
            let ticket = state.post(job, &self.health, &mut finished);
            state.pump(&self.health, false, &mut finished);
            ticket
        };
        self.complete(finished);
        if waits {
            self.attend(false, |state| !state.is_live(ticket));
        } else if !(brief && self.ends_soon(ticket)) {
            // With more ranks than cores, a woken thread gets a core late. By then, the caller of a brief message
            // probably waits for the message, and moves it itself. So the thread need not begin at once.
            self.leave_to_thread(!(brief && self.oversubscribed));
        }
    }

    /// Checks a few times whether a started message is complete. That costs less than waking the thread for started
    /// ops.
    fn ends_soon(&self, ticket: Ticket) -> bool {
        // With more ranks than cores, each check would yield the core to another rank, and delay the caller of `start`.
        let mut looks = if self.oversubscribed { Looks::NONE } else { Looks::new(false) };
        loop {
            let mut finished = Finished::new();
            let (is_over, more) = {
                let mut state = self.state.lock();
                state.pump(&self.health, false, &mut finished);
                let is_over = !state.is_live(ticket);
                let more = !is_over && state.expects_soon() && looks.another(|| false);
                if !more {
                    state.misses = if is_over { 0 } else { state.misses.wrapping_add(1) };
                }
                (is_over, more)
            };
            self.complete(finished);
            if !more {
                return is_over;
            }
        }
    }

    /// Leaves the started messages to their thread, and starts it if necessary. If the messages are not `urgent`, the
    /// thread begins after a short sleep, unless a waiting thread moves them.
    fn leave_to_thread(self: &Arc<Self>, urgent: bool) {
        let mut finished = Finished::new();
        let notify = {
            let mut state = self.state.lock();
            if state.need_thread() {
                self.start_thread(&mut state, &mut finished);
            }
            state.left_to_thread += 1;
            state.urgent |= urgent;
            urgent || state.asleep
        };
        self.complete(finished);
        if notify {
            self.news.notify_one();
        }
    }

    /// Moves messages on the calling thread until `is_done` returns `true` or the deadline passes.
    pub(crate) fn help(&self, deadline: Instant, is_done: &dyn Fn() -> bool) {
        self.state.lock().helpers += 1;
        // The drop of this value decreases the count again, even if a waker panics.
        let _helping = Helping(self);
        self.attend(false, |_| is_done() || Instant::now() >= deadline);
    }

    /// Moves messages until `over` returns `true`. `over` is called under the lock. For `beside`, see
    /// [`Pause::beside_others`].
    fn attend(&self, beside: bool, mut over: impl FnMut(&MessageState) -> bool) {
        let mut pause = Pause::new(self.oversubscribed, self.segment.clone().map(Doorbell::new));
        pause.beside_others(beside);
        let mut since: Option<Instant> = None;
        let mut stalled = false;
        // The time without progress.
        let mut quiet = Duration::ZERO;
        let mut wants: SmallVec<[Wants; 4]> = SmallVec::new();
        loop {
            let mut finished = Finished::new();
            let (moved, is_over) = {
                let mut state = self.state.lock();
                let moved = state.pump(&self.health, stalled, &mut finished)
                    || self.look_after(&mut state, stalled.then_some(quiet), &mut finished);
                if !moved {
                    state.wants(stalled, &mut wants);
                }
                (moved, over(&state))
            };
            self.complete(finished);
            if is_over {
                return;
            }
            if moved {
                pause.reset();
                (since, stalled) = (None, false);
                continue;
            }
            let interest = wants.iter().map(|w| {
                let fd = self.sockets[w.rank as usize].as_deref().map(AsFd::as_fd);
                Interest { fd, cores: self.cores[w.rank as usize].as_ref(), read: w.read, write: w.write }
            });
            if let Some(now) = pause.wait(interest) {
                quiet = now.duration_since(*since.get_or_insert(now));
                stalled = quiet > STALL;
                self.watch_deadlines(now, quiet);
            }
        }
    }

    /// Called when no data moved; `stalled` is the time without progress if it exceeds [`STALL`]. If a peer that a job
    /// needs is gone, or the group has failed, moves the data that peers have sent, and returns whether any moved. If
    /// none moved, ends all jobs with the error.
    fn look_after(&self, state: &mut MessageState, stalled: Option<Duration>, finished: &mut Finished) -> bool {
        let gone = stalled.and_then(|quiet| state.needs(&self.health, quiet));
        if gone.is_none() && !self.health.failed() {
            return false;
        }
        if state.pump(&self.health, true, finished) {
            return true;
        }
        let cause = gone
            .map_or(Ok(()), |peer| self.health.needs(peer, stalled.unwrap_or_default()))
            .and_then(|()| self.health.check());
        if let Err(cause) = cause {
            state.fail_all(&cause, finished);
        }
        false
    }

    fn watch_deadlines(&self, now: Instant, quiet: Duration) {
        let (late, long, look) = {
            let mut state = self.state.lock();
            let late = state.late(now);
            let long = self.health.warn_after().and_then(|after| state.long(now, after));
            (late, long, quiet > LOOK && state.is_bounded())
        };
        if look {
            self.health.look_around();
        }
        if let Some(Long { wait, others, lasted, deadline }) = long {
            self.health.report_message_wait(wait, others, lasted, deadline);
        }
        if let Some((fingerprint, wait)) = late {
            // Fails the group; the next check then ends all jobs in flight.
            self.health.timed_out(&fingerprint, &wait);
        }
    }

    /// Returns whether this peer last waited on this thread's core, so that it cannot run now.
    fn is_on_core_of(&self, peer: u32) -> bool {
        self.cores.get(peer as usize).and_then(Option::as_ref).is_some_and(CorePair::is_one_core)
    }

    fn start_thread(self: &Arc<Self>, state: &mut MessageState, finished: &mut Finished) {
        let this = self.clone();
        match spawn("c10d messages", move || this.serve()) {
            Ok(()) => state.has_thread = true,
            Err(e) => state.fail_all(&self.health.fail(e), finished),
        }
    }

    /// Waits until the thread for started ops must move messages. Returns `false` when the thread must end.
    fn await_started(&self) -> bool {
        let mut state = self.state.lock();
        let (mut nap, mut is_calm, mut is_rested) = (NAP, false, false);
        loop {
            if state.has_started() && state.helpers == 0 && (is_rested || std::mem::take(&mut state.urgent)) {
                return true;
            }
            if state.closed && !state.has_started() {
                return false;
            }
            if is_calm && !state.has_started() {
                state.asleep = true;
                self.news.wait(&mut state);
                state.asleep = false;
                (nap, is_calm, is_rested) = (NAP, false, false);
                continue;
            }
            let before = state.left_to_thread;
            state.asleep = nap > LONGEST_NAP;
            self.news.wait_for(&mut state, nap);
            state.asleep = false;
            let is_new = state.left_to_thread != before;
            nap = match state.helpers {
                0 if !is_new => NAP,
                1.. if !is_new => REST.min(nap * 2),
                _ => LONGEST_NAP.min(nap * 2),
            };
            (is_calm, is_rested) = (!is_new && state.helpers == 0, true);
        }
    }

    /// Runs on the thread for started ops.
    fn serve(&self) {
        while self.await_started() {
            let over = |state: &MessageState| !state.has_started() || state.helpers > 0;
            if let Err(words) = caught(|| self.attend(true, over)) {
                let what = format!("the thread of asynchronous messages panicked: {words}");
                let cause = self.health.fail(Error::new(ErrorKind::Internal, what));
                let mut finished = Finished::new();
                self.state.lock().fail_all(&cause, &mut finished);
                self.complete(finished);
            }
        }
    }

    /// Completes these jobs without the lock, since a waker may call the backend.
    fn complete(&self, finished: Finished) {
        let jobs = finished.len();
        for (job, result) in finished {
            job.complete_with(result);
        }
        if jobs > 0 {
            self.state.lock().completed(jobs);
        }
    }

    /// Returns these jobs if no message was matched with any of them and no byte of them was sent. Otherwise, or if
    /// other threads use the links for more than 1 s, returns none. A receive can be returned while its message arrives
    /// in memory of the backend, since only a complete message is matched with a receive.
    pub(crate) fn take_back(&self, jobs: &[JobId]) -> Vec<Job> {
        self.state.try_lock_for(TAKE_BACK).map_or(Vec::new(), |mut state| state.take_back(jobs))
    }

    /// Makes the thread for started ops end when no started job is in flight.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.news.notify_one();
    }
}

//! Waiting between two looks at the links: spin while it may be a matter of a microsecond, then let others run, then
//! sleep until a peer rings or a socket is ready.

use std::hint;
use std::mem;
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::link::Link;
use crate::shm::Doorbell;

/// Looks without a pause to speak of, while cores are free.
const SPINS: u32 = 200;
/// How long to yield between looks before sleeping.
const YIELD: Duration = Duration::from_micros(100);
/// The longest sleep on sockets alone.
const SLICE: Duration = Duration::from_millis(10);
/// The same while shared memory is of interest too: a bell does not end a poll.
const MIXED_SLICE: Duration = Duration::from_micros(200);

/// Something that a wait is for.
#[derive(Clone, Copy)]
pub(crate) struct Interest<'a> {
    /// What to poll; `None`: a peer that rings the doorbell.
    pub(crate) fd: Option<BorrowedFd<'a>>,
    /// Bytes from the peer.
    pub(crate) read: bool,
    /// Room for bytes to the peer.
    pub(crate) write: bool,
}

impl<'a> Interest<'a> {
    /// Waiting for a link.
    pub(crate) fn of(link: &'a Link, read: bool, write: bool) -> Interest<'a> {
        Interest { fd: link.fd(), read, write }
    }
}

/// How one thread waits. It looks, and calls [`Pause::wait`] when there was nothing, [`Pause::reset`] when there was.
pub(crate) struct Pause {
    bell: Option<Doorbell>,
    spins: u32,
    state: PauseState,
    /// An empty vector that keeps its memory.
    set: Vec<PollFd<'static>>,
}

#[derive(Clone, Copy)]
enum PauseState {
    Spinning(u32),
    Yielding(Instant),
    /// Announced as a sleeper; the bell's value before the last look.
    Sleeping(u32),
}

impl Pause {
    /// `oversubscribed`: more ranks than cores, so that spinning keeps others from running. `bell`: that of the own rank,
    /// if it has peers in shared memory.
    pub(crate) fn new(oversubscribed: bool, bell: Option<Doorbell>) -> Pause {
        let spins = if oversubscribed { 0 } else { SPINS };
        Pause { bell, spins, state: PauseState::Spinning(0), set: Vec::new() }
    }

    /// The same with memory for this many links, for who waits often and must not allocate.
    pub(crate) fn with_room(mut self, links: usize) -> Pause {
        self.set.reserve(links);
        self
    }

    /// There was progress: the next wait begins anew.
    #[inline]
    pub(crate) fn reset(&mut self) {
        if let PauseState::Sleeping(_) = self.state
            && let Some(bell) = &self.bell
        {
            bell.disarm();
        }
        self.state = PauseState::Spinning(0);
    }

    /// Waits a little for what is of interest; the iterator is used only when it comes to sleeping. The caller looks again
    /// after each call, and compares the time with its deadline where it gets one (it gets one after a few microseconds).
    #[inline]
    pub(crate) fn wait<'a>(&mut self, interest: impl IntoIterator<Item = Interest<'a>>) -> Option<Instant> {
        if let PauseState::Spinning(n) = self.state
            && n < self.spins
        {
            self.state = PauseState::Spinning(n + 1);
            hint::spin_loop();
            return None;
        }
        Some(self.wait_longer(interest))
    }

    fn wait_longer<'a>(&mut self, interest: impl IntoIterator<Item = Interest<'a>>) -> Instant {
        let now = Instant::now();
        match self.state {
            PauseState::Spinning(_) => {
                self.state = PauseState::Yielding(now);
                thread::yield_now();
                now
            }
            PauseState::Yielding(since) if now.duration_since(since) < YIELD => {
                thread::yield_now();
                now
            }
            PauseState::Yielding(_) => {
                self.state = PauseState::Sleeping(self.bell.as_mut().map_or(0, Doorbell::arm));
                now
            }
            PauseState::Sleeping(seen) => {
                self.sleep(seen, interest);
                self.state = PauseState::Sleeping(self.bell.as_ref().map_or(0, Doorbell::value));
                Instant::now()
            }
        }
    }

    fn sleep<'a>(&mut self, seen: u32, interest: impl IntoIterator<Item = Interest<'a>>) {
        let mut shared = false;
        let mut set: Vec<PollFd<'a>> = mem::take(&mut self.set);
        set.extend(interest.into_iter().filter_map(|i| {
            shared |= i.fd.is_none();
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, i.read);
            flags.set(PollFlags::OUT, i.write);
            i.fd.map(|fd| PollFd::from_borrowed_fd(fd, flags))
        }));
        match &self.bell {
            Some(bell) if shared && set.is_empty() => bell.sleep(seen),
            _ => {
                let slice = if shared { MIXED_SLICE } else { SLICE };
                // Ready, interrupted or timed out: the caller looks again in each case.
                let _ = poll(&mut set, Some(&Timespec { tv_sec: 0, tv_nsec: slice.subsec_nanos().into() }));
            }
        }
        set.clear();
        // Empty, so no borrow is left in it; the collection keeps the allocation.
        self.set = set.into_iter().map(|_| unreachable!()).collect();
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.reset();
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
#[path = "pause_tests.rs"]
mod tests;

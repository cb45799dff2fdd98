//! The wait of a thread between two checks of the links. First the thread spins, since data may arrive within a
//! microsecond. Then it lingers: it yields or spins for 100 µs. Then it sleeps until a peer rings the doorbell or a
//! socket is ready.
//!
//! A thread that lingers yields if a peer may need its core. Otherwise it spins: after a yield, another program could
//! occupy the core for milliseconds, and the peer would wait for this rank.

use std::hint;
use std::mem;
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::link::Link;
use crate::shm::{CorePair, Doorbell};

/// The number of checks while spinning. With more ranks than cores, a thread does not spin.
const SPINS: u32 = 200;
/// After this many checks while spinning, a thread that shares its core with a peer yields.
const SPINS_ALONE: u32 = 16;
/// The number of checks before a thread waits with a [`Pause`], if there are more ranks than cores. A spinning thread
/// that finds its peer on its own core makes this many more checks. The thread yields before each check, and a yield
/// may last as long as the other threads of the core run.
const LOOKS: u32 = 4;
/// How long to linger before sleeping. This time is longer than a sleeping peer needs to wake up.
const LINGER: Duration = Duration::from_micros(100);
/// The longest sleep if the thread waits only for sockets.
const SLICE: Duration = Duration::from_millis(10);
/// The longest sleep if the thread waits for sockets and for peers in shared memory. The sleep is short, since a
/// doorbell does not end a poll.
const MIXED_SLICE: Duration = Duration::from_micros(200);

/// The events of one link that a thread waits for.
#[derive(Clone, Copy)]
pub(crate) struct Interest<'a> {
    /// The descriptor to poll; `None` if the peer rings this rank's doorbell.
    pub(crate) fd: Option<BorrowedFd<'a>>,
    /// The cores of this rank and the peer, if the peer is in shared memory.
    pub(crate) cores: Option<&'a CorePair>,
    /// Whether the thread waits for bytes from the peer.
    pub(crate) read: bool,
    /// Whether the thread waits for room for bytes to the peer.
    pub(crate) write: bool,
}

impl<'a> Interest<'a> {
    pub(crate) fn of(link: &'a Link, read: bool, write: bool) -> Interest<'a> {
        Interest { fd: link.fd(), cores: link.cores(), read, write }
    }
}

/// The waiting of one thread. The thread checks for data. If there is none, it calls [`Pause::wait`] and checks again.
/// If there is some, it calls [`Pause::reset`].
pub(crate) struct Pause {
    bell: Option<Doorbell>,
    spins: u32,
    /// Whether a thread that lingers always yields.
    yields: bool,
    looks: Looks,
    state: PauseState,
    /// An empty vector, whose memory the next poll uses.
    set: Vec<PollFd<'static>>,
}

#[derive(Clone, Copy)]
enum PauseState {
    Spinning(u32),
    Lingering(Instant),
    /// The doorbell is armed: peers ring it. The number is the bell's value before the last check.
    Sleeping(u32),
}

impl Pause {
    /// Makes a pause. `oversubscribed`: there are more ranks than cores, so a spinning rank occupies a core that
    /// another rank needs. `bell` is this rank's doorbell, if it has peers in shared memory.
    pub(crate) fn new(oversubscribed: bool, bell: Option<Doorbell>) -> Pause {
        let spins = if oversubscribed { 0 } else { SPINS };
        let (looks, state) = (Looks::new(oversubscribed), PauseState::Spinning(0));
        Pause { bell, spins, yields: oversubscribed, looks, state, set: Vec::new() }
    }

    /// Sets whether another thread of this program works while this thread waits. If so, or if there are more ranks
    /// than cores, this thread yields while it lingers.
    pub(crate) fn beside_others(&mut self, beside: bool) {
        self.yields = beside || self.spins == 0;
    }

    /// Reserves memory for this many links, for a thread that must not allocate.
    pub(crate) fn with_room(mut self, links: usize) -> Pause {
        self.set.reserve(links);
        self
    }

    /// Returns the checks that a thread makes before it calls [`Pause::wait`].
    #[inline]
    pub(crate) fn looks(&self) -> Looks {
        self.looks
    }

    /// Records progress: the next wait starts with spinning.
    #[inline]
    pub(crate) fn reset(&mut self) {
        if let PauseState::Sleeping(_) = self.state
            && let Some(bell) = &self.bell
        {
            bell.disarm();
        }
        self.state = PauseState::Spinning(0);
    }

    /// Waits briefly for these events; the caller then checks for data again. Most calls do not iterate over
    /// `interest`. Returns `None` while the thread spins. Each later call returns the time, which the caller compares
    /// with its deadline.
    #[inline]
    pub(crate) fn wait<'a>(&mut self, interest: impl IntoIterator<Item = Interest<'a>> + Clone) -> Option<Instant> {
        if let PauseState::Spinning(n) = self.state
            && n < self.spins
        {
            let stops = n == SPINS_ALONE && shares_a_core(interest.clone());
            self.state = PauseState::Spinning(if stops { self.spins } else { n + 1 });
            hint::spin_loop();
            return None;
        }
        Some(self.wait_longer(interest))
    }

    fn wait_longer<'a>(&mut self, interest: impl IntoIterator<Item = Interest<'a>>) -> Instant {
        let now = Instant::now();
        match self.state {
            PauseState::Spinning(_) => {
                self.state = PauseState::Lingering(now);
                self.linger(interest);
                now
            }
            PauseState::Lingering(since) if now.duration_since(since) < LINGER => {
                self.linger(interest);
                now
            }
            PauseState::Lingering(_) => {
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

    fn linger<'a>(&self, interest: impl IntoIterator<Item = Interest<'a>>) {
        if self.yields || a_peer_may_need_the_core(interest) {
            thread::yield_now();
        } else {
            hint::spin_loop();
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
                // Data, an interruption or the timeout may end the poll. The caller checks again.
                let _ = poll(&mut set, Some(&Timespec { tv_sec: 0, tv_nsec: slice.subsec_nanos().into() }));
            }
        }
        set.clear();
        // The vector is empty: it holds no borrow. `collect` reuses its allocation.
        self.set = set.into_iter().map(|_| unreachable!()).collect();
    }
}

/// Returns whether one of these peers shares its core with this thread. Such a peer runs only if this thread yields.
fn shares_a_core<'a>(interest: impl IntoIterator<Item = Interest<'a>>) -> bool {
    // Every peer is visited, since `is_one_core` also records this thread's core for that peer.
    interest.into_iter().filter_map(|i| i.cores).filter(|cores| cores.is_one_core()).count() > 0
}

/// Like [`shares_a_core`], but true if there is a peer over TCP, whose core is unknown.
fn a_peer_may_need_the_core<'a>(interest: impl IntoIterator<Item = Interest<'a>>) -> bool {
    interest.into_iter().filter(|i| i.cores.is_none_or(CorePair::is_one_core)).count() > 0
}

/// The number of checks that a thread makes before it stops or waits with a [`Pause`].
#[derive(Clone, Copy)]
pub(crate) struct Looks {
    left: u32,
    /// Whether the thread yields between two checks, so that its peers can run, instead of spinning.
    yields: bool,
}

impl Looks {
    pub(crate) const NONE: Looks = Looks { left: 0, yields: false };

    /// Returns the checks for a new wait. For `oversubscribed`, see [`Pause::new`].
    #[inline]
    pub(crate) fn new(oversubscribed: bool) -> Looks {
        Looks { left: if oversubscribed { LOOKS } else { SPINS }, yields: oversubscribed }
    }

    /// Spins or yields before another check. Returns `false` if no checks are left. `is_one_core`, called at most once,
    /// returns whether the peer shares its core with this thread.
    #[inline]
    pub(crate) fn another(&mut self, is_one_core: impl FnOnce() -> bool) -> bool {
        if self.left == SPINS - SPINS_ALONE && is_one_core() {
            *self = Looks { left: LOOKS, yields: true };
        }
        let more = self.left > 0;
        if more {
            self.left -= 1;
            if self.yields {
                thread::yield_now();
            } else {
                hint::spin_loop();
            }
        }
        more
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

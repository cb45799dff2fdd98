//! Requests to the thread that supervises a job, and reports for the launchers of the other hosts.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use c10d_core::sync::Mutex;
use rustix::event::{EventfdFlags, eventfd};

pub(super) struct Requests {
    wake: OwnedFd,
    kill: AtomicBool,
    end: AtomicBool,
    reader_gone: AtomicBool,
    /// The first failure on another host, as a text, until it is taken.
    elsewhere: Mutex<Option<String>>,
    /// The first report of [`Requests::failed_here`], until it is taken.
    here: Mutex<Option<String>>,
    /// Wakes the thread that informs the other hosts.
    news: OwnedFd,
    /// Whether all ranks of this host have ended.
    done: AtomicBool,
    /// Whether the owner of the job has abandoned the job.
    over: AtomicBool,
}

/// The requests to the supervisor since the last [`Requests::take`].
pub(super) struct PendingRequests {
    pub(super) kill: bool,
    pub(super) end: bool,
    pub(super) reader_gone: bool,
    pub(super) elsewhere: Option<String>,
}

impl Requests {
    pub(super) fn new() -> io::Result<Requests> {
        Ok(Requests {
            wake: event()?,
            kill: AtomicBool::new(false),
            end: AtomicBool::new(false),
            reader_gone: AtomicBool::new(false),
            elsewhere: Mutex::new(None),
            here: Mutex::new(None),
            news: event()?,
            done: AtomicBool::new(false),
            over: AtomicBool::new(false),
        })
    }

    pub(super) fn kill(&self) {
        self.kill.store(true, Ordering::Release);
        raise(&self.wake);
    }

    /// Requests that all ranks are ended, with the grace time.
    pub(super) fn end(&self) {
        self.end.store(true, Ordering::Release);
        raise(&self.wake);
    }

    /// Requests that all ranks are ended: nobody reads their output any more.
    pub(super) fn reader_gone(&self) {
        self.reader_gone.store(true, Ordering::Release);
        raise(&self.wake);
    }

    /// Tells the supervisor of a failure on another host. Unless the job keeps going, the supervisor ends the ranks.
    pub(super) fn failed_elsewhere(&self, what: String) {
        self.elsewhere.lock().get_or_insert(what);
        raise(&self.wake);
    }

    /// Reports why this host ends the job, for example because a rank failed. The first report counts.
    pub(super) fn failed_here(&self, what: String) {
        self.here.lock().get_or_insert(what);
        raise(&self.news);
    }

    pub(super) fn done(&self) {
        self.done.store(true, Ordering::Release);
        raise(&self.news);
    }

    pub(super) fn over(&self) {
        self.over.store(true, Ordering::Release);
        raise(&self.news);
    }

    /// Returns a descriptor that is readable after a request.
    pub(super) fn wake(&self) -> &OwnedFd {
        &self.wake
    }

    pub(super) fn take(&self) -> PendingRequests {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        PendingRequests {
            kill: self.kill.swap(false, Ordering::AcqRel),
            end: self.end.swap(false, Ordering::AcqRel),
            reader_gone: self.reader_gone.swap(false, Ordering::AcqRel),
            elsewhere: self.elsewhere.lock().take(),
        }
    }

    /// Returns a descriptor that is readable when there is a report for the other hosts.
    pub(super) fn news(&self) -> &OwnedFd {
        &self.news
    }

    /// Takes the reports: the failure on this host (once), whether all its ranks have ended, and whether the job is
    /// abandoned.
    pub(super) fn take_news(&self) -> (Option<String>, bool, bool) {
        let _ = rustix::io::read(&self.news, &mut [0; 8]);
        // The flags are read first. So if a failure was reported before a flag was set, the flag is not returned
        // without the failure.
        let (done, over) = (self.done.load(Ordering::Acquire), self.over.load(Ordering::Acquire));
        (self.here.lock().take(), done, over)
    }
}

pub(super) fn event() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Wakes the thread that polls this event descriptor.
pub(super) fn raise(event: &OwnedFd) {
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

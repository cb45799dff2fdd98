//! What the owner of a job asks of the thread that supervises it, and what that thread tells.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use c10d_core::sync::Mutex;
use rustix::event::{EventfdFlags, eventfd};

/// What the owner of the job asks of the supervisor.
pub(super) struct Requests {
    wake: OwnedFd,
    kill: AtomicBool,
    end: AtomicBool,
    reader_gone: AtomicBool,
    /// A failure on another host, and one on this host, in words.
    elsewhere: Mutex<Option<String>>,
    here: Mutex<Option<String>>,
    /// Wakes whoever tells the other hosts; that all ranks here have ended; that nobody is interested any more.
    news: OwnedFd,
    done: AtomicBool,
    over: AtomicBool,
}

/// What was asked of the supervisor.
pub(super) struct Asked {
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

    /// Kill all ranks now.
    pub(super) fn kill(&self) {
        self.kill.store(true, Ordering::Release);
        raise(&self.wake);
    }

    /// End all ranks, with time to be orderly about it.
    pub(super) fn end(&self) {
        self.end.store(true, Ordering::Release);
        raise(&self.wake);
    }

    /// End all ranks: nobody reads their output any more.
    pub(super) fn reader_gone(&self) {
        self.reader_gone.store(true, Ordering::Release);
        raise(&self.wake);
    }

    /// End the ranks: one failed on another host.
    pub(super) fn failed_elsewhere(&self, what: String) {
        self.elsewhere.lock().get_or_insert(what);
        raise(&self.wake);
    }

    /// A rank failed on this host.
    pub(super) fn failed_here(&self, what: String) {
        self.here.lock().get_or_insert(what);
        raise(&self.news);
    }

    /// All ranks of this host have ended.
    pub(super) fn done(&self) {
        self.done.store(true, Ordering::Release);
        raise(&self.news);
    }

    /// The job is given up.
    pub(super) fn over(&self) {
        self.over.store(true, Ordering::Release);
        raise(&self.news);
    }

    /// What is readable when something was asked.
    pub(super) fn wake(&self) -> &OwnedFd {
        &self.wake
    }

    /// What was asked since the last look.
    pub(super) fn take(&self) -> Asked {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        Asked {
            kill: self.kill.swap(false, Ordering::AcqRel),
            end: self.end.swap(false, Ordering::AcqRel),
            reader_gone: self.reader_gone.swap(false, Ordering::AcqRel),
            elsewhere: self.elsewhere.lock().take(),
        }
    }

    /// What is readable when there is something to tell the other hosts.
    pub(super) fn news(&self) -> &OwnedFd {
        &self.news
    }

    /// What failed on this host, told once; whether its ranks have ended; whether the job is given up.
    pub(super) fn take_news(&self) -> (Option<String>, bool, bool) {
        let _ = rustix::io::read(&self.news, &mut [0; 8]);
        // The flags first: what failed was said before them.
        let (done, over) = (self.done.load(Ordering::Acquire), self.over.load(Ordering::Acquire));
        (self.here.lock().take(), done, over)
    }
}

/// Something to be woken by.
pub(super) fn event() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Wakes whoever polls it.
pub(super) fn raise(event: &OwnedFd) {
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

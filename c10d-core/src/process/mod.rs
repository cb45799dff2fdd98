//! Which process made something, and what a forked child of it must not share.
//!
//! A group belongs to the process that made it. A child that was forked from it has copies of its memory and
//! descriptors, but none of its threads, so it can use nothing that waits for them, and what it says to the peers would
//! be taken for the parent's word. [`Process`] tells the two apart for the price of a load, [`PerProcess`] is a `static`
//! that a child begins anew, and [`Private`] keeps a descriptor out of children, so that a connection ends when its
//! owner does and not when the last child does.
//!
//! All three hold for `fork`, `daemon` and whatever else the C library forks by. For a child that was made by the bare
//! system call `clone`, [`Process`] and [`PerProcess`] hold on kernels from 4.14; [`Private`] does not.

mod at_exit;
mod here;
mod last_word;
mod per_process;
mod private;
mod random;
mod thread;

pub use at_exit::at_exit;
pub(crate) use last_word::{LastWord, at_end};
pub use per_process::PerProcess;
pub use private::Private;
pub use random::random;
pub use thread::spawn;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, ErrorKind};

/// A process, as it tells itself from its forked children.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// Where the running process's token is. It is 0 in a forked child until that asks for its own.
    word: &'static AtomicU64,
    token: u64,
    pid: u32,
}

impl Process {
    /// The process that runs.
    pub fn current() -> Process {
        let (word, token) = here::token();
        Process { word, token, pid: std::process::id() }
    }

    /// Whether this is the process that runs. One load and one comparison.
    #[inline]
    pub fn is_current(&self) -> bool {
        self.word.load(Ordering::Relaxed) == self.token
    }

    /// Its number, as it saw it itself.
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// Why something of this process cannot be used in a fork of it. `what` names it, e.g. "the group".
    ///
    /// The kind is [`ErrorKind::InvalidArgument`], since nothing was sent and nothing failed in the parent.
    #[cold]
    pub fn foreign(&self, what: &str) -> Error {
        let (made, here) = (self.pid, std::process::id());
        let what = format!(
            "{what} was made in process {made}, and this is process {here}, a fork of it: make a new one here, or use it \
             in process {made} alone"
        );
        Error::new(ErrorKind::InvalidArgument, what)
    }

    /// An error, see [`foreign`](Process::foreign), unless this is the process that runs.
    #[inline]
    pub fn check(&self, what: &str) -> crate::Result {
        if self.is_current() { Ok(()) } else { Err(self.foreign(what)) }
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests;

//! The process to which a value belongs, and values that a forked child must not share with its parent.
//!
//! A group belongs to the process that made it. A forked child has copies of the parent's memory and descriptors, but
//! none of its threads. So the child cannot use values that wait for those threads, and the peers could not distinguish
//! its messages from the parent's. [`Process`] distinguishes parent and child at the cost of one load. [`PerProcess`]
//! is a `static` that has a new value in each child. [`Private`] closes a descriptor in children, so a connection ends
//! when its owner ends, even if a child still runs.
//!
//! All three work for `fork`, `daemon` and every other function of the C library that forks. If the bare system call
//! `clone` makes the child, [`Process`] and [`PerProcess`] work from Linux 4.14 on, but [`Private`] does not work.

mod at_exit;
mod exit_notice;
mod here;
mod per_process;
mod private;
mod random;
mod thread;
mod token;

pub use at_exit::at_exit;
pub(crate) use exit_notice::{ExitNotice, at_end};
pub use per_process::PerProcess;
pub use private::Private;
pub use random::random;
pub use thread::spawn;
pub use token::{Token, token};

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, ErrorKind};

/// The identity of a process, which differs from that of its forked children.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// Contains the number that `here::token` gave the running process, or 0 in a forked child that has no number yet.
    word: &'static AtomicU64,
    /// The number of the process that this value identifies. (It is not the random [`Token`].)
    token: u64,
    pid: u32,
}

impl Process {
    /// Returns the identity of the running process.
    pub fn current() -> Process {
        let (word, token) = here::token();
        Process { word, token, pid: std::process::id() }
    }

    /// Returns whether this is the running process. It costs one load and one comparison.
    #[inline]
    pub fn is_current(&self) -> bool {
        self.word.load(Ordering::Relaxed) == self.token
    }

    /// Returns the process id, as seen by the process itself.
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// Returns the error for the use of a value of this process in a fork of the process. `what` names the value, e.g.
    /// "the group".
    ///
    /// The kind is [`ErrorKind::InvalidArgument`], since the group of the parent has not failed.
    #[cold]
    pub fn foreign(&self, what: &str) -> Error {
        let (made, here) = (self.pid, std::process::id());
        let what = format!(
            "{what} was made in process {made}, and this is process {here}, a fork of it: make a new one here, or use it \
             in process {made} alone"
        );
        Error::new(ErrorKind::InvalidArgument, what)
    }

    /// Returns the error of [`foreign`](Process::foreign) unless this is the running process.
    #[inline]
    pub fn check(&self, what: &str) -> crate::Result {
        if self.is_current() { Ok(()) } else { Err(self.foreign(what)) }
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests;

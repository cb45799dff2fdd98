//! Signals to the launcher that are meant for the ranks.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use c10d_core::sync::Mutex;
use rustix::process::Signal;
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::low_level::{pipe, unregister};

/// The signals that are forwarded. SIGHUP is not forwarded if this process was started with SIGHUP ignored (`nohup`).
static FORWARDED: LazyLock<Vec<(i32, Signal)>> = LazyLock::new(|| {
    let hup = if ignored(SIGHUP) { None } else { Some((SIGHUP, Signal::HUP)) };
    let words = [(SIGUSR1, Signal::USR1), (SIGUSR2, Signal::USR2), (SIGWINCH, Signal::WINCH)];
    [(SIGINT, Signal::INT), (SIGTERM, Signal::TERM)].into_iter().chain(hup).chain(words).collect()
});

/// Whether the signals have their default effect, because no job forwards them.
static DEFAULT: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(false)));
/// The number of jobs that forward signals now; `None` if no job has forwarded signals yet.
static JOBS: Mutex<Option<usize>> = Mutex::new(None);

/// Collects the signals to this process until the value is dropped. A collected signal does not end the process.
pub(super) struct Forwarding {
    ids: Vec<SigId>,
    arrivals: Vec<(Signal, UnixStream)>,
}

impl Forwarding {
    pub(super) fn start() -> io::Result<Forwarding> {
        let mut forwarding = Forwarding { ids: Vec::new(), arrivals: Vec::new() };
        let mut jobs = JOBS.lock();
        if jobs.is_none() {
            // Handlers cannot be removed. When no job forwards signals, a handler has the signal's default effect.
            for &(number, _) in FORWARDED.iter() {
                signal_hook::flag::register_conditional_default(number, DEFAULT.clone())?;
            }
        }
        *jobs = Some(jobs.unwrap_or(0) + 1);
        DEFAULT.store(false, Ordering::SeqCst);
        drop(jobs);
        for &(number, signal) in FORWARDED.iter() {
            let (receiver, sender) = UnixStream::pair()?;
            receiver.set_nonblocking(true)?;
            forwarding.ids.push(pipe::register(number, sender)?);
            forwarding.arrivals.push((signal, receiver));
        }
        Ok(forwarding)
    }

    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.arrivals.iter().map(|(_, receiver)| receiver.as_fd())
    }

    pub(super) fn take(&mut self) -> Vec<Signal> {
        let mut found = Vec::new();
        for (signal, receiver) in &mut self.arrivals {
            while let Ok(n) = receiver.read(&mut [0; 16]) {
                if n == 0 {
                    break;
                }
                found.extend(std::iter::repeat_n(*signal, n));
            }
        }
        found
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            unregister(id);
        }
        let mut jobs = JOBS.lock();
        let left = jobs.unwrap_or(1) - 1;
        *jobs = Some(left);
        DEFAULT.store(left == 0, Ordering::SeqCst);
    }
}

fn ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

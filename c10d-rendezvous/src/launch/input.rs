//! Standard input: whose it is, and how it reaches several ranks.

use std::io::{self, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::process::ChildStdin;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Output, Stdin};

/// How often to look whether the terminal is ours.
const BACKGROUND: Duration = Duration::from_millis(300);

/// Where a rank's standard input comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Nothing,
    /// It is the launcher's own.
    Ours,
    /// What the launcher reads is handed on.
    Fed,
    /// The launcher's caller writes it.
    Callers,
}

impl Source {
    pub(super) fn of(output: Output, stdin: Stdin, rank: u32) -> Source {
        match (output, stdin) {
            (Output::Piped, _) => Source::Callers,
            (_, Stdin::None) => Source::Nothing,
            (_, Stdin::Rank0) if rank > 0 => Source::Nothing,
            // The ranks are not the terminal's foreground group, so reading it would stop them.
            (_, Stdin::Rank0) if !io::stdin().is_terminal() => Source::Ours,
            (_, Stdin::Rank0 | Stdin::All) => Source::Fed,
        }
    }
}

/// Hands on standard input to all sinks until its end, or until `stop` becomes readable. It goes as fast as the slowest of
/// them reads; one that is closed no longer counts.
pub(super) fn feed(mut sinks: Vec<ChildStdin>, stop: &OwnedFd) {
    let stdin = io::stdin();
    let terminal = stdin.is_terminal();
    let mut buffer = vec![0; 64 << 10];
    while !sinks.is_empty() {
        let background = terminal && !is_foreground();
        let mut fds = vec![PollFd::new(stop, PollFlags::IN)];
        if !background {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        let pause = Timespec { tv_sec: 0, tv_nsec: BACKGROUND.subsec_nanos().into() };
        match poll(&mut fds, background.then_some(&pause)) {
            Ok(_) if !fds[0].revents().is_empty() => return,
            Ok(_) if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) => {}
            Ok(_) | Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        }
        match rustix::io::read(&stdin, &mut buffer[..]) {
            Ok(0) => return,
            Ok(n) => sinks.retain_mut(|sink| sink.write_all(&buffer[..n]).is_ok()),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(_) => return,
        }
    }
}

/// Whether this process may read its terminal; one in the background would be stopped for it.
fn is_foreground() -> bool {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which is in parentheses: state, parent, group, session, terminal, the terminal's group.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    matches!((fields.get(2), fields.get(5)), (Some(own), Some(terminals)) if own == terminals)
}
